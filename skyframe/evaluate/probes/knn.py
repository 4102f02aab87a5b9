"""k nearest neighbours by cosine, their targets averaged with weights exp(similarity / temperature)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from skyframe.spec import InputError


def knn_means(
    bank: NDArray[np.float32],
    targets: NDArray[np.float32],
    queries: NDArray[np.float32],
    ks: Sequence[int],
    temperature: float = 0.07,
    chunk: int = 1024,
) -> dict[int, NDArray[np.float32]]:
    """Weighted mean of the neighbours' targets for every k, from one neighbour search.

    With one-hot targets that is each class's share of the vote, with several labels one vote per label, and with
    numbers a prediction of them.

    Args:
        bank: float32 `[n, D]` training features; rows are scaled to unit length here.
        targets: float32 `[n, C]`.
        queries: float32 `[m, D]`.
        ks: neighbour counts.
        temperature: of the vote's weight.
        chunk: queries per similarity matrix, bounds memory.

    Returns:
        k -> float32 `[m, C]`.

    Raises:
        InputError: fewer training rows than the largest k.

    Source: DINOv2 `dinov2/eval/knn.py` (the weighting), OlmoEarth `evals/knn.py` (k = 20, one vote per label).
    """
    if len(bank) < max(ks):
        raise InputError(
            f"knn: {len(bank)} training rows for k = {max(ks)}, expected at least k; draw more windows or lower knn.k"
        )
    keys, values = normalize(torch.from_numpy(bank).float(), dim=-1), torch.from_numpy(targets).float()
    found: dict[int, list[torch.Tensor]] = {k: [] for k in ks}
    for rows in torch.from_numpy(queries).float().split(chunk):
        similarity, index = (normalize(rows, dim=-1) @ keys.T).topk(max(ks), dim=1)
        weight, votes = (similarity / temperature).exp(), values[index]
        for k in ks:
            total = torch.einsum("mk,mkc->mc", weight[:, :k], votes[:, :k])
            found[k].append(total / weight[:, :k].sum(1, keepdim=True))
    return {k: torch.cat(parts).numpy() for k, parts in found.items()}
