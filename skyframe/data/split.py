"""Training, validation and test by place: cells of the ground are drawn, and what lies too close to another part is
left out of both."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyframe.geography import EARTH_RADIUS_KM, equal_area_cells
from skyframe.hashing import hash_many
from skyframe.spec import InputError, Split

PARTS = ("train", "val", "test", "none")
NONE = PARTS.index("none")
METRES_PER_DEGREE = math.radians(1) * EARTH_RADIUS_KM * 1000
TOUCH_M = 0.01
"""Rectangles that overlap by less merely touch."""

AT_ONCE = 2048
"""Footprints compared with their neighbours together."""

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True)
class SplitRule:
    """How places fall to parts: `train`, `val` and `test` are shares of the cells drawn."""

    train: float
    val: float
    test: float
    cell_km2: float = 2500.0
    buffer_m: float = 5000.0
    seed: int = 0

    def __post_init__(self) -> None:
        shares = self.train, self.val, self.test
        if not all(0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
            raise InputError(
                f"split: shares are {self.train:g}, {self.val:g} and {self.test:g}, expected three from 0 to 1 whose "
                "sum is 1; correct --split"
            )
        if not (self.cell_km2 > 0 and self.buffer_m >= 0):
            raise InputError(
                f"split: cell_km2 is {self.cell_km2:g} and buffer_m {self.buffer_m:g}, expected a positive area and a "
                "distance of 0 or more"
            )


def read_rule(text: str, cell_km2: float, buffer_m: float, seed: int) -> SplitRule:
    """A rule from shares such as `train=0.8,val=0.1,test=0.1`.

    Raises:
        InputError: no such part, no number, or shares that do not add up.
    """
    shares = dict.fromkeys(PARTS[:3], 0.0)
    for item in text.split(","):
        name, _, number = item.strip().partition("=")
        try:
            if name not in shares:
                raise ValueError
            shares[name] = float(number)
        except ValueError:
            raise InputError(f"--split: got {item!r}, expected shares such as train=0.8,val=0.1,test=0.1") from None
    return SplitRule(**shares, cell_km2=cell_km2, buffer_m=buffer_m, seed=seed)


@dataclass(frozen=True)
class Footprints:
    """Rectangles on the ground, arrays `[n]`: in the metres of a CRS, and in degrees (longitudes around the centre)."""

    crs_of: NDArray[np.int32]
    x0_m: Floats
    y0_m: Floats
    width_m: Floats
    height_m: Floats
    lat: Floats
    lon: Floats
    south: Floats
    west: Floats
    north: Floats
    east: Floats

    def distinct(self) -> tuple[Rows, Rows]:
        """One row of each distinct rectangle, and for each row the number of its rectangle."""
        key = np.stack([self.crs_of.astype(np.float64), self.x0_m, self.y0_m, self.width_m, self.height_m], axis=1)
        _, first, number = np.unique(key, axis=0, return_index=True, return_inverse=True)
        return first, number.reshape(-1)


def part_by_name(split: Split, cube: str) -> int | None:
    """Part that a spec's globs give a cube, as a position in PARTS; None where it says nothing about it."""
    for name in ("test", "val", "train"):
        if Split(test=getattr(split, name)).held_out(cube):
            return PARTS.index(name)
    return NONE if split.train else None


