"""Mini-cubes of EarthNet2021x and GreenEarthNet: one netCDF of 128 x 128 pixels of 20 m and 150 or more days.

Variables: `s2_<band>` (reflectance, NaN on days without an acquisition), a cloud mask `s2_dlmask` (0 clear, 1 and 2
cloud, 3 shadow) or the older `s2_mask` (0 clear, 1 cloud, 2 shadow, 3 snow, 4 by scene class), `s2_SCL`, daily weather
of the cube `eobs_*`, heights `cop_dem`, `nasa_dem`, `alos_dem`, land cover `esawc_lc` (WorldCover codes).

A pixel is clear by the benchmark's own rule: the mask is 0 and the scene class is one of 1, 2, 4, 5, 6, 7. Latitude and
longitude of the file are 128 even steps over a square cut in UTM; the cube is placed on that square, so pixels away
from its middle are off by the convergence of meridians. The file is small and read whole.

Source: Benson et al., Multi-modal learning for geospatial vegetation forecasting, CVPR 2024, and the attributes of its
files as repositories around it describe them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import DAY_UNKNOWN
from skyframe.data.cube import CLEAR, CLOUD, NODATA, SHADOW
from skyframe.data.ingest import netcdf
from skyframe.data.ingest.cf_store import decode, open_store
from skyframe.data.ingest.source import Block, Layer, Source, check_modalities, describe_files
from skyframe.data.ingest.units import flags_of, to_stored
from skyframe.spec import METRES_PER_DEGREE, CubeSpec, Grid, InputError, Modality, side_pixels

if TYPE_CHECKING:
    import xarray as xr

WATT_DAY_MJ = 0.0864
"""A day's mean of 1 W per m2 is 0.0864 MJ per m2."""

WEATHER = {
    "temperature_c": "eobs_tg",
    "precipitation_mm": "eobs_rr",
    "radiation_mj": "eobs_qq",
    "temperature_min_c": "eobs_tn",
    "temperature_max_c": "eobs_tx",
    "wind_m_s": "eobs_fg",
    "humidity_percent": "eobs_hu",
    "pressure_hpa": "eobs_pp",
}
HEIGHTS = ("cop_dem", "nasa_dem", "alos_dem")
CLEAR_CLASSES = (1, 2, 4, 5, 6, 7)
MASKS = {
    "s2_dlmask": {0: CLEAR, 1: CLOUD, 2: CLOUD, 3: SHADOW},
    "s2_mask": {0: CLEAR, 1: CLOUD, 2: SHADOW, 3: CLOUD, 4: CLOUD},
}
"""Cloud masks, the better one first; snow hides the ground and is flagged like cloud."""

WORLDCOVER = (10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100)
"""WorldCover codes in the order of the label's classes, which begin with `unknown`."""

MAX_SKEW = 0.02  # ours
"""Share by which the file's spacing may differ from `gsd_m`: 128 steps over 127 pixels are 0.8 %."""


def open_source(paths: Sequence[Path], spec: CubeSpec, files: ExitStack) -> Source:
    """Open one mini-cube.

    Args:
        paths: one netCDF file.
        spec: modalities s2, weather, weather_more, terrain or some of them; label land_cover.
        files: closes it.

    Raises:
        InputError: an `.npz` of the older EarthNet2021 (it has no coordinates), a variable missing, no acquisition.
    """
    if len(paths) != 1 or paths[0].suffix == ".npz":
        raise InputError(
            f"earthnet: got {', '.join(p.name for p in paths)}, expected one netCDF mini-cube of EarthNet2021x or "
            "GreenEarthNet; the older .npz files have no coordinates, fetch the netCDF release"
        )
    check_modalities(spec, "earthnet", ("s2", "weather", "weather_more", "terrain"))
    where = paths[0].name
    data = open_store(paths[0], files)
    if "t" not in data.dims or ("s2" in spec.modalities and "s2_SCL" not in data):
        raise InputError(
            f"{where}: has no time or no s2_SCL, expected an EarthNet mini-cube; check which file was given"
        )
    sizes = {m.gsd_m for m in spec.modalities.values() if not m.name.startswith("weather")} or {20.0}
    grid = grid_of(data, min(sizes), where)
    layers = tuple(_layer(m, data, grid, where) for m in spec.modalities.values())
    labels = {name: _land_cover(data, name, where) for name in spec.labels}
    return Source(grid, layers, describe_files("earthnet", paths), labels)


def grid_of(data: xr.Dataset, gsd_m: float, where: str) -> Grid:
    """The UTM square about the middle of the file's latitudes and longitudes.

    Raises:
        InputError: the spacing of the file is not `gsd_m`.
    """
    from pyproj import Transformer

    latitude, longitude = (data[axis].values.astype(np.float64) for axis in ("y", "x"))
    lat, lon = (float((v[0] + v[-1]) / 2) for v in (latitude, longitude))
    if min(len(latitude), len(longitude)) < 2 or max(abs(lat), np.abs(longitude).max() / 2) > 90:
        raise InputError(f"{where}: latitude and longitude about {lat:g}, {lon:g}, expected degrees of several pixels")
    north_m = abs(float(latitude[0] - latitude[-1])) / (len(latitude) - 1) * METRES_PER_DEGREE
    east_m = abs(float(longitude[-1] - longitude[0])) / (len(longitude) - 1) * METRES_PER_DEGREE
    east_m *= math.cos(math.radians(lat))
    for name, step in (("latitude", north_m), ("longitude", east_m)):
        if abs(step / gsd_m - 1) > MAX_SKEW:
            raise InputError(
                f"{where}: {name} steps by about {step:.4g} m, expected {gsd_m:g} m as the spec's gsd_m says; use a "
                "spec with the file's GSD"
            )
    zone = f"EPSG:{(32600 if lat >= 0 else 32700) + int((lon + 180) // 6) % 60 + 1}"
    x, y = Transformer.from_crs("EPSG:4326", zone, always_xy=True).transform(lon, lat)
    rows, columns = len(latitude), len(longitude)
    corner = x - columns * gsd_m / 2, y + rows * gsd_m / 2
    return Grid(zone, round(corner[0], 3), round(corner[1], 3), columns * gsd_m, rows * gsd_m)


