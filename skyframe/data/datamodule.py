"""From a recipe's cubes to batches of windows: one seeded global order, exact position for resume."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from skyframe import dist
from skyframe.calendar import DAY_UNKNOWN
from skyframe.config.recipe import DataConfig
from skyframe.config.skysense import SkySenseRecipe
from skyframe.data.cube import Cube
from skyframe.data.plan import WindowPlan
from skyframe.data.read import read_series
from skyframe.data.selection import BASE_GSD_M, plan_windows, select_cubes
from skyframe.geography import RegionIndex, build_regions, place_of
from skyframe.hashing import hash64, uniform_array
from skyframe.sample import Layout, Sample, collate
from skyframe.spec import CubeSpec, InputError, Modality, Window, did_you_mean

POINTS_PER_REGION = 16
"""Places that a region's cell is drawn from, at least: with fewer, cells would not be balanced."""


def select_modalities(data: DataConfig) -> dict[str, Modality]:
    """The canonical modalities that a recipe names, in its order; unknown names are an error."""
    spec = CubeSpec.load(data.spec)
    for name in data.modalities:
        if name not in spec.modalities:
            raise InputError(
                f"data.modalities: {name!r} is not in spec {spec.name} "
                f"({', '.join(spec.modalities)}){did_you_mean(name, spec.modalities)}"
            )
    return {name: spec.modalities[name] for name in data.modalities}


def side_px(modality: Modality, size_px: int) -> int:
    """Pixels of a modality along `size_px` pixels of the 10 m grid (weather is one cell)."""
    return 1 if modality.kind == "weather" else modality.pixels(size_px * BASE_GSD_M)


def layouts_for(modalities: Mapping[str, Modality], frames: Mapping[str, int], size_px: int) -> dict[str, Layout]:
    """Batch layout of each modality for a crop of `size_px` pixels on the 10 m grid."""
    made = {}
    for name, m in modalities.items():
        if m.kind in ("series", "weather") and name not in frames:
            raise InputError(
                f"data.frames: {name} is a {m.kind} modality without a number of dates; add data.frames.{name}"
            )
        num_dates = frames[name] if m.kind in ("series", "weather") else 1
        made[name] = Layout(num_dates, len(m.bands), side_px(m, size_px), m.dtype)
    return made


class WindowDataset(Dataset[Any]):
    """Position in the endless global order -> one window, uncut."""

    def __init__(
        self, recipe: SkySenseRecipe, plan: WindowPlan, cubes: Mapping[str, Cube], regions: RegionIndex
    ) -> None:
        self.plan, self.cubes, self.regions = plan, cubes, regions
        self.data: DataConfig = recipe.data
        self.seed = recipe.seed
        self.spec = CubeSpec.load(recipe.data.spec)

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, position: int) -> Sample:
        """The sample at an absolute position (epoch * windows per epoch + position in the epoch)."""
        epoch, at = divmod(position, len(self.plan))
        window, index = self.plan.at(epoch, at)
        cube = self.cubes[window.cube]
        dates = {
            name: draw_dates(cube.days(name), count, window, hash64(self.seed, epoch, index, "dates", name))
            for name, count in self.data.frames.items()
            if name in self.data.modalities and cube.has(name)
        }
        series = read_series(cube, window, spec=self.spec, names=list(self.data.modalities), dates=dates)
        if self.data.min_clear > 0:
            for s in series.values():
                s.valid = s.valid & (s.valid.mean((1, 2)) >= self.data.min_clear)[:, None, None]
        place = place_of(cube.grid, window.y_m + window.size_m / 2, window.x_m + window.size_m / 2)
        region = self.regions.region(float(place[0]), float(place[1]))
        return Sample(series=series, place=place, region=region, index=index, epoch=epoch)


def draw_dates(days: NDArray[np.int32], count: int, window: Window, key: int) -> NDArray[np.intp]:
    """Indices of `count` dates inside the window's time range, drawn without replacement and kept in order."""
    inside = np.flatnonzero((days == DAY_UNKNOWN) | ((days >= window.start_day) & (days < window.end_day)))
    if len(inside) <= count:
        return inside
    return np.sort(inside[np.argsort(uniform_array(key, len(inside)), kind="stable")[:count]])


class StepSampler(Sampler[list[int]]):
    """Batches of absolute positions: this rank's contiguous block of each micro-step, from `start` on.

    Its length never changes, since Lightning resets its batch counter when a loader shrinks.
    """

    def __init__(self, num_batches: int, per_rank: int, micro_steps: int, rank: int, world: int) -> None:
        self.num_batches, self.per_rank, self.micro_steps = num_batches, per_rank, micro_steps
        self.rank, self.world = rank, world
        self.start = 0  # batches already consumed

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        width = self.per_rank * self.world
        for batch in range(self.start, self.num_batches):
            first = batch * width + self.rank * self.per_rank
            yield list(range(first, first + self.per_rank))


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
        regions = data.regions or spec.regions
        points = max(4096, POINTS_PER_REGION * regions.num_regions)
        self.regions = build_regions(self.plan.places(points), regions)
        self.layouts = layouts_for(self.modalities, data.frames, data.window_px)
        self.sampler: StepSampler | None = None
        self.consumed = 0

    def dataset(self) -> WindowDataset:
        """The windows of this run, by absolute position."""
        return WindowDataset(self.recipe, self.plan, self.cubes, self.regions)

    def train_dataloader(self) -> DataLoader[Any]:
        """The loader of this rank, starting at the first batch not yet consumed."""
        train = self.recipe.train
        world = dist.world_size()
        per_rank = train.global_batch // (train.micro_steps * world)
        self.sampler = StepSampler(train.max_steps * train.micro_steps, per_rank, train.micro_steps, dist.rank(), world)
        self.sampler.start = self.consumed
        workers = self.recipe.data.workers
        return DataLoader(
            self.dataset(),
            batch_sampler=self.sampler,
            collate_fn=partial(collate, layouts=self.layouts),
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def state_dict(self) -> dict[str, Any]:
        """Batches consumed so far, counted by the training module, not by what workers have fetched."""
        return {"consumed": self.consumed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the batches that the interrupted run consumed."""
        self.consumed = int(state_dict["consumed"])
