"""Up-sampling head that brings an encoder's map onto the common position grid."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from skyframe.model.attention import init_weights
from skyframe.spec import InputError

PART_SPREAD = 0.1
"""Initial difference between the parts of one token, as a share of what they have in common  # ours"""


class UpHead(nn.Module):
    """Each token becomes `up_scale` x `up_scale` tokens: a 1x1 convolution and a pixel shuffle as one matrix product.

    The rows of `weight` stand in the order (row, column, channel), so that the result is in token layout after a
    single copy of whole channel runs; the published layout is (channel, row, column).

    Args:
        in_dim: width of the encoder.
        out_dim: width of the common tokens.
        up_scale: factor r along each side.
        seed: initial weights.

    Source: `UPHead` of SkySense (arXiv 2312.10115).
    """

    def __init__(self, in_dim: int, out_dim: int, up_scale: int, seed: int = 0) -> None:
        super().__init__()
        self.up_scale, self.out_dim = up_scale, out_dim
        self.weight = nn.Parameter(torch.empty(up_scale * up_scale * out_dim, in_dim))
        self.bias = nn.Parameter(torch.zeros(up_scale * up_scale * out_dim))
        init_weights(self, seed)
        with torch.no_grad():  # parts of a token start nearly alike, or neighbouring positions would start unrelated
            shared = self.weight[:out_dim].repeat(up_scale * up_scale, 1)
            self.weight.copy_(shared + PART_SPREAD * self.weight)

    def forward(self, tokens: Tensor, grid: tuple[int, int], size: tuple[int, int] | None = None) -> Tensor:
        """Spread tokens.

        Args:
            tokens: `[B, h * w, in_dim]`, row order.
            grid: (h, w) of the tokens.
            size: crop the result to (H, W), the real pixels of an input that its encoder padded; default r * h, r * w.

        Returns:
            `[B, H * W, out_dim]`, row order.

        Raises:
            InputError: the grid does not hold the tokens, or `size` is larger than the map.
        """
        r, (height, width) = self.up_scale, grid
        if tokens.shape[1] != height * width:
            raise InputError(
                f"up-head: {tokens.shape[1]} tokens, expected {height * width} for a grid of {height} x {width}; "
                "give the encoder's own grid(height, width)"
            )
        rows = functional.linear(tokens, self.weight, self.bias)
        if size is None or size == (r * height, r * width):
            return rearrange(rows, "b (h w) (p q c) -> b (h p w q) c", h=height, p=r, q=r)
        if size[0] > r * height or size[1] > r * width:
            raise InputError(
                f"up-head: crop {size[0]} x {size[1]}, expected at most {r * height} x {r * width}; "
                "give the height and width of the encoder's input"
            )
        spread = rearrange(rows, "b (h w) (p q c) -> b (h p) (w q) c", h=height, p=r, q=r)
        return spread[:, : size[0], : size[1]].flatten(1, 2)
