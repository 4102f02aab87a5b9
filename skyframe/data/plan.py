"""Which window stands where in an epoch: one global order, computed for a position, never listed.

Windows lie on a regular grid over each cube. A *block* is the set of windows whose upper-left corner lies in one shard
of the cube. An epoch visits the blocks in seeded order, in one or more *passes*: a pass takes an equal part of every
block's windows, in one stretch. The windows of a pass, laid end to end in block order, are cut into `slots` equal
lanes, and step s takes the s-th window of every lane. So a slot stays in one shard for successive steps, and two slots
meet in one shard only where a shard holds more windows than the pass has steps (the wrap-around rule of McNaughton,
Management Science 1959: no other order does better then).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from skyframe.data.cube import Cube
from skyframe.geography import place_of
from skyframe.randomness import hash64, permute_index, uniform
from skyframe.spec import InputError, Modality, Window

MAX_LOSS = 0.05
"""Share of an epoch's windows that cutting passes to whole steps may leave out; with more passes it would be above."""


@dataclass(frozen=True)
class CubeGrid:
    """Windows of one cube: `rows` x `columns` of them, `stride_m` apart, in blocks of `block_m`."""

    rows: int
    columns: int
    stride_m: float
    block_m: float
    covered: NDArray[np.bool_]  # [block rows, block columns]

    def first(self, block: int | NDArray[np.intp], extent: int) -> NDArray[np.intp]:
        """First window row (or column) of a block row (column), at most `extent`."""
        start = np.ceil(np.asarray(block) * self.block_m / self.stride_m - 1e-9).astype(np.intp)
        return np.minimum(start, extent)

    def counts(self) -> NDArray[np.int64]:
        """Windows of each block, `[block rows, block columns]`, 0 where nothing was written."""
        height, width = self.covered.shape
        rows = np.diff(self.first(np.arange(height + 1), self.rows))
        columns = np.diff(self.first(np.arange(width + 1), self.columns))
        return np.where(self.covered, rows[:, None] * columns[None], 0).astype(np.int64)

    def window(self, block: int, rank: int) -> tuple[int, int]:
        """Row and column of the `rank`-th window of a block (blocks in row order)."""
        y, x = divmod(block, self.covered.shape[1])
        left, right = (int(self.first(b, self.columns)) for b in (x, x + 1))
        row, column = divmod(rank, right - left)
        return int(self.first(y, self.rows)) + row, left + column


