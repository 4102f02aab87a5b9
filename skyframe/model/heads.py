"""Projection head of self-distillation: features to logits over learned output prototypes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from skyframe.model.attention import init_normal, init_weights, precise, wide


class DistillationHead(nn.Module):
    """Three-layer perceptron, bottleneck on the unit sphere, then cosines with `outputs` learned directions.

    The last layer is weight-normed with its length fixed at 1. Bottleneck, norm and last layer run in float32.

    Args:
        in_dims: width D of the features.
        hidden: width of the perceptron's two hidden layers.
        bottleneck: width of the unit sphere.
        outputs: number of logits.
        seed: initial weights.

    Source: DINO (arXiv 2104.14294) appendix C, `DINOHead` with `norm_last_layer`.
    """

    def __init__(self, in_dims: int, hidden: int, bottleneck: int, outputs: int, seed: int = 0) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(in_dims, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.last = nn.Parameter(torch.empty(outputs, bottleneck))
        init_weights(self, seed)
        init_normal(self.last.data, 1.0, seed, "last")

    def embed(self, x: Tensor) -> Tensor:
        """Features `[..., D]` to unit vectors, float32 `[..., bottleneck]`."""
        return functional.normalize(wide(self.mlp(x)), dim=-1)

    def directions(self) -> Tensor:
        """Unit-norm rows of the last layer, float32 `[outputs, bottleneck]`."""
        return functional.normalize(wide(self.last), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """Features `[..., D]` to logits, float32 `[..., outputs]` in -1..1."""
        unit = self.embed(x)
        with precise(x):
            return functional.linear(unit, self.directions())
