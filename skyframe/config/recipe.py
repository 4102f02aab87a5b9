"""The parts of a recipe that every system shares: data, optimizer, training. Torch-free dataclasses, units in names."""

from __future__ import annotations

import dataclasses
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from skyframe.config.ranges import check_ranges
from skyframe.spec import InputError, RegionGrid


@dataclass(frozen=True)
class CacheConfig:
    """A bounded copy on the local disk of what remote cubes send, shared by the processes of a node."""

    path: str  # a folder on a disk of the node itself; $VARIABLES are those of the node
    max_gb: float  # 10^9 bytes; the least recently read goes first
    of: Literal["addresses", "all"] = "addresses"  # all = also cubes at paths, which lie on a shared file system

    @property
    def folder(self) -> Path:
        """Its path on this node.

        Raises:
            InputError: a variable in it is not set here.
        """
        path = os.path.expandvars(os.path.expanduser(self.path))
        if "$" in path:
            raise InputError(
                f"data.cache.path: {self.path!r} holds a variable that is not set on {platform.node()}, expected one "
                "of the job such as $TMPDIR; set it in the cluster file (scratch, env), or write the folder out"
            )
        return Path(path)


@dataclass(frozen=True)
class DataConfig:
    """Which cubes, which modalities of them, and how windows are drawn."""

    modalities: tuple[str, ...]  # a list that selects; names are checked against the spec
    frames: dict[str, int]  # dates per sample by series modality (entries of modalities not selected do nothing)
    cubes: tuple[str, ...] = ()  # paths, globs or addresses (https://, s3://) of finished cubes, in a fixed order
    catalogue: str = ""  # or a Parquet file of `skyframe catalogue`: its rows of split train
    where: str = ""  # which of these rows, such as "cloud < 0.3 and year == 2023 and has('s1')"
    sources: dict[str, float] = field(default_factory=dict)  # visits per window and epoch by source, instead of its own
    spec: str = "simulated_earth"  # canonical bands, order and statistics; cubes are matched to it by band name
    window_px: int = 16  # side of the window read, pixels on the 10 m grid
    stride_px: int = 16  # step between windows, pixels on the 10 m grid
    windows_per_shard: int = 4  # windows read in succession from one opened shard
    workers: int = 0  # reader processes per rank; they change who reads, never what
    min_clear: float = 0.0  # frames with a smaller share of clear pixels in the window count as absent
    on_damage: Literal["raise", "skip"] = "raise"  # skip = another window in place of one with lost or altered chunks
    cache: CacheConfig | None = None  # for cubes that are not on the node; none = nothing is kept
    regions: RegionGrid | None = None  # how a place becomes a prototype region; none = as the spec says


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay."""

    lr: float = 2e-4
    min_lr: float = 1e-6
    betas: tuple[float, ...] = (0.9, 0.999)
    weight_decay: float = 0.04
    warmup_steps: int = 1000
    clip_norm: float = 5.0


@dataclass(frozen=True)
class DeepSpeedConfig:
    """What is shared out over the ranks, and what lies in host memory, under `strategy: deepspeed`."""

    stage: Literal[0, 1, 2, 3] = 1  # shared out: 0 nothing, 1 optimizer states, 2 also gradients, 3 also parameters
    offload: Literal["none", "optimizer", "parameters"] = "none"  # to host memory; parameters: also the optimizer's
    overlay: str = ""  # JSON or YAML file of DeepSpeed's own keys, laid over what the recipe means


@dataclass(frozen=True)
class GuardsConfig:
    """What is done about a run that goes wrong; rollback = back to a checkpoint from before, on with later data."""

    max_skipped: int = 10  # optimizer steps dropped in a row, as a loss or gradient is not finite, that make it go back
    on_spike: Literal["ignore", "warn", "rollback", "stop"] = "warn"  # where the loss between two rows jumps
    spike_spreads: float = 8.0  # robust standard deviations above the median of the rows before
    spike_rows: int = 20  # rows of the log it is compared with
    on_collapse: Literal["ignore", "warn", "rollback", "stop"] = "warn"  # where features are below one of these
    least_rank: float = 1.2  # effective rank of a source's features; 1 = all on one line
    least_std: float = 0.02  # spread of a source's features; 0 = all the same
    collapse_rows: int = 3  # rows of the log in a row
    max_rollbacks: int = 2  # in a row to the same checkpoint; one more ends the run
    hung_s: float = 900.0  # seconds without progress of a rank, of several, after which the run ends; 0 = never


@dataclass(frozen=True)
class SurvivalConfig:
    """How a run makes room, and what is looked at before it starts."""

    signal: Literal["SIGUSR1", "SIGUSR2"] = "SIGUSR2"  # at which all ranks save after the step and leave with code 75
    preflight: bool = True  # before a run of several nodes each of them is looked at


@dataclass(frozen=True)
class EvaluateConfig:
    """Scores of the teacher while it trains: protocols over frozen features, never anything that training sees."""

    every: int = 0  # optimizer steps from one scoring to the next, and at the end; 0 = never
    suite: str = "quick"  # a name in recipes/eval/, or a path
    data: str = ""  # folder below which the suite's data sets lie
    overrides: tuple[str, ...] = ()  # key=value for the suite, such as select=[crop_type_scene]
    how: Literal["here", "apart"] = "here"  # here: the ranks pause for it; apart: `skyframe follow` does it elsewhere


@dataclass(frozen=True)
class TrainConfig:
    """How long, on what, and how often something is written."""

    max_steps: int
    global_batch: int  # samples per optimizer step over all ranks; the batch per rank follows
    micro_steps: int = 1  # forward passes per optimizer step; terms that couple samples see global_batch / micro_steps
    strategy: Literal["auto", "ddp", "deepspeed"] = "auto"  # auto = one process alone, several by ddp
    deepspeed: DeepSpeedConfig = field(default_factory=DeepSpeedConfig)
    recompute: bool = False  # activations of every layer are computed again in the backward pass instead of stored
    devices: int = 1  # processes per node
    num_nodes: int = 1
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    peak_tflops: float = 0.0  # of one device in this precision, for mfu_pct; 0 = that of an A100, H100 or H200, or none
    threads: int = 0  # CPU threads per process; 0 = all cores shared evenly by the processes of a node
    log_every: int = 10  # steps
    checkpoint_every: int = 100  # steps
    keep_checkpoints: int = 2  # newest complete checkpoints kept
    keep_every: int = 0  # and of older ones those whose step is a multiple of this; 0 = none
    async_save: bool = False  # train on while a checkpoint is written, from a copy in host memory
    guards: GuardsConfig = field(default_factory=GuardsConfig)
    survival: SurvivalConfig = field(default_factory=SurvivalConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    run_dir: str = "runs"  # the run's folder is <run_dir>/<name>


@dataclass(frozen=True)
class Recipe:
    """What every recipe holds; each system's schema extends it with views, model and loss."""

    system: str
    name: str
    data: DataConfig
    train: TrainConfig
    seed: int = 0
    optim: OptimConfig = field(default_factory=OptimConfig)


