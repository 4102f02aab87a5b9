"""Answers of each kind, beside the truth, as a `Measure`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyframe.evaluate.dataset import Kind
from skyframe.evaluate.measure import Measure
from skyframe.evaluate.metrics import cluster_confusion, score

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def measure_of(kind: Kind, truth: NDArray[np.generic], outputs: NDArray[np.generic], cluster: Ints) -> Measure:
    """The measure of rows.

    Args:
        kind: scene, pixel, multilabel or regression.
        truth: int64 `[m]`, bool `[m, C]` or float `[m, K]`.
        outputs: scores `[m, C]`, or numbers `[m, K]`.
        cluster: int64 `[m]`.
    """
    numbers = truth.astype(np.int64)
    hits = {"top5": cluster_hits(numbers, outputs, cluster, 5)} if kind == "scene" else {}
    return ConfusionMeasure(cluster_confusion(numbers, outputs.argmax(-1), cluster, outputs.shape[-1]), hits)


@dataclass(frozen=True)
class ConfusionMeasure:
    """One class per unit, as confusion counts per cluster."""

    confusion: Ints  # [W, C, C] true class by row
    hits: dict[str, Ints]  # further counts `[W]`, whose share of all units is a metric of that name

    @property
    def num_clusters(self) -> int:
        """Clusters W."""
        return len(self.confusion)

    @property
    def num_units(self) -> int:
        """Units scored."""
        return int(self.confusion.sum())

    def scores(self, metric: str, counts: Ints) -> Floats:
        """See `metrics.score`; `top5` is the share of units whose class is among the five highest scores."""
        flat = counts.astype(np.float64) @ self.confusion.reshape(len(self.confusion), -1).astype(np.float64)
        confusion = flat.reshape(len(counts), *self.confusion.shape[1:])
        if metric in self.hits:
            return np.asarray(counts @ self.hits[metric] / np.maximum(confusion.sum((1, 2)), 1))
        return score(confusion, metric)


def cluster_hits(truth: Ints, scores: NDArray[np.generic], cluster: Ints, k: int) -> Ints:
    """Units per cluster whose class is among the k highest scores; int64 `[W]`, clusters in ascending order."""
    names, number = np.unique(cluster, return_inverse=True)
    best = np.argsort(-scores.astype(np.float64), axis=-1, kind="stable")[:, :k]
    hit = (best == truth[:, None]).any(-1)
    return np.bincount(number, weights=hit, minlength=len(names)).astype(np.int64)
