"""Ridge regression on standardised features, all penalties from one decomposition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def ridge_predictions(
    rows: Floats, values: Floats, queries: Sequence[Floats], penalties: Sequence[float]
) -> list[NDArray[np.float64]]:
    """Predictions of every penalty, closed form.

    Args:
        rows: float32 `[n, D]` training features.
        values: float32 `[n, K]`, rows without NaN.
        queries: feature tables `[m, D]` to predict.
        penalties: of the squared weights, as scikit-learn's `Ridge(alpha)` on features of mean 0 and deviation 1.

    Returns:
        Per table float64 `[P, m, K]`.
    """
    mean, std = rows.mean(0, dtype=np.float64), rows.std(0, dtype=np.float64)
    std = np.where(std > max(1e-6, 1e-3 * float(std.mean())), std, np.inf)  # what hardly varies says nothing
    centre = values.mean(0, dtype=np.float64)
    left, spread, right = np.linalg.svd((rows - mean) / std, full_matrices=False)
    shares = left.T @ (values - centre)
    made = []
    for table in queries:
        seen = ((table - mean) / std) @ right.T
        made.append(
            np.stack([seen @ (spread[:, None] / (spread[:, None] ** 2 + a) * shares) + centre for a in penalties])
        )
    return made
