"""Randomness of an infinite landscape: hashes of absolute coordinates, value noise, and white noise by table.

Nothing here has state: a number belongs to (key, place), so any extent can be generated block by block and equals the
same extent generated at once. Interpolation is elementwise (no BLAS), hence bit-equal whatever the block.
"""

from __future__ import annotations

import math
import zlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from skyframe.randomness import generator

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Hashes = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
TABLE_SIZE = 1 << 18
TABLE_PAD = 4096


def mix(state: Hashes) -> Hashes:
    """SplitMix64's finaliser on an array (Steele, Lea, Flood, OOPSLA 2014)."""
    z = state + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX1
    z = (z ^ (z >> np.uint64(27))) * _MIX2
    return z ^ (z >> np.uint64(31))


def hashed(key: int | Hashes, *coordinates: Integers) -> Hashes:
    """A 64-bit hash per place.

    Args:
        key: a number of 64 bits, or an array of such (e.g. parcel hashes).
        coordinates: int64 arrays that broadcast against each other and the key.
    """
    state: Hashes = np.atleast_1d(np.asarray(key, np.uint64))
    for axis in coordinates:
        state = mix(state + np.asarray(axis, np.int64).astype(np.uint64))
    return state


def uniform(hashes: Hashes, purpose: str = "") -> Floats:
    """float32 in [0, 1), 24 bits, one per hash; another `purpose` gives independent numbers."""
    bits = mix(hashes + np.uint64(zlib.crc32(purpose.encode()))) >> np.uint64(40)
    return bits.astype(np.float32) * np.float32(1.0 / (1 << 24))


def normal(hashes: Hashes, purpose: str = "") -> Floats:
    """float32 standard normal by inverting the distribution function of `uniform`."""
    return ndtri(uniform(hashes, purpose) * np.float32(0.9999998) + np.float32(1e-7)).astype(np.float32)


def _node(key: int, iy: Integers, ix: Integers) -> Floats:
    """Lattice values with mean 0 and variance 1, uniform between -sqrt(3) and sqrt(3)."""
    return (uniform(hashed(key, iy, ix)) - np.float32(0.5)) * np.float32(2.0 * math.sqrt(3.0))


def _fade(f: Doubles) -> Floats:
    """Quintic ease of Perlin (2002): zero first and second derivative at the nodes."""
    return (f * f * f * (f * (f * 6.0 - 15.0) + 10.0)).astype(np.float32)


def value_noise(key: int, y_m: Doubles, x_m: Doubles, wavelength_m: float) -> Floats:
    """Smooth noise on a regular grid.

    Args:
        key: which noise.
        y_m: float64 `[H]` rows, absolute metres southwards, ascending.
        x_m: float64 `[W]` columns, absolute metres eastwards, ascending.
        wavelength_m: distance between lattice nodes.

    Returns:
        float32 `[H, W]`, mean 0, variance 1 at the nodes (less between), within +-sqrt(3).
    """
    gy, gx = y_m / wavelength_m, x_m / wavelength_m
    iy, ix = np.floor(gy).astype(np.int64), np.floor(gx).astype(np.int64)
    rows, columns = np.arange(iy[0], iy[-1] + 2), np.arange(ix[0], ix[-1] + 2)
    nodes = _node(key, rows[:, None], columns[None, :])
    fx, jx = _fade(gx - ix), ix - columns[0]
    lines = nodes[:, jx] + (nodes[:, jx + 1] - nodes[:, jx]) * fx
    steps = lines[1:] - lines[:-1]
    jy = iy - rows[0]
    out = steps[jy]
    out *= _fade(gy - iy)[:, None]
    out += lines[jy]
    return out


def value_noise_at(key: int, y_m: Doubles, x_m: Doubles, wavelength_m: float) -> Floats:
    """`value_noise` at scattered points: float64 arrays of one shape give float32 of that shape."""
    gy, gx = y_m / wavelength_m, x_m / wavelength_m
    iy, ix = np.floor(gy).astype(np.int64), np.floor(gx).astype(np.int64)
    fy, fx = _fade(gy - iy), _fade(gx - ix)
    top = _node(key, iy, ix)
    top = top + (_node(key, iy, ix + 1) - top) * fx
    low = _node(key, iy + 1, ix)
    low = low + (_node(key, iy + 1, ix + 1) - low) * fx
    return top + (low - top) * fy


def fractal(key: int, y_m: Doubles, x_m: Doubles, wavelength_m: float, octaves: int, gain: float = 0.5) -> Floats:
    """Sum of `octaves` value noises, each of half the wavelength and `gain` times the amplitude, about unit variance.

    Two 1-D arrays are the axes of a grid (result `[H, W]`); see `fractal_at` for points.
    Source: fractional Brownian surfaces, Mandelbrot & Van Ness (1968).
    """
    total, weight, power = np.zeros((len(y_m), len(x_m)), np.float32), 1.0, 0.0
    for octave in range(octaves):
        total += np.float32(weight) * value_noise(key + octave, y_m, x_m, wavelength_m / 2**octave)
        power, weight = power + weight**2, weight * gain
    total *= np.float32(1.0 / math.sqrt(power * 0.55))  # 0.55: variance left by the interpolation between nodes
    return total


def fractal_at(key: int, y_m: Doubles, x_m: Doubles, wavelength_m: float, octaves: int, gain: float = 0.5) -> Floats:
    """`fractal` at scattered points."""
    total, weight, power = np.zeros(y_m.shape, np.float32), 1.0, 0.0
    for octave in range(octaves):
        total = total + np.float32(weight) * value_noise_at(key + octave, y_m, x_m, wavelength_m / 2**octave)
        power, weight = power + weight**2, weight * gain
    return total * np.float32(1.0 / math.sqrt(power * 0.55))


@lru_cache(maxsize=4)
def _table(kind: str, looks: float) -> Floats:
    """The values that white noise is cut from; the tail repeats the head so that rows may run over the end."""
    draws = generator("synthetic", kind)
    if kind == "normal":
        body = draws.standard_normal(TABLE_SIZE, np.float32)
    else:
        body = draws.gamma(looks, 1.0 / looks, TABLE_SIZE).astype(np.float32)
    return np.concatenate([body, body[:TABLE_PAD]])


def white(keys: Hashes, y_px: int, x_px: int, height: int, width: int, looks: float = 0.0) -> Floats:
    """White noise per absolute pixel.

    A row of pixels is cut from a fixed table at an offset hashed from (key, row): as fast as copying, and any cut of
    the infinite plane agrees with any other.

    Args:
        keys: uint64 `[N]`, one per plane (date and band).
        y_px, x_px: absolute pixel of the upper-left corner.
        height, width: size in pixels; `width` at most 4096.
        looks: 0 for a standard normal, else the number of looks of a unit-mean gamma (speckle).

    Returns:
        float32 `[N, height, width]`.
    """
    if width > TABLE_PAD:
        raise ValueError(f"white: width {width} exceeds {TABLE_PAD} pixels; cut it in blocks")
    table = _table("gamma" if looks else "normal", looks)
    offsets = hashed(keys[:, None], np.arange(y_px, y_px + height)[None, :])
    starts = (offsets + np.uint64(x_px % TABLE_SIZE)) & np.uint64(TABLE_SIZE - 1)
    rows: Floats = np.lib.stride_tricks.sliding_window_view(table, width)[starts.astype(np.int64)]
    return rows
