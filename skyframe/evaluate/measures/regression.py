"""Answers that are numbers: errors and explained variance from sums by cluster."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyframe.evaluate.measures.measure import Floats, Ints
from skyframe.spec import InputError

REGRESSION_METRICS = ("rmse", "mae", "bias", "r2", "nse", "nnse")


@dataclass(frozen=True)
class RegressionMeasure:
    """Sums `[W, K, 6]` per cluster and predicted quantity: count, y, y squared, error, |error|, error squared, where y
    is the truth less its mean over everything scored (any constant would do; this one keeps digits).

    `rmse`, `mae` and `bias` (answer minus truth) are in the units of the data set; `r2` = `nse` = 1 - sum of squared
    errors / sum of squared deviations from the mean of the scored truth; `nnse` = 1 / (2 - nse), in 0..1. Quantities
    are scored one by one and averaged.

    Source: Nash and Sutcliffe, J. Hydrology 1970, and its normalised form.
    """

    sums: Floats

    @property
    def num_clusters(self) -> int:
        """Clusters W."""
        return len(self.sums)

    @property
    def num_units(self) -> int:
        """Numbers scored."""
        return int(self.sums[..., 0].sum())

    def scores(self, metric: str, counts: Ints) -> Floats:
        """See `skyframe.evaluate.measures.measure.Measure`."""
        if metric not in REGRESSION_METRICS:
            raise InputError(f"metric {metric!r} is not one of numbers, expected {', '.join(REGRESSION_METRICS)}")
        num, y, square, signed, absolute, error = np.moveaxis(
            np.einsum("rw,wks->rks", counts.astype(np.float64), self.sums), -1, 0
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            if metric == "rmse":
                each = np.sqrt(error / num)
            elif metric == "mae":
                each = absolute / num
            elif metric == "bias":
                each = signed / num
            else:
                spread = square - y**2 / num
                nse = np.where(spread > 0, 1 - error / spread, np.nan)
                each = 1 / (2 - nse) if metric == "nnse" else nse
            return np.asarray(each.mean(-1))


def regression(truth: Floats, answer: Floats, cluster: Ints) -> RegressionMeasure:
    """Sums by cluster.

    Args:
        truth: `[n, K]`, NaN = not scored.
        answer: `[n, K]`.
        cluster: int `[n]`.

    Raises:
        InputError: an answer is not finite where there is truth.
    """
    scored = np.isfinite(truth)
    if not np.isfinite(answer[scored]).all():
        raise InputError("regression: an answer is not finite, expected numbers; lower the learning rate")
    names, number = np.unique(cluster, return_inverse=True)
    known = np.where(scored, truth, 0.0).astype(np.float64)
    error = np.where(scored, answer.astype(np.float64) - known, 0.0)
    y = np.where(scored, known - known.sum(0) / np.maximum(scored.sum(0), 1), 0.0)
    sums = np.zeros((len(names), truth.shape[1], 6))
    np.add.at(sums, number, np.stack([scored.astype(np.float64), y, y**2, error, np.abs(error), error**2], -1))
    return RegressionMeasure(sums)
