"""Answers of a probe, one row per unit, as the measure of their kind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyframe.evaluate.datasets.dataset import Kind
from skyframe.evaluate.measures.confusion import ConfusionMeasure
from skyframe.evaluate.measures.measure import Floats, Ints, Measure
from skyframe.evaluate.measures.metrics import cluster_confusion
from skyframe.evaluate.measures.ranking import MultilabelMeasure, TopMeasure, rank_of
from skyframe.evaluate.measures.regression import regression


@dataclass(frozen=True)
class ClassMeasure:
    """One class per unit: metrics of the confusion, and `top1` and `top5` of the scores."""

    confusion: ConfusionMeasure
    top: TopMeasure

    @property
    def num_clusters(self) -> int:
        """Clusters W."""
        return self.confusion.num_clusters

    @property
    def num_units(self) -> int:
        """Units that carry a class."""
        return self.confusion.num_units

    def scores(self, metric: str, counts: Ints) -> Floats:
        """See `skyframe.evaluate.measures.measure.Measure`."""
        return (self.top if metric.startswith("top") else self.confusion).scores(metric, counts)


def measure_of(
    kind: Kind, truth: NDArray[np.generic], outputs: NDArray[np.generic], cluster: Ints, classes: tuple[str, ...] = ()
) -> Measure:
    """The measure of a probe's rows.

    Args:
        kind: scene, pixel, multilabel or regression.
        truth: int64 `[m]`, bool `[m, C]` or float `[m, K]`.
        outputs: scores `[m, C]`, probabilities `[m, C]`, or numbers `[m, K]`.
        cluster: int64 `[m]`, any numbers.
        classes: C names, for metrics of one class; may be left out where none is asked for.
    """
    number = np.unique(cluster, return_inverse=True)[1].astype(np.int64)
    if kind == "multilabel":
        return MultilabelMeasure(truth.astype(bool), outputs.astype(np.float32), number)
    if kind == "regression":
        return regression(truth.astype(np.float64), outputs.astype(np.float64), number)
    wanted = truth.astype(np.int64)
    counts = cluster_confusion(wanted, outputs.argmax(-1), number, outputs.shape[-1])
    return ClassMeasure(ConfusionMeasure(counts, classes), TopMeasure(rank_of(outputs, wanted), number))
