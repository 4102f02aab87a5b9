"""Feature maps of any encoder, at one depth or several, and of every date by itself."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor

from skyframe.calendar import DAY_UNKNOWN
from skyframe.randomness import Draw
from skyframe.sample import Batch, SeriesBatch
from skyframe.spec import InputError

Levels = Literal["last", "all"]


def feature_maps(
    encoder: Any, batch: Batch, levels: Levels = "last", source: str = "", drop: Draw | None = None
) -> list[Tensor]:
    """Maps of features over the square that a batch covers.

    An encoder may offer `maps(batch, source) -> [[B, D_l, h_l, w_l], ...]`, maps of several depths that cover the batch
    exactly and of which the last is the one to use alone; `source` names the modality whose spatial encoder gives the
    earlier ones, and may be ignored. Where it trains with drop path, it also takes `drop=`. Any other encoder has one
    map: `Features.fused`, one vector per position.

    Args:
        encoder: an `Encoder`, or the module inside one, which has gradients.
        batch: stored units.
        levels: the last map alone, or all that there are.
        source: see above.
        drop: stream for drop path, None in evaluation and for encoders without `maps`.

    Returns:
        `[B, D_l, h_l, w_l]` each; one for an encoder without `maps`.

    Raises:
        InputError: features that are not those of a square.
    """
    if callable(getattr(encoder, "maps", None)):
        found: list[Tensor] = encoder.maps(batch, source) if drop is None else encoder.maps(batch, source, drop=drop)
        return found if levels == "all" else found[-1:]
    fused: Tensor = encoder.encode(batch).fused
    side = math.isqrt(fused.shape[1])
    if side**2 != fused.shape[1]:
        raise InputError(
            f"dense features: {fused.shape[1]} positions, expected those of a square; crop squares, or repeat the "
            "encoder's tokens onto the positions"
        )
    return [rearrange(fused, "b (h w) d -> b d h w", h=side)]


def fold_dates(batch: Batch) -> tuple[Batch, Tensor]:
    """Every date as a sample of its own: `[B, T, ...]` to `[B T, 1, ...]`, sample by sample.

    A modality of one date stands beside every date of the others; one of fewer dates than the longest is invalid at
    those that it lacks. Targets are left out.

    Returns:
        The batch, and bool `[B, T]`, True where anything of a date is valid.
    """
    num = max(s.day.shape[1] for s in batch.series.values())
    series, flags = {}, torch.zeros(batch.size, num, dtype=torch.bool, device=batch.region.device)
    for name, s in batch.series.items():
        long = _longer(s, num)
        if s.day.shape[1] > 1 or num == 1:  # a map that holds for all dates makes none of them valid
            flags |= long.valid.flatten(2).any(-1)
        series[name] = SeriesBatch(
            long.values.flatten(0, 1)[:, None],
            long.valid.flatten(0, 1)[:, None],
            long.day.flatten()[:, None],
            s.bands.repeat_interleave(num, 0),
        )
    place, region, index, epoch = (
        x.repeat_interleave(num, 0) for x in (batch.place, batch.region, batch.index, batch.epoch)
    )
    folded = dataclasses.replace(
        batch, series=series, place=place, region=region, index=index, epoch=epoch, pixel=None, targets={}
    )
    return folded, flags


def _longer(series: SeriesBatch, num: int) -> SeriesBatch:
    held = series.day.shape[1]
    if held == 1:
        return SeriesBatch(
            series.values.expand(-1, num, -1, -1, -1),
            series.valid.expand(-1, num, -1, -1),
            series.day.expand(-1, num),
            series.bands,
        )

    def padded(x: Tensor, fill: float) -> Tensor:
        return torch.cat([x, x.new_full((x.shape[0], num - held, *x.shape[2:]), fill)], 1)

    return SeriesBatch(
        padded(series.values, 0), padded(series.valid, False), padded(series.day, DAY_UNKNOWN), series.bands
    )


def mean_of_dates(maps: list[Tensor], flags: Tensor) -> list[Tensor]:
    """Maps `[B T, D, h, w]` averaged over the dates flagged in bool `[B, T]`: `[B, D, h, w]`, zeros without any."""
    share = flags.float() / flags.float().sum(1, keepdim=True).clamp_min(1)
    return [torch.einsum("btdhw,bt->bdhw", rearrange(m, "(b t) d h w -> b t d h w", b=len(flags)), share) for m in maps]
