"""From a recipe's cubes to batches of windows: one seeded global order, exact position for resume."""

from __future__ import annotations

import dataclasses
import multiprocessing
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from skyframe import dist
from skyframe.calendar import DAY_UNKNOWN
from skyframe.config.ranges import MAX_SKIPPED
from skyframe.config.recipe import DataConfig
from skyframe.config.skysense import SkySenseRecipe
from skyframe.data.ahead import Read, ReadAhead
from skyframe.data.cube import Cube
from skyframe.data.layout import layouts_for, select_modalities
from skyframe.data.plan import WindowPlan
from skyframe.data.read import Room, SeriesRead, plan_series, read_chosen, read_series, reads_of
from skyframe.data.selection import plan_windows, select_cubes
from skyframe.data.shard import DamageError
from skyframe.data.slabs import Parcel, Slabs
from skyframe.geography import RegionIndex, build_regions, place_of
from skyframe.hashing import hash64, uniform_array
from skyframe.sample import Batch, BatchBuffers, Layout, Sample
from skyframe.spec import CubeSpec, InputError, Window

POINTS_PER_REGION = 16
"""Places that a region's cell is drawn from, at least: with fewer, cells would not be balanced."""

MAX_PLANNED = 4096

MAX_REPLACEMENTS = 16
"""Windows tried in place of a damaged one: where all of them are damaged as well, the cubes are."""


class WindowDataset(Dataset[Any]):
    """Position in the endless global order -> one window, uncut; several positions -> their batch."""

    def __init__(
        self,
        recipe: SkySenseRecipe,
        plan: WindowPlan,
        cubes: Mapping[str, Cube],
        regions: RegionIndex,
        layouts: Mapping[str, Layout],
    ) -> None:
        self.plan, self.cubes, self.regions, self.layouts = plan, cubes, regions, layouts
        self.data: DataConfig = recipe.data
        self.seed = recipe.seed
        self.spec = CubeSpec.load(recipe.data.spec)
        self.ahead: ReadAhead | None = None
        self._planned: dict[tuple[int, int], tuple[Window, int, list[SeriesRead]]] = {}
        self.slabs: Slabs | None = None  # where batches are read into; its holder opens the parcels

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "slabs": None, "_planned": {}}  # a process that is not a fork has none of this memory

    def __len__(self) -> int:
        return len(self.plan)

    def __getitems__(self, positions: list[int]) -> Batch | Parcel:
        """A batch, every sample read into its place; in a parcel where a slab was free."""
        if self.slabs is None:
            return self._fill(positions, BatchBuffers(len(positions), self.layouts)).batch()
        worker = get_worker_info()
        slab = self.slabs.take(worker.id if worker is not None else 0)
        if slab is None:
            return self._fill(positions, BatchBuffers(len(positions), self.layouts)).batch()
        filled = self._fill(positions, self.slabs.buffers(slab, len(positions)))
        return Parcel(slab, len(positions), filled.damage)

    def _fill(self, positions: list[int], buffers: BatchBuffers) -> BatchBuffers:
        """Over a network the samples of a batch and of the next are asked for before the first is read."""
        if self.ahead is not None:
            self.ahead.batch(positions)
        for i, position in enumerate(positions):
            if self.ahead is not None:
                self.ahead.settle(position)
            buffers.put(i, self._sample(position, partial(buffers.room, i)))
            if self.ahead is not None:
                self.ahead.done(position)
        return buffers

    def read_ahead(self, stride: int, stop: int) -> None:
        """Let `__getitems__` read ahead, as over a network.

        Args:
            stride: positions from one batch of a worker to its next.
            stop: past the last position of the run.
        """
        self.ahead = ReadAhead(self._reads_at, stride, stop)

    def __getitem__(self, position: int) -> Sample:
        """See `_sample`; in memory of its own."""
        return self._sample(position)

    def _sample(self, position: int, room: Room | None = None) -> Sample:
        """The sample at an absolute position (epoch * windows per epoch + position in the epoch).

        Where the recipe says `on_damage: skip`, a sample with lost or altered chunks is replaced by another one of the
        epoch, drawn by (seed, position): the same on any number of ranks and workers.

        Raises:
            DamageError: the sample is damaged and the recipe says `raise`.
            InputError: its replacements are damaged as well.
        """
        epoch, at = divmod(position, len(self.plan))
        try:
            return self._read(epoch, at, room)
        except DamageError as error:
            if self.data.on_damage == "raise":
                raise
            damage = str(error)
        for attempt in range(MAX_REPLACEMENTS):
            other = hash64(self.seed, epoch, at, "replacement", attempt) % len(self.plan)
            with suppress(DamageError):
                return dataclasses.replace(self._read(epoch, other, room), damage=damage)
        raise InputError(
            f"{damage.rpartition(';')[0]}; {MAX_REPLACEMENTS} windows drawn in its place are damaged as well, expected "
            "a few damaged chunks at most; run `skyframe verify` on the cubes"
        )

    def _read(self, epoch: int, at: int, room: Room | None) -> Sample:
        planned = self._planned.pop((epoch, at), None)
        if planned is not None:  # under way, as `read_ahead` has it
            window, index, chosen = planned
            series = read_chosen(self.cubes[window.cube], chosen, room)
        else:
            window, index = self.plan.at(epoch, at)
            names, dates = list(self.data.modalities), self._dates(epoch, window, index)
            series = read_series(self.cubes[window.cube], window, self.spec, names, dates, room)
        if self.data.min_clear > 0:
            for s in series.values():
                s.valid &= (s.valid.mean((1, 2)) >= self.data.min_clear)[:, None, None]
        grid = self.cubes[window.cube].grid
        place = place_of(grid, window.y_m + window.size_m / 2, window.x_m + window.size_m / 2)
        region = self.regions.region(float(place[0]), float(place[1]))
        return Sample(series=series, place=place, region=region, index=index, epoch=epoch)

    def _dates(self, epoch: int, window: Window, index: int) -> dict[str, NDArray[np.intp]]:
        cube = self.cubes[window.cube]
        return {
            name: draw_dates(cube.days(name), count, window, hash64(self.seed, epoch, index, "dates", name))
            for name, count in self.data.frames.items()
            if name in self.data.modalities and cube.has(name)
        }

    def _reads_at(self, position: int) -> tuple[Cube, list[Read]]:
        """What `_sample` will ask the cube's reader for; kept, so that it is not worked out again."""
        epoch, at = divmod(position, len(self.plan))
        window, index = self.plan.at(epoch, at)
        cube, dates = self.cubes[window.cube], self._dates(epoch, window, index)
        chosen = plan_series(cube, window, self.spec, list(self.data.modalities), dates)
        if len(self._planned) >= MAX_PLANNED:  # of positions that were never read
            self._planned.clear()
        self._planned[epoch, at] = window, index, chosen
        return cube, reads_of(cube, chosen)


