"""Cubes in CF form, Zarr v2/v3 or netCDF: `variable[time, y, x]` in metres or degrees, decoded by their attributes.

A band is the variable of its name. Where a store says it otherwise, the spec does under `source:`, by modality:
`variables` (band -> variable), `factor` and `plus` (from the store's unit to the spec's: decoded * factor + plus) and
`flags` (a variable of classes, or of bits, and which of them are nodata, cloud or shadow). Variables without y and x
hold everywhere in the cube; variables without time are static. Blocks are read lazily, so memory is that of a block.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import DAY_UNKNOWN
from skyframe.data.cube import CLOUD, NODATA, SHADOW
from skyframe.data.ingest import netcdf
from skyframe.data.ingest.cf_store import decode, grid_of, open_store
from skyframe.data.ingest.source import Block, Layer, Source, describe_files
from skyframe.data.ingest.units import flags_of, to_stored
from skyframe.spec import CubeSpec, InputError, Modality, build, did_you_mean, side_pixels

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class FlagSource:
    """A variable of classes, or with `bits` of bit masks, and which of its values mean what; all others are clear."""

    variable: str
    nodata: tuple[int, ...] = ()
    cloud: tuple[int, ...] = ()
    shadow: tuple[int, ...] = ()
    bits: bool = False


@dataclass(frozen=True)
class ModalitySource:
    """Where a modality lies in a store whose names or units are not the spec's."""

    variables: dict[str, str] = field(default_factory=dict)
    factor: float = 1.0
    plus: float = 0.0
    flags: FlagSource | None = None


def open_source(paths: Sequence[Path], spec: CubeSpec, files: ExitStack) -> Source:
    """Open one store.

    Args:
        paths: exactly one Zarr folder or netCDF file.
        spec: modalities whose bands are variables of the store; labels are its variables `[y, x]`.
        files: closes it.

    Raises:
        InputError: more than one, no axes, a variable missing or on other axes, a grid that is not the spec's.
    """
    if len(paths) != 1:
        raise InputError(
            f"cf: got {len(paths)} sources, expected one Zarr folder or netCDF file; ingest each into a cube of its own"
        )
    where = paths[0].name
    data = open_store(paths[0], files)
    grid = grid_of(data, min(m.gsd_m for m in _on_grid(spec, data)), where)
    wanted = _sources(spec)
    layers = []
    for modality in spec.modalities.values():
        extent = side_pixels(grid.height_m, modality.gsd_m), side_pixels(grid.width_m, modality.gsd_m)
        layers.append(_layer(modality, wanted[modality.name], data, extent, f"{where}: {modality.name}"))
    labels = {name: _label(data, name, label.dtype, where) for name, label in spec.labels.items()}
    return Source(grid, tuple(layers), describe(paths[0]), labels)


def describe(path: Path) -> dict[str, Any]:
    """What a restart is compared by: a file's digest; of a Zarr folder its metadata and the size of every chunk."""
    if path.is_file():
        return describe_files("cf", [path])
    digest, total, count = hashlib.sha256(), 0, 0
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        size = file.stat().st_size
        total, count = total + size, count + 1
        digest.update(json.dumps([str(file.relative_to(path)), size]).encode())
        if file.name.startswith(".z") or file.name == "zarr.json":
            digest.update(file.read_bytes())
    return {"kind": "cf", "files": [{"name": path.name, "files": count, "bytes": total, "sha256": digest.hexdigest()}]}


def _sources(spec: CubeSpec) -> dict[str, ModalitySource]:
    place = f"spec {spec.name}: source"
    for name in spec.source:
        if name not in spec.modalities:
            raise InputError(
                f"{place}: {name!r} is no modality of the spec, expected some of {', '.join(spec.modalities)}"
                f"{did_you_mean(name, spec.modalities)}"
            )
    made = {name: build(ModalitySource, spec.source.get(name, {}), f"{place}.{name}") for name in spec.modalities}
    for name, source in made.items():
        strange = [band for band in source.variables if band not in spec.modalities[name].band_names]
        if strange:
            raise InputError(
                f"{place}.{name}.variables: {', '.join(strange)} is no band of {name}, expected some of "
                f"{', '.join(spec.modalities[name].band_names)}; correct the name"
            )
    return made


def variable_names(modality: Modality, source: ModalitySource) -> list[str]:
    """The store's variable for each band, in band order."""
    return [source.variables.get(band, band) for band in modality.band_names]


