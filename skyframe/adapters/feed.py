"""Tensors of another harness as a batch of an exported encoder's contract, and its tokens as a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from skyframe.calendar import DAY_UNKNOWN
from skyframe.config.contract import Contract
from skyframe.evaluate.feed.fit import SAME, side_px
from skyframe.export.folder import Exported
from skyframe.model.factorised import FactorisedEncoder, SpatialEncoder
from skyframe.sample import Batch, Features, SeriesBatch
from skyframe.spec import InputError

Given = Literal["z-score", "physical"]
"""What the numbers are: standardised over the harness's data set, or in the contract's units."""


def load_encoder(folder: str | Path) -> Exported:
    """An exported folder that has features of its own; weights, checksum and canary are checked."""
    from skyframe.export.folder import load_module

    exported = load_module(folder)
    if not isinstance(exported.module, FactorisedEncoder | SpatialEncoder):
        raise InputError(f"{folder}: {exported.contract.module} has no features, expected model or encoder_<modality>")
    return exported


def batch_of(
    contract: Contract, images: Mapping[str, Tensor], bands: Mapping[str, Sequence[str]], given: Given
) -> Batch:
    """A batch in stored units; bands that the harness lacks are absent, the last positions padded as invalid.

    Args:
        contract: of the encoder.
        images: float `[B, C, T, H, W]` or `[B, C, H, W]` by modality of the contract.
        bands: names of the C bands of each, in the contract's words or a colour.
        given: `z-score` maps standardised numbers onto the contract's mean and standard deviation.

    Raises:
        InputError: a modality that the contract lacks, or no band in common.
    """
    series = {}
    for name, image in images.items():
        if name not in contract.modalities:
            raise InputError(f"{contract.module}: takes {', '.join(contract.modalities)}, got {name}")
        want, names = contract.modalities[name], list(bands[name])
        places = {b: k for k, b in enumerate(names)}
        found = [places.get(b, places.get(SAME.get(b, ""), -1)) for b in want.band_names]
        if max(found) < 0 or len(names) != image.shape[1]:
            raise InputError(
                f"{contract.module}: {name} with {image.shape[1]} bands {', '.join(names)}, expected some of "
                f"{', '.join(want.band_names)}"
            )
        stack = rearrange(image if image.ndim == 5 else image[:, :, None], "b c t h w -> b t c h w").float()
        mean, std = (torch.tensor(x, device=stack.device).reshape(-1, 1, 1) for x in (want.mean, want.std))
        physical = stack[:, :, [max(k, 0) for k in found]]
        if given == "z-score":
            physical = physical * std + mean
        present = torch.tensor([k >= 0 for k in found], device=stack.device)
        stored = torch.where(present[:, None, None], (physical - want.offset) / want.scale, 0.0)
        k = side_px(want)
        missing = (0, -stack.shape[-1] % k, 0, -stack.shape[-2] % k)
        valid = torch.ones(len(stack), stack.shape[1], *stack.shape[-2:], dtype=torch.bool, device=stack.device)
        day = torch.full(stack.shape[:2], DAY_UNKNOWN, dtype=torch.int32, device=stack.device)
        series[name] = SeriesBatch(
            functional.pad(stored, missing), functional.pad(valid, missing), day, present.expand(len(stack), -1)
        )
    size, device = len(stack), stack.device
    none = torch.zeros(size, dtype=torch.int64, device=device)
    place = torch.full((size, 2), float("nan"), dtype=torch.float64, device=device)
    return Batch(series, place, none - 1, none, none)


def features_of(exported: Exported, batch: Batch) -> Features:
    """Features with gradients where they are wanted; modalities that the harness lacks count as invalid."""
    assert isinstance(exported.module, FactorisedEncoder | SpatialEncoder)
    some, modality = next((s, exported.contract.modalities[n]) for n, s in batch.series.items())
    side = some.values.shape[-1] // side_px(modality)
    series = dict(batch.series)
    for name, m in exported.contract.modalities.items():
        if name not in series and m.kind in ("image", "series"):
            k, bands = side * side_px(m), len(m.bands)
            flags = torch.zeros(batch.size, 1, k, k, dtype=torch.bool, device=some.values.device)
            series[name] = SeriesBatch(
                some.values.new_zeros(batch.size, 1, bands, k, k),
                flags,
                torch.full((batch.size, 1), DAY_UNKNOWN, dtype=torch.int32, device=some.values.device),
                torch.zeros(batch.size, bands, dtype=torch.bool, device=some.values.device),
            )
    found: Features = exported.module.encode(Batch(series, batch.place, batch.region, batch.index, batch.epoch))
    return found


def token_map(features: Features) -> Tensor:
    """Tokens of a square of positions `[B, D, s, s]`."""
    side = round(features.fused.shape[1] ** 0.5)
    return rearrange(features.fused, "b (h w) d -> b d h w", h=side)


def padded(band: str) -> str:
    """B2 as B02; other names as they are."""
    return f"B0{band[1]}" if len(band) == 2 and band[0] == "B" and band[1].isdigit() else band