def draw_dates(days: NDArray[np.int32], count: int, window: Window, key: int) -> NDArray[np.intp]:
    """Indices of `count` dates inside the window's time range, drawn without replacement and kept in order."""
    if len(days) > count and window.start_day <= days[0] and days[-1] < window.end_day:  # the usual case, in short
        chosen = np.argsort(uniform_array(key, len(days)), kind="stable")[:count]
        chosen.sort()
        return chosen
    inside = np.flatnonzero((days == DAY_UNKNOWN) | ((days >= window.start_day) & (days < window.end_day)))
    if len(inside) <= count:
        return inside
    return np.sort(inside[np.argsort(uniform_array(key, len(inside)), kind="stable")[:count]])


class StepSampler(Sampler[list[int]]):
    """Batches of absolute positions: this rank's contiguous block of each micro-step, from `start` on.

    It ends after `num_batches`, and as many more as were dropped. Its length is a bound that is never reached and never
    changes, since Lightning resets its batch counter when a loader shrinks.
    """

    def __init__(self, num_batches: int, per_rank: int, micro_steps: int, rank: int, world: int) -> None:
        self.num_batches, self.per_rank, self.micro_steps = num_batches, per_rank, micro_steps
        self.rank, self.world = rank, world
        self.start = 0  # batches already consumed
        self.dropped = 0  # batches whose optimizer step was dropped
        self.longest = num_batches

    def __len__(self) -> int:
        return self.longest

    @property
    def stop(self) -> int:
        """The batch to end before; moves on when a step is dropped."""
        return self.num_batches + self.dropped

    def positions(self, batch: int) -> list[int]:
        """Absolute positions of this rank's part of a batch."""
        first = batch * self.per_rank * self.world + self.rank * self.per_rank
        return list(range(first, first + self.per_rank))

    def __iter__(self) -> Iterator[list[int]]:
        batch = self.start
        while batch < self.stop:
            yield self.positions(batch)
            batch += 1