def _on_grid(spec: CubeSpec, data: xr.Dataset) -> list[Modality]:
    """The modalities that lie on the store's pixels; their pixel size is the grid's."""
    sources = _sources(spec)
    found = []
    for modality in spec.modalities.values():
        names = variable_names(modality, sources[modality.name])
        if any(n in data.data_vars and "y" in data[n].dims for n in names):
            found.append(modality)
    return found or list(spec.modalities.values())


def _require(data: xr.Dataset, names: Sequence[str], where: str) -> tuple[str, ...]:
    """Refuse variables that are not there or differ in their axes; the axes they share."""
    lost = [n for n in names if n not in data.data_vars]
    if lost:
        found = [str(v) for v in data.data_vars]
        raise InputError(
            f"{where}: no variable {', '.join(lost)}, found {', '.join(found)}{did_you_mean(lost[0], found)}; name it "
            "under source: in the spec (variables: {band: variable}) or take the band out"
        )
    axes = {tuple(a for a in ("t", "y", "x") if a in data[n].dims) for n in names}
    shapes = {n: tuple(map(str, data[n].dims)) for n in names}
    if len(axes) > 1 or any(set(dims) - {"t", "y", "x"} for dims in shapes.values()):
        raise InputError(
            f"{where}: {', '.join(f'{n} lies on {dims}' for n, dims in shapes.items())}, expected the same of t, y and "
            "x for every band; give bands on other axes a modality of their own"
        )
    return axes.pop()


def _layer(modality: Modality, source: ModalitySource, data: xr.Dataset, extent: tuple[int, int], where: str) -> Layer:
    names = variable_names(modality, source)
    axes = _require(data, names, where)
    has_time = "t" in axes
    if has_time == (modality.kind == "static"):
        raise InputError(
            f"{where}: kind {modality.kind} and {names[0]} has {'dates' if has_time else 'no dates'}, expected "
            "a static modality to have none and others to have them; correct the kind in the spec"
        )
    if "y" in axes and extent != (data.sizes["y"], data.sizes["x"]):
        raise InputError(
            f"{where}: gsd_m {modality.gsd_m:g} makes {extent[0]} x {extent[1]} pixels of the store's "
            f"{data.sizes['y']} x {data.sizes['x']}, expected the store's own pixel size; correct gsd_m"
        )
    if source.flags is not None:
        _require(data, [source.flags.variable, names[0]], where)
    days = netcdf.days_of(data) if has_time else np.array([DAY_UNKNOWN], np.int32)

    def read(y: int, x: int, height: int, width: int) -> Block:
        box = slice(y, y + height), slice(x, x + width)
        bands = [decode(data[n], box, (height, width), where) for n in names]
        stored, lost = to_stored(np.stack(bands, axis=1) * source.factor + source.plus, modality, where)
        flags = flags_of(lost)
        if source.flags is not None:
            seen = decode(data[source.flags.variable], box, (height, width), where)
            flags = np.where(lost, NODATA, _flags(seen, source.flags)).astype(np.uint8)
        return stored, flags

    return Layer(modality, days, extent, read)


def _flags(classes: NDArray[np.float64], source: FlagSource) -> NDArray[np.uint8]:
    """Flags `[T, h, w]` of a variable of classes or bits; where it is missing nothing is known: nodata."""
    lost = np.isnan(classes)
    flags = flags_of(lost)
    codes = np.where(lost, 0, classes).astype(np.int64)
    for values, flag in ((source.shadow, SHADOW), (source.cloud, CLOUD), (source.nodata, NODATA)):
        hit = (codes & int(np.bitwise_or.reduce([0, *values]))) != 0 if source.bits else np.isin(codes, values)
        flags[hit & ~lost] = flag
    return flags


def _label(data: xr.Dataset, name: str, dtype: str, where: str) -> NDArray[Any]:
    axes = _require(data, [name], f"{where}: label {name}")
    if axes != ("y", "x"):
        raise InputError(f"{where}: label {name} lies on {axes}, expected y and x; make it a modality of the spec")
    values = decode(data[name], (slice(None), slice(None)), (data.sizes["y"], data.sizes["x"]), where)[0]
    stored = np.nan_to_num(values).astype(dtype)
    if not np.array_equal(stored.astype(np.float64), values):
        raise InputError(
            f"{where}: label {name} has gaps or values that {dtype} does not hold, expected whole classes; correct the "
            "label's dtype in the spec"
        )
    return stored