def split_rows(ground: Footprints, pinned: NDArray[np.int8], rule: SplitRule) -> NDArray[np.int8]:
    """Part of every row, as positions in PARTS.

    A rectangle falls to the part that its centre's cell draws, unless the row is pinned; of two rectangles of
    different parts that overlap, or lie closer than `buffer_m`, the one of the larger part goes to `none`. So the
    part with the smallest share loses nothing, and training gives way to both others.

    Args:
        ground: where the rows lie.
        pinned: part that a spec demands `[n]`, -1 where it does not.
        rule: shares, cell, distance and seed.
    """
    first, number = ground.distinct()
    cells = equal_area_cells(ground.lat[first], ground.lon[first], rule.cell_km2)
    draw = hash_many(rule.seed, "split", cells) / 2.0**64
    part = np.searchsorted(np.cumsum([rule.train, rule.val]), draw, side="right").astype(np.int8)
    shares = (rule.train, rule.val, rule.test)
    small_first = sorted(range(3), key=lambda p: (shares[p], -p))
    for name in (NONE, *reversed(small_first)):  # where two rows of one rectangle are pinned apart, the smallest wins
        part[number[pinned == name]] = name
    kept = np.flatnonzero(part == small_first[0])
    for name in small_first[1:]:
        asked = np.flatnonzero(part == name)
        part[asked[_near(ground, first[asked], first[kept], rule.buffer_m)]] = NONE
        kept = np.concatenate([kept, np.flatnonzero(part == name)])
    rows = part[number]
    return np.where((pinned >= 0) & (pinned != rows), NONE, rows).astype(np.int8)


def _near(ground: Footprints, asked: Rows, others: Rows, buffer_m: float) -> NDArray[np.bool_]:
    """Which rectangles lie closer than `buffer_m` to one of the others, or overlap one.

    Others are looked up in k-d trees, one per size class, so that one large cube does not make the rest look far.
    """
    from scipy.spatial import cKDTree

    near = np.zeros(len(asked), bool)
    if not len(asked) or not len(others):
        return near
    points, radius = _globe(ground), np.hypot(ground.width_m, ground.height_m) / 2
    size_class = np.ceil(np.log2(radius[others])).astype(int)
    for one in np.unique(size_class):
        mine = others[size_class == one]
        tree, largest = cKDTree(points[mine]), float(radius[mine].max())
        reach = radius[asked] + largest + buffer_m
        distance, _ = tree.query(points[asked], distance_upper_bound=float(reach.max()) + 1)
        near |= distance < max(buffer_m, TOUCH_M)  # of the centres, so surely of the rectangles
        unsure = np.flatnonzero(~near & (distance <= reach))
        for start in range(0, len(unsure), AT_ONCE):
            at = unsure[start : start + AT_ONCE]
            found = tree.query_ball_point(points[asked[at]], reach[at])
            left = np.repeat(asked[at], [len(f) for f in found])
            right = mine[np.concatenate([np.asarray(f, np.intp) for f in found])]
            close = _closer(ground, left, right, buffer_m)
            near[at] = np.isin(asked[at], left[close])
    return near


def _globe(ground: Footprints) -> Floats:
    """Centres in metres from the Earth's middle `[n, 3]`."""
    lat, lon = np.radians(ground.lat), np.radians(ground.lon)
    unit = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    return np.asarray(unit * EARTH_RADIUS_KM * 1000)


def _closer(g: Footprints, a: Rows, b: Rows, buffer_m: float) -> NDArray[np.bool_]:
    """Whether pairs of rectangles overlap or lie closer than `buffer_m`: exact within one CRS, else by their boxes in
    degrees, which hold them."""
    dx = np.maximum(g.x0_m[a], g.x0_m[b]) - np.minimum(g.x0_m[a] + g.width_m[a], g.x0_m[b] + g.width_m[b])
    dy = np.maximum(g.y0_m[a] - g.height_m[a], g.y0_m[b] - g.height_m[b]) - np.minimum(g.y0_m[a], g.y0_m[b])
    widest = np.maximum(np.abs(g.lat[a]), np.abs(g.lat[b]))
    between = np.abs((g.lon[a] - g.lon[b] + 180) % 360 - 180)
    east = (between - (g.east[a] - g.west[a] + g.east[b] - g.west[b]) / 2) * np.cos(np.radians(widest))
    north = np.maximum(g.south[a], g.south[b]) - np.minimum(g.north[a], g.north[b])
    same = g.crs_of[a] == g.crs_of[b]
    dx, dy = np.where(same, dx, east * METRES_PER_DEGREE), np.where(same, dy, north * METRES_PER_DEGREE)
    gap = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return np.asarray((gap < buffer_m) | (np.maximum(dx, dy) < -TOUCH_M))
