"""Towns and villages on a jittered lattice, the roads between them, and their street grids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyframe.data.synthetic.noise import Doubles, Floats, Hashes, Integers, hashed, uniform, value_noise
from skyframe.data.synthetic.world import Frame, World

TOWN_SPACING_M = 3600.0
"""Mean distance between neighbouring settlements; one in four lattice places stays empty."""
_PIECES = 12
"""Straight pieces of a road between two settlements."""
FRAY_M = 170.0
"""How far the outline of a town departs from a circle."""


@dataclass(frozen=True)
class Towns:
    """Settlements near a frame, one row each."""

    hashes: Hashes
    y_m: Doubles
    x_m: Doubles
    radius_m: Doubles  # 0 where the lattice place is empty: roads still pass there
    angle: Doubles  # of the street grid, radians
    block_m: Doubles  # street spacing along and across the grid [N, 2]


@dataclass(frozen=True)
class Roads:
    """Straight pieces of road, one row each, absolute metres."""

    start: Doubles  # [S, 2] y, x
    end: Doubles  # [S, 2]
    half_m: Doubles  # [S] half width
    hashes: Hashes  # [S]


def towns(world: World, frame: Frame, margin: int = 1) -> Towns:
    """Settlements whose lattice place lies within `margin` spacings of a frame."""
    low = np.floor(np.array([frame.ys[0], frame.xs[0]]) / TOWN_SPACING_M).astype(int) - margin
    high = np.floor(np.array([frame.ys[-1], frame.xs[-1]]) / TOWN_SPACING_M).astype(int) + margin
    iy, ix = (
        g.ravel() for g in np.meshgrid(np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1), indexing="ij")
    )
    return _towns(world, iy, ix)


def _towns(world: World, iy: Integers, ix: Integers) -> Towns:
    h = hashed(world.key("town"), iy, ix)
    big = uniform(h, "radius").astype(float)
    there = uniform(h, "there") < 0.75
    block = np.stack([80.0 + 60.0 * uniform(h, "along"), 56.0 + 22.0 * uniform(h, "across")], 1).astype(float)
    return Towns(
        hashes=h,
        y_m=(iy + 0.15 + 0.7 * uniform(h, "y")) * TOWN_SPACING_M,
        x_m=(ix + 0.15 + 0.7 * uniform(h, "x")) * TOWN_SPACING_M,
        radius_m=np.where(there, 190.0 + 800.0 * big**3.0, 0.0),
        angle=(uniform(h, "angle") * np.pi).astype(float),
        block_m=block,
    )


def town_depth(world: World, frame: Frame, places: Towns) -> tuple[Floats, Integers]:
    """How deep each pixel lies in a settlement, metres (negative outside), and the row of that settlement."""
    fray = np.float32(FRAY_M) * value_noise(world.key("fray"), frame.ys, frame.xs, 330.0)
    depth, which = np.full(fray.shape, -1e4, np.float32), np.zeros(fray.shape, np.int64)
    for row in np.flatnonzero(places.radius_m):
        reach = places.radius_m[row] + 2 * FRAY_M
        sy, sx = _slice(frame.ys, places.y_m[row], reach), _slice(frame.xs, places.x_m[row], reach)
        dy, dx = frame.ys[sy, None] - places.y_m[row], frame.xs[None, sx] - places.x_m[row]
        here = (places.radius_m[row] - np.hypot(dy, dx)).astype(np.float32) + fray[sy, sx]
        closer = here > depth[sy, sx]
        depth[sy, sx] = np.where(closer, here, depth[sy, sx])
        which[sy, sx] = np.where(closer, row, which[sy, sx])
    return depth, which


def _slice(axis: Doubles, centre: float, reach: float) -> slice:
    return slice(int(np.searchsorted(axis, centre - reach)), int(np.searchsorted(axis, centre + reach)))


def street_distance(frame: Frame, places: Towns, which: Integers, depth: Floats) -> Floats:
    """Metres from each pixel of a settlement (`depth` > 0) to the nearest street line of its grid; 1000 outside."""
    out = np.full(depth.shape, 1e3, np.float32)
    row, column = np.nonzero(depth > 0)
    town = which[row, column]
    cos, sin = np.cos(places.angle)[town], np.sin(places.angle)[town]
    dy, dx = frame.ys[row] - places.y_m[town], frame.xs[column] - places.x_m[town]
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    a, b = places.block_m[town, 0], places.block_m[town, 1]
    to_a, to_b = np.abs((along + a / 2) % a - a / 2), np.abs((across + b / 2) % b - b / 2)
    out[row, column] = np.minimum(to_a, to_b)
    return out


def roads(world: World, frame: Frame) -> Roads:
    """Roads from each settlement to its eastern and southern lattice neighbour, for the links that may touch a frame.

    A link is a bow of straight pieces whose sideways offset is a sine of one or two half waves.
    """
    places = towns(world, frame, margin=2)
    iy = np.round(np.floor(places.y_m / TOWN_SPACING_M)).astype(np.int64)
    ix = np.round(np.floor(places.x_m / TOWN_SPACING_M)).astype(np.int64)
    starts, ends, keys, halves = [], [], [], []
    for dy, dx in ((0, 1), (1, 0)):
        other = _towns(world, iy + dy, ix + dx)
        a, b = np.stack([places.y_m, places.x_m], 1), np.stack([other.y_m, other.x_m], 1)
        h = hashed(world.key("road", dy), iy, ix)
        t = np.linspace(0.0, 1.0, _PIECES + 1)
        bow = (uniform(h, "bow") - 0.5) * 0.24
        wave = (uniform(h, "wave") - 0.5) * 0.16
        side = bow[:, None] * np.sin(np.pi * t) + wave[:, None] * np.sin(2 * np.pi * t)  # [N, pieces + 1]
        gap = b - a
        normal = np.stack([-gap[:, 1], gap[:, 0]], 1)
        points = a[:, None] + t[None, :, None] * gap[:, None] + side[..., None] * normal[:, None]
        starts.append(points[:, :-1].reshape(-1, 2))
        ends.append(points[:, 1:].reshape(-1, 2))
        keys.append(hashed(h[:, None], np.arange(_PIECES)[None]).ravel())
        halves.append(np.repeat(np.where(uniform(h, "class") < 0.3, 6.0, 3.6), _PIECES))
    return _near(
        Roads(np.concatenate(starts), np.concatenate(ends), np.concatenate(halves), np.concatenate(keys)), frame
    )


def _near(all_roads: Roads, frame: Frame, margin: float = 80.0) -> Roads:
    low, high = np.minimum(all_roads.start, all_roads.end), np.maximum(all_roads.start, all_roads.end)
    corner = np.array([[frame.ys[0], frame.xs[0]], [frame.ys[-1], frame.xs[-1]]])
    keep = ((low <= corner[1] + margin) & (high >= corner[0] - margin)).all(axis=1)
    return Roads(all_roads.start[keep], all_roads.end[keep], all_roads.half_m[keep], all_roads.hashes[keep])


def road_distance(frame: Frame, lines: Roads, reach_m: float = 40.0) -> Floats:
    """Metres from each pixel to the edge of the nearest road (negative on it), capped at `reach_m`."""
    out = np.full((frame.height, frame.width), reach_m, np.float32)
    for (ay, ax), (by, bx), half in zip(lines.start, lines.end, lines.half_m, strict=True):
        reach = reach_m + half
        sy = slice(*np.searchsorted(frame.ys, [min(ay, by) - reach, max(ay, by) + reach]))
        sx = slice(*np.searchsorted(frame.xs, [min(ax, bx) - reach, max(ax, bx) + reach]))
        y, x = (frame.ys[sy, None] - ay).astype(np.float32), (frame.xs[None, sx] - ax).astype(np.float32)
        gy, gx = np.float32(by - ay), np.float32(bx - ax)
        t = np.clip((y * gy + x * gx) / (gy * gy + gx * gx), 0.0, 1.0)
        np.minimum(out[sy, sx], np.hypot(y - t * gy, x - t * gx) - np.float32(half), out=out[sy, sx])
    return out
