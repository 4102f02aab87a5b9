"""Photometric changes of a view, on the device, by counter-based draws: gain, offset, blur and solarisation.

The result is still in stored units (as floating point), so the model's own normaliser stays the only one.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from skyframe.config.skysense import ViewsConfig
from skyframe.randomness import Draw
from skyframe.sample import Batch, SeriesBatch
from skyframe.spec import Modality


def photometric(batch: Batch, modalities: dict[str, Modality], views: ViewsConfig, draw: Draw) -> Batch:
    """Change every modality of a view; geometry, dates and validity stay.

    Args:
        batch: one view, values in stored units.
        modalities: canonical modalities, for the spread of each band.
        views: strengths and probabilities.
        draw: stream of this view, keyed by sample.
    """
    series = {name: _change(name, s, modalities[name], views, draw.named(name)) for name, s in batch.series.items()}
    return dataclasses.replace(batch, series=series)


def _change(name: str, series: SeriesBatch, modality: Modality, views: ViewsConfig, draw: Draw) -> SeriesBatch:
    b, t, c = series.values.shape[:3]
    numbers = draw.named("gain").uniform(2 * t * c).reshape(b, 2, t, c, 1, 1) * 2 - 1
    std = torch.tensor(modality.std, device=series.values.device).reshape(c, 1, 1) / modality.scale
    values = series.values.float()
    if modality.units != "dB":  # decibels are logarithmic: a gain of the power is an offset, which follows
        values = values * (1 + views.gain * numbers[:, 0])
    values = values + views.offset * std * numbers[:, 1]
    if name == "hr":
        values = _blur_and_solarize(values, series.valid, modality, views, draw)
    return dataclasses.replace(series, values=values)


def _blur_and_solarize(values: Tensor, valid: Tensor, modality: Modality, views: ViewsConfig, draw: Draw) -> Tensor:
    b, _, _, h, w = values.shape
    chance = draw.named("image").uniform(2).reshape(b, 2, 1, 1, 1, 1)
    if views.blur > 0 and h >= 3 and w >= 3:
        values = torch.where(chance[:, 0] < views.blur, _soft(values, valid[:, :, None]), values)
    white = (1.0 - modality.offset) / modality.scale
    return torch.where((chance[:, 1] < views.solarize) & (values > white / 2), white - values, values)


def _soft(values: Tensor, valid: Tensor) -> Tensor:
    """Means of the valid pixels among 3 x 3, weighted 1 2 1 along each axis; invalid pixels stay as they are.

    Args:
        values: `[B, T, C, H, W]` floating.
        valid: bool `[B, T, 1, H, W]`; what the store holds where it is False must not reach a neighbour.
    """
    line = torch.tensor([0.25, 0.5, 0.25], device=values.device)

    def spread(x: Tensor) -> Tensor:
        flat = F.pad(x.flatten(0, 1), (1, 1, 1, 1), mode="replicate")
        kernel = (line[:, None] * line[None]).expand(x.shape[2], 1, 3, 3)
        return F.conv2d(flat, kernel, groups=x.shape[2]).reshape(x.shape)

    weight = spread(valid.to(values.dtype))  # 1 where every neighbour is valid, at least 1/4 where the pixel itself is
    return torch.where(valid, spread(values.where(valid, 0)) / weight, values)
