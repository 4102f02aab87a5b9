"""A box of one array: which chunks it touches, and their elements in one piece. Knows shards, not modalities."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from skyframe.data.cube import Cube
from skyframe.data.manifest import ArrayRecord
from skyframe.data.shard import ArrayLayout, OpenShard, damage

Backend = Literal["own", "zarr"]
Box = tuple[tuple[int, int], ...]  # first and past-the-last element along each axis after the first
Missing = tuple[tuple[int, ...], list[int], Any]  # chunk, rows along the first axis, slices along the other axes


def read_box(
    cube: Cube, record: ArrayRecord, firsts: Sequence[int], box: Box, backend: Backend
) -> tuple[NDArray[np.generic], list[Missing]]:
    """Elements `firsts` along the first axis (any order, repeats allowed), a box along the others.

    Returns:
        The array, and the chunks inside it that the store does not hold (there it has the fill value).
    """
    layout = record.layout
    out = np.empty((len(firsts), *(stop - start for start, stop in box)), layout.numpy_dtype)
    by_chunk: dict[int, list[int]] = {}
    for row, first in enumerate(firsts):
        by_chunk.setdefault(first // layout.chunk[0], []).append(row)
    missing: list[Missing] = []
    for place, target, inside, is_whole in _tiles(layout, box):
        if is_whole and backend == "own" and _read_straight(cube, record, firsts, place, out):
            continue
        for number, rows, shard, at in _walk(cube, record, by_chunk, place):
            if shard is None or not shard.has(at):
                out[(rows, *target)] = layout.fill
                missing.append(((number, *place), rows, target))
            elif backend == "own":
                in_chunk = [firsts[row] - number * layout.chunk[0] for row in rows]
                _decode(shard, at, out, rows, in_chunk, target, inside)
    if backend == "zarr":
        _fill_by_zarr(cube, layout, firsts, box, out)
    return out, missing


def _read_straight(
    cube: Cube, record: ArrayRecord, firsts: Sequence[int], place: tuple[int, ...], out: NDArray[np.generic]
) -> bool:
    """The usual case in one loop: an aligned window of one chunk, one chunk per date, one shard, nothing left out.

    Returns:
        Whether it was this case; nothing is read otherwise.
    """
    layout = record.layout
    shard_at, base = layout.locate((0, *place))
    if layout.chunk[0] != 1 or layout.shard_grid[0] != 1 or shard_at not in record.shards:
        return False
    shard = cube.pool.get(layout, shard_at, record.shards[shard_at])
    stride = layout.row_strides[0]
    rows = [base + first * stride for first in firsts]
    if not shard.has_all(rows):
        return False
    shard.read_chunks(rows, out)
    return True


def _walk(
    cube: Cube, record: ArrayRecord, by_chunk: dict[int, list[int]], place: tuple[int, ...]
) -> Iterator[tuple[int, list[int], OpenShard | None, int]]:
    """Chunks along the first axis at one place: number, output rows, shard (None: never written), row in its index."""
    layout = record.layout
    (_, *where), base = layout.locate((0, *place))
    count, stride = layout.chunks_per_shard[0], layout.row_strides[0]
    shard, opened = None, -1
    for number, rows in by_chunk.items():
        file, inner = divmod(number, count)
        if file != opened:
            key = (file, *where)
            shard = cube.pool.get(layout, key, record.shards[key]) if key in record.shards else None
            opened = file
        yield number, rows, shard, base + inner * stride


def _decode(
    shard: OpenShard, at: int, out: NDArray[np.generic], rows: list[int], in_chunk: list[int], target: Any, inside: Any
) -> None:
    """One chunk by way of a scratch array into the rows and the box of the output that it serves."""
    scratch = np.empty(shard.layout.chunk, out.dtype)
    shard.read_chunk(at, scratch)
    if len(rows) == 1:  # basic slicing is several times faster than a list of one
        out[(rows[0], *target)] = scratch[(in_chunk[0], *inside)]
    else:
        out[(rows, *target)] = scratch[(in_chunk, *inside)]


def _tiles(layout: ArrayLayout, box: Box) -> Iterator[tuple[tuple[int, ...], Any, Any, bool]]:
    """Chunks that a box touches along the axes after the first.

    Yields chunk numbers, slices in the output, slices in the chunk, and whether the chunk is the whole box, so that
    it can be decoded in place.
    """
    axes = []
    for (start, stop), size in zip(box, layout.chunk[1:], strict=True):
        axis = []
        for number in range(start // size, -(-stop // size)):
            first, last = max(start, number * size), min(stop, (number + 1) * size)
            inside = slice(first - number * size, last - number * size)
            axis.append((number, slice(first - start, last - start), inside, (stop - start) == (last - first) == size))
        axes.append(axis)
    for combination in itertools.product(*axes):
        numbers, targets, insides, wholes = zip(*combination, strict=True) if combination else ((), (), (), ())
        yield numbers, targets, insides, all(wholes)


def _fill_by_zarr(cube: Cube, layout: ArrayLayout, firsts: Sequence[int], box: Box, out: NDArray[np.generic]) -> None:
    """The contiguous span, then the picks in memory: zarr-python is several times slower at picking in a shard."""
    import zarr

    low, high = min(firsts), max(firsts) + 1
    try:
        span = np.asarray(
            zarr.open_array(cube.path / layout.name, mode="r")[(slice(low, high), *(slice(*b) for b in box))]
        )
    except (RuntimeError, ValueError) as error:
        raise damage(cube.path, layout, f"a chunk in {[(low, high), *box]}", f"does not decode ({error})") from error
    out[...] = span[[f - low for f in firsts]]
