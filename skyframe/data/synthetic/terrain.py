"""Relief and water: elevation, slope, meandering rivers, lakes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyframe.data.synthetic.noise import Doubles, Floats, fractal, fractal_at, value_noise, value_noise_at
from skyframe.data.synthetic.world import Frame, World

RIVER_SPACING_M = 9000.0
"""Mean distance between rivers; they run from north to south."""
_MEANDERS = ((5200.0, 1500.0), (1700.0, 430.0), (640.0, 185.0))
"""Wavelength and amplitude (m) of the river's sideways displacement: valley, bends, loops."""


@dataclass(frozen=True)
class Terrain:
    """Relief of a frame, float32 `[H, W]` each."""

    elevation_m: Floats
    slope_deg: Floats
    facing: Floats  # slope towards the morning sun (south-east), tangent: brighter where positive
    rising_east: Floats  # slope along the radar's line of sight, tangent
    river_m: Floats  # distance to the nearest river's centre line, metres
    river_half_m: Floats  # half width of that river, metres
    lake: Floats  # positive inside a lake


def terrain(world: World, frame: Frame) -> Terrain:
    """Relief of a frame.

    Elevation is a fractal surface (Mandelbrot & Van Ness 1968) with valleys carved along the rivers; a river is a level
    line of the eastward coordinate after a sum of sideways displacements, so its loops cut off as oxbows. Slope is the
    gradient over neighbouring pixels.
    """
    wide = frame.grown(1)
    across = _across(world, wide.ys, wide.xs)
    river = _to_river(across, frame.gsd_m)
    height = _elevation(world, wide.ys, wide.xs, across)
    dy = (height[2:, 1:-1] - height[:-2, 1:-1]) / np.float32(2 * frame.gsd_m)
    dx = (height[1:-1, 2:] - height[1:-1, :-2]) / np.float32(2 * frame.gsd_m)
    half = 14.0 + 9.0 * value_noise(world.key("width"), frame.ys, frame.xs, 3000.0)
    return Terrain(
        elevation_m=height[1:-1, 1:-1],
        slope_deg=np.degrees(np.arctan(np.hypot(dy, dx))),
        facing=(-dy - dx) * np.float32(math.sqrt(0.5)),
        rising_east=dx,
        river_m=river,
        river_half_m=half.astype(np.float32),
        lake=_lake(world, frame, river),
    )


def _across(world: World, ys: Doubles, xs: Doubles) -> Doubles:
    """Eastward coordinate after displacement, float64 `[H, W]`: rivers run where it is a multiple of the spacing."""
    shift = np.zeros((len(ys), len(xs)), np.float64)
    for number, (wavelength, amplitude) in enumerate(_MEANDERS):
        shift += amplitude * value_noise(world.key("meander", number), ys, xs, wavelength)
    return xs[None, :] + shift


def _offset(across: Doubles) -> Doubles:
    """Signed distance, in the displaced coordinate, to the nearest river."""
    return np.asarray((across + RIVER_SPACING_M / 2) % RIVER_SPACING_M - RIVER_SPACING_M / 2)


def _to_river(across: Doubles, gsd_m: float) -> Floats:
    """Metres to the centre line: the displaced distance over the displacement's gradient (first order)."""
    dy = (across[2:, 1:-1] - across[:-2, 1:-1]) / (2 * gsd_m)
    dx = (across[1:-1, 2:] - across[1:-1, :-2]) / (2 * gsd_m)
    steep = np.maximum(np.hypot(dy, dx), 0.35)
    return np.asarray(np.abs(_offset(across[1:-1, 1:-1])) / steep).astype(np.float32)


def _elevation(world: World, ys: Doubles, xs: Doubles, across: Doubles) -> Floats:
    hills = 42.0 * fractal(world.key("hills"), ys, xs, 6500.0, 6, 0.42)
    return (170.0 + hills + _valley(_offset(across))).astype(np.float32)


def _valley(offset: Doubles) -> Doubles:
    """Metres that a river has carved: 45 m at the centre line, with a flat floor about 400 m wide."""
    return np.asarray(-45.0 * np.exp(-((np.maximum(np.abs(offset) - 200.0, 0.0) / 900.0) ** 2)))


def river_distance_at(world: World, y_m: Doubles, x_m: Doubles) -> Floats:
    """About how far points lie from a river, metres (displaced distance), for land use."""
    return np.abs(_offset(_across_at(world, y_m, x_m))).astype(np.float32)


def elevation_at(world: World, y_m: Doubles, x_m: Doubles) -> Floats:
    """Elevation of points, metres, as in `terrain`."""
    hills = 42.0 * fractal_at(world.key("hills"), y_m, x_m, 6500.0, 6, 0.42)
    return (170.0 + hills + _valley(_offset(_across_at(world, y_m, x_m)))).astype(np.float32)


def _across_at(world: World, y_m: Doubles, x_m: Doubles) -> Doubles:
    shift = np.zeros(y_m.shape, np.float64)
    for number, (wavelength, amplitude) in enumerate(_MEANDERS):
        shift += amplitude * value_noise_at(world.key("meander", number), y_m, x_m, wavelength)
    return np.asarray(x_m + shift)


def _lake(world: World, frame: Frame, river_m: Floats) -> Floats:
    """Gravel pits and ponds lie on the valley floor."""
    blob = fractal(world.key("lake"), frame.ys, frame.xs, 620.0, 3, 0.35)
    return blob * np.clip((900.0 - river_m) / np.float32(500.0), 0.0, 1.0) - np.float32(1.3)


def dry_at(world: World, y_m: Doubles, x_m: Doubles, bank_m: float = 60.0) -> NDArray[np.bool_]:
    """True for points that lie neither in nor within about `bank_m` of a river or lake: where people build."""
    river = river_distance_at(world, y_m, x_m)
    blob = fractal_at(world.key("lake"), y_m, x_m, 620.0, 3, 0.35)
    return (river > bank_m) & (blob * np.clip((1000.0 - river) / np.float32(500.0), 0.0, 1.0) < 1.15)
