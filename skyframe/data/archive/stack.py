"""Foreign arrays that together are one `[T, C, H, W]`: those of a Zarr store, or files of dates and bands."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skyframe.data.archive.geotiff import Frame, TiffArray
from skyframe.data.archive.pool import OpenedPool
from skyframe.data.archive.tiled import Picks, Run, Spans, Target, Tiled, gather, picks, runs, spans, touched
from skyframe.data.archive.zarr_array import ZarrArray
from skyframe.data.store import Store
from skyframe.spec import InputError

Area = tuple[tuple[int, int], tuple[int, int]]
"""First and past-the-last row, then column, rows counted from the north and columns from the west."""


class Stack(Protocol):
    """One or many foreign arrays as one."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Dates, bands, rows and columns."""

    @property
    def chunk(self) -> tuple[int, int, int, int]:
        """Along the same axes, of its first array."""

    @property
    def dtype(self) -> str:
        """Name of its number type."""

    def read(self, dates: Sequence[int], area: Area, target: Target) -> None:
        """Fill `target.out` `[len(dates), C, h, w]`.

        Raises:
            InputError: a chunk is damaged, or a file contradicts the others.
        """

    def touched(self, dates: Sequence[int], area: Area) -> Iterator[tuple[Tiled, tuple[int, ...]]]:
        """The chunks that `read` would ask for, each with its array."""

    def opening(self, dates: Sequence[int]) -> list[Callable[[], object]]:
        """Calls that open what `touched` needs to have open: over a network they are made side by side."""


@dataclass(frozen=True)
class Part:
    """An array of a store: which of its elements along the band axis are which bands of the stack (-1: none)."""

    array: ZarrArray
    bands: tuple[int, ...]


@dataclass(frozen=True)
class ZarrStack:
    """Arrays of one Zarr store, each with all dates or with none.

    `order` is the place in the store of each date; `flips` says of rows and of columns that the store holds them the
    other way round.
    """

    parts: tuple[Part, ...]
    shape: tuple[int, int, int, int]
    order: NDArray[np.intp] = field(compare=False)
    flips: tuple[bool, bool]

    @property
    def dtype(self) -> str:
        """See `Stack`."""
        return self.parts[0].array.numpy_dtype.name

    @property
    def chunk(self) -> tuple[int, int, int, int]:
        """See `Stack`."""
        array = self.parts[0].array
        sizes = dict(zip(array.roles, array.chunk, strict=True))
        return sizes.get("time", 1), sizes.get("band", 1), sizes["y"], sizes["x"]

    def read(self, dates: Sequence[int], area: Area, target: Target) -> None:
        """See `Stack`."""
        out = target.out[:, :, :: -1 if self.flips[0] else 1, :: -1 if self.flips[1] else 1]
        stored, box = self.order[np.asarray(dates)].tolist(), self._stored(area)
        before = len(target.missing)
        for part in self.parts:
            gather(part.array, *_wanted(part, stored, box), replace(target, out=out))
        if any(self.flips):
            self._turn(target, before)

    def touched(self, dates: Sequence[int], area: Area) -> Iterator[tuple[Tiled, tuple[int, ...]]]:
        """See `Stack`."""
        stored, box = self.order[np.asarray(dates)].tolist(), self._stored(area)
        for part in self.parts:
            for number in touched(part.array, *_wanted(part, stored, box)):
                yield part.array, number

    def opening(self, dates: Sequence[int]) -> list[Callable[[], object]]:
        """See `Stack`."""
        return []

    def _stored(self, area: Area) -> Area:
        """The same area in the store's own count of rows and columns."""
        (top, bottom), (left, right) = area
        height, width = self.shape[2:]
        if self.flips[0]:
            top, bottom = height - bottom, height - top
        if self.flips[1]:
            left, right = width - right, width - left
        return (top, bottom), (left, right)

    def _turn(self, target: Target, first: int) -> None:
        """Say what is missing in the output's own count of rows and columns."""
        height, width = target.out.shape[2:]
        for at in range(first, len(target.missing)):
            dates, band, y, x = target.missing[at]
            y = slice(height - y.stop, height - y.start) if self.flips[0] else y
            x = slice(width - x.stop, width - x.start) if self.flips[1] else x
            target.missing[at] = dates, band, y, x


