"""Samples of a data set for an encoder's contract, read when asked for: the order of items, tiles and positions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from skyframe.config.evaluate import TaskConfig
from skyframe.evaluate.benchmarks.places import choose_dates
from skyframe.evaluate.datasets.dataset import PARTS, Dataset, Item
from skyframe.evaluate.feed.features import Inputs, Ints, choose_positions, watched
from skyframe.evaluate.feed.fit import Fit
from skyframe.evaluate.feed.tiles import crop
from skyframe.evaluate.protocol import digest
from skyframe.geography import RegionIndex
from skyframe.randomness import hash64
from skyframe.sample import Sample, Series
from skyframe.spec import InputError

KEPT_BYTES = 1 << 30
"""Of fitted tiles that stay in memory, so that several encoders and baselines read a small data set once."""


def limited(dataset: Dataset, task: TaskConfig, where: str) -> Dataset:
    """The data set as a task may use it: its problems settled, and at most `limit` items per part, drawn by hash.

    Raises:
        InputError: problems, unless the task says `incomplete`; or nothing to train on or to test.
    """
    if dataset.problems and not task.incomplete:
        more = f" ({len(dataset.problems) - 1} further problems)" if len(dataset.problems) > 1 else ""
        raise InputError(
            f"{where}: {dataset.problems[0]}{more}; run `skyframe data-check {task.benchmark} FOLDER`, or set "
            "incomplete=true to score what is there"
        )
    items = [i for i in dataset.items if not task.incomplete or all(p.is_file() for p in i.files.values())]
    chosen: list[Item] = []
    for part in PARTS:
        of_part = [i for i in items if i.part == part]
        if part in task.limit:
            drawn = sorted(of_part, key=lambda i: hash64("limit", i.key))[: task.limit[part]]
            keys = {i.key for i in drawn}
            of_part = [i for i in of_part if i.key in keys]
        if not of_part and part != "val":  # heads do without one; probes say so themselves
            raise InputError(
                f"{where}: {dataset.name} has no {part} items ({dataset.split}), expected some; run "
                f"`skyframe data-check {task.benchmark} FOLDER`"
            )
        chosen += of_part
    return dataclasses.replace(dataset, items=tuple(chosen))


def with_validation(dataset: Dataset, share: float = 0.2) -> Dataset:
    """The data set with a validation part: where nobody publishes one, a share of the training clusters, by hash.

    A single training cluster stays whole; then there is none.
    """
    if dataset.part("val"):
        return dataset
    clusters = {i.cluster or i.key for i in dataset.part("train")}
    chosen = set(
        sorted(clusters, key=lambda c: hash64("val", c))[: min(math.ceil(share * len(clusters)), len(clusters) - 1)]
    )
    items = [
        dataclasses.replace(i, part="val") if i.part == "train" and (i.cluster or i.key) in chosen else i
        for i in dataset.items
    ]
    return dataclasses.replace(
        dataset, items=tuple(items), split=f"{dataset.split}; validation: {share:.0%} of train by hash"
    )


def dataset_inputs(fit: Fit, task: TaskConfig, seed: int, show_progress: bool = True) -> Inputs:
    """What an encoder is fed of a data set, and the truth of every row or position.

    Args:
        fit: the data set and the contract.
        task: tiles, dates and points.
        seed: of dates and positions.
        show_progress: draw a bar while masks are read.

    Raises:
        InputError: a tile smaller than the encoder can see, or an item that cannot be read.
    """
    dataset = fit.dataset
    first = fit.read(dataset.items[0])
    plan = TilePlan.of(fit, first, task)
    samples = LazySamples(fit, plan, {**fit.contract.frames, **task.frames}, task.regions, seed)
    num = len(dataset.items)
    pixel = dataset.kind == "pixel"
    keep = max(1, task.points // plan.per_item) if pixel else 0
    positions = (
        choose_positions(len(samples), plan.side**2, keep, seed) if pixel else np.empty((len(samples), 0), np.int64)
    )
    _, cluster = np.unique([i.cluster or i.key for i in dataset.items], return_inverse=True)
    sizes = [(i.key, i.part, [p.stat().st_size for p in i.files.values() if p.is_file()]) for i in dataset.items]
    made = Inputs(
        samples=samples,
        layouts=fit.layouts(plan.side, {**fit.contract.frames, **task.frames}),
        row=np.repeat(np.arange(num), plan.per_item),
        part=np.array([PARTS.index(i.part) for i in dataset.items], np.int64),
        cluster=cluster.astype(np.int64),
        positions=positions,
        truth={},
        classes={"": dataset.classes},
        source=f"{fit.note}, {plan.note}",
        normaliser=fit.normaliser,
        split=dataset.split_sha256,
        side_px=plan.side,
        identity=digest(
            sizes, fit.note, {k: [x.tolist() for x in v] for k, v in fit.statistics.items()}, dataclasses.asdict(plan),
            task.frames, task.regions, seed, sorted(fit.contract.regions.items(), key=str),
            {n: dataclasses.asdict(m) for n, m in fit.contract.modalities.items()},
        ),
    )  # fmt: skip
    truth = _position_labels(samples, made, show_progress) if pixel else _item_labels(samples, show_progress)
    made.truth[""] = truth
    return made


@dataclass(frozen=True)
class TilePlan:
    """The tiles of every item: a grid of equal squares spread over it, the central ones first where not all count."""

    side: int  # positions
    rows: int
    columns: int
    per_item: int

    @staticmethod
    def of(fit: Fit, first: Sample, task: TaskConfig) -> TilePlan:
        """From the size of one item; items of other sizes get as many tiles, farther apart or overlapping."""
        extent = fit.extent_of(first)
        contract = fit.contract
        side = min(task.side or contract.crop_px, max(extent))
        side = max(side, contract.min_side_px)
        if task.side and task.side < contract.min_side_px:
            raise InputError(
                f"{fit.dataset.name}: side {task.side}, expected at least {contract.min_side_px} positions, the "
                "smallest that the encoder sees; give a larger side"
            )
        rows, columns = (max(1, -(-length // side)) for length in extent)
        return TilePlan(side, rows, columns, min(task.tiles or rows * columns, rows * columns))

    @property
    def note(self) -> str:
        """For the result row."""
        of = "" if self.per_item == self.rows * self.columns else f" of {self.rows * self.columns}"
        return f"{self.per_item}{of} tile(s) of {self.side} positions"

    def origin(self, number: int, extent: tuple[int, int]) -> tuple[int, int]:
        """First row and column of one of the taken tiles of an item that covers `extent` positions."""
        middle = (self.rows - 1) / 2, (self.columns - 1) / 2
        cells = [(y, x) for y in range(self.rows) for x in range(self.columns)]
        y, x = sorted(cells, key=lambda c: ((c[0] - middle[0]) ** 2 + (c[1] - middle[1]) ** 2, c))[number]
        return _spread(y, self.rows, extent[0], self.side), _spread(x, self.columns, extent[1], self.side)


def _spread(number: int, count: int, length: int, side: int) -> int:
    room = max(0, length - side)
    return room // 2 if count == 1 else round(number * room / (count - 1))


@dataclass
class LazySamples(Sequence[Sample]):
    """Tiles of items in order, fitted to the contract; targets stay out, as an encoder could see them."""

    fit: Fit
    plan: TilePlan
    frames: dict[str, int]
    regions: str
    seed: int
    kept: dict[int, list[Sample]] = field(default_factory=dict)
    num_bytes: int = 0

    def __post_init__(self) -> None:
        self.reader = reader_of(self.fit, self.frames, self.regions, self.seed)

    def __len__(self) -> int:
        return len(self.fit.dataset.items) * self.plan.per_item

    @overload
    def __getitem__(self, chosen: int) -> Sample: ...

    @overload
    def __getitem__(self, chosen: slice) -> list[Sample]: ...

    def __getitem__(self, chosen: int | slice) -> Sample | list[Sample]:
        if isinstance(chosen, slice):
            return [self[i] for i in range(*chosen.indices(len(self)))]
        item, tile = divmod(chosen, self.plan.per_item)
        found = dataclasses.replace(self.tiles(item)[tile], targets={})
        return dataclasses.replace(found, index=chosen)

    def tiles(self, number: int) -> list[Sample]:
        """All taken tiles of an item, with their targets."""
        if number in self.kept:
            return self.kept[number]
        item = self.fit.dataset.items[number]
        whole = self.reader(item)
        extent = self.fit.extent_of(whole)
        px = self.fit.label_px(whole)
        made = [
            crop(whole, *self.plan.origin(k, extent), self.plan.side, extent, px) for k in range(self.plan.per_item)
        ]
        size = sum(s.values.nbytes + s.valid.nbytes for sample in made for s in sample.series.values())
        while self.kept and (self.num_bytes + size > KEPT_BYTES):
            gone = self.kept.pop(next(iter(self.kept)))
            self.num_bytes -= sum(s.values.nbytes + s.valid.nbytes for sample in gone for s in sample.series.values())
        self.kept[number] = made
        self.num_bytes += size
        return made


def reader_of(
    fit: Fit, frames: Mapping[str, int], regions: str, seed: int, all_dates: bool = False
) -> Callable[[Item], Sample]:
    """How an item is read for an encoder: at most as many dates as it is used to, one from each stretch of the year,
    and the prototype region of the place.

    Args:
        fit: data set and contract.
        frames: dates per modality that is a series in the contract; the others have one.
        regions: `unseen` tells no region.
        seed: of the dates.
        all_dates: keep every date, as where two of them are compared.
    """
    contract = fit.contract
    index = RegionIndex.from_dict(contract.regions) if contract.regions else RegionIndex()

    def read(item: Item) -> Sample:
        sample = fit.read(item)
        series: dict[str, Series] = {}
        for name, s in sample.series.items():
            is_series = contract.modalities[name].kind in ("series", "weather")
            count = len(s.day) if all_dates else frames.get(name, 1) if is_series else 1
            kept = choose_dates(s.day, count, seed, item.key, name)
            series[name] = Series(s.values[kept], s.valid[kept], s.day[kept], s.bands)
        known = bool(np.isfinite(sample.place).all())
        region = index.region(*map(float, sample.place)) if known and regions != "unseen" else -1
        place = sample.place if known else np.zeros(2)
        return dataclasses.replace(sample, series=series, region=region, place=place)

    return read


def _item_labels(samples: LazySamples, show_progress: bool) -> NDArray[np.generic]:
    """Truth of every item: int64 `[R]`, bool `[R, C]` or float32 `[R, K]`; read where it is not known without pixels.

    Raises:
        InputError: numbers that are maps.
    """
    dataset = samples.fit.dataset
    kind, items = dataset.kind, dataset.items
    if any(i.label is None for i in items):
        key = {"scene": "class", "multilabel": "classes"}.get(kind, "value")
        numbers = watched(range(len(items)), "reading labels", show_progress)
        found = np.stack([samples.tiles(k)[0].targets[key] for k in numbers])
        if kind == "regression" and found.ndim != 2:
            raise InputError(
                f"{dataset.name}: numbers are maps, which a probe of whole images does not predict; choose a protocol "
                "that trains a head"
            )
        return found
    if kind == "scene":
        return np.array([i.label for i in items], np.int64)
    if kind == "multilabel":
        made = np.zeros((len(items), len(dataset.classes)), bool)
        for row, item in zip(made, items, strict=True):
            row[list(item.label)] = True
        return made
    return np.array([np.atleast_1d(i.label) for i in items], np.float32)


def _position_labels(samples: LazySamples, inputs: Inputs, show_progress: bool) -> Ints:
    """Class `[R, tiles * P]` at the kept positions, -1 where no class covers at least half of one."""
    num = len(samples.fit.dataset.classes)
    rows = []
    for number in watched(range(len(samples.fit.dataset.items)), "reading masks", show_progress):
        at = number * samples.plan.per_item
        found = []
        for k, tile in enumerate(samples.tiles(number)):
            cells = majority(tile.targets["mask"].astype(np.int64), samples.plan.side, num)
            found.append(cells.ravel()[inputs.positions[at + k]])
        rows.append(np.concatenate(found))
    return np.stack(rows)


def majority(mask: Ints, side: int, num_classes: int) -> Ints:
    """The class that covers at least half of each position, `[side, side]`, -1 where none does."""
    k = mask.shape[0] // side
    if k == 1:
        return mask
    cells = mask.reshape(side, k, side, k).transpose(0, 2, 1, 3).reshape(side, side, k * k)
    counts = np.stack([(cells == c).sum(-1) for c in range(num_classes)], -1)
    return np.where(counts.max(-1) * 2 >= k * k, counts.argmax(-1), -1)


def dataset_root(task: TaskConfig, data: Path | None, where: str) -> Path:
    """The folder of a task's data set; of one's own YAML the one that its relative paths start from.

    Raises:
        InputError: it lies below --data, and no --data was given.
    """
    if Path(task.root).is_absolute():
        return Path(task.root)
    if Path(task.benchmark).suffix in (".yaml", ".yml"):
        return (data or Path(task.benchmark).parent) / task.root
    if data is None:
        raise InputError(
            f"{where}: {task.benchmark} lies below a folder of data sets, and none was given; add --data ROOT"
        )
    return data / (task.root or task.benchmark)
