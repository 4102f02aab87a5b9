"""Cross-modal alignment: two modalities of one place agree more than those of different places."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from skyframe import dist
from skyframe.objective.sinkhorn import fp32_island


def alignment(a: Tensor, b: Tensor, present: Tensor, temp: float) -> Tensor:
    """Symmetric InfoNCE of each place against all places of the batch, gathered over ranks.

    The slow, obvious form, over the P present places of all ranks, rows of unit norm:

        for i in present: loss[i] = (CE(a[i] @ b.T / temp, i) + CE(b[i] @ a.T / temp, i)) / 2

    Each rank returns the loss of its own places; places of other ranks are negatives that carry gradient, and the
    gradient that other ranks' losses send to this rank's features is summed into it. So the sum over ranks of the
    parameter gradients is the one-process gradient of the summed loss: a strategy that averages over ranks (DDP) wants
    `loss.sum() * world_size / global_batch`, which is `loss.mean()` where every rank holds the same number of samples.

    Args:
        a: `[B, D]` features of one modality, any float dtype, B equal on every rank; normalised here.
        b: `[B, D]` of the other.
        present: bool `[B]`, True where the place has both; other places are neither anchors nor negatives, and their
            values are never read.
        temp: temperature (0.07 is usual).

    Returns:
        float32 `[B]`, 0 where absent; 0 for a place without any negative.

    Source: SkySense (arXiv 2312.10115) section 3.3, L_align; InfoNCE as CLIP (arXiv 2103.00020) section 2.3.
    """
    with fp32_island(a):
        a, b = _unit(a, present), _unit(b, present)
        all_a, all_b = dist.gather_rows(a), dist.gather_rows(b)
        everywhere = dist.gather_rows(present.to(torch.uint8)).bool()
        own = torch.arange(len(a), device=a.device) + dist.rank() * len(a)
        loss = 0.5 * (_info_nce(a @ all_b.mT / temp, everywhere, own) + _info_nce(b @ all_a.mT / temp, everywhere, own))
        return torch.where(present, loss, 0.0)


def _unit(rows: Tensor, present: Tensor) -> Tensor:
    """Rows of unit norm, 0 where absent (selected before any arithmetic, so that NaN there has no gradient)."""
    return F.normalize(torch.where(present[:, None], rows.float(), 0.0), dim=-1)


def _info_nce(logits: Tensor, columns: Tensor, own: Tensor) -> Tensor:
    """Cross-entropy of each row's own column among the present ones (a finite fill: a row of -inf has NaN gradient)."""
    return F.cross_entropy(logits.masked_fill(~columns[None], -1e9), own, reduction="none")