def _wanted(part: Part, dates: Sequence[int], area: Area) -> tuple[Picks, Picks, Spans, Spans]:
    """Dates, bands, rows and columns by chunk of a part; all places of an axis that it has not are its one element."""
    sizes = dict(zip(part.array.roles, part.array.chunk, strict=True))
    times: Picks = picks(dates, sizes["time"]) if "time" in sizes else [(0, runs([(t, 0) for t in range(len(dates))]))]
    return (
        times,
        picks(part.bands, sizes.get("band", 1)),
        spans(*area[0], sizes["y"]),
        spans(*area[1], sizes["x"]),
    )


@dataclass(frozen=True)
class SceneFile:
    """A file that holds one date of some bands: their places in the file, -1 for a band that it has not."""

    key: str
    bands: tuple[int, ...]


@dataclass(frozen=True)
class SceneStack:
    """Files of dates and bands on one grid; a date may lack files, whose bands are then missing."""

    store: Store
    files: tuple[tuple[SceneFile, ...], ...]
    shape: tuple[int, int, int, int]
    frame: Frame
    dtype: str
    chunk: tuple[int, int, int, int]
    pool: OpenedPool = field(compare=False, repr=False)

    def read(self, dates: Sequence[int], area: Area, target: Target) -> None:
        """See `Stack`."""
        for date, rows in _rows_by_date(dates).items():
            lacking = np.ones(self.shape[1], bool)
            for file in self.files[date]:
                array = self.array(file)
                gather(array, [(0, rows)], *_sides(array, file, area), target)
                lacking &= np.array(file.bands) < 0
            for (held, _), band in itertools.product(rows, np.flatnonzero(lacking).tolist()):
                target.out[held, band] = 0
                target.missing.append((held, slice(band, band + 1), slice(None), slice(None)))

    def touched(self, dates: Sequence[int], area: Area) -> Iterator[tuple[Tiled, tuple[int, ...]]]:
        """See `Stack`."""
        for date, rows in _rows_by_date(dates).items():
            for file in self.files[date]:
                array = self.array(file)
                for number in touched(array, [(0, rows)], *_sides(array, file, area)):
                    yield array, number

    def opening(self, dates: Sequence[int]) -> list[Callable[[], object]]:
        """See `Stack`."""
        return [partial(self.array, file) for date in set(dates) for file in self.files[date]]

    def array(self, file: SceneFile) -> TiffArray:
        """An opened file.

        Raises:
            InputError: it lies on another grid than the others, or holds another number type.
        """
        array = TiffArray(self.store, file.key, self.pool)
        header = array.header
        if header.frame != self.frame or np.dtype(header.dtype).name != self.dtype:
            raise unlike(file.key, self.store, header.frame, self.frame, np.dtype(header.dtype).name, self.dtype)
        return array


def _rows_by_date(dates: Sequence[int]) -> dict[int, Sequence[Run]]:
    """Places in the output of each date; a file holds one."""
    return dict(picks(dates, 1))


def _sides(array: TiffArray, file: SceneFile, area: Area) -> tuple[Picks, Spans, Spans]:
    """Bands, rows and columns of a file by tile."""
    chunk = array.chunk
    return picks(file.bands, chunk[2] if len(chunk) > 2 else 1), spans(*area[0], chunk[0]), spans(*area[1], chunk[1])


def unlike(key: str, store: Store, got: Frame, frame: Frame, dtype: str, expected: str) -> InputError:
    """The error for a file that does not fit the others."""
    return InputError(
        f"{key} in {store.url}: is {dtype} {list(got.shape)} in {got.crs} at {got.transform}, expected the grid of the "
        f"other scenes, {expected} {list(frame.shape)} in {frame.crs} at {frame.transform}; list one grid per archive, "
        "or ingest the scenes into a cube"
    )
