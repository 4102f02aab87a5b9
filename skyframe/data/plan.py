"""Which window stands where in an epoch: one global order, computed for a position, never listed.

Windows lie on a regular grid over each cube. A *block* is the set of windows whose upper-left corner lies in one shard
of the cube. An epoch visits the blocks in seeded order, in one or more *passes*: a pass takes an equal part of every
block's windows, in one stretch. The windows of a pass, laid end to end in block order, are cut into `slots` equal
lanes, and step s takes the s-th window of every lane. So a slot stays in one shard for successive steps, and two slots
meet in one shard only where a shard holds more windows than the pass has steps (the wrap-around rule of McNaughton,
Management Science 1959: no other order does better then).

Where sources have weights, a block has more or fewer visits than windows; see `visits.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyframe.data.cube import Cube
from skyframe.data.grid import SLACK, lay_out, occupied
from skyframe.data.table import CubeTable, table_of
from skyframe.data.visits import visits_of
from skyframe.geography import place_of, places_of
from skyframe.hashing import hash64, hash_many, permute_index, permute_many
from skyframe.spec import InputError, Window

MAX_LOSS = 0.05
"""Share of an epoch's windows that cutting passes to whole steps may leave out; with more passes it would be above."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Planned:
    """Windows at some positions, arrays `[n]`."""

    index: Ints  # global sample index
    shard: Ints  # number of the block in the plan
    row: Ints  # of the table
    y_m: NDArray[np.float64]
    x_m: NDArray[np.float64]


