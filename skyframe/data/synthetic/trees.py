"""Tree crowns of the high-resolution image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skyframe.data.synthetic.noise import Floats, fractal, hashed, uniform
from skyframe.data.synthetic.paint import doubled, fine
from skyframe.data.synthetic.world import Frame, World

_SPACING_M = {False: 6.5, True: 4.5}
"""Distance between the stems of broadleaves and of conifers."""
_MEAN_LIGHT = 0.68
"""Mean of `_domes`: what it is divided by, so that a wood keeps the colour that Sentinel-2 sees."""


def crowns(world: World, frame: Frame, colour: Floats, trees: NDArray[np.bool_], needles: NDArray[np.bool_]) -> None:
    """Shade what is painted into crowns wherever `trees` holds.

    A crown is a dome over its stem (stems are a jittered lattice, the highest dome wins), bright towards the sun
    (south-east, up) and dark on its far side, with gaps of shadow between crowns. Domes are computed at half the
    image's resolution.

    Args:
        world: seed and climate.
        frame: the strip at twice the image's pixel size.
        colour: float32 `[3, 2 H, 2 W]` reflectance of the canopy, shaded in place.
        trees, needles: bool `[H, W]` where trees stand, and where they are conifers.
    """
    for conifer in (False, True):
        chosen = trees & (needles if conifer else ~needles)
        if not chosen.any():
            continue
        rows, columns = np.flatnonzero(chosen.any(axis=1)), np.flatnonzero(chosen.any(axis=0))
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        around = frame.grown(1)
        shade = fine(_domes(world, around.ys[top : bottom + 2], around.xs[left : right + 2], _SPACING_M[conifer]))
        grown = Frame(frame.y_m + top * frame.gsd_m, frame.x_m + left * frame.gsd_m, frame.gsd_m / 2, *shade.shape)
        shade *= 1.0 + np.float32(0.16) * fractal(world.key("leaves hr"), grown.ys, grown.xs, 1.3, 2, 0.7)
        inside = doubled(chosen[top:bottom, left:right])
        light = shade[inside] * np.float32(1.0 / _MEAN_LIGHT)
        for c in range(3):
            colour[c, 2 * top : 2 * bottom, 2 * left : 2 * right][inside] *= light


def _domes(world: World, ys: NDArray[np.float64], xs: NDArray[np.float64], spacing_m: float) -> Floats:
    """Brightness of a canopy `[H, W]`, about 0.15 in gaps to 1.6 on sunny sides."""
    iy, ix = np.floor(ys / spacing_m).astype(np.int64), np.floor(xs / spacing_m).astype(np.int64)
    lattice = np.arange(iy[0] - 1, iy[-1] + 2)[:, None], np.arange(ix[0] - 1, ix[-1] + 2)[None, :]
    stems = hashed(world.key("stems", int(spacing_m * 10)), *lattice)
    seed_y, seed_x = (uniform(stems, axis) * np.float32(spacing_m) for axis in "yx")
    radius = np.float32(spacing_m) * (np.float32(0.52) + np.float32(0.22) * uniform(stems, "radius"))
    bright = np.float32(0.75) + np.float32(0.5) * uniform(stems, "bright")
    fy = (ys - iy * spacing_m).astype(np.float32)[:, None]
    fx = (xs - ix * spacing_m).astype(np.float32)[None, :]
    jy, jx = iy - iy[0] + 1, ix - ix[0] + 1
    best = np.full((len(ys), len(xs)), -1.0, np.float32)  # height of the dome, 1 at the stem, 0 at its rim
    light = np.full(best.shape, 0.22, np.float32)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            cell = np.ix_(jy + dy, jx + dx)
            y = (fy - (seed_y[cell] + np.float32(dy * spacing_m))) / radius[cell]
            x = (fx - (seed_x[cell] + np.float32(dx * spacing_m))) / radius[cell]
            height = 1.0 - y * y - x * x
            higher = height > np.maximum(best, 0.0)
            np.copyto(
                light,
                bright[cell] * (np.float32(0.45) + np.float32(0.5) * height + np.float32(0.42) * (y + x)),
                where=higher,
            )
            np.copyto(best, height, where=higher)
    return np.clip(light, 0.12, 1.7)
