"""Items of a data set as crops for training: read once, cut, turned, flipped and enlarged, images and masks alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from skyframe.config.heads import HeadTraining
from skyframe.evaluate.datasets.check import TARGETS
from skyframe.evaluate.datasets.dataset import Item
from skyframe.evaluate.feed.fit import Fit
from skyframe.evaluate.feed.tiles import crop
from skyframe.randomness import generator
from skyframe.sample import Batch, Sample, Series, collate

KEPT_BYTES = 1 << 30
"""Of fitted items that stay in memory, so that a small data set is read once and not once per epoch."""

T = TypeVar("T")


@dataclass(frozen=True)
class Whole:
    """An item as the encoder wants it."""

    sample: Sample  # with the one target of the task
    extent: tuple[int, int]  # rows and columns of positions
    label_px: int  # mask pixels per position


@dataclass
class Reader:
    """Items of a data set, the first ones kept in memory."""

    fit: Fit
    read: Callable[[Item], Sample]  # `fit.read`, or what else chooses dates and region
    kept: dict[str, Whole] = field(default_factory=dict)
    num_bytes: int = 0

    def __call__(self, item: Item) -> Whole:
        """One item.

        Raises:
            InputError: it cannot be read.
        """
        if item.key in self.kept:
            return self.kept[item.key]
        sample = self.read(item)
        key = TARGETS[self.fit.dataset.kind]
        whole = Whole(
            dataclasses.replace(sample, targets={key: sample.targets[key]}),
            self.fit.extent_of(sample),
            self.fit.label_px(sample),
        )
        size = sum(s.values.nbytes + s.valid.nbytes for s in sample.series.values()) + sample.targets[key].nbytes
        if self.num_bytes + size <= KEPT_BYTES:
            self.num_bytes += size
            self.kept[item.key] = whole
        return whole


def training_crop(whole: Whole, side: int, config: HeadTraining, *draw: int | str) -> Sample:
    """A random square of an item, enlarged, turned and flipped as the configuration says.

    Args:
        whole: the item.
        side: positions along the crop.
        config: `flips` and `scale`.
        draw: what the random numbers depend on: seed, epoch, key.
    """
    rng = generator("crop", *draw)
    low, high = config.scale
    source = max(1, round(side / (low + (high - low) * rng.random()))) if high > 1 or low < 1 else side
    rows, columns = whole.extent
    top, left = (int(rng.integers(0, max(0, n - source) + 1)) for n in (rows, columns))
    cut = crop(whole.sample, top, left, source, whole.extent, whole.label_px)
    if source != side:
        cut = enlarged(cut, source, side, whole.label_px)
    return turned(cut, int(rng.integers(8))) if config.flips else cut


def turned(sample: Sample, element: int) -> Sample:
    """One of the eight symmetries of the square: `element % 4` quarter turns, mirrored first from 4 on."""

    def turn(x: NDArray[np.generic]) -> NDArray[np.generic]:
        mirrored = x[..., ::-1] if element >= 4 else x
        return np.ascontiguousarray(np.rot90(mirrored, element % 4, axes=(-2, -1)))

    series = {n: Series(turn(s.values), turn(s.valid).astype(bool), s.day, s.bands) for n, s in sample.series.items()}
    targets = {k: turn(v) if _is_map(k, v) else v for k, v in sample.targets.items()}
    return dataclasses.replace(sample, series=series, targets=targets)


def enlarged(sample: Sample, source: int, side: int, label_px: int) -> Sample:
    """A square of `source` positions resampled to `side`: pixels bilinear, valid where all neighbours are, masks by
    the nearest."""
    series = {}
    for name, s in sample.series.items():
        if s.values.shape[-2:] == (1, 1):  # weather
            series[name] = s
            continue
        size = s.values.shape[-1] // source * side
        values = _resample(s.values, size, "bilinear")
        valid = _resample(s.valid, size, "bilinear") > 0.999
        series[name] = Series(values, valid, s.day, s.bands)
    targets = {
        k: _resample(v, side * label_px, "nearest-exact").astype(v.dtype) if _is_map(k, v) else v
        for k, v in sample.targets.items()
    }
    return dataclasses.replace(sample, series=series, targets=targets)


def _resample(x: NDArray[np.generic], size: int, mode: str) -> NDArray[np.float32]:
    stack = torch.from_numpy(np.ascontiguousarray(x, np.float32)).reshape(1, -1, *x.shape[-2:])
    corners = False if mode == "bilinear" else None
    found = functional.interpolate(stack, (size, size), mode=mode, align_corners=corners)
    made: NDArray[np.float32] = found.reshape(*x.shape[:-2], size, size).numpy()
    return made


def _is_map(key: str, value: NDArray[np.generic]) -> bool:
    return key in ("mask", "masks") or (key == "value" and value.ndim == 3)


def joined(fit: Fit, samples: Sequence[Sample], side: int) -> Batch:
    """Crops of equal size side by side, with as many dates as the longest of them has."""
    frames: dict[str, int] = {}
    for sample in samples:
        for name, s in sample.series.items():
            frames[name] = max(frames.get(name, 1), len(s.day))
    layouts = {
        name: dataclasses.replace(layout, num_dates=frames.get(name, 1))
        for name, layout in fit.layouts(side, frames).items()
    }
    return collate(samples, layouts)


def ahead(make: Callable[[int], T], count: int) -> Iterator[T]:
    """`make(0)`, `make(1)`, ... in order, each made while the one before is in use."""
    if count == 0:
        return
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(make, 0)
        for i in range(count):
            found = coming.result()
            if i + 1 < count:
                coming = pool.submit(make, i + 1)
            yield found
