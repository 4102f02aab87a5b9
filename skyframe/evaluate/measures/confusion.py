"""Answers that are one class per unit, image or pixel: confusion counts by cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.evaluate.measures.measure import Floats, Ints, paired_difference
from skyframe.evaluate.measures.metrics import score
from skyframe.spec import InputError, did_you_mean

CONFUSION_METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "miou", "mf1", "f1", "iou")
"""What `ConfusionMeasure` knows, beside `iou:CLASS` and `f1:CLASS` of one class by name. `f1` and `iou` alone are
those of class 1, the change class of a binary set; `mf1` is `macro_f1` without the ignored classes."""


@dataclass(frozen=True)
class ConfusionMeasure:
    """Counts `[W, C, C]` per cluster, true class by row, answered class by column."""

    counts: Ints
    classes: tuple[str, ...]
    ignored: tuple[str, ...] = ()  # left out of the mean of `mf1` (Potsdam: clutter); their units still count as errors

    @property
    def num_clusters(self) -> int:
        """Clusters W."""
        return len(self.counts)

    @property
    def num_units(self) -> int:
        """Units that carry a class."""
        return int(self.counts.sum())

    def scores(self, metric: str, counts: Ints) -> Floats:
        """See `Measure`; classes that neither occur nor are answered enter no mean."""
        size = self.counts.shape[1]
        flat = self.counts.reshape(self.num_clusters, -1).astype(np.float64)
        confusion = (counts.astype(np.float64) @ flat).reshape(len(counts), size, size)
        name, _, which = metric.partition(":")
        if name in ("f1", "iou") and (which or size == 2):
            return one_class(confusion, name, self._number(which) if which else 1)
        if metric == "mf1":
            kept = [i for i, c in enumerate(self.classes) if c not in self.ignored]
            each = np.stack([one_class(confusion, "f1", i) for i in kept], -1)
            present = np.isfinite(each)
            return np.asarray(np.where(present, each, 0).sum(-1) / np.maximum(present.sum(-1), 1))
        if metric in CONFUSION_METRICS and metric not in ("f1", "iou"):
            return score(confusion, metric)
        raise InputError(
            f"metric {metric!r} is not one of a set of {size} classes, expected {', '.join(CONFUSION_METRICS)}, "
            "iou:CLASS or f1:CLASS (f1 and iou alone need two classes)"
        )

    def _number(self, name: str) -> int:
        if name not in self.classes:
            raise InputError(
                f"metric of class {name!r}, expected one of {', '.join(self.classes)}{did_you_mean(name, self.classes)}"
            )
        return self.classes.index(name)


def one_class(confusion: NDArray[np.generic], name: str, number: int) -> Floats:
    """F1 (`f1`) or intersection over union (`iou`) of one class from `[..., C, C]`; NaN where it never occurs."""
    counts = confusion.astype(np.float64)
    hit = counts[..., number, number]
    both = counts[..., number, :].sum(-1) + counts[..., number].sum(-1)
    top, bottom = (2 * hit, both) if name == "f1" else (hit, both - hit)
    return np.asarray(np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), np.nan))


def confusion_of(truth: NDArray[Any], answer: NDArray[Any], num_classes: int) -> Ints:
    """Counts `[C, C]` of one cluster; units whose truth is -1 are left out."""
    scored = truth >= 0
    pairs = truth[scored].astype(np.int64) * num_classes + answer[scored].astype(np.int64)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def by_cluster(parts: Sequence[tuple[str, Ints]]) -> Ints:
    """Sum counts of equal shape by cluster name, clusters in ascending order: `[W, ...]`."""
    names = sorted({name for name, _ in parts})
    total = np.zeros((len(names), *parts[0][1].shape), np.int64)
    place = {name: i for i, name in enumerate(names)}
    for name, counts in parts:
        total[place[name]] += counts
    return total


def paired_interval(first: Ints, second: Ints, metric: str, resamples: int, seed: int) -> tuple[float, float, float]:
    """`paired_difference` of two answers to the same units.

    Args:
        first: int `[W, C, C]` per cluster.
        second: int `[W, C, C]`, the same clusters in the same order.
        metric: a name that `ConfusionMeasure` knows without the names of classes.
        resamples: number of draws of W clusters.
        seed: of the draws.

    Returns:
        difference, lower, upper.

    Raises:
        InputError: other clusters or classes, seen from the counts of true classes.
    """
    if first.shape != second.shape or (first.sum(-1) != second.sum(-1)).any():
        raise InputError(
            f"paired difference: {first.shape} and {second.shape} counts whose true classes differ, expected "
            "predictions for the same test rows; score both with one suite and seed"
        )
    return paired_difference(ConfusionMeasure(first, ()), ConfusionMeasure(second, ()), metric, resamples, seed)
