"""k nearest neighbours by cosine, votes weighted by exp(similarity / temperature)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from skyframe.spec import InputError


def knn_predict(
    bank: NDArray[np.float32],
    labels: NDArray[np.int64],
    queries: NDArray[np.float32],
    num_classes: int,
    ks: Sequence[int],
    temperature: float = 0.07,
    chunk: int = 2048,
) -> dict[int, NDArray[np.int64]]:
    """Predicted class of each query for every k, from one neighbour search.

    Args:
        bank: float32 `[n, D]` training features; rows are scaled to unit length here.
        labels: int `[n]` in 0..C-1.
        queries: float32 `[m, D]`.
        num_classes: C.
        ks: neighbour counts.
        temperature: of the vote's weight.
        chunk: queries per similarity matrix, bounds memory.

    Returns:
        k -> int64 `[m]`; the lower class number wins a tie.

    Raises:
        InputError: fewer training rows than the largest k.

    Source: DINOv2 `dinov2/eval/knn.py` (the weighting), OlmoEarth `evals/knn.py` (k = 20).
    """
    if len(bank) < max(ks):
        raise InputError(
            f"knn: {len(bank)} training rows for k = {max(ks)}, expected at least k; draw more windows or lower knn.k"
        )
    keys = normalize(torch.from_numpy(bank).float(), dim=-1)
    classes = torch.from_numpy(labels)
    found: dict[int, list[torch.Tensor]] = {k: [] for k in ks}
    for rows in torch.from_numpy(queries).float().split(chunk):
        similarity, index = (normalize(rows, dim=-1) @ keys.T).topk(max(ks), dim=1)
        weight, vote = (similarity / temperature).exp(), classes[index]
        for k in ks:
            votes = torch.zeros(len(rows), num_classes).scatter_add_(1, vote[:, :k], weight[:, :k])
            found[k].append(votes.argmax(1))
    return {k: torch.cat(parts).numpy() for k, parts in found.items()}
