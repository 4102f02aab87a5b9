"""Geo-context: fused features read the prototypes that were learned for their region of the Earth."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from skyframe.model.attention import init_weights, precise, wide
from skyframe.randomness import hash64


class GeoContext(nn.Module):
    """A bank of prototypes per region and the attention that reads it.

    The bank is a buffer: saved, but outside the optimizer, and no gradient reaches it. It is updated by moving
    averages of the projected features that `objective.prototype` assigns to each prototype.

    Args:
        width: width D of the fused features.
        num_regions: regions R.
        num_prototypes: prototypes K per region.
        proto_dims: width d of a prototype; one Linear D -> d makes queries and update features, one Linear d -> D
            brings what was read back  # ours, the published text gives no place for a projection
        seed: initial weights and the bank's unit-norm Gaussian start  # ours

    Source: SkySense (arXiv 2312.10115), attentional geo-context integration.
    """

    bank: Tensor

    def __init__(self, width: int, num_regions: int, num_prototypes: int, proto_dims: int, seed: int = 0) -> None:
        super().__init__()
        self.query = nn.Linear(width, proto_dims)
        self.value = nn.Linear(proto_dims, width)
        bank = torch.empty(num_regions, num_prototypes, proto_dims, dtype=torch.float32)
        if not bank.is_meta:
            generator = torch.Generator(bank.device).manual_seed(hash64(seed, "bank") >> 1)
            bank = functional.normalize(bank.normal_(generator=generator), dim=-1)
        self.register_buffer("bank", bank)
        init_weights(self, seed)

    def rows(self, region: Tensor) -> Tensor:
        """Prototypes `[B, K, d]` of each sample's region; those of region 0 stand in for an unseen one (-1)."""
        return self.bank.index_select(0, region.clamp_min(0))

    def read(self, fused: Tensor, region: Tensor) -> Tensor:
        """Context of each position: `softmax(Q P^T / sqrt(d)) P` over the prototypes P of its region, in float32.

        Args:
            fused: `[B, N, D]`.
            region: int64 `[B]`, -1 = unseen, which has no context.

        Returns:
            `[B, N, D]` in the dtype of `fused`; zeros for region -1.
        """
        query, prototypes = self.query(fused), self.rows(region)
        with precise(fused):
            scores = wide(query) @ wide(prototypes).transpose(1, 2) / math.sqrt(query.shape[-1])
            answer = scores.softmax(dim=-1) @ wide(prototypes)
        context = self.value(answer.to(query.dtype)).to(fused.dtype)
        return context * (region >= 0)[:, None, None].to(context.dtype)

    def forward(self, fused: Tensor, region: Tensor) -> Tensor:
        """`[B, N, D]` and regions `[B]` to `[fused, context]`, `[B, N, 2 D]`."""
        return torch.cat([fused, self.read(fused, region)], dim=-1)

    def nearest(self, fused: Tensor, region: Tensor) -> Tensor:
        """Index of the prototype that each position resembles most, int64 `[B, N]`; -1 for region -1.

        Cosine after the region's mean prototype is taken off both, as in the assignment that moves the bank.
        """
        prototypes = wide(self.rows(region))
        common = prototypes.mean(1, keepdim=True)
        scores = (self.project(fused) - common) @ functional.normalize(prototypes - common, dim=-1).transpose(1, 2)
        return torch.where(region[:, None] >= 0, scores.argmax(-1), -1)

    def project(self, fused: Tensor) -> Tensor:
        """Float32 features `[..., d]` that update the bank: the queries, in their own scale."""
        return wide(self.query(fused))
