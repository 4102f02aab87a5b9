"""Answers that are a score per class: several labels per image, and whether the class is among the best k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.evaluate.measures.measure import Floats, Ints
from skyframe.spec import InputError

MULTILABEL_METRICS = ("map", "map_micro", "macro_f1", "micro_f1")
ROWS_AT_ONCE = 4_000_000
"""Draws times units whose running sums are held at a time; bounds memory at some 100 MB."""


@dataclass(frozen=True)
class MultilabelMeasure:
    """Several labels per unit.

    `map`: mean over classes of the average precision (the area under the stepwise precision-recall curve, units of
    equal score taken together), classes without a positive left out; `map_micro`: that of all (unit, class) pairs in
    one list; `macro_f1` and `micro_f1`: at a probability of 0.5, classes that neither occur nor are answered left out.
    """

    truth: NDArray[np.bool_]  # [n, C]
    probability: NDArray[np.float32]  # [n, C]
    cluster: Ints  # [n] in 0..W-1

    @property
    def num_clusters(self) -> int:
        """Clusters W."""
        return int(self.cluster.max(initial=-1)) + 1

    @property
    def num_units(self) -> int:
        """Units n."""
        return len(self.truth)

    def scores(self, metric: str, counts: Ints) -> Floats:
        """See `skyframe.evaluate.measures.measure.Measure`."""
        if metric == "map":
            each = [self._precision(c, counts) for c in range(self.truth.shape[1])]
            return _finite_mean(np.stack(each, -1))
        if metric == "map_micro":
            every = np.repeat(self.cluster, self.truth.shape[1])
            return average_precision(self.truth.ravel(), self.probability.ravel(), every, counts)
        if metric not in MULTILABEL_METRICS:
            raise InputError(
                f"metric {metric!r} is not one of several labels, expected {', '.join(MULTILABEL_METRICS)}"
            )
        said = self.probability >= 0.5
        parts = np.stack([self.truth & said, self.truth, said], -1).astype(np.float64)
        per_cluster = np.zeros((self.num_clusters, *parts.shape[1:]))
        np.add.at(per_cluster, self.cluster, parts)
        hit, true, answered = np.moveaxis(np.einsum("rw,wcs->rcs", counts.astype(np.float64), per_cluster), -1, 0)
        if metric == "micro_f1":
            hit, true, answered = (x.sum(-1, keepdims=True) for x in (hit, true, answered))
        both = true + answered
        return _finite_mean(np.where(both > 0, 2 * hit / np.where(both > 0, both, 1), np.nan))

    def _precision(self, number: int, counts: Ints) -> Floats:
        return average_precision(self.truth[:, number], self.probability[:, number], self.cluster, counts)


def average_precision(truth: NDArray[np.bool_], score: NDArray[np.float32], cluster: Ints, counts: Ints) -> Floats:
    """Area under the stepwise precision-recall curve, with clusters counted `counts` times.

    The slow form: for each distinct score s from high to low, P = share of positives among the units of at least s,
    R = share of the positives found; the sum of P times the rise of R.

    Args:
        truth: bool `[n]`.
        score: `[n]`.
        cluster: int `[n]` in 0..W-1.
        counts: int `[R, W]`.

    Returns:
        `[R]`, NaN where a draw holds no positive.
    """
    order = np.argsort(-score, kind="stable")
    ranked, positive, at = score[order], truth[order], cluster[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    step = max(1, ROWS_AT_ONCE // max(1, len(score)))
    found = [_area(positive, counts[i : i + step][:, at], last) for i in range(0, len(counts), step)]
    return np.concatenate(found)


def _area(positive: NDArray[np.bool_], weight: Ints, last: NDArray[np.intp]) -> Floats:
    hits = np.cumsum(weight * positive, axis=1)[:, last].astype(np.float64)
    seen = np.cumsum(weight, axis=1)[:, last]
    precision = hits / np.maximum(seen, 1)
    total = hits[:, -1]
    area = (np.diff(hits, axis=1, prepend=0) * precision).sum(1)
    return np.asarray(np.where(total > 0, area / np.maximum(total, 1), np.nan))


@dataclass(frozen=True)
class TopMeasure:
    """Whether the true class is among the best: `top1` and `top5` (and any other `topN`) as shares of units.

    A class of equal score and lower number ranks before the true one.
    """

    rank: Ints  # [n] place of the true class, 0 = best
    cluster: Ints  # [n] in 0..W-1

    @property
    def num_clusters(self) -> int:
        """Clusters W."""
        return int(self.cluster.max(initial=-1)) + 1

    @property
    def num_units(self) -> int:
        """Units n."""
        return len(self.rank)

    def scores(self, metric: str, counts: Ints) -> Floats:
        """See `skyframe.evaluate.measures.measure.Measure`."""
        k = metric.removeprefix("top")
        if not (metric.startswith("top") and k.isdigit() and int(k)):
            raise InputError(f"metric {metric!r} is not one of ranks, expected top1 or top5")
        size = np.bincount(self.cluster, minlength=self.num_clusters)
        hits = np.bincount(self.cluster, self.rank < int(k), minlength=self.num_clusters)
        total = counts @ size
        return np.asarray(np.where(total > 0, counts @ hits / np.maximum(total, 1), np.nan))


def rank_of(score: NDArray[Any], truth: Ints) -> Ints:
    """Place of the true class among all by score, 0 = best: scores `[n, C]`, true classes `[n]` to int64 `[n]`."""
    own = np.take_along_axis(score, truth[:, None], 1)
    before = np.arange(score.shape[1])[None] < truth[:, None]
    return ((score > own) | ((score == own) & before)).sum(1)


def _finite_mean(values: Floats) -> Floats:
    present = np.isfinite(values)
    total = np.where(present, values, 0).sum(-1)
    return np.asarray(np.where(present.any(-1), total / np.maximum(present.sum(-1), 1), np.nan))
