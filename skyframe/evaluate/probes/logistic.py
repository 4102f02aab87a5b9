"""Logistic regression to convergence, by scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from skyframe.config.evaluate import LogisticConfig

Floats = NDArray[np.float32]


def logistic_scores(
    rows: Floats, targets: NDArray[np.generic], num_classes: int, queries: Sequence[Floats], config: LogisticConfig
) -> Iterator[tuple[float, list[NDArray[np.float64]]]]:
    """For each inverse penalty C the probabilities `[m, num_classes]` of every table, on standardised features.

    Args:
        rows: float32 `[n, D]` training features.
        targets: int64 `[n]` class numbers, or bool `[n, C]` for several labels (one regression each).
        num_classes: C.
        queries: feature tables `[m, D]`.
        config: penalties and iterations.

    Source: torchgeo-bench 0.4.0 (L-BFGS logistic regression over a grid of C); it refits on train and validation
    together, which this does not.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(rows)
    scaled, tables = scaler.transform(rows), [scaler.transform(q) for q in queries]
    columns = [targets] if targets.ndim == 1 else list(targets.T)
    for c in config.penalties:
        made = [np.zeros((len(t), num_classes)) for t in tables]
        for number, column in enumerate(columns):
            known = np.unique(column)
            if len(known) == 1:  # a label that every row has, or none
                for out in made:
                    out[:, number] = float(known[0])
                continue
            model = LogisticRegression(C=c, max_iter=config.iterations).fit(scaled, column)
            for out, table in zip(made, tables, strict=True):
                found = model.predict_proba(table)
                if targets.ndim == 1:
                    out[:, model.classes_] = found
                else:
                    out[:, number] = found[:, 1]
        yield c, made
