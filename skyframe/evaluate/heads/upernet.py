"""UPerNet: pooled context on the coarsest map, a pyramid from coarse to fine, all levels joined."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from skyframe.config.heads import HeadSpec
from skyframe.evaluate.heads.simple import FCN, ConvNorm, channel_dropout, resized
from skyframe.randomness import Draw


class UPerNet(nn.Module):
    """Segmentation head on one map or several.

    Maps are taken from fine to coarse, equal ones in their order. Where they are not a pyramid already (a plain
    transformer's, or one map alone, which then stands for four), the i-th is resampled to `top / 2^i`, where `top` is
    four times the finest side, but no finer than the mask: bilinear upwards, averaged downwards.

    Source: Xiao et al., Unified Perceptual Parsing, ECCV 2018, as SkySense and PANGAEA use it, but with group norm in
    place of batch norm (see `ConvNorm`), and without learned up-sampling of plain transformers' maps.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], spec: HeadSpec, outputs: int, size: int) -> None:
        super().__init__()
        self.order = sorted(range(len(shapes)), key=lambda i: -shapes[i][1])
        if len(shapes) == 1:
            self.order *= 4
        dims, sides = zip(*(shapes[i] for i in self.order), strict=True)
        self.sides = pyramid(sides, size)
        width, self.pools, self.dropout = spec.channels, spec.pools, spec.dropout
        self.pooled = nn.ModuleList(ConvNorm(dims[-1], width, 1) for _ in spec.pools)
        self.context = ConvNorm(dims[-1] + len(spec.pools) * width, width, 3)
        self.lateral = nn.ModuleList(ConvNorm(d, width, 1) for d in dims[:-1])
        self.smooth = nn.ModuleList(ConvNorm(width, width, 3) for _ in dims[:-1])
        self.join = ConvNorm(len(dims) * width, width, 3)
        self.classify = nn.Conv2d(width, outputs, 1)

    def forward(self, maps: list[Tensor], size: int, drop: Draw | None = None) -> Tensor:
        """Maps `[B, D_l, h_l, w_l]` to `[B, C, size, size]`; `drop` None = no dropout."""
        levels = [_onto(maps[i], side) for i, side in zip(self.order, self.sides, strict=True)]
        coarse = levels[-1]
        seen = [
            resized(conv(functional.adaptive_avg_pool2d(coarse, pool)), coarse.shape[-1])
            for conv, pool in zip(self.pooled, self.pools, strict=True)
        ]
        rising = [self.context(torch.cat([coarse, *seen], 1))]
        for conv, level in zip(reversed(self.lateral), reversed(levels[:-1]), strict=True):
            rising.append(conv(level) + resized(rising[-1], level.shape[-1]))
        last, *finer = rising
        smooth = [conv(level) for conv, level in zip(self.smooth, reversed(finer), strict=True)]
        joined = self.join(torch.cat([resized(level, self.sides[0]) for level in (*smooth, last)], 1))
        found: Tensor = self.classify(channel_dropout(joined, self.dropout, drop))
        return resized(found, size)


class WithAuxiliary(nn.Module):
    """A head, and in training an FCN on the last map but one whose loss is added with a weight."""

    def __init__(self, main: nn.Module, shapes: Sequence[tuple[int, int]], spec: HeadSpec, outputs: int) -> None:
        super().__init__()
        self.main, self.at = main, max(0, len(shapes) - 2)
        self.side = FCN(shapes[self.at][0], spec.auxiliary_channels, outputs, spec.dropout)

    def forward(self, maps: list[Tensor], size: int, drop: Draw | None = None) -> Tensor:
        """What the main head says."""
        found: Tensor = self.main(maps, size, drop)
        return found

    def auxiliary(self, maps: list[Tensor], size: int, drop: Draw | None = None) -> Tensor:
        """What the FCN says."""
        found: Tensor = self.side([maps[self.at]], size, None if drop is None else drop.named("auxiliary"))
        return found


def pyramid(sides: Sequence[int], size: int) -> list[int]:
    """Side of each level: as given where each is finer than the next, resampled otherwise (see `UPerNet`)."""
    if all(a > b for a, b in pairwise(sides)):
        return list(sides)
    top = max(sides[0], min(4 * sides[0], size))
    return [max(1, top // 2**i) for i in range(len(sides))]


def _onto(x: Tensor, side: int) -> Tensor:
    return functional.adaptive_avg_pool2d(x, side) if side < x.shape[-1] else resized(x, side)
