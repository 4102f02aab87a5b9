"""What a protocol answered on the test part, kept by cluster, so that any metric can be had with clusters resampled."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skyframe.randomness import generator
from skyframe.spec import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Measure(Protocol):
    """Answers and truth of the test part. A cluster is independent of the others: an image, a scene, a block."""

    @property
    def num_clusters(self) -> int:
        """Clusters W that may be drawn."""
        ...

    @property
    def num_units(self) -> int:
        """Rows, pixels or objects that are scored."""
        ...

    def scores(self, metric: str, counts: Ints) -> Floats:
        """A metric over clusters counted several times or not at all.

        Args:
            metric: a name that this kind of answer knows.
            counts: int `[R, W]`, how often each cluster counts in each of R evaluations.

        Returns:
            float64 `[R]`, NaN where a draw leaves the metric without meaning.

        Raises:
            InputError: a metric of another kind of answer.
        """
        ...


def value_of(measure: Measure, metric: str) -> float:
    """The metric over all clusters, each once."""
    return float(measure.scores(metric, np.ones((1, measure.num_clusters), np.int64))[0])


def interval_of(measure: Measure, metric: str, resamples: int, seed: int) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles over clusters drawn with replacement."""
    return _percentiles(measure.scores(metric, draws(measure.num_clusters, resamples, seed)))


def paired_difference(
    first: Measure, second: Measure, metric: str, resamples: int, seed: int
) -> tuple[float, float, float]:
    """Score of `first` minus score of `second` on the same draws, and its 2.5 and 97.5 percentiles.

    What makes a cluster hard for both cancels, so the interval is narrower than the two single ones let expect.

    Raises:
        InputError: the two have different numbers of clusters, so they cannot be of one test part.
    """
    if (first.num_clusters, first.num_units) != (second.num_clusters, second.num_units):
        raise InputError(
            f"paired difference: {first.num_units} units in {first.num_clusters} clusters and {second.num_units} in "
            f"{second.num_clusters}, expected answers to the same test part; score both with one suite and seed"
        )
    counts = draws(first.num_clusters, resamples, seed)
    lo, hi = _percentiles(first.scores(metric, counts) - second.scores(metric, counts))
    return value_of(first, metric) - value_of(second, metric), lo, hi


def draws(num_clusters: int, resamples: int, seed: int) -> Ints:
    """How often each of W clusters is drawn when W are drawn with replacement, int64 `[R, W]`; equal seeds draw
    alike."""
    rng = generator(seed, "bootstrap", num_clusters)
    return rng.multinomial(num_clusters, np.full(num_clusters, 1.0 / num_clusters), size=resamples)


def _percentiles(scores: Floats) -> tuple[float, float]:
    lo, hi = np.nanpercentile(scores, [2.5, 97.5]) if np.isfinite(scores).any() else (np.nan, np.nan)
    return float(lo), float(hi)
