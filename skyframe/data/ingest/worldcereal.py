"""WorldCereal's preprocessed inputs: one netCDF of monthly Sentinel-2, Sentinel-1, weather and terrain on one grid.

All variables are `int16[t, y, x]` that mean uint16, 65535 = missing. Whole months can be missing; they keep their
date and are flagged nodata. Each record stands for a month and carries the month's first day. The file has no cloud
mask: the producers masked clouds before compositing, so what is left is flagged clear.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import DAY_UNKNOWN
from skyframe.data.ingest import netcdf
from skyframe.data.ingest.source import Block, Layer, Source, check_modalities, describe_files
from skyframe.data.ingest.units import amplitude_code_to_db, as_unsigned, flags_of, missing, to_reflectance
from skyframe.spec import CubeSpec, InputError, Modality, side_pixels

if TYPE_CHECKING:
    import xarray as xr

PIXEL_M = 10.0
WEATHER = {"temperature_c": "AGERA5-TMEAN", "precipitation_mm": "AGERA5-PRECIP"}
TERRAIN = {"elevation_m": "elevation", "slope_deg": "slope"}
ZERO_CELSIUS_K = 273.15


def open_source(paths: Sequence[Path], spec: CubeSpec, files: ExitStack) -> Source:
    """Open one file.

    Args:
        paths: exactly one netCDF file.
        spec: bands to take; every one must be in the file.
        files: closes it.

    Raises:
        InputError: more than one file, a missing variable, no dates, no CRS.
    """
    if len(paths) != 1:
        raise InputError(
            f"worldcereal: got {len(paths)} source files, expected one netCDF; ingest each into a cube of its own"
        )
    check_modalities(spec, "worldcereal", ("s2", "s1", "weather", "terrain"))
    data = netcdf.open_netcdf(paths[0], files)
    where = paths[0].name
    layers = tuple(_layer(m, data, where) for m in spec.modalities.values())
    return Source(netcdf.grid_of(data, PIXEL_M, where), layers, describe_files("worldcereal", paths))


def variable_names(modality: Modality, where: str) -> list[str]:
    """The file's variable for each band of a modality, in band order."""
    tables = {"weather": WEATHER, "terrain": TERRAIN}
    if modality.name in tables:
        table = tables[modality.name]
        for band in modality.band_names:
            if band not in table:
                raise InputError(
                    f"{where}: {modality.name} has no band {band}, expected some of {', '.join(table)}; take it "
                    "out of the spec"
                )
        return [table[b] for b in modality.band_names]
    prefix = {"s2": "S2-L2A-", "s1": "S1-SIGMA0-"}[modality.name]
    return [prefix + b for b in modality.band_names]


def _layer(modality: Modality, data: xr.Dataset, where: str) -> Layer:
    names = variable_names(modality, where)
    netcdf.require(data, names, where)
    days, place = netcdf.days_of(data), f"{where}: {modality.name}"
    shape = (data.sizes["y"], data.sizes["x"])
    if modality.name == "weather":
        factor = round(modality.gsd_m / PIXEL_M)
        coarse = (side_pixels(shape[0] * PIXEL_M, modality.gsd_m), side_pixels(shape[1] * PIXEL_M, modality.gsd_m))
        return Layer(
            modality, days, coarse, lambda y, x, h, w: _read_weather(data, modality, names, factor, (y, x, h, w), place)
        )
    if modality.name == "terrain":
        unknown = np.array([DAY_UNKNOWN], np.int32)
        return Layer(modality, unknown, shape, lambda y, x, h, w: _read_terrain(data, names, (y, x, h, w), place))
    convert = to_reflectance if modality.name == "s2" else amplitude_code_to_db

    def read(y: int, x: int, height: int, width: int) -> Block:
        values, lost = convert(netcdf.stack(data, names, slice(y, y + height), slice(x, x + width)), place)
        return values, flags_of(lost)

    return Layer(modality, days, shape, read)


def _read_weather(
    data: xr.Dataset, modality: Modality, names: list[str], factor: int, block: tuple[int, int, int, int], where: str
) -> Block:
    """Means over the weather grid's pixels; the reanalysis is 10 km wide, so a 10 m copy of it holds one value."""
    y, x, height, width = block
    rows, columns = slice(y * factor, (y + height) * factor), slice(x * factor, (x + width) * factor)
    codes = as_unsigned(netcdf.stack(data, names, rows, columns), where)
    physical = np.where(missing(codes), np.nan, codes / 100.0)
    for index, band in enumerate(modality.band_names):
        if band == "temperature_c":
            physical[:, index] -= ZERO_CELSIUS_K
        else:
            physical[:, index] /= days_in_month(data["t"].values)[:, None, None]
    means = np.full((*codes.shape[:2], height, width), np.nan)
    for i in range(height):
        for j in range(width):
            cell = physical[:, :, i * factor : (i + 1) * factor, j * factor : (j + 1) * factor]
            count = (~np.isnan(cell)).sum(axis=(2, 3))
            means[:, :, i, j] = np.where(count > 0, np.nansum(cell, axis=(2, 3)) / np.maximum(count, 1), np.nan)
    lost = np.asarray(np.isnan(means).any(axis=1))
    return np.where(lost[:, None], 0.0, means).astype(np.float32), flags_of(lost)


def days_in_month(stamps: NDArray[np.datetime64]) -> NDArray[np.int64]:
    """Length in days of the month of each date."""
    months = stamps.astype("datetime64[M]")
    return np.asarray(((months + 1).astype("datetime64[D]") - months.astype("datetime64[D]")).astype(np.int64))


def _read_terrain(data: xr.Dataset, names: list[str], block: tuple[int, int, int, int], where: str) -> Block:
    """The first date's values: the file repeats them on every date."""
    y, x, height, width = block
    first = netcdf.stack(data.isel(t=slice(0, 1)), names, slice(y, y + height), slice(x, x + width))
    codes = as_unsigned(first, where)
    lost = np.asarray(missing(codes).any(axis=1))
    return np.where(lost[:, None], 0, codes).astype(np.float32), flags_of(lost)
