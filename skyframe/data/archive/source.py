"""What an archive's modality reads from: values, an optional mask layer, and the rule that makes flags of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.data.archive.pool import OpenedPool
from skyframe.data.archive.stack import Area, Stack
from skyframe.data.archive.tiled import Ready, Target, Tiled
from skyframe.data.cube import CLEAR, CLOUD, NODATA, SHADOW, Box, Missing
from skyframe.data.manifest import ArrayRecord
from skyframe.data.object_store import ObjectStore
from skyframe.data.store import Store

MAX_DECODED_BYTES = 2**28
"""Values that are decoded at a time where only the flags are wanted."""


LOST_ELEMENTS = 2**17
"""Values looked at in one go for what is lost: the temporary arrays stay in the processor's cache."""


@dataclass(frozen=True)
class Rule:
    """Which pixels are no data by their stored values (in any band), and what the mask layer's values mean.

    A value of the mask layer that is not listed means no data.
    """

    nodata: tuple[float, ...] = ()
    valid_min: float | None = None
    valid_max: float | None = None
    clear: tuple[int, ...] = ()
    cloud: tuple[int, ...] = ()
    shadow: tuple[int, ...] = ()

    def lost(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Pixels `[T, H, W]` of values `[T, C, H, W]` some band of which is absent, not finite or out of range."""
        gone = np.empty(values.shape[:1] + values.shape[2:], bool)
        step = max(1, LOST_ELEMENTS // max(1, values[0].size)) if len(values) else 1
        for first in range(0, len(values), step):
            part = values[first : first + step]
            bad = ~np.isfinite(part) if part.dtype.kind == "f" else np.zeros(part.shape, bool)
            for value in self.nodata:
                bad |= part == value
            if self.valid_min is not None:
                bad |= part < self.valid_min
            if self.valid_max is not None:
                bad |= part > self.valid_max
            np.logical_or.reduce(bad, 1, out=gone[first : first + step])
        return gone

    def flags(self, layer: NDArray[Any]) -> NDArray[np.uint8]:
        """Flags of a mask layer, same shape."""
        meanings = ((CLEAR, self.clear), (CLOUD, self.cloud), (SHADOW, self.shadow))
        if layer.dtype == np.uint8:
            table = np.full(256, NODATA, np.uint8)
            for flag, values in meanings:
                table[list(values)] = flag
            return table[layer]
        found = np.full(layer.shape, NODATA, np.uint8)
        for flag, values in meanings:
            found[np.isin(layer, values)] = flag
        return found


@dataclass(frozen=True)
class ModalitySource:
    """One modality of an archive; a pixel of the mask layer covers `ratio` x `ratio` pixels of the values."""

    values: Stack
    rule: Rule
    mask: Stack | None = None
    ratio: int = 1

    def read(
        self, dates: Sequence[int], area: Area, out: NDArray[np.generic] | None = None, ready: Ready | None = None
    ) -> tuple[NDArray[np.generic], NDArray[np.uint8]]:
        """Values `[T, C, h, w]` (in `out` where it is given) and flags `[T, h, w]` of an area, by what is `ready`."""
        sides = tuple(stop - start for start, stop in area)
        if out is None:
            out = np.empty((len(dates), self.values.shape[1], *sides), np.dtype(self.values.dtype))
        target = Target(out, [], ready)
        self.values.read(dates, area, target)
        flags = self._layer_flags(dates, area, sides, ready)
        flags[self.rule.lost(target.out)] = NODATA
        for rows, _, y, x in target.missing:
            flags[rows, y, x] = NODATA
        return target.out, flags

    def _layer_flags(
        self, dates: Sequence[int], area: Area, sides: tuple[int, ...], ready: Ready | None
    ) -> NDArray[np.uint8]:
        if self.mask is None:
            return np.full((len(dates), *sides), CLEAR, np.uint8)
        ratio = self.ratio
        coarse = _coarse(area, ratio)
        shape = (len(dates), 1, *(stop - start for start, stop in coarse))
        target = Target(np.empty(shape, np.dtype(self.mask.dtype)), [], ready)
        self.mask.read(dates, coarse, target)
        flags = self.rule.flags(target.out)
        for rows, _, y, x in target.missing:
            flags[rows, :, y, x] = NODATA
        flags = flags[:, 0]
        if ratio > 1:
            flags = flags.repeat(ratio, 1).repeat(ratio, 2)
            first = area[0][0] % ratio, area[1][0] % ratio
            flags = flags[:, first[0] : first[0] + sides[0], first[1] : first[1] + sides[1]]
        return np.ascontiguousarray(flags)

    def fetch(self, dates: Sequence[int], area: Area, threads: Executor) -> Ready:
        """The packed chunks that `read` needs, all asked for at once.

        Raises:
            InputError: one of them is cut short, or could not be read.
        """
        stacks = [self.values] if self.mask is None else [self.values, self.mask]
        list(threads.map(lambda call: call(), [call for stack in stacks for call in stack.opening(dates)]))
        wanted = {(tiled.file_of(number), number): tiled for tiled, number in self.touched(dates, area)}
        found = threads.map(lambda one: one[1].fetch(one[0][1]), wanted.items())
        return dict(zip(wanted, found, strict=True))

    def touched(self, dates: Sequence[int], area: Area) -> Iterator[tuple[Tiled, tuple[int, ...]]]:
        """The chunks that `read` asks for, mask layer included."""
        yield from self.values.touched(dates, area)
        if self.mask is not None:
            yield from self.mask.touched(dates, _coarse(area, self.ratio))


def _coarse(area: Area, ratio: int) -> Area:
    """The pixels of the mask layer that cover an area."""
    (top, bottom), (left, right) = area
    return (top // ratio, -(-bottom // ratio)), (left // ratio, -(-right // ratio))


@dataclass(frozen=True)
class ArchiveReader:
    """Reads foreign chunks as the arrays of a cube; see `Reader`.

    Flags follow from the values, and a window's values are asked for first: its flags are kept until they are asked
    for in turn, so that every chunk is decoded once. Memory: the window, and one chunk.
    """

    sources: dict[str, ModalitySource]
    pool: OpenedPool
    store: Store

    def read(
        self,
        record: ArrayRecord,
        firsts: NDArray[np.integer[Any]],
        box: Box,
        out: NDArray[np.generic] | None = None,
    ) -> tuple[NDArray[np.generic], list[Missing]]:
        """See `Reader`; what is missing is not listed, as this reader's own flags say so."""
        self.pool.own()
        name, _, what = record.layout.name.rpartition("/")
        source, dates = self.sources[name], [int(date) for date in firsts]
        area: Area = (box[-2], box[-1])
        key = (name, tuple(dates), area)
        if what == "valid":
            kept: NDArray[np.generic] | None = self.pool.take(key)
            return self._flags(source, dates, area) if kept is None else kept, []
        first, last = box[0]
        whole = (first, last) == (0, source.values.shape[1])
        values, flags = source.read(dates, area, out if whole else None, self._ready(source, dates, area))
        self.pool.keep(key, flags)
        if whole:
            return values, []
        if out is None:
            return values[:, first:last], []
        out[...] = values[:, first:last]
        return out, []

    def _ready(self, source: ModalitySource, dates: list[int], area: Area) -> Ready | None:
        """Over a network all chunks of a window come side by side; on a disk they are read when they are needed."""
        return source.fetch(dates, area, self.store.client.live.plans) if isinstance(self.store, ObjectStore) else None

    def _flags(self, source: ModalitySource, dates: list[int], area: Area) -> NDArray[np.uint8]:
        """Flags of an area, some dates at a time where their values would not fit."""
        per_date = source.values.shape[1] * np.dtype(source.values.dtype).itemsize
        for start, stop in area:
            per_date *= stop - start
        together = source.values.chunk[0]
        step = max(1, MAX_DECODED_BYTES // max(1, per_date) // together * together)
        parts = [dates[i : i + step] for i in range(0, len(dates), step)]
        return np.concatenate([source.read(part, area, ready=self._ready(source, part, area))[1] for part in parts])