class WindowPlan:
    """The windows of a set of cubes in seeded order; equal on any number of ranks and workers."""

    def __init__(
        self,
        cubes: Sequence[Cube],
        size_m: float,
        stride_m: float,
        seed: int,
        slots: int,
        windows_per_shard: int = 16,
        names: Sequence[str] | None = None,
    ) -> None:
        """Count the windows of each shard; reads manifests only.

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
        if not cubes:
            raise InputError("plan: no cubes, expected at least one; check data.cubes")
        if min(slots, windows_per_shard) < 1 or not stride_m > 0:
            raise InputError(
                f"plan: slots {slots}, windows_per_shard {windows_per_shard} and stride {stride_m:g} m must be positive"
            )
        self.cubes, self.size_m, self.seed, self.slots = tuple(cubes), size_m, seed, slots
        self.grids = [_grid(cube, size_m, stride_m, names) for cube in cubes]
        sizes = [grid.counts().ravel() for grid in self.grids]
        occupied = [np.flatnonzero(size) for size in sizes]
        self._cube = np.repeat(np.arange(len(cubes), dtype=np.int32), [len(o) for o in occupied])
        self._block = np.concatenate(occupied).astype(np.int32)
        self._size = np.concatenate([size[o] for size, o in zip(sizes, occupied, strict=True)])
        self._offset = np.cumsum([0, *(grid.rows * grid.columns for grid in self.grids)])
        self.num_windows, self.num_shards = int(self._size.sum()), len(self._size)
        if self.num_windows < slots:
            raise InputError(
                f"plan: {len(cubes)} cubes hold {self.num_windows} windows of {size_m:g} m, expected at least {slots}, "
                f"one per sample of the global batch; lower global_batch or the stride, or add cubes"
            )
        self.num_passes = self._choose_passes(windows_per_shard)
        steps = [int((self._part(self._size, g)).sum()) // slots for g in range(self.num_passes)]
        self._first_step = np.cumsum([0, *steps])
        self._held: tuple[tuple[int, int], NDArray[np.intp], NDArray[np.int64]] | None = None

    @property
    def num_steps(self) -> int:
        """Steps of an epoch."""
        return int(self._first_step[-1])

    def __len__(self) -> int:
        """Windows that an epoch uses: whole steps of `slots`."""
        return self.num_steps * self.slots

    def at(self, epoch: int, position: int) -> tuple[Window, int]:
        """The window at `position` = step * slots + slot of an epoch.

        Returns:
            The window, and its global sample index, the same in every epoch, for every seed and number of slots.

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
        at = int(np.searchsorted(ends, element, side="right"))
        shard = int(order[at])
        size, cube, block = int(self._size[shard]), int(self._cube[shard]), int(self._block[shard])
        within = element - (int(ends[at - 1]) if at else 0) + part * size // self.num_passes
        return self._window(cube, block, permute_index(within, size, hash64(self.seed, epoch, "window", cube, block)))

    def places(self, max_points: int = 2000) -> list[NDArray[np.float64]]:
        """Latitude and longitude (degrees) of the centres of evenly chosen windows, for a region index."""
        ends = np.cumsum(self._size)
        points = []
        for element in np.unique(
            np.linspace(0, self.num_windows - 1, min(self.num_windows, max_points)).astype(np.int64)
        ):
            shard = int(np.searchsorted(ends, element, side="right"))
            cube, rank = int(self._cube[shard]), int(element - ends[shard] + self._size[shard])
            window, _ = self._window(cube, int(self._block[shard]), rank)
            half = window.size_m / 2
            points.append(place_of(self.cubes[cube].grid, window.y_m + half, window.x_m + half))
        return points

    def _window(self, cube: int, block: int, rank: int) -> tuple[Window, int]:
        grid = self.grids[cube]
        row, column = grid.window(block, rank)
        window = Window(self.cubes[cube].name, row * grid.stride_m, column * grid.stride_m, self.size_m)
        return window, int(self._offset[cube]) + row * grid.columns + column

    def _part(self, sizes: NDArray[np.int64], part: int, passes: int | None = None) -> NDArray[np.int64]:
        """Windows that one pass takes of shards with `sizes` windows."""
        count = passes or self.num_passes
        return (part + 1) * sizes // count - part * sizes // count

    def _choose_passes(self, windows_per_shard: int) -> int:
        """As many passes as `windows_per_shard` asks for, fewer where slots would meet in a shard or much is lost."""
        sizes, shards = np.unique(self._size, return_counts=True)
        for passes in range(-(-int(sizes[-1]) // windows_per_shard), 1, -1):
            parts = [self._part(sizes, g, passes) for g in range(passes)]
            windows = [int((part * shards).sum()) for part in parts]
            apart = all(part.max() <= count // self.slots for part, count in zip(parts, windows, strict=True))
            lost = sum(count % self.slots for count in windows)
            if apart and lost <= max(self.slots - 1, MAX_LOSS * self.num_windows):
                return passes
        return 1

    def _stream(self, epoch: int, part: int) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """Shards of a pass in seeded order, and where each one's stretch of windows ends; the last one is kept."""
        if self._held is None or self._held[0] != (epoch, part):
            draw = uniform(hash64(self.seed, epoch, "shards", part), torch.arange(self.num_shards))
            order = np.argsort(draw[:, 0].numpy(), kind="stable")
            self._held = (epoch, part), order, np.cumsum(self._part(self._size[order], part))
        return self._held[1:]


def _grid(cube: Cube, size_m: float, stride_m: float, names: Sequence[str] | None) -> CubeGrid:
    chosen = [cube.spec.modalities[name] for name in names or cube.spec.modalities if cube.has(name)]
    if not chosen:
        raise InputError(
            f"cube {cube.name}: carries {', '.join(cube.spec.modalities)}, none of the modalities of the run "
            f"({', '.join(names or ())}); leave the cube out or name one of its modalities"
        )
    imagery = [modality for modality in chosen if modality.kind != "weather"]
    for modality in imagery:
        modality.pixels(size_m)
        modality.pixels(stride_m)
    extents = cube.grid.height_m, cube.grid.width_m
    if min(extents) < size_m * (1 - 1e-9):
        raise InputError(
            f"cube {cube.name}: is {extents[0]:g} x {extents[1]:g} m, no window of {size_m:g} m fits; "
            f"use smaller windows or leave the cube out"
        )
    rows, columns = (math.floor((extent - size_m) / stride_m + 1e-9) + 1 for extent in extents)
    series = [modality for modality in imagery if modality.kind == "series"]
    block_m = min(_shard_m(cube, modality) for modality in series or imagery or chosen)
    shape = tuple(math.floor((count - 1) * stride_m / block_m + 1e-9) + 1 for count in (rows, columns))
    return CubeGrid(rows, columns, stride_m, block_m, _covered(cube, chosen, block_m, shape))


def _shard_m(cube: Cube, modality: Modality) -> float:
    return cube.manifest.arrays[f"{modality.name}/valid"].layout.shard[-1] * modality.gsd_m


def _covered(cube: Cube, chosen: Sequence[Modality], block_m: float, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Blocks in which any of the modalities was written."""
    covered = np.zeros(shape, bool)
    for modality in chosen:
        written, side_m = cube.manifest.arrays[f"{modality.name}/valid"].coverage, _shard_m(cube, modality)
        if written.all():
            return np.ones(shape, bool)
        for place in np.argwhere(written):
            first = np.floor(place * side_m / block_m + 1e-9).astype(int)
            last = np.ceil((place + 1) * side_m / block_m - 1e-9).astype(int)
            covered[first[0] : last[0], first[1] : last[1]] = True
    return covered
