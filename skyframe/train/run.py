"""From a recipe to a finished run: folder, trainer, resume."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

import skyframe
from skyframe import dist
from skyframe.config import dump_recipe, recipe_from_tree
from skyframe.config.recipe import same_run
from skyframe.config.skysense import SkySenseRecipe
from skyframe.data.datamodule import CubeDataModule
from skyframe.spec import InputError, load_yaml
from skyframe.train.checkpoint import Checkpoints, latest, step_of
from skyframe.train.deepspeed_config import keep_config
from skyframe.train.evaluate_callback import Scorer, Scoring
from skyframe.train.guards import Guards, evidence
from skyframe.train.leave import Leave
from skyframe.train.module import PretrainModule
from skyframe.train.preflight import nodes_checked
from skyframe.train.progress import ProgressLog, read_metrics
from skyframe.train.restarts import note_restart
from skyframe.train.rollback import Rollback
from skyframe.train.signals import Told, listening
from skyframe.train.store import Reader
from skyframe.train.strategy import Sharded, UncastInputs, strategy_of
from skyframe.train.teacher_callback import AfterStep
from skyframe.train.trends import Trends
from skyframe.train.watchdog import Watchdog


def pretrain(recipe: SkySenseRecipe, resume: str = "no", show: bool = True, scorer: Scorer | None = None) -> Path:
    """Train a recipe to its last step.

    Args:
        recipe: checked recipe.
        resume: `no` = the run folder must be new; `auto` = continue from LATEST where there is one.
        show: draw a progress line.
        scorer: what scores the teacher every `train.evaluate.every` steps; None = nothing does.

    Returns:
        The run folder: recipe.yaml, environment.json, metrics.jsonl, tensorboard/, checkpoints/, and evaluation/ of a
        run that is scored.

    Raises:
        InputError: the folder holds another recipe's run, data do not fit the recipe, a guard ends the run, or a GPU
            has too little memory.
        Left: a signal told the run to make room; it is saved.
    """
    run, train = Path(recipe.train.run_dir) / recipe.name, recipe.train
    checkpoint = _find_start(run, recipe, resume)
    step = 0 if checkpoint is None else step_of(checkpoint)
    if step >= train.max_steps:
        if show and dist.is_leader():
            print(f"{run}: the run is finished, its last checkpoint is that of step {train.max_steps}, the last one")
        return run
    with listening(train.survival.signal) as told, nodes_checked(recipe, show):
        if dist.is_leader() and (run / "recipe.yaml").is_file():
            note_restart(run, step)
        _train(recipe, run, checkpoint, show, told, scorer)
    return run


def _train(
    recipe: SkySenseRecipe, run: Path, checkpoint: Path | None, show: bool, told: Told, scorer: Scorer | None
) -> None:
    train = recipe.train
    if train.threads or train.devices > 1:
        torch.set_num_threads(train.threads or max(1, (os.cpu_count() or 1) // train.devices))
    datamodule = CubeDataModule(recipe)
    module = PretrainModule(recipe, datamodule.modalities, datamodule.regions)
    fresh = not (run / "recipe.yaml").is_file()
    _describe(run, recipe, checkpoint)
    try:
        with warnings.catch_warnings():
            _quiet()
            trainer = _trainer(recipe, run, show, told, sum(p.numel() for p in module.parameters() if p.requires_grad))
            if scorer is not None:  # last but one: a step is saved before it is scored, and a signal heard after
                trainer.callbacks.insert(-1, Scoring(recipe.train, scorer, told))  # type: ignore[attr-defined]
            trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
    except (InputError, torch.OutOfMemoryError) as error:
        if fresh and not read_metrics(run) and not evidence(run):  # no step: the corrected run may have the name
            _clear(run)
        raise InputError(_own_words(error) if isinstance(error, InputError) else _out_of_memory(recipe)) from error


def _trainer(recipe: SkySenseRecipe, run: Path, show: bool, told: Told, num_parameters: int) -> pl.Trainer:
    train = recipe.train
    strategy = strategy_of(recipe, num_parameters)
    arithmetic: dict[str, Any] = {"precision": train.precision}
    if isinstance(strategy, Sharded):  # which has its own autocast, around fp32 parameters
        arithmetic = {"plugins": [UncastInputs("32-true")]}
        if dist.is_leader() and strategy.config is not None:
            text = keep_config(strategy.config, run)
            if show:
                print(f"DeepSpeed is told, and {run / 'deepspeed.json'} keeps:\n{text}", end="", flush=True)
    return pl.Trainer(
        accelerator=train.accelerator,
        devices=train.devices,
        num_nodes=train.num_nodes,
        strategy=strategy,
        **arithmetic,
        max_steps=train.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=train.micro_steps,
        gradient_clip_val=recipe.optim.clip_norm or None,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(run),
        callbacks=[
            Watchdog(run, train.guards.hung_s),
            AfterStep(),
            Guards(run, train.guards.max_skipped),
            ProgressLog(run, show),
            Trends(train.guards),
            Rollback(run, train.guards.max_rollbacks),
            Checkpoints(run / "checkpoints", train),
            Leave(run, told),
        ],
    )


def _out_of_memory(recipe: SkySenseRecipe) -> str:
    """What `skyframe plan` says about a run that its GPU has no room for."""
    from skyframe.train.estimate.cost import Cluster, out_of_memory
    from skyframe.train.estimate.network import Network

    train = recipe.train
    num_gpus = train.devices * train.num_nodes
    cluster = Cluster(num_gpus, device_bytes(), 1.0, 1.0, Network(1.0, 1.0, train.devices))  # speeds do not matter
    return out_of_memory(recipe, train.deepspeed.stage if train.strategy == "deepspeed" else "ddp", cluster)


def device_bytes() -> int:
    """Memory of this rank's GPU."""
    if torch.backends.mps.is_available():
        return int(torch.mps.recommended_max_memory())
    return int(torch.cuda.mem_get_info()[1])


