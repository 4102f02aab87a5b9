"""Buildings and vehicles: rotated rectangles along streets and roads, each a function of its place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyframe.data.synthetic.noise import Doubles, Hashes, hashed, uniform, value_noise_at
from skyframe.data.synthetic.settlement import FRAY_M, Roads, Towns, roads, towns
from skyframe.data.synthetic.terrain import dry_at
from skyframe.data.synthetic.world import Frame, World

BUILDING, VEHICLE = 0, 1
"""Class numbers in the boxes table."""


@dataclass(frozen=True)
class Things:
    """Buildings or vehicles: rotated rectangles, one row each."""

    y_m: Doubles
    x_m: Doubles
    angle: Doubles  # of the long side, radians from east towards south
    length_m: Doubles
    width_m: Doubles
    height_m: Doubles
    hashes: Hashes


def buildings(world: World, frame: Frame, margin_m: float = 60.0) -> Things:
    """Buildings whose centre lies within `margin_m` of a frame: houses along the streets, halls at the outskirts."""
    places = towns(world, frame)
    parts = [_houses(world, places, row) for row in _near(places, frame)]
    return _inside(_join(parts), frame, margin_m)


def _near(places: Towns, frame: Frame) -> list[int]:
    """Rows of the settlements whose buildings or cars may stand in or near a frame."""
    reach = places.radius_m + 2 * FRAY_M + 100.0
    inside = (frame.ys[0] - reach < places.y_m) & (places.y_m < frame.ys[-1] + reach)
    inside &= (frame.xs[0] - reach < places.x_m) & (places.x_m < frame.xs[-1] + reach)
    return [int(row) for row in np.flatnonzero(inside & (places.radius_m > 0))]


def _houses(world: World, places: Towns, row: int) -> Things:
    """Lots along both long sides of every street block of one settlement; some blocks hold one hall instead."""
    a, b = places.block_m[row]
    reach = places.radius_m[row] + 2 * FRAY_M
    ni, nj = int(reach / a) + 1, int(reach / b) + 1
    lots = max(3, int(a / 21.0))
    i, j, k, s = (
        g.ravel()
        for g in np.meshgrid(np.arange(-ni, ni), np.arange(-nj, nj), np.arange(lots), np.arange(2), indexing="ij")
    )
    block = hashed(int(places.hashes[row]), i, j)
    h = hashed(block, k, s)
    hall = uniform(block, "hall") < 0.07
    along = (i + (k + 0.5) / lots) * a + (uniform(h, "shift") - 0.5) * 3.0
    across = (j + np.where(s == 0, 15.0 / b, 1 - 15.0 / b)) * b + (uniform(h, "back") - 0.5) * 5.0
    along, across = np.where(hall, (i + 0.5) * a, along), np.where(hall, (j + 0.5) * b, across)
    cos, sin = np.cos(places.angle[row]), np.sin(places.angle[row])
    y, x = places.y_m[row] + along * sin + across * cos, places.x_m[row] + along * cos - across * sin
    fray = FRAY_M * value_noise_at(world.key("fray"), y, x, 330.0)
    deep = places.radius_m[row] - np.hypot(y - places.y_m[row], x - places.x_m[row]) + fray
    keep = (deep > 12.0) & (uniform(h, "there") < 0.86) & dry_at(world, y, x)
    keep &= ~hall | ((k == 0) & (s == 0))
    turned = np.where((uniform(h, "turn") < 0.25) & ~hall, np.pi / 2, 0.0)
    return Things(
        y_m=y[keep],
        x_m=x[keep],
        angle=(places.angle[row] + turned)[keep],
        length_m=np.where(hall, a - 26.0, 10.0 + 6.0 * uniform(h, "length"))[keep],
        width_m=np.where(hall, b - 26.0, 8.0 + 2.5 * uniform(h, "width"))[keep],
        height_m=np.where(hall, 9.0, 5.0 + 5.0 * uniform(h, "height"))[keep].astype(float),
        hashes=h[keep],
    )


def vehicles(world: World, frame: Frame, margin_m: float = 10.0) -> Things:
    """Vehicles on the roads between settlements and parked along the streets, whose centre lies in or near a frame."""
    places = towns(world, frame)
    parts = [_traffic(roads(world, frame)), *(_parked(world, places, row) for row in _near(places, frame))]
    return _inside(_join(parts), frame, margin_m)


def _traffic(lines: Roads, spacing_m: float = 22.0) -> Things:
    """One place each 22 m and lane; one in six holds a vehicle."""
    gap = lines.end - lines.start
    reach = np.hypot(gap[:, 0], gap[:, 1])
    slots = np.arange(int(reach.max(initial=0.0) / spacing_m) + 1)
    h = hashed(lines.hashes[:, None, None], slots[None, :, None], np.arange(2)[None, None])
    at = (slots[None, :, None] + 0.2 + 0.6 * uniform(h, "at")) * spacing_m
    keep = (at < reach[:, None, None]) & (uniform(h, "there") < 0.16)
    unit = gap / np.maximum(reach, 1e-9)[:, None]
    lane = (np.array([-0.5, 0.5]) * lines.half_m[:, None])[:, None, :]
    y = lines.start[:, None, None, 0] + at * unit[:, None, None, 0] + lane * unit[:, None, None, 1]
    x = lines.start[:, None, None, 1] + at * unit[:, None, None, 1] - lane * unit[:, None, None, 0]
    angle = np.broadcast_to(np.arctan2(unit[:, 0], unit[:, 1])[:, None, None], y.shape)
    return _cars(y[keep], x[keep], angle[keep], h[keep])


def _parked(world: World, places: Towns, row: int, spacing_m: float = 8.0) -> Things:
    """Cars along both kerbs of the streets that run along the grid, one place each 8 m, one in five taken."""
    b = places.block_m[row, 1]
    reach = places.radius_m[row] + 2 * FRAY_M
    n, nj = int(reach / spacing_m) + 1, int(reach / b) + 1
    i, j, s = (g.ravel() for g in np.meshgrid(np.arange(-n, n), np.arange(-nj, nj + 1), np.arange(2), indexing="ij"))
    h = hashed(int(places.hashes[row]) ^ 0x55, i, j, s)
    along, across = (i + 0.3 * uniform(h, "at")) * spacing_m, j * b + np.where(s == 0, -2.6, 2.6)
    cos, sin = np.cos(places.angle[row]), np.sin(places.angle[row])
    y, x = places.y_m[row] + along * sin + across * cos, places.x_m[row] + along * cos - across * sin
    fray = FRAY_M * value_noise_at(world.key("fray"), y, x, 330.0)
    deep = places.radius_m[row] - np.hypot(y - places.y_m[row], x - places.x_m[row]) + fray
    keep = (deep > 10.0) & (uniform(h, "there") < 0.2) & dry_at(world, y, x)
    return _cars(y[keep], x[keep], np.full(int(keep.sum()), places.angle[row]), h[keep])


def _cars(y: Doubles, x: Doubles, angle: Doubles, h: Hashes) -> Things:
    truck = uniform(h, "truck") < 0.08
    length = np.where(truck, 9.0, 4.1 + 0.7 * uniform(h, "length")).astype(float)
    width = np.where(truck, 2.5, 1.8 + 0.2 * uniform(h, "width")).astype(float)
    return Things(y, x, angle, length, width, np.where(truck, 3.2, 1.5), h)


def _join(parts: list[Things]) -> Things:
    if not parts:
        none = np.zeros(0)
        return Things(none, none, none, none, none, none, np.zeros(0, np.uint64))
    names = ("y_m", "x_m", "angle", "length_m", "width_m", "height_m", "hashes")
    return Things(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _inside(things: Things, frame: Frame, margin_m: float) -> Things:
    y0, x0 = frame.ys[0] - frame.gsd_m / 2 - margin_m, frame.xs[0] - frame.gsd_m / 2 - margin_m
    y1, x1 = frame.ys[-1] + frame.gsd_m / 2 + margin_m, frame.xs[-1] + frame.gsd_m / 2 + margin_m
    keep = (things.y_m >= y0) & (things.y_m < y1) & (things.x_m >= x0) & (things.x_m < x1)
    return select(things, keep)


def select(things: Things, keep: NDArray[np.bool_]) -> Things:
    """The rows of a table where `keep` holds."""
    return Things(
        things.y_m[keep],
        things.x_m[keep],
        things.angle[keep],
        things.length_m[keep],
        things.width_m[keep],
        things.height_m[keep],
        things.hashes[keep],
    )
