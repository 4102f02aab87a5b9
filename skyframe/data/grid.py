"""Windows of the rows of a table, counted by shard: all rows at once, in arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyframe.data.cube import whole_pixels
from skyframe.data.table import CubeTable, Layer
from skyframe.spec import KINDS, InputError

AT_ONCE = 1 << 17
"""Blocks looked at together: bounds the memory of counting (about 15 MB)."""

SLACK = 1e-9
"""Of a division that should come out even."""


@dataclass(frozen=True)
class WindowGrids:
    """Windows of each row, arrays `[n]`: `rows` x `columns` of them, `stride_m` apart, in blocks of `block_m`.

    A block is the set of windows whose upper-left corner lies in one shard; blocks are numbered row by row.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    stride_m: float
    block_m: NDArray[np.float64]
    across: NDArray[np.int64]  # blocks side by side
    down: NDArray[np.int64]

    def first(self, row: NDArray[np.intp], block: NDArray[np.int64], extent: NDArray[np.int64]) -> NDArray[np.int64]:
        """First window row (or column) of a block row (column), at most `extent`; arrays `[m]`."""
        start = np.ceil(block * self.block_m[row] / self.stride_m - SLACK).astype(np.int64)
        return np.minimum(start, extent[row])

    def window(
        self, row: NDArray[np.intp], block: NDArray[np.int64], rank: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Window row and window column of the `rank`-th window of a block of a table row; arrays `[m]`."""
        y, x = np.divmod(block, self.across[row])
        left, right = (self.first(row, b, self.columns) for b in (x, x + 1))
        down, right_by = np.divmod(rank, right - left)
        return self.first(row, y, self.rows) + down, left + right_by

    def counts(self, row: NDArray[np.intp], block: NDArray[np.int64]) -> NDArray[np.int64]:
        """Windows of blocks `[m]`, whether or not anything was written there."""
        y, x = np.divmod(block, self.across[row])
        height = self.first(row, y + 1, self.rows) - self.first(row, y, self.rows)
        return height * (self.first(row, x + 1, self.columns) - self.first(row, x, self.columns))


def lay_out(table: CubeTable, size_m: float, stride_m: float, names: Sequence[str]) -> WindowGrids:
    """Grids of windows over the rows of a table.

    Raises:
        InputError: a row carries none of `names`, is smaller than a window, or a size is no whole number of pixels.
    """
    chosen = {name: table.layers[name] for name in names if name in table.layers}
    _check_carried(table, names, chosen)
    for name, layer in chosen.items():
        for gsd_m in np.unique(layer.gsd_m[layer.there & (layer.kind != KINDS.index("weather"))]).tolist():
            for metres in (size_m, stride_m):
                whole_pixels(name, metres, gsd_m)
    small = np.flatnonzero(np.minimum(table.height_m, table.width_m) < size_m * (1 - SLACK))
    if len(small):
        row = int(small[0])
        raise InputError(
            f"cube {table.names[row]}: is {table.height_m[row]:g} x {table.width_m[row]:g} m, no window of {size_m:g} "
            f"m fits{_more(small)}; use smaller windows or leave the cube out"
        )
    rows, columns = (
        np.floor((extent - size_m) / stride_m + SLACK).astype(np.int64) + 1
        for extent in (table.height_m, table.width_m)
    )
    block_m = _block_m(list(chosen.values()), len(table))
    down, across = (
        np.floor((count - 1) * stride_m / block_m + SLACK).astype(np.int64) + 1 for count in (rows, columns)
    )
    return WindowGrids(rows, columns, stride_m, block_m, across, down)


def occupied(
    table: CubeTable, grids: WindowGrids, names: Sequence[str]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Blocks that hold windows and in which any of the modalities was written: table row, block and windows `[s]`."""
    layers = [table.layers[name] for name in names if name in table.layers]
    whole = np.any([layer.whole for layer in layers], axis=0)
    found = []
    for row, block in _blocks(grids):
        count = grids.counts(row, block)
        keep = (count > 0) & (whole[row] | _written(table, grids, layers, row, block, ~whole[row]))
        found.append([values[keep].astype(np.int32) for values in (row, block, count)])
    rows, blocks, counts = (np.concatenate(part) for part in zip(*found, strict=True))
    return rows, blocks, counts


def _blocks(grids: WindowGrids) -> Iterator[tuple[NDArray[np.intp], NDArray[np.int64]]]:
    """Every block of every row, AT_ONCE at a time (more where one row has more)."""
    number = grids.across * grids.down
    ends = np.cumsum(number)
    first = 0
    while first < len(number):
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + AT_ONCE, side="right")))
        row = np.repeat(np.arange(first, last), number[first:last])
        yield row, np.arange(done, int(ends[last - 1])) - (ends - number)[row]
        first = last


