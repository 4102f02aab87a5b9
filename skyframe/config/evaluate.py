"""Evaluation suites: which benchmarks, tasks and probes score an encoder. Torch-free dataclasses, strict YAML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from skyframe.config import overlay, read_tree
from skyframe.spec import InputError, build, did_you_mean

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "miou")
"""Names a task may list; all are shares in 0..1, computed over the data set, not per image."""


@dataclass(frozen=True)
class SimulatedData:
    """Windows of cubes that carry truth layers. Train and validation windows lie in different blocks of the train
    cubes; test windows lie in other cubes, which should be another region or year."""

    train: tuple[str, ...]  # paths or globs of finished cubes
    test: tuple[str, ...]
    train_windows: int = 480
    val_windows: int = 160
    test_windows: int = 400
    window_px: int = 8  # side of a window in positions, pixels of the Sentinel grid
    block_px: int = 64  # side of the blocks that are split whole between train and validation, and resampled whole
    val_share: float = 0.25  # share of the train cubes' blocks that go to validation
    positions: int = 16  # positions per window whose features pixel tasks see (neighbours tell the same)
    frames: dict[str, int] = field(default_factory=dict)  # dates per series modality; empty = as in the contract


@dataclass(frozen=True)
class EuroSatData:
    """A folder `<root>/<Class>/<name>.jpg` of 64 x 64 RGB chips, split 60/20/20 by a hash of class and file name."""

    root: str
    images_per_class: int = 100  # the first by hash; all 400 or 3000 where the number is larger
    tile_px: int = 0  # side of the tiles an image is cut into; 0 = the contract's crop, at most 64
    tiles_per_image: int = 4  # tiles whose features are averaged, the central ones first


@dataclass(frozen=True)
class DataConfig:
    """The benchmarks' places on disk; a task may only name a benchmark that stands here."""

    simulated: SimulatedData | None = None
    eurosat: EuroSatData | None = None


@dataclass(frozen=True)
class TaskConfig:
    """What is predicted from what."""

    benchmark: Literal["simulated", "eurosat"]
    level: Literal["scene", "pixel"] = "scene"
    label: str = ""  # truth layer of a simulated cube; EuroSAT's classes are its folders
    metrics: tuple[str, ...] = ("accuracy",)  # the first chooses hyper-parameters on the validation part
    modalities: tuple[str, ...] = ()  # what the encoder may see; empty = all of its contract
    clear_frames: int | None = None  # optical dates left per window, the others hidden as if clouded; none = all
    regions: Literal["auto", "place", "swapped", "unseen"] = "auto"  # the prototype region an encoder is told
    part: Literal["all", "context"] = "all"  # of the features: all, or the region context alone (raw pixels have none)
    label_share: float = 1.0  # share of the training and validation rows with labels; smaller ones lie in larger
    min_share: float = 0.5  # scene level: share of the window that the majority class must reach
    ignore: tuple[int, ...] = ()  # label values that are not classes


@dataclass(frozen=True)
class KnnConfig:
    """Weighted vote of the nearest training rows."""

    k: int = 20
    temperature: float = 0.07
    also: tuple[int, ...] = (5, 10, 100, 200)  # reported beside k, never chosen


@dataclass(frozen=True)
class LinearConfig:
    """All heads of the grid learning rate x standardisation x pooling, trained side by side."""

    lrs: tuple[float, ...] = (1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1, 5e-1)
    epochs: int = 50
    warmup: float = 0.1  # share of the steps
    batch: int = 128  # rows; pixel tasks take eight times as many
    weight_decay: float = 0.01


@dataclass(frozen=True)
class Suite:
    """One evaluation run."""

    name: str
    data: DataConfig
    tasks: dict[str, TaskConfig]
    description: str = ""
    select: tuple[str, ...] = ()  # names of the tasks to run; empty = all
    protocols: tuple[Literal["knn", "linear"], ...] = ("knn", "linear")
    seeds: tuple[int, ...] = (0,)
    knn: KnnConfig = field(default_factory=KnnConfig)
    linear: LinearConfig = field(default_factory=LinearConfig)
    bootstrap: int = 1000  # resamples of the test clusters for the 95 % interval
    batch_size: int = 32  # samples per forward pass

    @property
    def selected(self) -> dict[str, TaskConfig]:
        """The tasks to run, in the suite's order."""
        return {n: t for n, t in self.tasks.items() if not self.select or n in self.select}


