"""Scores from confusion counts, and their interval by resampling whole clusters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skyframe.randomness import generator
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


def bootstrap_interval(confusion: Ints, metric: str, resamples: int, seed: int) -> tuple[float, float, float]:
    """Score of all clusters, and the 2.5 and 97.5 percentiles over clusters drawn with replacement.

    Args:
        confusion: int `[W, C, C]` per cluster.
        metric: a name that `score` knows.
        resamples: number of draws of W clusters.
        seed: of the draws; equal seeds give equal draws for every encoder, so that differences are paired.

    Returns:
        value, lower, upper.
    """
    lo, hi = np.percentile(_resampled_scores(confusion, metric, resamples, seed), [2.5, 97.5])
    return float(score(confusion.sum(0), metric)), float(lo), float(hi)


def paired_interval(first: Ints, second: Ints, metric: str, resamples: int, seed: int) -> tuple[float, float, float]:
    """Score of `first` minus score of `second` over the same clusters, and its 2.5 and 97.5 percentiles.

    Both are scored on the same draws, so what makes a cluster hard for both cancels: the interval is narrower than the
    two single ones let expect.

    Args:
        first: int `[W, C, C]` per cluster.
        second: int `[W, C, C]`, the same clusters in the same order.
        metric: a name that `score` knows.
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
    scores = [_resampled_scores(confusion, metric, resamples, seed) for confusion in (first, second)]
    lo, hi = np.percentile(scores[0] - scores[1], [2.5, 97.5])
    return float(score(first.sum(0), metric) - score(second.sum(0), metric)), float(lo), float(hi)


def _resampled_scores(confusion: Ints, metric: str, resamples: int, seed: int) -> Floats:
    num = len(confusion)
    draws = generator(seed, "bootstrap", num).multinomial(num, np.full(num, 1.0 / num), size=resamples)
    flat = confusion.reshape(num, -1).astype(np.float64)
    return score((draws.astype(np.float64) @ flat).reshape(resamples, *confusion.shape[1:]), metric)