class TimedLoader(DataLoader[Any]):
    """A loader that measures how long its consumer waited for it, and opens the parcels that its readers send."""

    waited_s = 0.0
    slabs: Slabs | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = super().__iter__()
        sampler = self.batch_sampler
        assert isinstance(sampler, StepSampler)
        taken = sampler.start
        while True:
            begun = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                if taken >= sampler.stop:
                    return
                sampler.start = taken  # the readers were done when the last steps were dropped
                batches = super().__iter__()
                continue
            taken += 1
            if isinstance(batch, Parcel):
                assert self.slabs is not None
                batch = self.slabs.open(batch)
                if self.pin_memory:  # torch's own thread pins what is a tensor when it comes
                    batch = batch.pin_memory()
            self.waited_s += time.perf_counter() - begun
            yield batch
            del batch  # or its slab would be in use while the next one is waited for


def _as_it_is(batch: Any) -> Any:
    """The dataset makes whole batches; a function of the module, as spawned workers load it by name."""
    return batch


class CubeDataModule(pl.LightningDataModule):
    """Batches of windows for one run; its state is how many batches were consumed."""

    def __init__(self, recipe: SkySenseRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        data = recipe.data
        self.modalities = select_modalities(data)
        spec = CubeSpec.load(data.spec)
        selection = select_cubes(recipe)
        self.cubes, self.plan = selection.cubes, plan_windows(recipe, selection.table)
        self.is_remote = selection.is_remote
        regions = data.regions or spec.regions
        points = max(4096, POINTS_PER_REGION * regions.num_regions)
        self.regions = build_regions(self.plan.places(points), regions)
        self.layouts = layouts_for(self.modalities, data.frames, data.window_px)
        self.sampler: StepSampler | None = None
        self.loader: TimedLoader | None = None
        self.consumed = 0
        self.replaced = 0  # samples of all ranks that stood in for damaged ones
        self.skipped = 0  # optimizer steps that were dropped, with their batches

    def dataset(self) -> WindowDataset:
        """The windows of this run, by absolute position."""
        return WindowDataset(self.recipe, self.plan, self.cubes, self.regions, self.layouts)

    def train_dataloader(self) -> TimedLoader:
        """The loader of this rank, starting at the first batch not yet consumed."""
        train = self.recipe.train
        world = dist.world_size()
        per_rank = train.global_batch // (train.micro_steps * world)
        self.sampler = StepSampler(train.max_steps * train.micro_steps, per_rank, train.micro_steps, dist.rank(), world)
        self.sampler.start, self.sampler.dropped = self.consumed, self.skipped * train.micro_steps
        self.sampler.longest *= MAX_SKIPPED  # dropped before each step, at the very most
        workers, dataset = self.recipe.data.workers, self.dataset()
        if self.is_remote:
            width = per_rank * world
            dataset.read_ahead(stride=width * max(1, workers), stop=width * self.sampler.stop)
        slabs = Slabs(max(1, workers), per_rank, self.layouts) if multiprocessing.get_start_method() == "fork" else None
        dataset.slabs = slabs
        self.loader = TimedLoader(
            dataset,
            batch_sampler=self.sampler,
            collate_fn=_as_it_is,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
        self.loader.slabs = slabs
        return self.loader

    def state_dict(self) -> dict[str, Any]:
        """Batches consumed so far, counted by the training module, not by what workers have fetched."""
        return {"consumed": self.consumed, "replaced": self.replaced, "skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the batches that the interrupted run consumed."""
        self.consumed = int(state_dict["consumed"])
        self.replaced = int(state_dict.get("replaced", 0))  # absent before format 1 counted it
        self.skipped = int(state_dict.get("skipped", 0))  # as is this in earlier ones

    def drop_step(self) -> None:
        """An optimizer step was dropped: the run reads on past the batches that it was planned with."""
        assert self.sampler is not None
        self.skipped += 1
        self.sampler.dropped += self.recipe.train.micro_steps

    def leave_out_to(self, batch: int, step: int) -> None:
        """Let optimizer step `step` + 1 read from `batch` on; what lies between counts as dropped.

        Args:
            batch: first one not yet read; where a step begins.
            step: steps that were taken, once what came after them is undone.
        """
        assert self.sampler is not None
        micro = self.recipe.train.micro_steps
        if batch % micro:
            raise ValueError(f"data: batch {batch} is in the middle of a step of {micro}")
        self.skipped = batch // micro - step
        self.sampler.dropped = self.skipped * micro
