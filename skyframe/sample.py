"""What flows from reader to model: `Series`, `Sample` (NumPy, one place), `Batch` (torch, leading B), and `collate`.

A modality that a place lacks is an absent key of `Sample.series`, never zeros; `collate` alone writes the all-invalid
stand-in, so that every rank runs every trainable module in every step.
"""

from __future__ import annotations

import dataclasses
import math
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


class BatchBuffers:
    """Memory of a batch that is being put together, so that a reader can decode straight into a sample's place.

    Every modality named in `layouts` is present in the result; where a sample lacks it, it is all-invalid.
    """

    def __init__(self, size: int, layouts: Mapping[str, Layout], memory: Any = None) -> None:
        """Nothing is written yet.

        Args:
            size: number of samples B.
            layouts: what the recipe names, with the number of dates to which T is padded.
            memory: `batch_bytes(size, layouts)` writable bytes to lay the batch in (default: fresh ones); the batch
                keeps a reference to it.
        """
        self.size, self.layouts = size, layouts
        self.damage: list[str] = []  # of the samples put that stand in for damaged ones
        if memory is None:
            memory = np.empty(batch_bytes(size, layouts), np.uint8)
        parts = [np.frombuffer(memory, d, math.prod(s), at).reshape(s) for at, s, d in _places(size, layouts)]
        self.place, self.region, self.index, self.epoch = parts[:4]
        self.series = {name: tuple(parts[4 + 4 * k : 8 + 4 * k]) for k, name in enumerate(layouts)}

    def room(self, i: int, name: str, num_dates: int) -> tuple[NDArray[np.generic], NDArray[np.bool_]] | None:
        """Where values `[num_dates, C, H, W]` and valid `[num_dates, H, W]` of sample `i` belong, None without room."""
        if num_dates > self.layouts[name].num_dates:
            return None
        values, valid, _, _ = self.series[name]
        return values[i, :num_dates], valid[i, :num_dates]

    def put(self, i: int, sample: Sample) -> None:
        """Write sample `i`; what was read into its `room` already is left as it lies there.

        Raises:
            ValueError: a series has more dates than its layout, or another shape.
        """
        self.place[i], self.region[i], self.index[i], self.epoch[i] = (
            sample.place,
            sample.region,
            sample.index,
            sample.epoch,
        )
        if sample.damage:
            self.damage.append(sample.damage)
        for name, layout in self.layouts.items():
            values, valid, day, bands = (array[i] for array in self.series[name])
            row, held = sample.series.get(name), 0
            if row is not None:
                held = len(row.day)
                if held > layout.num_dates or row.values.shape[1:] != values.shape[1:]:
                    raise ValueError(
                        f"{name}: a series of shape {list(row.values.shape)}, expected at most {layout.num_dates} "
                        f"dates of {list(values.shape[1:])}; choose dates and cut crops before joining"
                    )
                if not np.may_share_memory(row.values, values):
                    values[:held] = row.values
                if not np.may_share_memory(row.valid, valid):
                    valid[:held] = row.valid
                day[:held], bands[:] = row.day, row.bands
            else:
                bands[:] = False
            values[held:], valid[held:], day[held:] = 0, False, DAY_UNKNOWN

    def batch(self) -> Batch:
        """What was put, as tensors over the same memory."""
        series = {name: SeriesBatch(*map(torch.from_numpy, arrays)) for name, arrays in self.series.items()}
        place, region, index, epoch = map(torch.from_numpy, (self.place, self.region, self.index, self.epoch))
        return Batch(series, place, region, index, epoch, damage=self.damage)


def batch_bytes(size: int, layouts: Mapping[str, Layout]) -> int:
    """Bytes of a batch of `size` samples."""
    return max((at + math.prod(s) * np.dtype(d).itemsize for at, s, d in _places(size, layouts)), default=0)


def _places(size: int, layouts: Mapping[str, Layout]) -> list[tuple[int, tuple[int, ...], str]]:
    """First byte, shape and dtype of each array of a batch; on cache lines of their own."""
    arrays: list[tuple[tuple[int, ...], str]] = [((size, 2), "f8"), *[((size,), "i8")] * 3]
    for layout in layouts.values():
        t, c, side = layout.num_dates, layout.num_bands, layout.side_px
        arrays += [((size, t, c, side, side), layout.dtype), ((size, t, side, side), "?")]
        arrays += [((size, t), "i4"), ((size, c), "?")]
    made, at = [], 0
    for shape, dtype in arrays:
        made.append((at, shape, dtype))
        at += -(-math.prod(shape) * np.dtype(dtype).itemsize // 64) * 64
    return made


def collate(samples: Sequence[Sample], layouts: Mapping[str, Layout]) -> Batch:
    """Join samples: every modality named in `layouts` is present in the result, absent ones all-invalid.

    Args:
        samples: B samples whose crops have equal size per modality.
        layouts: what the recipe names, with the number of dates to which T is padded.

    Raises:
        ValueError: a series has more dates than its layout, or another shape.
    """
    buffers = BatchBuffers(len(samples), layouts)
    for i, sample in enumerate(samples):
        buffers.put(i, sample)
    pixels = [s.pixel for s in samples]
    shared = set(samples[0].targets).intersection(*(s.targets for s in samples[1:])) if samples else set()
    return dataclasses.replace(
        buffers.batch(),
        pixel=None
        if any(p is None for p in pixels)
        else torch.from_numpy(np.stack([p for p in pixels if p is not None])),
        targets={k: torch.from_numpy(np.stack([np.asarray(s.targets[k]) for s in samples])) for k in sorted(shared)},
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