def _written(
    table: CubeTable,
    grids: WindowGrids,
    layers: Sequence[Layer],
    row: NDArray[np.intp],
    block: NDArray[np.int64],
    asked: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Whether a shard that overlaps the block was written, in any of the modalities; only where `asked`."""
    out = np.zeros(len(row), bool)
    for layer in layers:
        at = np.flatnonzero(asked & layer.there[row])
        if not len(at):
            continue
        here = row[at]
        side, block_m = layer.shard_m[here], grids.block_m[here]
        extents = (table.height_m[here], table.width_m[here])
        down, across = (np.ceil(extent / side - SLACK).astype(np.int64) for extent in extents)
        y, x = np.divmod(block[at], grids.across[here])
        (top, bottom), (left, right) = (_span(place, block_m, side, n) for place, n in ((y, down), (x, across)))
        for dy in range(int((bottom - top).max())):
            for dx in range(int((right - left).max())):
                inside = (top + dy < bottom) & (left + dx < right)
                bit = np.where(inside, (top + dy) * across + left + dx, 0)
                octet = layer.bits.data[layer.bits.start[here] + (bit >> 3)]
                out[at] |= inside & (octet >> (7 - (bit & 7)).astype(np.uint8) & 1).astype(bool)
    return out


def _span(
    place: NDArray[np.int64], block_m: NDArray[np.float64], side: NDArray[np.float64], number: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and past-the-last shard that blocks overlap along one axis."""
    first = np.floor(place * block_m / side + SLACK).astype(np.int64)
    last = np.ceil((place + 1) * block_m / side - SLACK).astype(np.int64)
    return first, np.minimum(last, number)


def _block_m(layers: Sequence[Layer], n: int) -> NDArray[np.float64]:
    """Side of each row's blocks: its smallest shard of a series, else of other imagery, else of weather."""
    block = np.full(n, np.nan)
    for kinds in (("series",), ("image", "static"), ("weather",)):
        wanted = np.full(n, np.inf)
        for layer in layers:
            of_kind = np.isin(layer.kind, [KINDS.index(kind) for kind in kinds])
            wanted = np.where(of_kind, np.fmin(wanted, layer.shard_m), wanted)
        block = np.where(np.isnan(block) & np.isfinite(wanted), wanted, block)
    return block


def _check_carried(table: CubeTable, names: Sequence[str], chosen: dict[str, Layer]) -> None:
    carried = np.any([layer.there for layer in chosen.values()], axis=0) if chosen else np.zeros(len(table), bool)
    bare = np.flatnonzero(~np.broadcast_to(carried, len(table)))
    if len(bare):
        row = int(bare[0])
        has = [name for name, layer in table.layers.items() if layer.there[row]]
        raise InputError(
            f"cube {table.names[row]}: carries {', '.join(has)}, none of the modalities of the run "
            f"({', '.join(names)}){_more(bare)}; leave the cube out or name one of its modalities"
        )


def _more(rows: NDArray[np.intp]) -> str:
    return f" (and {len(rows) - 1} more like it)" if len(rows) > 1 else ""