def _own_words(error: InputError) -> str:
    """The sentence itself: PyTorch wraps what a reader process raised into its traceback."""
    text = str(error).strip()
    return text.splitlines()[-1].partition(f"{type(error).__name__}: ")[2] if text.startswith("Caught ") else text


def _find_start(run: Path, recipe: SkySenseRecipe, resume: str) -> Path | None:
    """Check that the run folder is new or this recipe's, and find what to continue from; writes nothing."""
    if resume not in ("no", "auto"):
        raise InputError(f"resume: {resume!r} is not one of 'no', 'auto'")
    saved = run / "recipe.yaml"
    checkpoint = latest(run / "checkpoints")
    if dist.is_leader() and not saved.is_file() and run.exists() and (not run.is_dir() or _own(run)):
        raise InputError(f"{run}: is there but holds no recipe.yaml, so it is no run; choose another name=")
    if dist.is_leader() and saved.is_file():
        if resume == "no":
            raise InputError(
                f"{run}: a run of this name is there already; add resume=auto to continue it, or choose another name="
            )
        if saved.read_text() != dump_recipe(recipe):
            before = recipe_from_tree(load_yaml(saved), str(saved))
            if not same_run(before, recipe):
                raise InputError(
                    f"{saved}: the run was started with another recipe, expected the same to resume (apart from how it "
                    "is run: strategy, devices, workers and how often is saved); choose another name="
                )
    if checkpoint is not None:
        Reader(checkpoint)
    return checkpoint


def _own(run: Path) -> list[Path]:
    """What training itself wrote into a run's folder: not the scripts and logs of `skyframe launch`."""
    return [path for path in run.iterdir() if path.name not in ("launch", "slurm")]


def _clear(run: Path) -> None:
    """Take back what a run that took no step has written; what launched it stays, to be looked at."""
    for path in _own(run) if run.is_dir() else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if run.is_dir() and not any(run.iterdir()):
        run.rmdir()


def _describe(run: Path, recipe: SkySenseRecipe, checkpoint: Path | None) -> None:
    """Make the run folder and say in it what runs; the recipe is never changed after, changed ways stand beside it."""
    if not dist.is_leader():
        return
    run.mkdir(parents=True, exist_ok=True)
    saved = run / "recipe.yaml"
    if not saved.is_file():
        saved.write_text(dump_recipe(recipe))
    elif checkpoint is not None and saved.read_text() != dump_recipe(recipe):
        (run / f"recipe_from_{checkpoint.name}.yaml").write_text(dump_recipe(recipe))
    (run / "environment.json").write_text(json.dumps(environment(), indent=2) + "\n")


def environment() -> dict[str, str]:
    """Versions and machine, kept with the run."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    return {
        "skyframe": skyframe.__version__,
        "commit": commit.stdout.strip() or "unknown",
        "torch": torch.__version__,
        "lightning": pl.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": str(os.cpu_count()),
    }


def load_run(run: Path) -> tuple[SkySenseRecipe, Path]:
    """Recipe and newest checkpoint of a finished or running run.

    Raises:
        InputError: not a run folder, or nothing saved yet.
    """
    saved = run / "recipe.yaml"
    if not saved.is_file():
        raise InputError(f"{run}: no recipe.yaml, expected a run folder written by `skyframe pretrain`")
    recipe = recipe_from_tree(load_yaml(saved), str(saved))
    checkpoint = latest(run / "checkpoints")
    if checkpoint is None:
        raise InputError(
            f"{run}: no checkpoint yet; let the run reach train.checkpoint_every ({recipe.train.checkpoint_every}) "
            "steps"
        )
    return recipe, checkpoint


def _quiet() -> None:
    """Lightning's advice that does not apply here, one by one, and its banners."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for text in (
        r".*does not have many workers.*",
        r".*GPU available but not used.*",
        r".*ended before the epoch ended.*",  # resume is exact in the middle of an epoch
        r".*The `srun` command is available.*",
        r".*find_unused_parameters.*",
        r".*`broadcast_buffers` is deprecated.*",  # its successor would send the bank once more
        r".*in eval mode at the start of training.*",  # the teacher
        r".*LeafSpec.*",
        r".*`torch.distributed.(all_gather_into|reduce_scatter)_tensor` is deprecated.*",  # by DeepSpeed
    ):
        warnings.filterwarnings("ignore", message=text)
