"""Buildings and vehicles painted into the high-resolution image, and raising a plane to twice its resolution."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from skyframe.data.synthetic.atmosphere import sun
from skyframe.data.synthetic.noise import Doubles, Floats, uniform
from skyframe.data.synthetic.objects import Things
from skyframe.data.synthetic.optics import ENDMEMBERS, ROOF
from skyframe.data.synthetic.world import Frame, World

Scalar = TypeVar("Scalar", bound=np.generic)

_RGB = ENDMEMBERS[[2, 1, 0]]
_PAINT = np.array(
    [
        [0.62, 0.62, 0.62],
        [0.78, 0.78, 0.77],
        [0.05, 0.05, 0.055],
        [0.16, 0.17, 0.19],
        [0.38, 0.05, 0.05],
        [0.06, 0.11, 0.30],
        [0.30, 0.31, 0.32],
    ],
    np.float32,
)
"""Reflectance of car paints: silver, white, black, grey, red, blue, steel."""


def doubled(values: NDArray[Scalar]) -> NDArray[Scalar]:
    """`[H, W]` at twice the resolution, each value repeated."""
    return values.repeat(2, axis=0).repeat(2, axis=1)


def fine(padded: Floats) -> Floats:
    """`[H + 2, W + 2]`, a margin of one pixel, to `[2 H, 2 W]`: twice the resolution, linear between centres."""
    rows = np.empty((2 * padded.shape[0] - 4, padded.shape[1]), np.float32)
    rows[0::2] = 0.75 * padded[1:-1] + 0.25 * padded[:-2]
    rows[1::2] = 0.75 * padded[1:-1] + 0.25 * padded[2:]
    out = np.empty((rows.shape[0], 2 * padded.shape[1] - 4), np.float32)
    out[:, 0::2] = 0.75 * rows[:, 1:-1] + 0.25 * rows[:, :-2]
    out[:, 1::2] = 0.75 * rows[:, 1:-1] + 0.25 * rows[:, 2:]
    return out


def draw_things(world: World, frame: Frame, colour: Floats, houses: Things, cars: Things, day: int) -> None:
    """Paint buildings and vehicles into `colour` `[3, H, W]` (reflectance): shadows first, then roofs and bodies."""
    zenith, azimuth = sun(world, day)
    step = math.tan(zenith)
    south, east = step * math.cos(azimuth), -step * math.sin(azimuth)  # metres of shadow per metre of height
    axes = frame.ys, frame.xs
    for things, parts in ((houses, (0.33, 0.67, 1.0)), (cars, (0.6,))):
        for k in range(len(things.hashes)):
            for part in parts:
                up = part * things.height_m[k]
                _shadow(axes, colour, things, k, south * up, east * up)
    tints = uniform(houses.hashes, "tint")
    for k in range(len(houses.hashes)):
        hall = houses.length_m[k] > 20
        _fill(axes, colour, houses, k, _roof(float(tints[k]), hall), 0.05 if hall else 0.22, 0.0)
    paint = _PAINT[np.floor(uniform(cars.hashes, "paint") * len(_PAINT)).astype(int)]
    for k in range(len(cars.hashes)):
        _fill(axes, colour, cars, k, paint[k], 0.0, 0.65)


def _roof(tint: float, hall: bool) -> Floats:
    """Colour of a roof: metal on halls, else tiles, slate on one house in five, and some flat and bright."""
    if hall:
        return np.array([0.19, 0.20, 0.21], np.float32) * np.float32(0.8 + 0.9 * tint)
    if tint < 0.2:
        return np.array([0.11, 0.115, 0.125], np.float32)
    if tint > 0.92:
        return np.array([0.30, 0.295, 0.285], np.float32)
    return (_RGB[:, ROOF] * (0.75 + 0.7 * tint)).astype(np.float32)


def _patch(
    axes: tuple[Doubles, Doubles], things: Things, k: int, south: float, east: float
) -> tuple[tuple[slice, slice], Doubles, Doubles]:
    """Window around one thing moved by (south, east) metres, and its pixels' coordinates along and across the thing."""
    y, x = things.y_m[k] + south, things.x_m[k] + east
    half = math.hypot(things.length_m[k], things.width_m[k]) / 2
    rows = slice(*np.searchsorted(axes[0], (y - half, y + half)).tolist())
    columns = slice(*np.searchsorted(axes[1], (x - half, x + half)).tolist())
    dy, dx = axes[0][rows, None] - y, axes[1][None, columns] - x
    cos, sin = math.cos(things.angle[k]), math.sin(things.angle[k])
    return (rows, columns), dx * cos + dy * sin, dy * cos - dx * sin


def _shadow(axes: tuple[Doubles, Doubles], colour: Floats, things: Things, k: int, south: float, east: float) -> None:
    (rows, columns), along, across = _patch(axes, things, k, south, east)
    inside = (np.abs(along) <= things.length_m[k] / 2) & (np.abs(across) <= things.width_m[k] / 2)
    patch = colour[:, rows, columns]
    # Capped, so that the overlapping steps of one shadow do not darken twice.
    patch[:, inside] = np.minimum(patch[:, inside], np.array([[0.020], [0.022], [0.027]], np.float32))


def _fill(
    axes: tuple[Doubles, Doubles], colour: Floats, things: Things, k: int, paint: Floats, ridge: float, glass: float
) -> None:
    """Fill one rectangle: `ridge` is the contrast of its two roof slopes, `glass` how much darker its panes are."""
    (rows, columns), along, across = _patch(axes, things, k, 0.0, 0.0)
    length, width = things.length_m[k], things.width_m[k]
    inside = (np.abs(along) <= length / 2) & (np.abs(across) <= width / 2)
    sunny = (
        1.0 if math.cos(things.angle[k]) - math.sin(things.angle[k]) > 0 else -1.0
    )  # the sun stands in the south-east
    tone = 1.0 + ridge * sunny * np.sign(across)
    if ridge:
        tone = np.where(np.abs(across) < 0.2, 1.2, tone)
    if glass:
        panes = (np.abs(along - 0.12 * length) < 0.07 * length) | (np.abs(along + 0.30 * length) < 0.05 * length)
        tone = np.where(panes, 1.0 - glass, tone)
    colour[:, rows, columns][:, inside] = (paint[:, None, None] * tone)[:, inside]
