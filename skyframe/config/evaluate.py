"""Evaluation suites: which benchmarks, tasks and probes score an encoder. Torch-free dataclasses, strict YAML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from skyframe.config import overlay, read_tree
from skyframe.config.detection import DetectionConfig
from skyframe.config.heads import PRESETS, HeadTraining, check_training
from skyframe.spec import InputError, build, did_you_mean

CLASS_METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "miou")
LABEL_METRICS = ("map", "map_micro", "macro_f1", "micro_f1")
VALUE_METRICS = ("rmse", "mae", "bias", "r2", "nse", "nnse")
CHANGE_METRICS = ("f1", "iou", "accuracy")
METRICS: dict[str, tuple[str, ...]] = {
    "scene": (*CLASS_METRICS, "top1", "top5"),
    "multilabel": LABEL_METRICS,
    "pixel": (*CLASS_METRICS, "mf1", "f1", "iou"),
    "boxes": ("map50", "map", "map75", "voc07_map50"),
    "oriented": ("map50", "voc07_map50"),
    "change": CHANGE_METRICS,
    "semantic_change": ("scs", "bc", "sc", "miou"),
    "regression": VALUE_METRICS,
}
"""Metrics that a task may list, by what is predicted; the first is the default. Shares lie in 0..1 and are taken over
the data set, not per image; `rmse` and `mae` are in the label's units and the lower the better."""

PROBES: dict[str, tuple[str, ...]] = {
    "scene": ("knn", "linear", "logistic"),
    "multilabel": ("knn", "linear", "logistic"),
    "pixel": ("knn", "linear", "logistic"),
    "regression": ("knn", "ridge"),
}
"""Protocols over frozen features, by what is predicted."""


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
class DataConfig:
    """Where the simulated Earth lies; every other benchmark is a folder below `--data`."""

    simulated: SimulatedData | None = None


@dataclass(frozen=True)
class TaskConfig:
    """What is predicted from what."""

    benchmark: (
        str  # `simulated`, a data set such as resisc45 (`skyframe data-check` lists them), or a YAML of one's own
    )
    level: Literal["scene", "pixel"] = "scene"  # of the simulated Earth; a data set has its own kind
    label: str = ""  # truth layer of a simulated cube
    metrics: tuple[str, ...] = ()  # the first chooses hyper-parameters on validation; empty = the kind's first
    protocols: tuple[str, ...] = ()  # empty = those of the suite that the kind of task has
    modalities: tuple[str, ...] = ()  # what the encoder may see; empty = all that it and the data have
    clear_frames: int | None = None  # optical dates left per window, the others hidden as if clouded; none = all
    regions: Literal["auto", "place", "swapped", "unseen"] = "auto"  # the prototype region an encoder is told
    part: Literal["all", "context"] = "all"  # of the features: all, or the region context alone (raw pixels have none)
    label_share: float = 1.0  # share of the training and validation rows with labels; smaller ones lie in larger
    min_share: float = 0.5  # scene level: share of the window that the majority class must reach
    ignore: tuple[int, ...] = ()  # label values that are not classes
    # of data sets alone
    root: str = ""  # folder below --data; empty = the benchmark's name
    normalisers: tuple[Literal["auto", "pretraining", "dataset"], ...] = ("auto",)  # several = part of the linear sweep
    frames: dict[str, int] = field(default_factory=dict)  # dates per modality; empty = as in the contract
    side: int = 0  # positions along a tile; 0 = the contract's crop, at most the image
    tiles: int = 0  # tiles per image whose features are averaged, the central ones first; 0 = as many as cover it
    positions: int = 0  # side that every image is resampled to, in positions; 0 = pixel by pixel
    points: int = 64  # positions per image that probes see where every pixel has a class
    limit: dict[str, int] = field(default_factory=dict)  # items per part, drawn by hash; empty = all
    incomplete: bool = False  # score what is there although files are missing; the split's digest then differs


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
class LogisticConfig:
    """Logistic regression to convergence (L-BFGS), its inverse penalty chosen on validation."""

    penalties: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2)  # C of scikit-learn
    iterations: int = 1000


@dataclass(frozen=True)
class RidgeConfig:
    """Ridge regression on standardised features, its penalty chosen on validation."""

    penalties: tuple[float, ...] = (1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3, 1e4, 1e5)