def _layer(modality: Modality, data: xr.Dataset, grid: Grid, where: str) -> Layer:
    place = f"{where}: {modality.name}"
    if modality.name == "s2":
        return _whole(modality, *_optical(modality, data, place))
    if modality.name == "terrain":
        return _whole(modality, *_terrain(modality, data, place))
    cells = side_pixels(grid.height_m, modality.gsd_m), side_pixels(grid.width_m, modality.gsd_m)
    strange = [band for band in modality.band_names if band not in WEATHER]
    if strange:
        raise InputError(
            f"{place} has no band {', '.join(strange)}, expected some of {', '.join(WEATHER)}; take it out of the spec"
        )
    names = [WEATHER[band] for band in modality.band_names]
    _require(data, names, place)
    values = np.stack([decode(data[n], (slice(None), slice(None)), cells, place) for n in names], axis=1)
    if "radiation_mj" in modality.band_names:
        values[:, modality.band_names.index("radiation_mj")] *= WATT_DAY_MJ
    stored, lost = to_stored(values, modality, place)
    return _whole(modality, netcdf.days_of(data), stored, flags_of(lost))


def _optical(modality: Modality, data: xr.Dataset, where: str) -> tuple[NDArray[np.int32], *Block]:
    """Acquisitions alone: a day without one finite pixel has none."""
    names = [f"s2_{band}" for band in modality.band_names]
    mask = next((name for name in MASKS if name in data), next(iter(MASKS)))
    _require(data, [*names, mask, "s2_SCL"], where)
    everything = slice(None), slice(None)
    shape = data.sizes["y"], data.sizes["x"]
    values = np.stack([decode(data[n], everything, shape, where) for n in names], axis=1)
    seen = np.flatnonzero(np.isfinite(values).any(axis=(1, 2, 3)))
    if not len(seen):
        raise InputError(f"{where} has no data on any of {len(values)} days, expected one acquisition; fetch it again")
    clouds, classes = (decode(data[n], everything, shape, where)[seen] for n in (mask, "s2_SCL"))
    stored, lost = to_stored(values[seen], modality, where)
    unknown = np.isnan(clouds) | np.isnan(classes)
    codes = np.where(unknown, 0, clouds)
    if not np.isin(codes, list(MASKS[mask])).all():
        raise InputError(
            f"{where}: {mask} holds {float(codes[~np.isin(codes, list(MASKS[mask]))][0]):g}, expected "
            f"{', '.join(map(str, MASKS[mask]))}; fetch it again"
        )
    flags = np.array([MASKS[mask][c] for c in sorted(MASKS[mask])], np.uint8)[codes.astype(np.int64)]
    flags[(flags == CLEAR) & ~np.isin(classes, CLEAR_CLASSES)] = CLOUD
    flags[(flags == CLOUD) & (classes == 3)] = SHADOW
    flags[lost | unknown] = NODATA
    return netcdf.days_of(data)[seen], stored, flags


def _terrain(modality: Modality, data: xr.Dataset, where: str) -> tuple[NDArray[np.int32], *Block]:
    """The first height model that the file has."""
    if modality.band_names != ("elevation_m",):
        raise InputError(f"{where} has bands {', '.join(modality.band_names)}, expected elevation_m alone")
    name = next((n for n in HEIGHTS if n in data), HEIGHTS[0])
    _require(data, [name], where)
    heights = decode(data[name], (slice(None), slice(None)), (data.sizes["y"], data.sizes["x"]), where)
    stored, lost = to_stored(heights[:, None], modality, where)
    return np.array([DAY_UNKNOWN], np.int32), stored, flags_of(lost)


def _land_cover(data: xr.Dataset, name: str, where: str) -> NDArray[np.uint8]:
    if name != "land_cover":
        raise InputError(f"{where}: no label {name}, expected land_cover; take it out of the spec")
    _require(data, ["esawc_lc"], where)
    codes = decode(data["esawc_lc"], (slice(None), slice(None)), (data.sizes["y"], data.sizes["x"]), where)[0]
    classes = np.zeros(codes.shape, np.uint8)
    for number, code in enumerate(WORLDCOVER, start=1):
        classes[codes == code] = number
    strange = codes[(classes == 0) & ~np.isnan(codes) & (codes != 0)]
    if strange.size:
        raise InputError(
            f"{where}: esawc_lc holds {strange[0]:g}, expected WorldCover's {', '.join(map(str, WORLDCOVER))}; "
            "fetch the file again or use a spec without land_cover"
        )
    return classes


def _require(data: xr.Dataset, names: Sequence[str], where: str) -> None:
    lost = [n for n in names if n not in data]
    if lost:
        found = ", ".join(str(v) for v in data.data_vars)
        raise InputError(
            f"{where}: no variable {', '.join(lost)}, found {found}; use a spec that lists what the file has"
        )


def _whole(modality: Modality, days: NDArray[np.int32], values: NDArray[Any], flags: NDArray[np.uint8]) -> Layer:
    def read(y: int, x: int, height: int, width: int) -> Block:
        rows, columns = slice(y, y + height), slice(x, x + width)
        return values[:, :, rows, columns], flags[:, rows, columns]

    return Layer(modality, days, (values.shape[2], values.shape[3]), read)
