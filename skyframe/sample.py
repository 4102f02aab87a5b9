"""What flows from reader to model: `Series`, `Sample` (NumPy, one place), `Batch` (torch, leading B), and `collate`.

A modality that a place lacks is an absent key of `Sample.series`, never zeros; `collate` alone writes the all-invalid
stand-in, so that every rank runs every trainable module in every step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skyframe.calendar import DAY_UNKNOWN


@dataclass
class Series:
    """One modality of one place, still in the stored dtype.

    Weather is `[days, V, 1, 1]`; an image or a static layer has T = 1.
    """

    values: NDArray[np.generic]  # [T, C, H, W] stored units (see Modality.scale/offset)
    valid: NDArray[np.bool_]  # [T, H, W] True where observed and clear
    day: NDArray[np.int32]  # [T] days since 2000-01-01, DAY_UNKNOWN where not known
    bands: NDArray[np.bool_]  # [C] False for a band that this source does not carry (its values are not data)


@dataclass
class Sample:
    """One place: its series by modality name, where it is, and what was drawn for it."""

    series: dict[str, Series]
    place: NDArray[np.float64]  # [2] latitude, longitude in degrees
    region: int  # prototype region, -1 = unseen
    platform: str = "satellite"
    targets: dict[str, NDArray[np.generic]] = field(default_factory=dict)  # label name -> [H, W] or scalar
    pixel: NDArray[np.int64] | None = None  # [N] canonical pixel id of each Sentinel-grid position, row order
    index: int = 0  # global sample index
    epoch: int = 0
    damage: str = ""  # why it stands in for another sample, empty where it does not


@dataclass
class SeriesBatch:
    """`Series` with a leading B; T is padded with invalid frames."""

    values: Tensor  # [B, T, C, H, W] stored dtype; torch has few kernels for uint16: see `widened`
    valid: Tensor  # bool [B, T, H, W]
    day: Tensor  # int32 [B, T]
    bands: Tensor  # bool [B, C]


def widened(values: Tensor) -> Tensor:
    """uint16 as int32, which holds every value and has every kernel; other dtypes as they are."""
    return values.to(torch.int32) if values.dtype == torch.uint16 else values


@dataclass
class Batch:
    """Samples side by side. A plain dataclass: Lightning and DeepSpeed rebuild it when moving it; we never mutate."""

    series: dict[str, SeriesBatch]
    place: Tensor  # float64 [B, 2] latitude, longitude in degrees
    region: Tensor  # int64 [B], -1 = unseen
    index: Tensor  # int64 [B] global sample index
    epoch: Tensor  # int64 [B]
    pixel: Tensor | None = None  # int64 [B, N] canonical pixel id per position
    targets: dict[str, Tensor] = field(default_factory=dict)
    damage: list[str] = field(default_factory=list)  # a sentence per sample that stands in for a damaged one

    def pin_memory(self) -> Batch:
        """The same in page-locked memory, from which a GPU copies while it computes; called by PyTorch's loader."""
        return pinned(self)

    @property
    def size(self) -> int:
        """Number of samples B."""
        return int(self.region.shape[0])


@dataclass(frozen=True)
class Layout:
    """Shape of one modality in a batch, for the stand-in of a sample that lacks it."""

    num_dates: int
    num_bands: int
    side_px: int
    dtype: str


@dataclass
class Tokens:
    """Tokens of one modality on the common position grid, N = h * w in row order."""

    values: Tensor  # [B, T, N, D]
    valid: Tensor  # bool [B, T, N]
    day: Tensor  # int32 [B, T]


@dataclass
class Features:
    """What evaluation and export see."""

    fused: Tensor  # [B, N, D] per position
    pooled: Tensor  # [B, D] mean over positions where anything was valid
    tokens: dict[str, Tokens] = field(default_factory=dict)
    context_dims: int = 0  # the last of D that are region context; 0 = the encoder has none


def collate(samples: Sequence[Sample], layouts: Mapping[str, Layout]) -> Batch:
    """Join samples: every modality named in `layouts` is present in the result, absent ones all-invalid.

    Args:
        samples: B samples whose crops have equal size per modality.
        layouts: what the recipe names, with the number of dates to which T is padded.

    Raises:
        ValueError: a series has more dates than its layout, or another shape.
    """
    series = {name: _join(name, [s.series.get(name) for s in samples], layout) for name, layout in layouts.items()}
    pixels = [s.pixel for s in samples]
    shared = set(samples[0].targets).intersection(*(s.targets for s in samples[1:])) if samples else set()
    return Batch(
        series=series,
        place=torch.from_numpy(np.stack([s.place for s in samples])),
        region=torch.tensor([s.region for s in samples], dtype=torch.int64),
        index=torch.tensor([s.index for s in samples], dtype=torch.int64),
        epoch=torch.tensor([s.epoch for s in samples], dtype=torch.int64),
        pixel=None
        if any(p is None for p in pixels)
        else torch.from_numpy(np.stack([p for p in pixels if p is not None])),
        targets={k: torch.from_numpy(np.stack([np.asarray(s.targets[k]) for s in samples])) for k in sorted(shared)},
        damage=[s.damage for s in samples if s.damage],
    )


def pinned(value: Any) -> Any:
    """Tensors inside nested dataclasses and dicts in page-locked memory; all else as it is."""
    if isinstance(value, Tensor):
        return value.pin_memory()
    if isinstance(value, dict):
        return {key: pinned(entry) for key, entry in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{f.name: pinned(getattr(value, f.name)) for f in dataclasses.fields(value)})
    return value


def _join(name: str, rows: Sequence[Series | None], layout: Layout) -> SeriesBatch:
    """One modality of B samples, each copied once to its place; None = a sample that lacks it."""
    size, t, side = len(rows), layout.num_dates, layout.side_px
    values = np.empty((size, t, layout.num_bands, side, side), layout.dtype)
    valid = np.empty((size, t, side, side), bool)
    day = np.full((size, t), DAY_UNKNOWN, np.int32)
    bands = np.zeros((size, layout.num_bands), bool)
    for i, row in enumerate(rows):
        held = 0
        if row is not None:
            held = len(row.day)
            if held > t or row.values.shape[1:] != values.shape[2:]:
                raise ValueError(
                    f"{name}: a series of shape {list(row.values.shape)}, expected at most {t} dates of "
                    f"{list(values.shape[2:])}; choose dates and cut crops before joining"
                )
            values[i, :held], valid[i, :held], day[i, :held], bands[i] = row.values, row.valid, row.day, row.bands
        values[i, held:], valid[i, held:] = 0, False
    return SeriesBatch(*(torch.from_numpy(array) for array in (values, valid, day, bands)))
