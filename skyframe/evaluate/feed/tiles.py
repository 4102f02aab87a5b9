"""Squares of positions cut out of a sample: tiles that cover it, crops for training, and their answers put together.

Lengths are in positions, the common grid of an encoder (10 m for one that was trained on Sentinel-2): one position is
`w_m / w_positions` pixels of modality m, and `label_px` pixels of a mask.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from skyframe.sample import Sample, Series

Array = NDArray[np.generic]


def tile_origins(height: int, width: int, side: int, overlap: int = 0) -> list[tuple[int, int]]:
    """First row and column of each tile, so that all is covered and no tile leaves the map where that is possible.

    Args:
        height: positions.
        width: positions.
        side: of a tile; where the map is smaller than it, one tile starts at 0 and reaches beyond.
        overlap: least overlap of neighbours, below `side`.
    """
    rows, columns = (_starts(length, side, overlap) for length in (height, width))
    return [(y, x) for y in rows for x in columns]


def _starts(length: int, side: int, overlap: int) -> list[int]:
    if length <= side:
        return [0]
    count = -(-(length - overlap) // (side - overlap))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def crop(sample: Sample, top: int, left: int, side: int, positions: tuple[int, int], label_px: int) -> Sample:
    """A square of a sample with its targets; what lies beyond its edge is invalid, -1 in masks and NaN in maps
    of numbers.

    Args:
        sample: all modalities cover the same ground.
        top: first row in positions.
        left: first column in positions.
        side: positions.
        positions: rows and columns of the whole sample.
        label_px: mask pixels per position along a side.

    Returns:
        A sample whose modalities are squares of `side` positions. Boxes and corners are moved, boxes also clipped;
        those whose centre lies outside are left out.
    """
    series = {}
    for name, s in sample.series.items():
        if s.values.shape[-2:] == (1, 1):  # weather: one cell for all of the place
            series[name] = s
            continue
        k = s.values.shape[-2] // positions[0]
        values, valid = (cut(a, top * k, left * k, side * k) for a in (s.values, s.valid))
        series[name] = Series(values, valid.astype(bool), s.day, s.bands)
    px = label_px
    return dataclasses.replace(
        sample, series=series, targets=_crop_targets(sample.targets, top * px, left * px, side * px)
    )


def cut(values: Array, top: int, left: int, side: int, fill: float = 0) -> Array:
    """`[..., H, W]` to `[..., side, side]` from a row and column on, `fill` beyond the edge."""
    inside = values[..., top : top + side, left : left + side]
    missing = side - inside.shape[-2], side - inside.shape[-1]
    if missing == (0, 0):
        return inside
    return np.pad(inside, [(0, 0)] * (values.ndim - 2) + [(0, missing[0]), (0, missing[1])], constant_values=fill)


def _crop_targets(targets: Mapping[str, Array], top: int, left: int, side: int) -> dict[str, Array]:
    made = dict(targets)
    for key in ("mask", "masks"):
        if key in made:
            made[key] = cut(made[key], top, left, side, fill=-1)
    if "value" in made and made["value"].ndim == 3:
        made["value"] = cut(made["value"], top, left, side, fill=np.nan)
    shape = "corners" if "corners" in made else "boxes" if "boxes" in made else ""
    if shape:
        points = made[shape].reshape(len(made[shape]), -1, 2).astype(np.float32) - np.array([left, top], np.float32)
        middle = points.mean(1)
        kept = ((middle >= 0) & (middle < side)).all(1)
        points = points if shape == "corners" else points.clip(0, side)
        made[shape] = points.reshape(made[shape].shape)
        for key in (shape, "box_class", "difficult"):
            made[key] = made[key][kept]
    return made


def blend(
    tiles: Sequence[NDArray[np.float32]], origins: Sequence[tuple[int, int]], height: int, width: int
) -> NDArray[np.float32]:
    """Overlapping answers `[C, s, s]` put together to `[C, H, W]`, each weighted by its distance from its own edge.

    Args:
        tiles: all of one size; parts beyond the map are cut off.
        origins: first row and column of each, in the pixels of `tiles`.
        height: of the map.
        width: of the map.
    """
    side = tiles[0].shape[-1]
    ramp = np.minimum(np.arange(1, side + 1), np.arange(side, 0, -1)).astype(np.float32)
    weight = np.minimum(ramp[:, None], ramp[None])
    total = np.zeros((tiles[0].shape[0], height, width), np.float32)
    mass = np.zeros((height, width), np.float32)
    for tile, (y, x) in zip(tiles, origins, strict=True):
        h, w = min(side, height - y), min(side, width - x)
        total[:, y : y + h, x : x + w] += tile[:, :h, :w] * weight[:h, :w]
        mass[y : y + h, x : x + w] += weight[:h, :w]
    return total / mass
