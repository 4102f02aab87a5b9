"""Answers of a trained head on whole items, window by window, and their measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from skyframe.evaluate.datasets.check import TARGETS
from skyframe.evaluate.datasets.dataset import Dataset, Item
from skyframe.evaluate.feed.crops import Reader, Whole, joined
from skyframe.evaluate.feed.features import device_of, to_device
from skyframe.evaluate.feed.fit import Fit
from skyframe.evaluate.feed.tiles import blend, crop, tile_origins
from skyframe.evaluate.heads.predictor import Predictor
from skyframe.evaluate.measures.confusion import ConfusionMeasure, by_cluster, confusion_of
from skyframe.evaluate.measures.measure import Measure
from skyframe.evaluate.measures.regression import regression
from skyframe.evaluate.measures.rows import measure_of
from skyframe.evaluate.measures.semantic_change import change_counts, semantic_change
from skyframe.sample import Sample

Floats = NDArray[np.float32]
Numbers = NDArray[np.generic]


Memory = dict[tuple[tuple[str, int, int], ...], list[Tensor]]
"""Features of windows that went through a frozen encoder together: item, first row, first column of each."""
KEPT_FEATURES = 1 << 30
"""Bytes of features that a training keeps, of training and of validation items each."""


@dataclass(frozen=True)
class Trained:
    """A head, the encoder under it, and how its items are read and cut."""

    predictor: Predictor
    fit: Fit
    read: Callable[[Item], Sample]
    side: int  # positions along a window
    overlap: float  # of neighbouring windows, as a share of their side
    batch: int  # windows per forward pass
    scale: tuple[Floats, ...] | None = None  # mean and standard deviation `[K]` of the numbers of a regression
    history: tuple[dict[str, float], ...] = ()  # per epoch: loss and validation score
    chosen: str = ""  # which epoch, and why

    def standardised(self, value: Floats) -> Floats:
        """Numbers `[K, ...]` less their mean, over their spread."""
        mean, std = self._scale_like(value)
        return np.asarray((value - mean) / std, np.float32)

    def numbers(self, value: Floats) -> Floats:
        """Back in the units of the data set."""
        mean, std = self._scale_like(value)
        return np.asarray(value * std + mean, np.float32)

    def _scale_like(self, value: Floats) -> tuple[Floats, Floats]:
        assert self.scale is not None
        mean, std = (x.reshape(-1, *(1,) * (value.ndim - 1)) for x in self.scale)
        return mean, std


def predict(
    trained: Trained,
    items: Sequence[Item],
    reader: Reader | None = None,
    show_progress: bool = False,
    memory: Memory | None = None,
) -> Iterator[tuple[Item, Numbers, Floats]]:
    """Item by item the truth and the answer.

    Windows overlap by `trained.overlap`, each weighted by the distance from its own edge; an image smaller than a
    window is one. Without a map, the windows of an image are averaged.

    Args:
        trained: from `train_head`.
        items: of any part.
        reader: keeps items in memory; a new one by default.
        show_progress: draw a bar.
        memory: of a frozen encoder's features, for who predicts the same items again and again.

    Yields:
        The item, its target, and scores before the softmax or sigmoid: `[C, H, W]`, `[T, C, H, W]` of semantic change,
        or `[C]`; numbers `[K, H, W]` or `[K]` in the units of the data set.
    """
    source = reader or Reader(trained.fit, trained.read)
    starts = range(0, len(items), trained.batch)
    for start in track(starts, "predicting", transient=True) if show_progress and Console().is_terminal else starts:
        some = items[start : start + trained.batch]
        wholes = [source(item) for item in some]
        for item, whole, answer in zip(some, wholes, _answers(trained, some, wholes, memory), strict=True):
            yield item, whole.sample.targets[TARGETS[trained.predictor.kind]], answer


def _answers(
    trained: Trained, items: Sequence[Item], wholes: Sequence[Whole], memory: Memory | None
) -> Iterator[Floats]:
    """Windows of several items go through the encoder together."""
    side, predictor = trained.side, trained.predictor
    origins = [tile_origins(*w.extent, side, min(side - 1, int(side * trained.overlap))) for w in wholes]
    windows = [(i.key, w, at) for i, w, every in zip(items, wholes, origins, strict=True) for at in every]
    found: list[Floats] = []
    while windows:
        px = windows[0][1].label_px
        num = next((i for i, (_, w, _) in enumerate(windows) if w.label_px != px), len(windows))
        chosen, windows = windows[: min(num, trained.batch)], windows[min(num, trained.batch) :]
        name = tuple((key, *at) for key, _, at in chosen)
        features = (memory or {}).get(name)
        if features is None:
            tiles = [crop(w.sample, *at, side, w.extent, px) for _, w, at in chosen]
            batch = joined(trained.fit, [dataclasses.replace(t, targets={}) for t in tiles], side)
            with torch.no_grad():
                features = predictor.features(to_device(batch, device_of(predictor.encoder)))
            if memory is not None and num_bytes([*memory.values(), features]) <= KEPT_FEATURES:
                memory[name] = features
        found += list(predictor.answer(features, side * px, len(chosen)).float().cpu().numpy())
    for whole, all_of_it in zip(wholes, origins, strict=True):
        yield _put_together(trained, whole, found[: len(all_of_it)], all_of_it)
        del found[: len(all_of_it)]


def num_bytes(kept: Sequence[Sequence[Tensor]]) -> int:
    """Of features."""
    return sum(t.nbytes for features in kept for t in features)


def _put_together(
    trained: Trained, whole: Whole, found: Sequence[Floats], origins: Sequence[tuple[int, int]]
) -> Floats:
    px = whole.label_px
    if not trained.predictor.dense:
        mean: Floats = np.stack(found).mean(0)
        return trained.numbers(mean) if trained.scale is not None else mean
    rows, columns = (n * px for n in whole.extent)
    flat = [f.reshape(-1, *f.shape[-2:]) for f in found]
    at = [(y * px, x * px) for y, x in origins]
    joint = flat[0][:, :rows, :columns] if len(flat) == 1 else blend(flat, at, rows, columns)
    target = whole.sample.targets[TARGETS[trained.predictor.kind]]
    cut = joint[:, : target.shape[-2], : target.shape[-1]]
    answer = cut.reshape(*found[0].shape[:-2], *cut.shape[-2:])
    return trained.numbers(answer) if trained.scale is not None else answer


def measure_items(
    trained: Trained,
    items: Sequence[Item],
    reader: Reader | None = None,
    show_progress: bool = False,
    memory: Memory | None = None,
) -> Measure:
    """Answers to items, as `predict` gives them, as a measure; clusters by `Item.cluster`, or each item its own."""
    data, rows, counts = trained.fit.dataset, [], []
    for item, truth, answer in predict(trained, items, reader, show_progress, memory):
        name = item.cluster or item.key
        if data.kind in ("pixel", "change"):
            classes = max(len(data.classes), 2)
            counts.append((name, confusion_of(truth, answer.argmax(0), classes)))
        elif data.kind == "semantic_change":
            counts.append((name, change_counts(truth, answer.argmax(1), len(data.classes))))
        else:
            rows.append((name, truth, answer))
    return _of_counts(data, counts) if counts else _of_rows(data, rows)


def _of_counts(data: Dataset, counts: list[tuple[str, NDArray[np.int64]]]) -> Measure:
    total = by_cluster(counts)
    if data.kind == "semantic_change":
        return semantic_change(total, len(data.classes))
    classes = data.classes if len(data.classes) == total.shape[1] else ("unchanged", "changed")
    return ConfusionMeasure(total, classes)


def _of_rows(data: Dataset, rows: list[tuple[str, Numbers, Floats]]) -> Measure:
    cluster = np.unique([name for name, _, _ in rows], return_inverse=True)[1].astype(np.int64)
    if data.kind == "regression" and rows[0][1].ndim == 3:  # maps: one row per pixel
        pixels = [(t.reshape(len(t), -1).T, a.reshape(len(a), -1).T) for _, t, a in rows]
        truth, answer = (np.concatenate([p[k] for p in pixels]).astype(np.float64) for k in (0, 1))
        return regression(truth, answer, cluster.repeat([len(p[0]) for p in pixels]))
    truth, answer = np.stack([t for _, t, _ in rows]), np.stack([a for _, _, a in rows])
    if data.kind == "multilabel":
        answer = torch.from_numpy(answer).sigmoid().numpy()
    return measure_of(data.kind, truth, answer, cluster, data.classes)
