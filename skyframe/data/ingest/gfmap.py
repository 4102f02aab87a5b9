"""openEO-GFMAP extractions: a Sentinel-2 netCDF (with scene classification) and a Sentinel-1 netCDF of the same pixels.

The two have different dates (a few days are shared by chance), so each modality keeps its own. Variables are
`S2-L2A-<band>` and `S1-SIGMA0-<band>`, int16 that means uint16, or float with NaN in composites. Radar holds the 16-bit
amplitude code of `units`. Single files are accepted with a spec that lists their modalities alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skyframe.data.cube import CLEAR, CLOUD, NODATA, SHADOW
from skyframe.data.ingest import netcdf
from skyframe.data.ingest.source import Block, Layer, Source, check_modalities, describe_files
from skyframe.data.ingest.units import amplitude_code_to_db, as_unsigned, flags_of, missing, to_reflectance
from skyframe.spec import CubeSpec, Grid, InputError, Modality

if TYPE_CHECKING:
    import xarray as xr

PIXEL_M = 10.0
SCENE_CLASS, AEROSOL = "S2-L2A-SCL", "S2-L2A-AOT"

CLASS_NOISE = 1e-6
"""How far resampling that moves no class may leave a float class from its whole number."""

SCENE_CLASS_FLAGS = {
    0: NODATA,  # no data
    1: NODATA,  # saturated or defective
    2: SHADOW,  # shadow cast by terrain (dark features before 2022)
    3: SHADOW,  # cloud shadow
    4: CLEAR,  # vegetation
    5: CLEAR,  # bare
    6: CLEAR,  # water
    7: CLEAR,  # unclassified: mostly shaded canopy and roofs with ground reflectance
    8: CLOUD,  # cloud, medium probability
    9: CLOUD,  # cloud, high probability
    10: CLOUD,  # thin cirrus
    11: CLEAR,  # snow or ice is a state of the ground
}
"""Sen2Cor scene classification -> flag. The classes themselves are kept in the modality `scene_class`."""


def open_source(paths: Sequence[Path], spec: CubeSpec, files: ExitStack) -> Source:
    """Open a pair, in any order; what a file is, its variables say.

    Args:
        paths: one or two netCDF files.
        spec: modalities s2, s1, aerosol, scene_class, or some of them; every band listed must be in the files.
        files: closes them.

    Raises:
        InputError: more than two files, two of one sensor, a sensor or variable missing, different grids.
    """
    if not 1 <= len(paths) <= 2:
        raise InputError(
            f"gfmap: got {len(paths)} source files, expected a Sentinel-2 file and a Sentinel-1 file; name both"
        )
    check_modalities(spec, "gfmap", ("s2", "s1", "aerosol", "scene_class"))
    opened: dict[str, tuple[xr.Dataset, str]] = {}
    given: dict[str, Path] = {}
    for path in paths:
        data = netcdf.open_netcdf(path, files)
        sensor = _sensor_of(data, path.name)
        if sensor in opened:
            raise InputError(
                f"gfmap: {opened[sensor][1]} and {path.name} both hold {sensor}, expected one file of each "
                "sensor; name the other one"
            )
        opened[sensor], given[sensor] = (data, path.name), path
    layers = tuple(_layer(m, opened) for m in spec.modalities.values())
    return Source(_common_grid(opened), layers, describe_files("gfmap", [given[s] for s in sorted(given)]))


def _sensor_of(data: xr.Dataset, where: str) -> str:
    for sensor, prefix in (("s2", "S2-L2A-"), ("s1", "S1-SIGMA0-")):
        if any(str(name).startswith(prefix) for name in data.data_vars):
            return sensor
    raise InputError(
        f"{where}: no variable S2-L2A-* or S1-SIGMA0-*, found {', '.join(map(str, data.data_vars))}; "
        "expected a GFMAP extraction, check which file was given"
    )


def _common_grid(opened: dict[str, tuple[xr.Dataset, str]]) -> Grid:
    (first, grid), *rest = [(where, netcdf.grid_of(data, PIXEL_M, where)) for data, where in opened.values()]
    for other, theirs in rest:
        wanted, got = dataclasses.asdict(grid), dataclasses.asdict(theirs)
        for key in (k for k in wanted if wanted[k] != got[k]):
            raise InputError(
                f"gfmap: {other} has {key} {got[key]}, expected {wanted[key]} as in {first}; "
                "a pair must cover the same pixels, so extract both with one spatial extent and CRS"
            )
    return grid


def _layer(modality: Modality, opened: dict[str, tuple[xr.Dataset, str]]) -> Layer:
    sensor = "s1" if modality.name == "s1" else "s2"
    if sensor not in opened:
        given = ", ".join(where for _, where in opened.values())
        raise InputError(
            f"gfmap: the spec lists {modality.name} but no file of {sensor} is among {given}; "
            f"name that file as well or use a spec without {modality.name}"
        )
    data, where = opened[sensor]
    names = _variable_names(modality)
    netcdf.require(data, names, where)
    if sensor == "s2":
        netcdf.require(data, [SCENE_CLASS], where)
    place = f"{where}: {modality.name}"

    def read(y: int, x: int, height: int, width: int) -> Block:
        rows, columns = slice(y, y + height), slice(x, x + width)
        values = netcdf.stack(data, names, rows, columns)
        if sensor == "s1":
            stored, lost = amplitude_code_to_db(values, place)
            return stored, flags_of(lost)
        flags = scene_class_flags(netcdf.stack(data, [SCENE_CLASS], rows, columns)[:, 0], where)
        return _optical(modality, values, flags, place)

    return Layer(modality, netcdf.days_of(data), (data.sizes["y"], data.sizes["x"]), read)


def _variable_names(modality: Modality) -> list[str]:
    if modality.name == "aerosol":
        return [AEROSOL]
    if modality.name == "scene_class":
        return [SCENE_CLASS]
    prefix = "S1-SIGMA0-" if modality.name == "s1" else "S2-L2A-"
    return [prefix + b for b in modality.band_names]


def _optical(modality: Modality, values: NDArray[Any], flags: NDArray[np.uint8], where: str) -> Block:
    if modality.name == "s2":
        stored, lost = to_reflectance(values, where)
        return stored, np.where(lost, NODATA, flags).astype(np.uint8)
    if modality.name == "scene_class":
        classes, lost = _whole_classes(values, where)
        return classes.astype(modality.dtype), flags_of(np.asarray(lost.any(axis=1)))
    codes = as_unsigned(values, where)
    lost = missing(codes)
    thickness = np.rint(np.where(lost, 0, codes))  # a quantity in thousandths: a composite's fraction may be rounded
    with np.errstate(invalid="ignore"):
        stored = thickness.astype(modality.dtype)
    if not np.array_equal(stored, thickness):
        raise InputError(
            f"{where}: {AEROSOL} runs from {thickness.min():g} to {thickness.max():g}, expected thousandths that fit "
            f"{modality.dtype}; check its unit and its code for missing pixels"
        )
    return stored, flags_of(np.asarray(lost.any(axis=1)))


def scene_class_flags(classes: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Flags of Sen2Cor classes.

    Args:
        classes: `[T, h, w]` 0..11 as int16, or float with NaN; 65535 and NaN are nodata.
        where: file, for the message.

    Returns:
        uint8 `[T, h, w]`.

    Raises:
        InputError: a class that Sen2Cor does not have, or one that is not a whole number.
    """
    table = np.array([SCENE_CLASS_FLAGS[c] for c in range(12)], np.uint8)
    return table[_whole_classes(classes, where)[0]]


def _whole_classes(classes: NDArray[Any], where: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Classes as integers, 0 where missing, and where they are missing; between two classes there is none."""
    codes = as_unsigned(classes, where)
    lost = missing(codes)
    present = np.where(lost, 0, codes)
    whole = np.rint(present)
    if whole.min() < 0 or whole.max() > 11:
        raise InputError(
            f"{where}: scene classes run from {whole.min():g} to {whole.max():g}, expected Sen2Cor's 0 to 11; check "
            f"{SCENE_CLASS}"
        )
    mixed = present[np.abs(present - whole) > CLASS_NOISE]
    if len(mixed):
        raise InputError(
            f"{where}: {SCENE_CLASS} holds {mixed[0]:.7g}, expected whole numbers 0 to 11; resample classes by nearest "
            "neighbour, not by averages"
        )
    return whole.astype(np.int64), lost
