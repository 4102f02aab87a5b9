"""Heads on feature maps: `head(maps, size, drop) -> [B, C, size, size]`, and on pooled vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from skyframe.config.heads import HeadSpec
from skyframe.evaluate.heads.simple import FCN, TokenLinear
from skyframe.evaluate.heads.upernet import UPerNet, WithAuxiliary
from skyframe.randomness import hash64

Shape = tuple[int, int]
"""Width D and side h of a map."""


def build_head(spec: HeadSpec, shapes: Sequence[Shape], outputs: int, size: int, seed: int) -> nn.Module:
    """A dense head with initial weights that depend on the seed alone.

    Args:
        spec: which one.
        shapes: of the maps that it will be given.
        outputs: C, classes or quantities.
        size: side of the answer in pixels of the mask.
        seed: initial weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hash64(seed, "head") >> 1)
        head: nn.Module
        if spec.kind == "token_linear":
            head = TokenLinear(shapes[-1][0], outputs, max(1, -(-size // shapes[-1][1])))
        elif spec.kind == "fcn":
            head = FCN(shapes[-1][0], spec.channels, outputs, spec.dropout)
        else:
            head = UPerNet(shapes, spec, outputs, size)
        return WithAuxiliary(head, shapes, spec, outputs) if spec.auxiliary else head


def build_pooled(dims: int, outputs: int, seed: int) -> nn.Module:
    """A linear map of pooled features `[B, D]`: classes or quantities of a whole image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(hash64(seed, "head") >> 1)
        return nn.Linear(dims, outputs)