def load_suite(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Suite:
    """Read `recipes/eval/<name>.yaml` or a file by path, apply `key=value` overrides and check every field.

    Raises:
        InputError: file, key, type or rule; one sentence that names the place.
    """
    where = Path(str(name_or_path)).name
    tree = overlay(read_tree("recipes/eval", name_or_path), overrides, where)
    suite: Suite = build(Suite, tree, where)
    check_suite(suite, where)
    return suite


def check_suite(suite: Suite, where: str) -> None:
    """Rules that tie fields together.

    Raises:
        InputError: naming field, value and remedy.
    """
    if not suite.tasks:
        raise InputError(f"{where}: tasks is empty, expected at least one; see recipes/eval/quick.yaml")
    for name in suite.select:
        if name not in suite.tasks:
            raise InputError(
                f"{where}: select names {name!r}, expected some of "
                f"{', '.join(suite.tasks)}{did_you_mean(name, suite.tasks)}"
            )
    for name, task in suite.tasks.items():
        _check_task(suite, task, f"{where}: tasks.{name}")
    for name, values in (("protocols", suite.protocols), ("seeds", suite.seeds), ("linear.lrs", suite.linear.lrs)):
        if not values or len(set(values)) != len(values):
            raise InputError(f"{where}: {name} is {list(values)}, expected at least one value and none twice")
    _check_counts(suite, where)


def _check_task(suite: Suite, task: TaskConfig, where: str) -> None:
    places = {"simulated": suite.data.simulated, "eurosat": suite.data.eurosat}
    if places[task.benchmark] is None:
        raise InputError(f"{where}: benchmark {task.benchmark!r} has no entry under data; add data.{task.benchmark}")
    if task.benchmark == "simulated" and not task.label:
        raise InputError(f"{where}: label is empty, expected a truth layer such as land_cover")
    if task.benchmark == "eurosat" and (
        task.level != "scene" or task.label or task.modalities or task.clear_frames is not None
    ):
        raise InputError(
            f"{where}: eurosat is one class per RGB image; leave out level, label, modalities and clear_frames"
        )
    if not task.metrics or not set(task.metrics) <= set(METRICS):
        raise InputError(f"{where}: metrics {list(task.metrics)}, expected some of {', '.join(METRICS)}")
    for key in ("min_share", "label_share"):
        if not 0 < getattr(task, key) <= 1:
            raise InputError(f"{where}: {key} is {getattr(task, key)}, expected a share above 0 and at most 1")
    if task.clear_frames is not None and task.clear_frames < 0:
        raise InputError(f"{where}: clear_frames is {task.clear_frames}, expected 0 or more dates")


def _check_counts(suite: Suite, where: str) -> None:
    counts = {"knn.k": suite.knn.k, "linear.epochs": suite.linear.epochs, "linear.batch": suite.linear.batch}
    counts |= {"bootstrap": suite.bootstrap, "batch_size": suite.batch_size}
    sim, rgb = suite.data.simulated, suite.data.eurosat
    if sim is not None:
        counts |= {"data.simulated.train_windows": sim.train_windows, "data.simulated.val_windows": sim.val_windows}
        counts |= {"data.simulated.test_windows": sim.test_windows, "data.simulated.positions": sim.positions}
        counts |= {"data.simulated.window_px": sim.window_px, "data.simulated.block_px": sim.block_px}
        if sim.window_px > sim.block_px:
            raise InputError(
                f"{where}: data.simulated.window_px {sim.window_px} is larger than block_px {sim.block_px}; "
                "a window must lie inside one block"
            )
        if not 0 < sim.val_share < 1:
            raise InputError(f"{where}: data.simulated.val_share is {sim.val_share}, expected a share between 0 and 1")
        for key, cubes in (("train", sim.train), ("test", sim.test)):
            if not cubes:
                raise InputError(f"{where}: data.simulated.{key} is empty, expected paths of cubes with truth layers")
    if rgb is not None:
        counts |= {
            "data.eurosat.images_per_class": rgb.images_per_class,
            "data.eurosat.tiles_per_image": rgb.tiles_per_image,
        }
    for key, count in counts.items():
        if count < 1:
            raise InputError(f"{where}: {key} is {count}, expected at least 1")
    if not suite.knn.temperature > 0:
        raise InputError(f"{where}: knn.temperature is {suite.knn.temperature}, expected a positive number")