@dataclass(frozen=True)
class Suite:
    """One evaluation run."""

    name: str
    data: DataConfig = field(default_factory=DataConfig)
    tasks: dict[str, TaskConfig] = field(default_factory=dict)
    description: str = ""
    select: tuple[str, ...] = ()  # names of the tasks to run; empty = all
    protocols: tuple[str, ...] = ("knn", "linear")
    seeds: tuple[int, ...] = (0,)
    knn: KnnConfig = field(default_factory=KnnConfig)
    linear: LinearConfig = field(default_factory=LinearConfig)
    logistic: LogisticConfig = field(default_factory=LogisticConfig)
    ridge: RidgeConfig = field(default_factory=RidgeConfig)
    heads: dict[str, HeadTraining] = field(default_factory=dict)  # beside those of heads.PRESETS, or in their place
    detectors: dict[str, DetectionConfig] = field(default_factory=lambda: {"detector": DetectionConfig()})
    bootstrap: int = 1000  # resamples of the test clusters for the 95 % interval
    batch_size: int = 32  # samples per forward pass

    def training(self, protocol: str) -> HeadTraining | DetectionConfig:
        """How the head of a protocol is trained."""
        return self.detectors[protocol] if protocol in self.detectors else {**PRESETS, **self.heads}[protocol]

    def protocols_of(self, kind: str) -> tuple[str, ...]:
        """Every protocol that a kind of task may have, by name."""
        if kind in ("boxes", "oriented"):
            return tuple(self.detectors)
        return (*PROBES.get(kind, ()), *PRESETS, *(n for n in self.heads if n not in PRESETS))

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
    known = [p for kind in METRICS for p in suite.protocols_of(kind)]
    wrong = [p for p in suite.protocols if p not in known]
    if wrong:
        raise InputError(
            f"{where}: protocols {list(suite.protocols)}, expected some of {', '.join(dict.fromkeys(known))}"
            f"{did_you_mean(wrong[0], known)}"
        )
    for name, training in suite.heads.items():
        check_training(training, f"{where}: heads.{name}")
    _check_counts(suite, where)


SIMULATED_COUNTS = ("train_windows", "val_windows", "test_windows", "positions", "window_px", "block_px")


def check_kind(suite: Suite, task: TaskConfig, kind: str, where: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Metrics and protocols of a task, once it is known what is predicted.

    Returns:
        The metrics, and of the task's protocols, or of the suite's those that this kind of task has.

    Raises:
        InputError: a metric or a protocol of another kind, or no protocol left.
    """
    wrong = [m for m in task.metrics if m.partition(":")[0] not in METRICS[kind]]
    if wrong:
        raise InputError(
            f"{where}: metrics {list(task.metrics)}, expected some of {', '.join(METRICS[kind])} ({kind})"
            f"{did_you_mean(wrong[0], METRICS[kind])}"
        )
    known = suite.protocols_of(kind) if task.benchmark != "simulated" else PROBES[kind]
    wrong = [p for p in task.protocols if p not in known]
    chosen = tuple(p for p in task.protocols or suite.protocols if p in known)
    if wrong or not chosen:
        raise InputError(
            f"{where}: protocols {list(task.protocols or suite.protocols)}, expected some of {', '.join(known)} "
            f"({kind})"
        )
    return task.metrics or METRICS[kind][:1], chosen


def _check_task(suite: Suite, task: TaskConfig, where: str) -> None:
    if task.benchmark == "simulated":
        if suite.data.simulated is None:
            raise InputError(f"{where}: benchmark 'simulated' has no entry under data; add data.simulated")
        if not task.label:
            raise InputError(f"{where}: label is empty, expected a truth layer such as land_cover")
        check_kind(suite, task, task.level, where)
    elif task.label or task.clear_frames is not None or task.part != "all":
        raise InputError(
            f"{where}: label, clear_frames and part belong to the simulated Earth, not to {task.benchmark}; "
            "leave them out"
        )
    for key in ("min_share", "label_share"):
        if not 0 < getattr(task, key) <= 1:
            raise InputError(f"{where}: {key} is {getattr(task, key)}, expected a share above 0 and at most 1")
    if task.clear_frames is not None and task.clear_frames < 0:
        raise InputError(f"{where}: clear_frames is {task.clear_frames}, expected 0 or more dates")
    for key in ("side", "tiles", "positions"):
        if getattr(task, key) < 0:
            raise InputError(f"{where}: {key} is {getattr(task, key)}, expected 0 or more")
    wrong = [f"{part}={n}" for part, n in task.limit.items() if part not in ("train", "val", "test") or n < 1]
    if wrong or task.points < 1 or len(set(task.normalisers)) != max(1, len(task.normalisers)):
        raise InputError(
            f"{where}: limit {task.limit}, points {task.points}, normalisers {list(task.normalisers)}, expected at "
            "least 1 item of train, val or test, 1 point, and different normalisers; correct them"
        )


def _check_counts(suite: Suite, where: str) -> None:
    counts = {"knn.k": suite.knn.k, "linear.epochs": suite.linear.epochs, "linear.batch": suite.linear.batch}
    counts |= {
        "bootstrap": suite.bootstrap,
        "batch_size": suite.batch_size,
        "logistic.iterations": suite.logistic.iterations,
    }
    sim = suite.data.simulated
    if sim is not None:
        counts |= {f"data.simulated.{key}": getattr(sim, key) for key in SIMULATED_COUNTS}
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
    for key, count in counts.items():
        if count < 1:
            raise InputError(f"{where}: {key} is {count}, expected at least 1")
    if not suite.knn.temperature > 0:
        raise InputError(f"{where}: knn.temperature is {suite.knn.temperature}, expected a positive number")
