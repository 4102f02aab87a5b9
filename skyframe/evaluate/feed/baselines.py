"""Baselines that every task row stands beside: pixel statistics and the majority class."""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange, reduce
from torch import Tensor

from skyframe.calendar import date_rows
from skyframe.config.contract import Contract
from skyframe.sample import Batch, Features, SeriesBatch
from skyframe.spec import Modality

BINS = 6
"""Bins of about two months over the year."""


class RawPixels:
    """Statistics of exactly what an encoder is fed, per position and without learning.

    Per band of every modality that the batch holds: mean and standard deviation over the valid observations of the
    position and, for series, the mean in six two-month bins, an empty bin taking the position's mean. Values are
    normalised by the contract; what was never observed is 0, the mean.
    """

    def __init__(self, contract: Contract) -> None:
        self.contract = contract

    def encode(self, batch: Batch) -> Features:
        """Features `[B, N, D]`, D = sum over modalities of bands x 2, or x 8 for series."""
        sides = [
            _side(m, batch.series[n])
            for n, m in self.contract.modalities.items()
            if n in batch.series and m.kind != "weather"
        ]
        side = max(sides)
        parts, seen = [], []
        for name, modality in self.contract.modalities.items():
            if name in batch.series:
                found, valid = _features(modality, batch.series[name], side)
                parts.append(found)
                seen.append(valid)
        fused = torch.cat(parts, -1)
        anything = torch.stack(seen).any(0)
        share = torch.where(anything.any(1, keepdim=True), anything, torch.ones_like(anything)).float()
        pooled = torch.einsum("bnd,bn->bd", fused, share) / share.sum(1, keepdim=True)
        return Features(fused, pooled)


def _features(modality: Modality, series: SeriesBatch, side: int) -> tuple[Tensor, Tensor]:
    """Statistics `[B, N, D]` of one modality and where anything of it was seen, bool `[B, N]`."""
    is_series, shape = modality.kind == "series", (len(series.day), side**2)
    if not series.valid.any():  # a stand-in: zeros without a pass over its pixels
        width = len(modality.bands) * (2 + BINS if is_series else 2)
        return torch.zeros(*shape, width, device=series.day.device), torch.zeros(
            shape, dtype=torch.bool, device=series.day.device
        )
    values, valid = _per_position(modality, series, side)
    return _statistics(values, valid, series.day, is_series), reduce(valid, "b t n k c -> b n", "max")


def _side(modality: Modality, series: SeriesBatch) -> int:
    """Positions of 10 m along a side, at least one."""
    return max(1, round(series.values.shape[-1] * modality.gsd_m / 10.0))


def _per_position(modality: Modality, series: SeriesBatch, side: int) -> tuple[Tensor, Tensor]:
    """Normalised values and validity `[B, T, N, k, C]` with k pixels per position; coarser layers are repeated."""
    mean = torch.tensor(modality.mean or (0.0,) * len(modality.bands), dtype=torch.float32)
    std = torch.tensor(modality.std or (1.0,) * len(modality.bands), dtype=torch.float32)
    physical = rearrange(series.values.float(), "b t c h w -> b t h w c") * modality.scale + modality.offset
    valid = rearrange(series.valid, "b t h w -> b t h w 1") & rearrange(series.bands, "b c -> b 1 1 1 c")
    values = torch.where(valid, (physical - mean) / std, torch.zeros_like(physical))
    pixels = values.shape[2]
    if pixels < side:  # weather, or a sensor coarser than the position grid
        index = torch.arange(side) * pixels // side
        values, valid = values[:, :, index][:, :, :, index], valid[:, :, index][:, :, :, index]
    pattern = "b t (i k) (j l) c -> b t (i j) (k l) c"
    return rearrange(values, pattern, i=side, j=side), rearrange(valid, pattern, i=side, j=side)


def _statistics(values: Tensor, valid: Tensor, day: Tensor, is_series: bool) -> Tensor:
    """`[B, N, C * 2]`, or `[B, N, C * 8]` with the bins."""
    weight = valid.float()
    count = reduce(weight, "b t n k c -> b n c", "sum")
    mean = reduce(values, "b t n k c -> b n c", "sum") / count.clamp_min(1)
    square = reduce(values.square(), "b t n k c -> b n c", "sum") / count.clamp_min(1)
    found = [mean, (square - mean.square()).clamp_min(0).sqrt()]
    if is_series:
        month = torch.from_numpy(date_rows(day.cpu().numpy().astype(np.int32)) * BINS // 366).to(day.device)
        for number in range(BINS):  # an unknown day falls into no bin
            inside = (month == number).float()
            num = torch.einsum("btnkc,bt->bnc", weight, inside)
            total = torch.einsum("btnkc,bt->bnc", values, inside)
            found.append(torch.where(num > 0, total / num.clamp_min(1), mean))
    return torch.cat(found, -1)
