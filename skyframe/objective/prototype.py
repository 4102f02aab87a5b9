"""Region prototypes: balanced assignment of fused features to a region's bank, merged over samples and ranks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from skyframe import dist


@torch.no_grad()
def prototype_sums(
    features: Tensor, region: Tensor, bank: Tensor, eps: float, iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Balanced assignment of the step's fused features to their regions' prototypes: weighted sums and masses.

    The slow, obvious form, for each region r with a row on any rank:

        rows = features of all ranks with region == r
        common = bank[r].mean(0)
        A = sinkhorn(cosine(rows - common, bank[r] - common), eps, iterations)        # columns sum to 1/N_p
        num[r], den[r] = A.T @ rows, A.sum(0)

    All rows of a region are balanced together: one small crop shows one or two kinds of ground, and balanced alone it
    would pull every prototype of its region towards them. Cosines are taken from the region's mean prototype: fused
    features share most of their length, and seen from zero all of them lie in one direction. Sums run in float64, so
    neither the rank split nor the order of micro-steps shows. Collective: every rank calls it, with or without rows.

    Args:
        features: `[M, d]` fused features in the bank's width and in their own scale; M may differ between ranks.
        region: int64 `[M]`, -1 for a place outside every region (left out).
        bank: float32 `[R, N_p, d]`, all prototypes.
        eps: entropy of the assignment over cosine similarities.
        iterations: Sinkhorn iterations.

    Returns:
        Regions present on any rank, int64 `[U]` ascending, and their sums, float64 `[U, N_p, d]` and `[U, N_p]`,
        without gradient and the same on every rank.

    Source: SkySense (arXiv 2312.10115) section 3.4; the common part that is taken off is ours.
    """
    ids, (num_prototypes, width) = _present(region), bank.shape[1:]
    if len(ids) == 0:
        none = bank.new_zeros(0, num_prototypes, width, dtype=torch.float64)
        return ids, none, none[..., 0]
    rows, shares = [], []
    for r in ids:
        rows.append(features[region == r].double())
        common = bank[r].double().mean(0)
        cosine = F.normalize(rows[-1] - common, dim=-1) @ F.normalize(bank[r].double() - common, dim=-1).T
        best = cosine.max(-1, keepdim=True).values if len(cosine) else cosine[:, :1]
        shares.append(((cosine - best) / eps).exp())  # a factor per row cancels
    count = dist.all_sum(torch.tensor([len(x) for x in rows], device=features.device))
    for _ in range(iterations):
        shares = [q / (q.sum(-1, keepdim=True) * n) for q, n in zip(shares, count, strict=True)]
        mass = dist.all_sum(torch.stack([q.sum(0) for q in shares]))
        scale = torch.where(mass > 0, 1.0 / (mass * num_prototypes), 0.0)
        shares = [q * f for q, f in zip(shares, scale, strict=True)]
    num = dist.all_sum(torch.stack([q.T @ x for q, x in zip(shares, rows, strict=True)]))
    return ids, num, dist.all_sum(torch.stack([q.sum(0) for q in shares]))


def _present(region: Tensor) -> Tensor:
    """Regions with a row on any rank, int64 ascending; -1 is none."""
    here = torch.unique(region[region >= 0])
    if dist.active():
        most = int(dist.all_max(torch.tensor(len(here), device=region.device)))
        padded = torch.cat([here, here.new_full((most - len(here),), -1)])
        here = torch.unique(dist.gather_rows(padded))
    return here[here >= 0]


@torch.no_grad()
def updated_prototypes(old: Tensor, num: Tensor, den: Tensor, momentum: float) -> Tensor:
    """Prototypes after a step: `momentum * old + (1 - momentum) * num / den`; bit-identical where `den` is 0.

    Dividing by the assigned mass keeps the scale: `num` alone is a mean times 1/N_p and would shrink the bank a
    hundredfold per update.

    Args:
        old: float32 `[U, N_p, d]`, rows of the present regions.
        num: `[U, N_p, d]` from `prototype_sums`.
        den: `[U, N_p]`.
        momentum: 0.99 is the default of the recipes.

    Returns:
        `[U, N_p, d]` in the dtype of `old`, a new tensor.

    Source: SkySense (arXiv 2312.10115) section 3.4; the division is ours.
    """
    mass = den.double()[..., None]
    mean = num.double() / torch.where(mass > 0, mass, 1.0)
    moved = momentum * old.double() + (1.0 - momentum) * mean
    return torch.where(mass > 0, moved.to(old.dtype), old)
