"""From projected metres to latitude and longitude, and from a place to its prototype region."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skyframe.spec import METRES_PER_DEGREE, Grid, InputError, RegionGrid

if TYPE_CHECKING:
    from pyproj import Transformer

EARTH_RADIUS_KM = 6371.0088
"""Mean Earth radius R1 of IUGG (Moritz 2000)."""


@lru_cache(maxsize=256)  # the UTM zones of both hemispheres and some more
def _to_degrees(crs: str, unit_m: float) -> Transformer:
    from pyproj import CRS, Transformer
    from pyproj.exceptions import CRSError

    try:
        projected = CRS.from_user_input(crs)
    except CRSError as error:
        raise InputError(f"crs: {crs!r} is not a coordinate reference system; expected e.g. EPSG:32631") from error
    if not (projected.is_projected or (projected.is_geographic and unit_m != 1.0)):
        raise InputError(
            f"crs: {crs!r} is not projected, expected one in metres such as a UTM zone (EPSG:326xx); reproject the "
            "source"
        )
    return Transformer.from_crs(projected, "EPSG:4326", always_xy=True)


def check_crs(crs: str, unit_m: float = 1.0) -> None:
    """Raise InputError unless `crs` is projected, or in degrees while `unit_m` says how long a degree is."""
    _to_degrees(crs, unit_m)


def place_of(grid: Grid, y_m: float, x_m: float) -> NDArray[np.float64]:
    """Latitude and longitude (degrees, float64 `[2]`) of a point `y_m` south and `x_m` east of the grid's corner.

    In a store of points it is the place of the site in whose row the point lies.
    """
    if grid.places:
        row = int(y_m / grid.height_m * len(grid.places))
        return np.array(grid.places[min(max(row, 0), len(grid.places) - 1)], np.float64)
    x, y = (grid.x0_m + x_m) / grid.unit_m, (grid.y0_m - y_m) / grid.unit_m
    lon, lat = _to_degrees(grid.crs, grid.unit_m).transform(x, y)
    return np.array([lat, lon], np.float64)


def places_of(crs: str, y_m: NDArray[np.float64], x_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Latitude and longitude (degrees, float64 `[n, 2]`) of points `[n]` in the metres of `Grid`s of one CRS."""
    from pyproj import CRS

    unit_m = METRES_PER_DEGREE if CRS.from_user_input(crs).is_geographic else 1.0
    lon, lat = _to_degrees(crs, unit_m).transform(x_m / unit_m, y_m / unit_m)
    return np.stack([lat, lon], axis=-1)


def equal_area_cell(lat: float, lon: float, cell_km2: float) -> int:
    """Cell number of a global grid whose cells all have about `cell_km2`; see `equal_area_cells`."""
    return int(equal_area_cells(np.array([lat]), np.array([lon]), cell_km2)[0])


def equal_area_cells(lat: NDArray[np.float64], lon: NDArray[np.float64], cell_km2: float) -> NDArray[np.int64]:
    """Cell numbers `[n]` of a global grid whose cells all have about `cell_km2`, for places `[n]` in degrees.

    Rows of equal height in latitude, each cut into a whole number of cells around its parallel (sinusoidal tiling, as
    MODIS land products use).
    """
    side_deg = math.degrees(math.sqrt(cell_km2) / EARTH_RADIUS_KM)
    rows = max(1, round(180.0 / side_deg))
    row = np.minimum(rows - 1, ((90.0 - lat) / 180.0 * rows).astype(np.int64))
    middles = np.radians(90.0 - (np.arange(rows) + 0.5) * 180.0 / rows)
    counts = np.maximum(1, np.round(2 * rows * np.cos(middles))).astype(np.int64)
    before = np.cumsum(counts) - counts
    column = (((lon + 180.0) % 360.0) / 360.0 * counts[row]).astype(np.int64)
    return before[row] + np.minimum(column, counts[row] - 1)


REACH_DEG = 0.3
"""A place up to this far outside every balanced cell (about 33 km, half the side of a published region of 4294 km2)
still belongs to the nearest one."""


@dataclass(frozen=True)
class RegionIndex:
    """Place -> prototype region, -1 for a place that pretraining never saw.

    `boxes` (balanced cells): per region south, west, north, east of its windows' centres, in degrees. `cells`
    (equal-area grid): the sorted cell numbers that the footprint touches; their rank is the region.
    """

    boxes: tuple[tuple[float, float, float, float], ...] = ()
    cells: tuple[int, ...] = ()
    cell_km2: float = 0.0

    @property
    def num_regions(self) -> int:
        """How many regions the bank needs."""
        return len(self.boxes) or len(self.cells)

    def region(self, lat: float, lon: float) -> int:
        """Region of a place in degrees, -1 where none covers it."""
        if self.boxes:
            away = [
                max(south - lat, lat - north, west - lon, lon - east, 0.0) for south, west, north, east in self.boxes
            ]
            nearest = int(np.argmin(away))
            return nearest if away[nearest] <= REACH_DEG else -1
        if self.cells:
            cell = equal_area_cell(lat, lon, self.cell_km2)
            return self.cells.index(cell) if cell in self.cells else -1
        return -1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a contract or a checkpoint."""
        return {"boxes": [list(b) for b in self.boxes], "cells": list(self.cells), "cell_km2": self.cell_km2}

    @staticmethod
    def from_dict(tree: dict[str, Any]) -> RegionIndex:
        """Inverse of `to_dict`."""
        boxes = tuple((float(s), float(w), float(n), float(e)) for s, w, n, e in tree["boxes"])
        return RegionIndex(boxes, tuple(int(c) for c in tree["cells"]), float(tree["cell_km2"]))


def build_regions(places: Sequence[NDArray[np.float64]], grid: RegionGrid) -> RegionIndex:
    """Regions over a training footprint.

    Args:
        places: latitude and longitude of window centres (a coarse sample of the footprint is enough).
        grid: which kind and how many.
    """
    if not places:
        raise InputError("regions: the footprint is empty, expected at least one window; check data.cubes")
    points = np.stack(list(places))
    if grid.kind == "equal_area":
        cells = sorted({equal_area_cell(float(a), float(b), grid.cell_km2) for a, b in points})
        return RegionIndex(cells=tuple(cells), cell_km2=grid.cell_km2)
    boxes = [_box(part) for part in _split(points, grid.num_regions)]
    return RegionIndex(boxes=tuple(boxes))


def _split(points: NDArray[np.float64], count: int) -> list[NDArray[np.float64]]:
    """Cut points into `count` cells of near-equal size by medians along the longer side (a k-d tree's leaves)."""
    count = min(count, len(points))
    if count <= 1:
        return [points]
    stretch = np.ptp(points, axis=0) * np.array([1.0, math.cos(math.radians(float(points[:, 0].mean())))])
    order = points[np.argsort(points[:, int(np.argmax(stretch))], kind="stable")]
    left = count // 2
    cut = round(len(order) * left / count)
    return _split(order[:cut], left) + _split(order[cut:], count - left)


def _box(points: NDArray[np.float64]) -> tuple[float, float, float, float]:
    (south, west), (north, east) = points.min(axis=0), points.max(axis=0)
    return float(south), float(west), float(north), float(east)
