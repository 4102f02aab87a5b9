"""From stored pixels to network input: the normaliser, and which positions of the common grid hold anything valid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from skyframe.spec import InputError


def normalise(
    values: Tensor,
    valid: Tensor,
    bands: Tensor,
    mean: Sequence[float] | Tensor,
    std: Sequence[float] | Tensor,
    scale: float = 1.0,
    offset: float = 0.0,
) -> Tensor:
    """`((stored * scale + offset) - mean) / std`, and 0 (the mean) at invalid pixels and in absent bands.

    What is stored at an invalid pixel or in an absent band is never read, be it NaN.

    Args:
        values: `[B, T, C, H, W]` in the stored dtype.
        valid: bool `[B, T, H, W]`.
        bands: bool `[B, C]`, False for a band that the source does not carry.
        mean, std: C numbers each, in physical units.
        scale, offset: physical value = stored * scale + offset.

    Returns:
        float32 `[B, T, C, H, W]`.

    Raises:
        InputError: the number of bands differs from that of mean and std.
    """
    channels = values.shape[2]
    centre, spread = (torch.as_tensor(x, dtype=torch.float32, device=values.device) for x in (mean, std))
    if centre.shape != (channels,) or spread.shape != (channels,):
        raise InputError(
            f"normaliser: {channels} bands with {centre.numel()} means and {spread.numel()} standard deviations, "
            "expected one of each per band; correct mean and std in the spec"
        )
    centre, spread = (rearrange(x, "c -> c 1 1") for x in (centre, spread))
    normal = ((values.to(torch.float32) * scale + offset) - centre) / spread
    shown = rearrange(valid, "b t h w -> b t 1 h w") & rearrange(bands, "b c -> b 1 c 1 1")
    return torch.where(shown, normal, torch.zeros((), device=normal.device))


def position_valid(valid: Tensor, side: int, threshold: float = 0.0) -> Tensor:
    """Validity on the common position grid: a position counts where enough of its pixels are valid.

    Pixels missing to a whole cell at the bottom and right (a padded input) are left out of the count.

    Args:
        valid: bool `[B, T, H, W]`.
        side: positions s along a side; cells are ceil(H / s) pixels tall.
        threshold: least share of valid pixels, 0..1; at 0 one valid pixel suffices.

    Returns:
        bool `[B, T, s * s]`, row order.

    Raises:
        InputError: H x W pixels cannot be cut into s x s cells.
    """
    height, width = valid.shape[-2:]
    cell = (-(-height // side), -(-width // side))
    if (-(-height // cell[0]), -(-width // cell[1])) != (side, side):
        raise InputError(
            f"validity: {height} x {width} pixels cannot be cut into {side} x {side} equal cells; "
            "give a window with a whole number of pixels per position"
        )
    frames = rearrange(valid, "b t h w -> (b t) 1 h w").to(torch.float32)
    share = functional.avg_pool2d(frames, cell, ceil_mode=True, count_include_pad=False)
    enough = (share > 0) & (share >= threshold)
    return rearrange(enough, "(b t) 1 h w -> b t (h w)", b=valid.shape[0])