class WindowPlan:
    """The windows of a set of cubes in seeded order; equal on any number of ranks and workers."""

    def __init__(
        self,
        cubes: CubeTable | Sequence[Cube],
        size_m: float,
        stride_m: float,
        seed: int,
        slots: int,
        windows_per_shard: int = 16,
        names: Sequence[str] | None = None,
    ) -> None:
        """Count the windows of each shard; opens and reads nothing.

        Args:
            cubes: what to draw from.
            size_m: side of a window in metres.
            stride_m: distance of neighbouring windows in metres.
            seed: of the order.
            slots: global batch, windows per step.
            windows_per_shard: steps that a slot stays in one shard, at most (more where there are few shards).
            names: modalities that matter: a shard where none of them was written is left out (default: all).

        Raises:
            InputError: no cubes, a window larger than a cube or no whole number of pixels, or fewer windows than slots.
        """
        if not len(cubes):
            raise InputError("plan: no cubes, expected at least one; check data.cubes")
        if min(slots, windows_per_shard) < 1 or not stride_m > 0:
            raise InputError(
                f"plan: slots {slots}, windows_per_shard {windows_per_shard} and stride {stride_m:g} m must be positive"
            )
        self.table = table = cubes if isinstance(cubes, CubeTable) else table_of(cubes)
        self.size_m, self.seed, self.slots = size_m, seed, slots
        names = list(names or table.layers)
        self.grids = lay_out(table, size_m, stride_m, names)
        self._row, self._block, self._count = occupied(table, self.grids, names)
        self._offset = np.concatenate([[0], np.cumsum(self.grids.rows * self.grids.columns)])
        self._visits = visits_of(self._count, table.weight, self._row)
        self.num_windows, self.num_shards = int(self._count.sum(dtype=np.int64)), len(self._count)
        sizes, shards = self._visits.sizes()
        visits = int((sizes * shards).sum())
        if visits < slots:
            raise InputError(
                f"plan: {len(table)} cubes hold {visits} windows of {size_m:g} m, expected at least {slots}, one per "
                f"sample of the global batch; lower global_batch or the stride, or add cubes"
            )
        self.num_passes = _choose_passes(sizes, shards, slots, windows_per_shard)
        steps = [int((_part(sizes, g, self.num_passes) * shards).sum()) // slots for g in range(self.num_passes)]
        self._first_step = np.cumsum([0, *steps])
        self._held: tuple[tuple[int, int], NDArray[np.int32], Ints] | None = None

    @property
    def num_steps(self) -> int:
        """Steps of an epoch."""
        return int(self._first_step[-1])

    def __len__(self) -> int:
        """Samples of an epoch: whole steps of `slots`."""
        return self.num_steps * self.slots

    def at(self, epoch: int, position: int) -> tuple[Window, int]:
        """The window at `position` = step * slots + slot of an epoch.

        Returns:
            The window, and its global sample index, the same in every epoch, for every seed and number of slots. Where
            a weight brings a window back within an epoch, the second visit has the index plus the number of places
            of the whole grid, and so on, so that an index names a sample of the epoch.

        Raises:
            IndexError: the position is past the epoch's end.
        """
        if not 0 <= position < len(self):
            raise IndexError(f"plan: position {position} is outside an epoch of {len(self)} windows")
        step, slot = divmod(position, self.slots)
        part = int(np.searchsorted(self._first_step, step, side="right")) - 1
        start, stop = (int(s) for s in self._first_step[part : part + 2])
        order, ends = self._stream(epoch, part)
        element = slot * (stop - start) + step - start
        place = int(np.searchsorted(ends, element, side="right"))
        shard = int(order[place])
        row, block, count = int(self._row[shard]), int(self._block[shard]), int(self._count[shard])
        within = element - (int(ends[place - 1]) if place else 0)
        within += part * int(self._visits.of_one(epoch, shard)) // self.num_passes
        before = int(self._visits.before(epoch, np.array([shard]))[0])
        turn, rank = divmod(before + within, count)
        rank = permute_index(rank, count, hash64(self.seed, turn, "window", row, block))
        window, number = self._window(row, block, rank)
        return window, number + (turn - before // count) * int(self._offset[-1])

    def at_many(self, epoch: int, positions: NDArray[np.integer]) -> Planned:
        """`at` for an array of positions `[n]`, in one go.

        Raises:
            IndexError: a position is past the epoch's end.
        """
        position = positions.astype(np.int64)
        if len(position) and not (position.min() >= 0 and position.max() < len(self)):
            raise IndexError(f"plan: a position is outside an epoch of {len(self)} windows")
        step, slot = np.divmod(position, self.slots)
        part = np.searchsorted(self._first_step, step, side="right") - 1
        shard, within = np.empty_like(step), np.empty_like(step)
        visits = self._visits.of(epoch)
        for g in np.unique(part).tolist():
            at = np.flatnonzero(part == g)
            start, stop = self._first_step[g : g + 2].tolist()
            order, ends = self._stream(epoch, g)
            element = slot[at] * (stop - start) + step[at] - start
            place = np.searchsorted(ends, element, side="right")
            shard[at] = order[place]
            within[at] = element - np.concatenate([[0], ends])[place]
            within[at] += g * visits[shard[at]].astype(np.int64) // self.num_passes
        row, block = self._row[shard].astype(np.int64), self._block[shard].astype(np.int64)
        count = self._count[shard].astype(np.int64)
        before = self._visits.before(epoch, shard)
        turn, rank = np.divmod(before + within, count)
        rank = permute_many(rank, count, hash_many(self.seed, turn, "window", row, block))
        y, x = self.grids.window(row, block, rank)
        index = self._offset[row] + y * self.grids.columns[row] + x + (turn - before // count) * self._offset[-1]
        y_m, x_m = (np.asarray(steps * self.grids.stride_m, np.float64) for steps in (y, x))
        return Planned(index, shard, row, y_m, x_m)

    def places(self, max_points: int = 2000) -> list[NDArray[np.float64]]:
        """Latitude and longitude (degrees) of the centres of evenly chosen windows, for a region index."""
        ends = np.cumsum(self._count, dtype=np.int64)
        element = np.unique(np.linspace(0, self.num_windows - 1, min(self.num_windows, max_points)).astype(np.int64))
        shard = np.searchsorted(ends, element, side="right")
        row, block = self._row[shard].astype(np.int64), self._block[shard].astype(np.int64)
        y, x = self.grids.window(row, block, element - ends[shard] + self._count[shard])
        half, table = self.size_m / 2, self.table
        south = table.y0_m[row] - y * self.grids.stride_m - half
        east = table.x0_m[row] + x * self.grids.stride_m + half
        points = np.empty((len(row), 2))
        for number, crs in enumerate(table.crs):
            here = np.flatnonzero(table.crs_of[row] == number)
            if len(here):
                points[here] = places_of(crs, south[here], east[here])
        for at in np.flatnonzero([table.names[r] in table.sites for r in row] if table.sites else []):
            points[at] = place_of(table.sites[table.names[row[at]]], y[at] * self.grids.stride_m + half, half)
        return list(points)

    def samples_by_source(self) -> dict[str, int]:
        """Visits of each source's windows in the first epoch, before it is cut to whole steps."""
        of_source = self.table.source_of[self._row]
        visits = np.bincount(of_source, self._visits.of(0), minlength=len(self.table.sources))
        return dict(zip(self.table.sources, visits.astype(int).tolist(), strict=True))

    def _window(self, row: int, block: int, rank: int) -> tuple[Window, int]:
        """One window, and its number; the same arithmetic as `WindowGrids.window` without arrays."""
        grids, table = self.grids, self.table
        rows, columns, block_m = int(grids.rows[row]), int(grids.columns[row]), float(grids.block_m[row])
        y, x = divmod(block, int(grids.across[row]))
        left, right = (min(math.ceil(b * block_m / grids.stride_m - SLACK), columns) for b in (x, x + 1))
        top = min(math.ceil(y * block_m / grids.stride_m - SLACK), rows)
        down, right_by = divmod(rank, right - left)
        window = Window(
            table.names[row],
            (top + down) * grids.stride_m,
            (left + right_by) * grids.stride_m,
            self.size_m,
            int(table.start_day[row]),
            int(table.end_day[row]),
        )
        return window, int(self._offset[row]) + (top + down) * columns + left + right_by

    def _stream(self, epoch: int, part: int) -> tuple[NDArray[np.int32], Ints]:
        """Shards of a pass in seeded order, and where each one's stretch of windows ends; the last one is kept."""
        if self._held is None or self._held[0] != (epoch, part):
            draw = hash_many(self.seed, epoch, "shards", part, np.arange(self.num_shards, dtype=np.uint64))
            order = np.argsort(draw).astype(np.int32)
            visits = self._visits.of(epoch)[order].astype(np.int64)
            self._held = (epoch, part), order, np.cumsum(_part(visits, part, self.num_passes))
        return self._held[1:]


def _part(sizes: Ints, part: int, passes: int) -> Ints:
    """Windows that one pass takes of shards with `sizes` windows."""
    return (part + 1) * sizes // passes - part * sizes // passes


def _choose_passes(sizes: Ints, shards: Ints, slots: int, windows_per_shard: int) -> int:
    """As many passes as `windows_per_shard` asks for, fewer where slots would meet in a shard or much is lost."""
    total = int((sizes * shards).sum())
    if int(sizes[-1]) * slots > total:  # then a shard has more windows than an epoch has steps, however it is cut
        return 1
    for passes in range(-(-int(sizes[-1]) // windows_per_shard), 1, -1):
        parts = [_part(sizes, g, passes) for g in range(passes)]
        windows = [int((part * shards).sum()) for part in parts]
        apart = all(part.max() <= count // slots for part, count in zip(parts, windows, strict=True))
        lost = sum(count % slots for count in windows)
        if apart and lost <= max(slots - 1, MAX_LOSS * total):
            return passes
    return 1
