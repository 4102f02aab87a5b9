"""Region prototypes: balanced assignment of fused features to a region's bank, merged over samples and ranks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from skyframe import dist
from skyframe.objective.sinkhorn import fp32_island, sinkhorn


@torch.no_grad()
def prototype_statistics(
    features: Tensor, valid: Tensor, bank: Tensor, eps: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """What each sample adds to its region's prototypes: weighted feature sums and the weights' sums.

    The slow, obvious form, for one sample:

        A = sinkhorn(cosine(features, bank), eps, iterations)        # columns sum to 1/N_p
        num, den = A.T @ features, A.sum(0)

    Sinkhorn runs per sample, so the result does not depend on which samples share a rank or a micro-step.

    Args:
        features: `[B, N, d]` fused features in the bank's width, any float dtype.
        valid: bool `[B, N]`; other positions take no part and are never read.
        bank: float32 `[B, N_p, d]`, the prototypes of each sample's region.
        eps: entropy of the assignment over cosine similarities.
        iterations: Sinkhorn iterations.

    Returns:
        float32 `[B, N_p, d]` and float32 `[B, N_p]`, without gradient; 0 for a sample without a valid position.

    Source: SkySense (arXiv 2312.10115) section 3.4.
    """
    with fp32_island(features):
        rows = torch.where(valid[..., None], features.float(), 0.0)
        similarity = F.normalize(rows, dim=-1) @ F.normalize(bank.float(), dim=-1).mT
        assignment = sinkhorn(similarity, eps, iterations, valid)
        return assignment.mT @ rows, assignment.sum(1)


@torch.no_grad()
def merge_regions(region: Tensor, num: Tensor, den: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum the statistics of every region over samples and ranks, before any moving average sees them.

    The slow, obvious form, over the samples of all ranks:

        for k, r in enumerate(region): num_of[r] += num[k]; den_of[r] += den[k]

    Sums run in float64 as matrix products, so that neither the rank split nor the device's scheduling shows. Only
    regions in the batch travel, padded to the fullest rank. Collective: every rank calls it, with or without samples.

    Args:
        region: int64 `[B]`, -1 for a place outside every region (left out). B may differ between ranks and may be 0.
        num: `[B, N_p, d]` from `prototype_statistics`.
        den: `[B, N_p]`.

    Returns:
        Regions present on any rank, int64 `[U]` ascending, and their sums, float64 `[U, N_p, d]` and `[U, N_p]`:
        the same on every rank.
    """
    region, num, den = _sum_equal(region, num, den)
    if dist.active():
        most = int(dist.all_max(torch.tensor(len(region), device=region.device)))
        fills = ((region, -1), (num, 0), (den, 0))
        region, num, den = (dist.gather_rows(_padded(rows, most, fill)) for rows, fill in fills)
        region, num, den = _sum_equal(region, num, den)
    return region, num, den


def _sum_equal(region: Tensor, num: Tensor, den: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    ids = torch.unique(region[region >= 0], sorted=True)
    picks = (ids[:, None] == region[None]).double()
    summed = picks @ num.double().flatten(1)
    return ids, summed.reshape(len(ids), *num.shape[1:]), picks @ den.double()


def _padded(rows: Tensor, length: int, fill: int) -> Tensor:
    return torch.cat([rows, rows.new_full((length - len(rows), *rows.shape[1:]), fill)])


@torch.no_grad()
def updated_prototypes(old: Tensor, num: Tensor, den: Tensor, momentum: float) -> Tensor:
    """Prototypes after a step: `momentum * old + (1 - momentum) * num / den`; bit-identical where `den` is 0.

    Dividing by the assigned mass keeps the scale: `num` alone is a mean times 1/N_p and would shrink the bank a
    hundredfold per update.

    Args:
        old: float32 `[U, N_p, d]`, rows of the present regions.
        num: `[U, N_p, d]` from `merge_regions`.
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
