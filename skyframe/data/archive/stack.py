"""Foreign arrays that together are one `[T, C, H, W]`: those of a Zarr store, or files of dates and bands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from skyframe.data.archive.geotiff import Frame, TiffArray
from skyframe.data.archive.pool import OpenedPool
from skyframe.data.archive.tiled import Target, chunks_touched, gather, picks, spans
from skyframe.data.archive.zarr_array import ZarrArray
from skyframe.data.store import Store
from skyframe.spec import InputError

Area = tuple[tuple[int, int], tuple[int, int]]
"""First and past-the-last row, then column, rows counted from the north and columns from the west."""


@dataclass(frozen=True)
class Cost:
    """What a read touches."""

    chunks: int
    files: int
    decoded_bytes: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.chunks + other.chunks, self.files + other.files, self.decoded_bytes + other.decoded_bytes
        )


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

    def cost(self, dates: Sequence[int], area: Area) -> Cost:
        """What `read` would touch."""


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
            gather(part.array, *_wanted(part, stored, box), Target(out, target.missing))
        if any(self.flips):
            self._turn(target, before)

    def cost(self, dates: Sequence[int], area: Area) -> Cost:
        """See `Stack`."""
        stored, box = self.order[np.asarray(dates)].tolist(), self._stored(area)
        total = Cost(0, 0, 0)
        for part in self.parts:
            array, wanted = part.array, _wanted(part, stored, box)
            chunks = chunks_touched(array, *wanted)
            files = chunks
            if array.sharding is not None:
                whole = {r: s for r, s in zip(array.roles, array.sharding.shard, strict=True)}
                per = {r: s // c for r, s, c in zip(array.roles, array.sharding.shard, array.chunk, strict=True)}
                files = 1
                for role, axis in zip(("time", "band", "y", "x"), wanted, strict=True):
                    files *= len({entry[0] // per[role] for entry in axis}) if role in whole else 1
            size = int(np.prod(array.chunk)) * array.numpy_dtype.itemsize
            total += Cost(chunks, files, chunks * size)
        return total

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
            number, rows, (band, y, x) = target.missing[at]
            y = slice(height - y.stop, height - y.start) if self.flips[0] else y
            x = slice(width - x.stop, width - x.start) if self.flips[1] else x
            target.missing[at] = number, rows, (band, y, x)


def _wanted(part: Part, dates: Sequence[int], area: Area) -> tuple:  # type: ignore[type-arg]
    """Dates, bands, rows and columns by chunk of a part; all places of an axis that it has not are its one element."""
    sizes = dict(zip(part.array.roles, part.array.chunk, strict=True))
    times = picks(dates, sizes["time"]) if "time" in sizes else [(0, [(t, 0) for t in range(len(dates))])]
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
        wanted: dict[int, list[tuple[int, int]]] = {}
        for row, date in enumerate(dates):
            wanted.setdefault(date, []).append((row, 0))
        for date, rows in wanted.items():
            lacking = np.ones(self.shape[1], bool)
            for file in self.files[date]:
                array = self.array(file)
                depth = array.chunk[2] if len(array.chunk) > 2 else 1
                bands = picks(file.bands, depth)
                sides = (spans(*extent, size) for extent, size in zip(area, array.chunk[:2], strict=True))
                gather(array, [(0, rows)], bands, *sides, target)
                lacking &= np.array(file.bands) < 0
            for band in np.flatnonzero(lacking).tolist():
                held = np.array([row for row, _ in rows])
                target.out[held, band] = 0
                target.missing.append(((date, band), held, (slice(band, band + 1), slice(None), slice(None))))

    def cost(self, dates: Sequence[int], area: Area) -> Cost:
        """See `Stack`; takes every file to be tiled as the first one is."""
        sides = [len(spans(*extent, size)) for extent, size in zip(area, self.chunk[2:], strict=True)]
        depth, item = self.chunk[1], np.dtype(self.dtype).itemsize
        total = Cost(0, 0, 0)
        for date in set(dates):
            for file in self.files[date]:
                chunks = len(picks(file.bands, depth)) * sides[0] * sides[1]
                total += Cost(chunks, 1, chunks * int(np.prod(self.chunk)) * item)
        return total

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


def unlike(key: str, store: Store, got: Frame, frame: Frame, dtype: str, expected: str) -> InputError:
    """The error for a file that does not fit the others."""
    return InputError(
        f"{key} in {store.url}: is {dtype} {list(got.shape)} in {got.crs} at {got.transform}, expected the grid of the "
        f"other scenes, {expected} {list(frame.shape)} in {frame.crs} at {frame.transform}; list one grid per archive, "
        "or ingest the scenes into a cube"
    )
