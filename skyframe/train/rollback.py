"""Going back to a checkpoint from before a trouble, and on from there past the data that led to it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from rich.console import Console

from skyframe.data.datamodule import CubeDataModule
from skyframe.spec import InputError
from skyframe.train.checkpoint import Checkpoints, go_back_to, kept_before
from skyframe.train.module import PretrainModule
from skyframe.train.store import Reader

FILE = "rollbacks.jsonl"


class Rollback(pl.Callback):
    """Does at the end of a step what other guards asked for in it. Stands after them and before the checkpoints.

    Weights, moments, teacher, bank, schedule, step and log are those of the checkpoint again; only the data's position
    stays, so the batches since the checkpoint are left out, as those of dropped steps are. Every decision is a function
    of numbers that all ranks share and of the data, so a run that is resumed takes the same ones again.
    """

    def __init__(self, run: Path, most: int) -> None:
        """Nothing is asked for yet.

        Args:
            run: the run's folder.
            most: times in a row to the same checkpoint; one time more ends the run.
        """
        self.run, self.most = run, most
        self.asked: tuple[str, int] | None = None
        self.step, self.in_a_row = -1, 0

    def ask(self, why: str, since: int) -> None:
        """Go back when this step ends; all ranks call it.

        Args:
            why: what is wrong, as the beginning of a sentence.
            since: the first step that saw it; a checkpoint from before it is taken.
        """
        if self.asked is None:
            self.asked = why, since

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take back lines about data after the restored position."""
        if trainer.is_global_zero:
            keep_lines(self.run / FILE, trainer.datamodule.consumed)  # type: ignore[attr-defined]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Go back, if that was asked for.

        Raises:
            InputError: there is no checkpoint from before the trouble, or it was gone back to too often.
        """
        if self.asked is None:
            return
        (why, since), self.asked = self.asked, None
        folder = self.run / "checkpoints"
        next(c for c in trainer.callbacks if isinstance(c, Checkpoints)).settle(trainer)  # type: ignore[attr-defined]
        checkpoint = kept_before(folder, since)
        if checkpoint is None:
            raise InputError(
                f"{why}; no checkpoint from before step {since} is there to go back to, expected one: look at the "
                f"samples since the start, lower optim.lr, or save more often (train.checkpoint_every)"
            )
        reader = Reader(checkpoint)
        step, reached = int(reader.index["step"]), trainer.global_step
        self.in_a_row = self.in_a_row + 1 if step == self.step else 1
        self.step = step
        if self.in_a_row > self.most:
            raise InputError(
                f"{why}; the run went back to {checkpoint.name} {self.most} times already, which is "
                f"train.guards.max_rollbacks, and met it again with other data each time; lower optim.lr, or look at "
                f"{self.run}/{FILE}"
            )
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, CubeDataModule)
        last = data.consumed  # this batch; it is counted after this
        go_back_to(folder, checkpoint)
        mine = self.state_dict()
        restore(trainer, pl_module, reader)
        self.load_state_dict(mine)
        data.leave_out_to(last + 1, step)
        if trainer.is_global_zero:
            with (self.run / FILE).open("a") as file:
                file.write(json.dumps({"from_step": reached, "to_step": step, "batch": last, "why": why}) + "\n")
            said = f"warning: {why}; going on from {checkpoint.name} with the data after this"
            Console(stderr=True, soft_wrap=True).print(said, markup=False)

    def state_dict(self) -> dict[str, Any]:
        """Whereto at last, and how often in a row."""
        return {"step": self.step, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue to count."""
        self.step, self.in_a_row = int(state_dict["step"]), int(state_dict["in_a_row"])


def restore(trainer: pl.Trainer, module: pl.LightningModule, reader: Reader) -> None:
    """Make a trainer between two steps what it was when a checkpoint was saved; the data's position is left alone."""
    from skyframe.train.strategy import Portable  # which imports the guards

    assert isinstance(trainer.strategy, Portable) and isinstance(module, PretrainModule)
    state = reader.state()
    trainer.strategy.reader = reader
    trainer.strategy.load_model_state_dict(state)
    module.system.discard_step()
    for config, kept in zip(trainer.lr_scheduler_configs, state["lr_schedulers"], strict=True):
        config.scheduler.load_state_dict(kept)
    loop = trainer.fit_loop.epoch_loop
    progress = state["loops"]["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]
    loop.automatic_optimization.optim_progress.load_state_dict(progress)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        callback.on_load_checkpoint(trainer, module, state)
        if callback.state_key in state["callbacks"]:
            callback.load_state_dict(state["callbacks"][callback.state_key])


def give(trainer: pl.Trainer, action: str, why: str, remedy: str, since: int) -> None:
    """Do what a recipe says about a trouble that all ranks see: `warn`, `rollback` or `stop`.

    Raises:
        InputError: `stop`.
    """
    if action == "stop":
        raise InputError(f"{why}; {remedy}")
    if action == "rollback":
        rollback_of(trainer).ask(why, since)
    elif trainer.is_global_zero:
        Console(stderr=True, soft_wrap=True).print(f"warning: {why}; {remedy}", markup=False)


def rollback_of(trainer: pl.Trainer) -> Rollback:
    """The trainer's one."""
    return next(c for c in trainer.callbacks if isinstance(c, Rollback))  # type: ignore[attr-defined]


def keep_lines(path: Path, consumed: int) -> None:
    """Take back lines of a JSONL file about batches from `consumed` on; a line cut off by a kill is none."""
    if path.is_file():
        aside = path.with_suffix(".tmp")
        aside.write_text("".join(x for x in path.read_text().splitlines(keepends=True) if _batch_of(x) < consumed))
        os.replace(aside, path)


def _batch_of(line: str) -> float:
    try:
        return float(json.loads(line)["batch"])
    except json.JSONDecodeError:
        return float("inf")
