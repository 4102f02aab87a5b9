"""Scores from confusion counts by cluster."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skyframe.spec import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def cluster_confusion(truth: Ints, predicted: Ints, cluster: Ints, num_classes: int) -> Ints:
    """Confusion counts per cluster.

    Args:
        truth: int `[n]` in 0..C-1.
        predicted: int `[n]` in 0..C-1.
        cluster: int `[n]`, rows with the same number are not independent (pixels of a window, tiles of an image).
        num_classes: C.

    Returns:
        int `[W, C, C]`, true class by row, predicted class by column, clusters in ascending order.
    """
    names, number = np.unique(cluster, return_inverse=True)
    counts = np.zeros((len(names), num_classes, num_classes), np.int64)
    np.add.at(counts, (number, truth, predicted), 1)
    return counts


def score(confusion: NDArray[np.generic], metric: str) -> Floats:
    """A metric from confusion counts `[..., C, C]`, in 0..1.

    `accuracy` counts rows; `balanced_accuracy` is the mean recall of the classes that occur; `macro_f1` and `miou`
    are means over the classes that occur or are predicted, over the data set and not per image.
    """
    counts = confusion.astype(np.float64)
    hit = np.diagonal(counts, axis1=-2, axis2=-1)
    truth, guessed = counts.sum(-1), counts.sum(-2)
    if metric == "accuracy":
        return np.asarray(hit.sum(-1) / np.maximum(truth.sum(-1), 1))
    if metric == "balanced_accuracy":
        return _mean_where(hit, truth, truth > 0)
    if metric == "macro_f1":
        return _mean_where(2 * hit, truth + guessed, truth + guessed > 0)
    if metric == "miou":
        return _mean_where(hit, truth + guessed - hit, truth + guessed > 0)
    raise InputError(f"metric: {metric!r} is not known, expected accuracy, balanced_accuracy, macro_f1 or miou")


def _mean_where(top: Floats, bottom: Floats, present: NDArray[np.bool_]) -> Floats:
    share = np.where(present, top / np.where(present, bottom, 1), 0.0)
    return np.asarray(share.sum(-1) / np.maximum(present.sum(-1), 1))
