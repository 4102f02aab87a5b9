"""Sinkhorn-Knopp: soft assignments whose columns are balanced, and self-distillation targets made from them.

Everything runs in the log domain in fp32 with autocast off: the multiplicative form overflows below eps = 0.02, and
bf16 is wrong by per cents.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from skyframe import dist


def fp32_island(values: Tensor) -> AbstractContextManager[None]:
    """A context with autocast off on the device of `values`; what enters it still needs `.float()`.

    The meta device has no autocast; what counts a step there follows the CPU's switch.
    """
    return torch.autocast("cpu" if values.is_meta else values.device.type, enabled=False)


@torch.no_grad()
def sinkhorn(scores: Tensor, eps: float, iterations: int, valid: Tensor | None = None) -> Tensor:
    """Balanced soft assignment of S rows to K columns, one problem per leading index.

    The slow, obvious form, for one problem with S valid rows:

        A = exp(scores / eps)
        repeat iterations: A = A / A.sum(1, keepdim) / S;  A = A / A.sum(0) / K

    Columns are normalised last: they sum to 1/K, so that `K * A.T @ features` is an exact weighted mean; rows sum to
    1/S up to what the iterations leave.

    Args:
        scores: `[..., S, K]`, any float dtype; similarities, larger is closer.
        eps: entropy of the assignment; smaller is harder (0.05 is usual, 0.005 still finite).
        iterations: pairs of row and column normalisations, at least 1.
        valid: bool `[..., S]`; other rows get exactly 0 whatever their scores hold. Default: all valid.

    Returns:
        float32 `[..., S, K]` without gradient; all 0 where a problem has no valid row.

    Source: Cuturi, NeurIPS 2013; SkySense (arXiv 2312.10115) section 3.3 for the marginals 1/N_S and 1/N_p.
    """
    with fp32_island(scores):
        num_columns = scores.shape[-1]
        rows = torch.ones(scores.shape[:-1], dtype=torch.bool, device=scores.device) if valid is None else valid
        rows = rows[..., None]
        logits = torch.where(rows, scores.float(), 0.0) / eps
        logits = logits - logits.amax(-1, keepdim=True)  # keeps the digits that matter near 0
        num_rows = rows.sum(-2, keepdim=True).clamp(min=1)
        column = logits.new_zeros(*logits.shape[:-2], 1, num_columns)
        row = torch.where(rows, 0.0, -torch.inf)
        for _ in range(iterations):
            row = torch.where(rows, -torch.logsumexp(logits + column, -1, keepdim=True) - num_rows.log(), -torch.inf)
            column = -torch.logsumexp(logits + row, -2, keepdim=True) - math.log(num_columns)
            column = torch.where(column.isfinite(), column, 0.0)  # no valid row at all
        assignment = torch.exp(logits + row + column)
        # rounding of large logits leaves 1e-5 in the column sums
        return assignment / (num_columns * assignment.sum(-2, keepdim=True)).clamp(min=1e-12)


@torch.no_grad()
def sinkhorn_targets(logits: Tensor, temp: float, iterations: int) -> Tensor:
    """Self-distillation targets: the teacher's softmax, balanced over prototypes, over the rows of all ranks.

    The slow, obvious form, for the B rows of all ranks together:

        Q = exp(logits / temp).T / exp(logits / temp).sum()
        repeat iterations: Q = Q / Q.sum(1, keepdim) / K;  Q = Q / Q.sum(0) / B
        targets = (Q * B).T

    Args:
        logits: `[R, K]` teacher outputs of this rank, any float dtype; R may differ between ranks and may be 0.
        temp: teacher temperature.
        iterations: pairs of normalisations (3 is usual).

    Returns:
        float32 `[R, K]` without gradient; rows sum to 1.

    Source: DINOv2, dinov2/loss/dino_clstoken_loss.py (facebookresearch/dinov2).
    """
    with fp32_island(logits):
        log_q = logits.float() / temp
        for _ in range(iterations):
            log_q = log_q - _logsumexp_over_ranks(log_q)
            log_q = log_q - torch.logsumexp(log_q, 1, keepdim=True)
        return log_q.exp()


def _logsumexp_over_ranks(log_q: Tensor) -> Tensor:
    """`[1, K]` log of the column sums over the rows of all ranks; 0 where no rank has a row."""
    local = torch.logsumexp(log_q, 0, keepdim=True)
    if not dist.active():
        return torch.where(local.isfinite(), local, 0.0)
    peak = dist.all_max(local)
    peak = torch.where(peak.isfinite(), peak, 0.0)
    total = dist.all_sum((local - peak).exp())
    return torch.where(total > 0, peak + total.log(), 0.0)
