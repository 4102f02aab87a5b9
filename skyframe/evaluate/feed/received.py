"""What a network really received: statistics of its normalised input, and what looks wrong in them.

A normaliser that is not in use, units off by a factor, or bands in another order do not stop an encoder; they only make
its score meaningless. They show in the numbers after the normaliser, which should have mean 0 and deviation 1 or so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from skyframe.config.contract import Contract
from skyframe.sample import Batch, SeriesBatch
from skyframe.spec import Modality

MAX_MEAN, SPREAD = 4.0, (0.05, 8.0)
"""Of a band after the normaliser: another place or season shifts it by one or two, a wrong unit by five or more."""
MAX_MIDDLE = 2.0
"""Of the median band's absolute mean: all bands off in one way is an offset or a scale."""
ROWS = 4096
"""Pixels looked at per batch and modality: enough for two digits, and a pass over them costs nothing."""


class Received:
    """Running sums over batches, per modality and band."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.sums: dict[str, Tensor] = {}

    def add(self, batch: Batch) -> None:
        """Look at a batch in stored units."""
        for name, modality in self.contract.modalities.items():
            if name in batch.series and modality.mean:
                found = _sums(batch.series[name], modality)
                self.sums[name] = self.sums[name] + found if name in self.sums else found

    def statistics(self) -> dict[str, list[list[float]]]:
        """By modality a row per band: mean, standard deviation, share of pixels that were valid; NaN without any."""
        made = {}
        for name, (count, total, square, seen) in self.sums.items():
            mean = total / count
            std = (square / count - mean.square()).clamp_min(0).sqrt()
            made[name] = torch.stack([mean, std, count / seen.clamp_min(1)], 1).tolist()
        return made


def _sums(series: SeriesBatch, modality: Modality) -> Tensor:
    """`[4, C]` float64: valid pixels, their sum and sum of squares after the normaliser, and pixels looked at."""
    b, t, c, height, width = series.values.shape
    step = max(1, b * t * height * width // ROWS) | 1  # odd, so that it does not run along columns
    values = series.values.reshape(b, t, c, -1)[..., ::step].double()
    valid = series.valid.reshape(b, t, 1, -1)[..., ::step]
    bands = series.bands[:, None, :, None].expand_as(values)
    mean, std = (
        torch.tensor(x, dtype=torch.float64, device=values.device)[:, None] for x in (modality.mean, modality.std)
    )
    shown = valid & bands
    normal = torch.where(shown, (values * modality.scale + modality.offset - mean) / std, 0.0)
    sums = (shown.double(), normal, normal.square(), bands.double())
    return torch.stack([x.sum((0, 1, 3)) for x in sums]).cpu()


def suspicions(received: Mapping[str, Sequence[Sequence[float]]], contract: Contract) -> list[str]:
    """What looks wrong, one sentence per modality; nothing where all is plausible."""
    found = []
    for name, rows in received.items():
        bands = contract.modalities[name].band_names
        seen = [(b, m, s) for b, (m, s, _) in zip(bands, rows, strict=True) if m == m]
        if not seen:
            continue
        middle = sorted(abs(m) for _, m, _ in seen)[len(seen) // 2]
        worst = max(seen, key=lambda x: max(abs(x[1]) / MAX_MEAN, x[2] / SPREAD[1], SPREAD[0] / max(x[2], 1e-9)))
        band, mean, std = worst
        if abs(mean) > MAX_MEAN or not SPREAD[0] <= std <= SPREAD[1] or middle > MAX_MIDDLE:
            found.append(
                f"the network received {name} {band} with mean {mean:.2f} and standard deviation {std:.2f} after the "
                f"normaliser (median |mean| of {len(seen)} bands {middle:.2f}), expected about 0 and 1; check units, "
                "scale, offset and the order of the bands"
            )
    return found


def empty(received: Mapping[str, Sequence[Sequence[float]]]) -> bool:
    """Whether not one pixel of any modality was valid."""
    return bool(received) and all(mean != mean for rows in received.values() for mean, _, _ in rows)
