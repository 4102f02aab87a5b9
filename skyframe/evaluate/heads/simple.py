"""Small dense heads and the pieces that all of them share."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from skyframe.randomness import Draw


class TokenLinear(nn.Module):
    """Each token answers for its own p x p pixels by one linear map; no norm, no neighbours.

    Source: OlmoEarth's segmentation probe, `Linear(D -> C p^2)`.
    """

    def __init__(self, dims: int, outputs: int, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels
        self.linear = nn.Linear(dims, outputs * pixels**2)

    def forward(self, maps: list[Tensor], size: int, drop: Draw | None = None) -> Tensor:
        """The last map `[B, D, h, w]` to `[B, C, size, size]`, resampled where p does not divide `size`."""
        tokens = self.linear(rearrange(maps[-1], "b d h w -> b h w d"))
        spread = rearrange(tokens, "b h w (c p q) -> b c (h p) (w q)", p=self.pixels, q=self.pixels)
        return resized(spread, size)


class FCN(nn.Module):
    """A 3x3 convolution, dropout and a classifier: a main head, or the auxiliary one beside another."""

    def __init__(self, dims: int, channels: int, outputs: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.conv, self.dropout = ConvNorm(dims, channels, 3), dropout
        self.classify = nn.Conv2d(channels, outputs, 1)

    def forward(self, maps: list[Tensor], size: int, drop: Draw | None = None) -> Tensor:
        """The last map `[B, D, h, w]` to `[B, C, size, size]`; `drop` None = no dropout."""
        found: Tensor = self.classify(channel_dropout(self.conv(maps[-1]), self.dropout, drop))
        return resized(found, size)


class ConvNorm(nn.Module):
    """Convolution, group norm, ReLU.

    Published heads have batch norm over all GPUs; a group norm is the same on one sample and on many, in training and
    in evaluation. A group has at least eight channels, so that a map of one pixel keeps something.
    """

    def __init__(self, dims: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dims, channels, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(math.gcd(channels, 32, max(1, channels // 8)), channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, D, h, w]` to `[B, channels, h, w]`."""
        return functional.relu(self.norm(self.conv(x)))


def resized(x: Tensor, size: int) -> Tensor:
    """`[B, C, h, w]` to `[B, C, size, size]`, bilinear."""
    if x.shape[-2:] == (size, size):
        return x
    return functional.interpolate(x, (size, size), mode="bilinear", align_corners=False)


def channel_dropout(x: Tensor, rate: float, drop: Draw | None) -> Tensor:
    """Whole channels of `[B, C, h, w]` set to zero, the others scaled up; nothing without a stream."""
    if drop is None or rate == 0:
        return x
    kept = drop.named("channels").uniform(x.shape[1]).to(x.device) >= rate
    return torch.where(kept[:, :, None, None], x / (1 - rate), torch.zeros((), device=x.device))
