"""Figures that show collapse while the loss still falls: effective rank, spread, and agreement of two feature sets."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def effective_rank(features: Tensor) -> Tensor:
    """Effective number of directions that features use: exp of the entropy of the covariance's eigenvalue shares.

    Args:
        features: `[R, D]`, any float dtype; computed in fp32.

    Returns:
        Scalar between 1 (all rows on one line, or no spread at all) and D; nan where a feature is not finite.

    Source: Roy and Vetterli, EUSIPCO 2007.
    """
    rows = features.float() - features.float().mean(0)
    covariance = rows.T @ rows / max(1, len(rows))
    finite = covariance.isfinite().all()
    share = torch.linalg.eigvalsh(torch.where(finite, covariance, 0.0)).clamp_min(0)  # which raises on nan
    total = share.sum()
    share = share / total.clamp_min(1e-12)
    rank = torch.exp(-(share * share.clamp_min(1e-30).log()).sum())
    return torch.where(finite, torch.where(total > 1e-12, rank, 1.0), torch.nan)


@torch.no_grad()
def feature_std(features: Tensor) -> Tensor:
    """Mean over bands of the standard deviation of L2-normalised rows `[R, D]`, times sqrt(D): 1 = spread evenly."""
    rows = torch.nn.functional.normalize(features.float(), dim=-1)
    return rows.std(0, unbiased=False).mean() * features.shape[-1] ** 0.5


@torch.no_grad()
def agreement(left: Tensor, right: Tensor) -> Tensor:
    """Mean cosine between paired rows `[R, D]`."""
    return torch.nn.functional.cosine_similarity(left.float(), right.float(), dim=-1).mean()
