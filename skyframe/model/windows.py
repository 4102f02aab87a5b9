"""Where the tokens of a map stand when they are sorted into square windows: orders, padding slots and masks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

SHIFT_MASK = -100.0
"""Added to scores between regions that the cyclic shift brought together (the published value)."""

PAD_MASK = -3e4
"""Added to scores of padded positions: their softmax weight is exactly 0, and rows of padding alone stay finite."""


@dataclass(frozen=True)
class Layout:
    """The N tokens of a map in window order, and how they fill the windows' slots.

    A map that is no multiple of the window has slots without a token: they are zeros inside the attention and nowhere
    else, so that norms and feed-forward never compute padding.
    """

    order: Tensor  # int64 [N] raster number of each token in window order
    inverse: Tensor  # int64 [N] window-order number of each raster token
    filled: Tensor | None  # int64 [N] slot of each token, None where every slot has one
    mask: Tensor | None  # float32 [windows, n, n] added to the scores
    num_windows: int


@lru_cache(maxsize=256)
def window_layout(height: int, width: int, window: int, shift: int, mask_padding: bool, device: torch.device) -> Layout:
    """Layout of a `height` x `width` map, cut into windows after a cyclic shift up and left.

    Args:
        height, width: tokens of the map; padded at the bottom and right to multiples of the window.
        window: tokens along a window.
        shift: tokens of the cyclic shift, 0 for none.
        mask_padding: True hides padded positions from attention; False lets them answer as zero tokens, as published.
        device: where the tensors go.
    """
    with torch.inference_mode(False), torch.device("cpu"):
        tall, wide = -(-height // window) * window, -(-width // window) * window
        number = torch.full((tall, wide), -1)
        number[:height, :width] = torch.arange(height * width).reshape(height, width)
        slots = _windows(number.roll((-shift, -shift), (0, 1)), window)
        flat = slots.flatten()
        filled = (flat >= 0).nonzero().flatten()
        order = flat[filled]
        padded = len(order) < len(flat)
        mask = torch.zeros(())
        if shift:
            region = _windows(3 * _bands(tall, window, shift)[:, None] + _bands(wide, window, shift)[None], window)
            mask = mask + SHIFT_MASK * (region[:, :, None] != region[:, None, :])
        if padded and mask_padding:
            mask = mask + PAD_MASK * (slots < 0)[:, None, :].expand(-1, window * window, -1)
        return Layout(
            order=order.to(device),
            inverse=order.argsort().to(device),
            filled=filled.to(device) if padded else None,
            mask=mask.to(device) if mask.ndim else None,
            num_windows=len(slots),
        )


def reorder(x: Tensor, here: Layout | None, there: Layout | None) -> Tensor:
    """Rows `[B, N, D]` from one layout to another; None is raster order."""
    if here is there:
        return x
    if here is None:
        assert there is not None
        return _Permute.apply(x, there.order, there.inverse)
    if there is None:
        return _Permute.apply(x, here.inverse, here.order)
    return _Permute.apply(x, here.inverse[there.order], there.inverse[here.order])


class _Permute(torch.autograd.Function):
    """Row permutation whose backward is the inverse permutation (torch's own backward adds into zeros)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.inverse = inverse
        return x.index_select(1, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0].index_select(1, ctx.inverse), None, None


def _windows(table: Tensor, window: int) -> Tensor:
    return rearrange(table, "(a p) (b q) -> (a b) (p q)", p=window, q=window)


def _bands(length: int, window: int, shift: int) -> Tensor:
    """Stretch of the shifted axis that each position belongs to: whole windows, the last one's two parts."""
    at = torch.arange(length)
    return (at >= length - window).long() + (at >= length - shift).long()