FREE = (
    "strategy", "deepspeed", "recompute", "devices", "num_nodes", "accelerator", "threads", "peak_tflops",
    "log_every", "checkpoint_every", "keep_checkpoints", "keep_every", "async_save", "guards",
    "survival", "evaluate",
)  # fmt: skip
"""Fields of `train:` that may differ from those that a run was started with: how it is done, not what it computes."""


def same_run(left: Recipe, right: Recipe) -> bool:
    """Whether two recipes compute the same, so that one may go on with the other's run."""

    def what(recipe: Recipe) -> Recipe:
        plain = TrainConfig(max_steps=1, global_batch=1)
        train = dataclasses.replace(recipe.train, **{name: getattr(plain, name) for name in FREE})
        data = dataclasses.replace(recipe.data, workers=0, cache=None)
        return dataclasses.replace(recipe, data=data, train=train)

    return what(left) == what(right)


def check_recipe(recipe: Recipe, where: str) -> None:
    """Rules that tie fields together.

    Raises:
        InputError: one sentence naming the fields, the values and the remedy.
    """
    check_ranges(recipe, where)
    data, train = recipe.data, recipe.train
    if not recipe.name or recipe.name in (".", "..") or "/" in recipe.name:
        raise InputError(
            f"{where}: name is {recipe.name!r}, expected a plain folder name; the run is written to "
            "<train.run_dir>/<name>"
        )
    if len(recipe.optim.betas) != 2:
        raise InputError(
            f"{where}: optim.betas is {list(recipe.optim.betas)}, expected two numbers such as [0.9, 0.95]"
        )
    _check_cubes(data, where)
    _check_deepspeed(train, where)
    _check_evaluate(train, where)
    if not data.modalities:
        raise InputError(f"{where}: data.modalities is empty, expected names such as [s2, s1]")
    ranks = train.devices * train.num_nodes
    if train.global_batch % (ranks * train.micro_steps):
        raise InputError(
            f"{where}: train.global_batch {train.global_batch} is not a multiple of {ranks} ranks x "
            f"{train.micro_steps} micro_steps; "
            f"use {-(-train.global_batch // (ranks * train.micro_steps)) * ranks * train.micro_steps}"
        )


def _check_deepspeed(train: TrainConfig, where: str) -> None:
    chosen = train.deepspeed
    if train.strategy != "deepspeed" and chosen != DeepSpeedConfig():
        raise InputError(
            f"{where}: train.deepspeed is set but train.strategy is {train.strategy!r}, which does not read it; set "
            "train.strategy=deepspeed or leave train.deepspeed out"
        )
    least = {"none": 0, "optimizer": 1, "parameters": 3}[chosen.offload]
    if chosen.stage < least:
        raise InputError(
            f"{where}: train.deepspeed.offload {chosen.offload!r} with stage {chosen.stage}, expected stage {least} or "
            f"more; set train.deepspeed.stage={least} or train.deepspeed.offload=none"
        )


def _check_evaluate(train: TrainConfig, where: str) -> None:
    """Only what lies in the recipe itself: the suite is read by `load_recipe`, as a saved run may outlive its file."""
    chosen = train.evaluate
    if chosen.how == "apart" and chosen.every % train.checkpoint_every:
        raise InputError(
            f"{where}: train.evaluate.every {chosen.every} with how: apart, expected a multiple of "
            f"train.checkpoint_every {train.checkpoint_every}, as checkpoints are what is scored; change either"
        )


def _check_cubes(data: DataConfig, where: str) -> None:
    if not data.cubes and not data.catalogue:
        raise InputError(
            f"{where}: data.cubes is empty, expected paths of cubes, or a file in data.catalogue; write one with "
            "`skyframe simulate`, `skyframe ingest` or `skyframe catalogue`"
        )
    if data.cubes and data.catalogue:
        raise InputError(
            f"{where}: data.cubes {list(data.cubes)} and data.catalogue {data.catalogue!r} are both given, expected "
            "one of them; set data.cubes=[] or data.catalogue=''"
        )
    if data.where and not data.catalogue:
        raise InputError(
            f"{where}: data.where {data.where!r} chooses rows of a catalogue, but data.catalogue is empty; write "
            "one with `skyframe catalogue`, or leave data.where out"
        )
