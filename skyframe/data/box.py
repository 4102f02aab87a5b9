"""A box of one array: which chunks it touches, and their elements in one piece. Knows shards, not modalities."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.data.cube import Box, Cube, Missing, Reader
from skyframe.data.manifest import ArrayRecord
from skyframe.data.shard import ArrayLayout, OpenShard, ShardPool, damage
from skyframe.data.store import Store
from skyframe.data.transport import Part

Tile = tuple[tuple[int, ...], Any, Any]
"""Chunk numbers along the axes after the first, and where they meet a box: slices in it, slices in the chunk."""

Wanted = tuple[ArrayRecord, tuple[int, ...], NDArray[np.integer]]
"""An array, one of its shards, and rows of the shard's index."""

RowsByChunk = dict[int, NDArray[np.intp]]
"""Chunk number along the first axis -> rows of the output that it serves."""


@dataclass(frozen=True)
class ShardReader:
    """Reads the shards of one store itself, at the speed of decompression; see `Reader`."""

    store: Store
    pool: ShardPool

    def read(
        self,
        record: ArrayRecord,
        firsts: NDArray[np.integer],
        box: Box,
        out: NDArray[np.generic] | None = None,
    ) -> tuple[NDArray[np.generic], list[Missing]]:
        """See `Reader`. Memory: the output, and one chunk where a window is not whole chunks."""
        layout = record.layout
        if out is None:
            out = np.empty((len(firsts), *[stop - start for start, stop in box]), layout.numpy_dtype)
        if self._read_straight(record, firsts, box, out):
            return out, []
        missing: list[Missing] = []
        by_chunk = _rows_by_chunk(layout, firsts)
        for tile in _tiles(layout, box):
            self._read_tile(record, firsts, by_chunk, tile, out, missing)
        return out, missing

    def wanted(self, record: ArrayRecord, firsts: NDArray[np.integer], box: Box) -> list[Wanted]:
        """Shards that `read` would open and the chunks that it would decode, by arithmetic."""
        layout = record.layout
        numbers = firsts if layout.chunk[0] == 1 else np.unique(firsts // layout.chunk[0])
        files, inner = np.divmod(numbers, layout.chunks_per_shard[0])
        found: list[Wanted] = []
        for place, _, _ in _tiles(layout, box):
            (_, *where), base = layout.locate((0, *place))
            for file in range(layout.shard_grid[0]):
                rows = base + (inner if layout.shard_grid[0] == 1 else inner[files == file]) * layout.row_strides[0]
                if len(rows) and (file, *where) in record.shards:
                    found.append((record, (file, *where), rows))
        return found

    def is_open(self, wanted: Sequence[Wanted]) -> bool:
        """Whether none of these shards would have to be opened."""
        return all(self.pool.holds(self.store, record.layout, shard) for record, shard, _ in wanted)

    def ahead(self, wanted: Sequence[Wanted]) -> list[Part]:
        """Open shards, and begin to fetch chunks of them.

        Returns:
            What is under way: `read` finds it for as long as the caller holds it. Empty where reading is local.
        """
        parts: list[Part] = []
        for record, shard, rows in wanted:
            parts += self.pool.get(self.store, record.layout, shard, record.shards[shard]).ahead(rows)
        return parts

    def _read_straight(
        self, record: ArrayRecord, firsts: NDArray[np.integer], box: Box, out: NDArray[np.generic]
    ) -> bool:
        """The usual case without a detour: an aligned window of one chunk, in one shard, nothing of it left out.

        Returns:
            False where it is not this case; nothing was read then.
        """
        layout = record.layout
        place = layout.chunk_of(box)
        if place is None or layout.shard_grid[0] != 1:
            return False
        at, row = layout.locate((0, *place))
        if at not in record.shards:
            return False
        shard = self.pool.get(self.store, layout, at, record.shards[at])
        if layout.chunk[0] >= layout.shape[0] and shard.has(row):  # all dates in a chunk
            dates = np.empty(layout.chunk, layout.numpy_dtype)
            shard.read_chunk(row, dates)
            dates.take(firsts, 0, out, "clip")  # a third of the time of indexing; "raise" would fill a copy first
            return True
        rows = row + firsts * layout.row_strides[0]
        if layout.chunk[0] != 1 or not shard.has_all(rows):
            return False
        first, step = out.ctypes.data, layout.chunk_bytes
        shard.read_chunks(rows, range(first, first + len(rows) * step, step))
        return True

    def _read_tile(
        self,
        record: ArrayRecord,
        firsts: NDArray[np.integer],
        by_chunk: RowsByChunk,
        tile: Tile,
        out: NDArray[np.generic],
        missing: list[Missing],
    ) -> None:
        """The part of the box in one place of the chunk grid, chunk by chunk through one scratch array."""
        layout = record.layout
        place, target, inside = tile
        wanted: dict[int, tuple[OpenShard, list[int], list[int]]] = {}  # by file: its shard, index rows, chunks
        for number, rows, shard, at in self._walk(record, by_chunk, place):
            if shard is None or not shard.has(at):
                out[(rows, *target)] = layout.fill
                missing.append(((number, *place), rows, target))
            else:
                _, index_rows, numbers = wanted.setdefault(shard.shard[0], (shard, [], []))
                index_rows.append(at)
                numbers.append(number)

        scratch = np.empty(layout.chunk, layout.numpy_dtype)

        def sinks(numbers: list[int]) -> Iterator[int]:
            """Lends the scratch array for each chunk, and when it comes back puts it where it belongs."""
            for number in numbers:
                yield scratch.ctypes.data
                rows, chosen = by_chunk[number], scratch[(slice(None), *inside)]
                if len(rows) == 1:  # basic slicing is several times faster than a list of one
                    out[(int(rows[0]), *target)] = chosen[int(firsts[rows[0]]) - number * layout.chunk[0]]
                else:
                    out[(rows, *target)] = chosen[firsts[rows] - number * layout.chunk[0]]

        for shard, index_rows, numbers in wanted.values():
            shard.read_chunks(np.array(index_rows), sinks(numbers))

    def _walk(
        self, record: ArrayRecord, by_chunk: RowsByChunk, place: tuple[int, ...]
    ) -> Iterator[tuple[int, NDArray[np.intp], OpenShard | None, int]]:
        """Chunks along the first axis at one place: number, output rows, shard (None: never written), index row."""
        layout = record.layout
        (_, *where), base = layout.locate((0, *place))
        count, stride = layout.chunks_per_shard[0], layout.row_strides[0]
        shard, opened = None, -1
        for number, rows in by_chunk.items():
            file, inner = divmod(number, count)
            if file != opened:
                key = (file, *where)
                held = record.shards.get(key)
                shard = self.pool.get(self.store, layout, key, held) if held is not None else None
                opened = file
            yield number, rows, shard, base + inner * stride


@dataclass(frozen=True)
class ZarrReader:
    """Reads by plain zarr-python, many times slower: the measure that `ShardReader` is held against, bit for bit."""

    store: Store
    pool: ShardPool

    def read(
        self,
        record: ArrayRecord,
        firsts: NDArray[np.integer],
        box: Box,
        out: NDArray[np.generic] | None = None,
    ) -> tuple[NDArray[np.generic], list[Missing]]:
        """See `Reader`: the contiguous span, then the picks in memory, as zarr-python is slow at picking in a shard.

        zarr-python gives the fill value for a chunk that is not there; what is missing is found in the indices.
        """
        import zarr

        layout, missing = record.layout, self._missing(record, firsts, box)
        low, high = int(firsts.min()), int(firsts.max()) + 1
        try:
            array = zarr.open_array(self.store.for_zarr(layout.name), mode="r")
            span = np.asarray(array[(slice(low, high), *(slice(*b) for b in box))])
        except (RuntimeError, ValueError) as error:
            ShardReader(self.store, self.pool).read(record, np.arange(low, high), box)  # says which chunk it is
            place = f"a chunk in {[(low, high), *box]}"
            raise damage(self.store, layout, place, f"does not decode by zarr-python ({error})") from error
        chosen = span[firsts - low].astype(layout.numpy_dtype, copy=False)
        if out is None:
            return chosen, missing
        out[...] = chosen
        return out, missing

    def _missing(self, record: ArrayRecord, firsts: NDArray[np.integer], box: Box) -> list[Missing]:
        reader = ShardReader(self.store, self.pool)
        by_chunk = _rows_by_chunk(record.layout, firsts)
        return [
            ((number, *place), rows, target)
            for place, target, _ in _tiles(record.layout, box)
            for number, rows, shard, at in reader._walk(record, by_chunk, place)
            if shard is None or not shard.has(at)
        ]


def by_zarr(cube: Cube) -> Cube:
    """The same cube, read by plain zarr-python."""
    reader: Reader = ZarrReader(cube.store, ShardPool())
    return Cube(cube.name, cube.store, cube.spec, cube.grid, cube.manifest, reader)


def _rows_by_chunk(layout: ArrayLayout, firsts: NDArray[np.integer]) -> RowsByChunk:
    by_chunk: dict[int, list[int]] = {}
    for row, number in enumerate((firsts // layout.chunk[0]).tolist()):
        by_chunk.setdefault(number, []).append(row)
    return {number: np.array(rows) for number, rows in by_chunk.items()}


def _tiles(layout: ArrayLayout, box: Box) -> Iterator[Tile]:
    """Chunks that a box touches along the axes after the first."""
    axes: list[list[tuple[int, slice, slice]]] = []
    for (start, stop), size in zip(box, layout.chunk[1:], strict=True):
        axis = []
        for number in range(start // size, -(-stop // size)):
            first, last = max(start, number * size), min(stop, (number + 1) * size)
            inside = slice(first - number * size, last - number * size)
            axis.append((number, slice(first - start, last - start), inside))
        axes.append(axis)
    for parts in itertools.product(*axes):
        yield tuple(p[0] for p in parts), tuple(p[1] for p in parts), tuple(p[2] for p in parts)
