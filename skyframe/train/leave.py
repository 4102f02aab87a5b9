"""Leaves a run between two steps, saved, when a signal told it to make room; who started it starts it again."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from skyframe import dist
from skyframe.train.checkpoint import Checkpoints
from skyframe.train.restarts import note_left
from skyframe.train.signals import Left, Told


class Leave(pl.Callback):
    """Stands last, after the checkpoints.

    A launcher may send its signal to one rank, to all, or to each at another moment. So a handler sets a mark, and all
    ranks look at all marks after every step that was taken: one number by all-reduce. They save where no save is due,
    and leave by the same exception. None of them calls SLURM: the script of the job does, which no container hides it
    from, and which SLURM does not kill while ranks still end.
    """

    def __init__(self, run: Path, told: Told) -> None:
        """Nothing was told yet, unless the run is still being set up.

        Args:
            run: the run's folder.
            told: marks of this process.
        """
        self.run, self.told = run, told
        self.step = -1

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hold SIGTERM from now on.

        Lightning's own handler of SIGTERM calls a collective from inside the signal, at which ranks in another one
        break; its handler for SLURM saves there. Neither is wanted.
        """
        trainer._signal_connector.register_signal_handlers = _register_none  # type: ignore[method-assign]
        self.told.hold_term()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What was told while the run was set up."""
        self._look(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Leave if any rank was told to; a run at its last step just ends.

        Raises:
            Left: saved; the process is to end with code EXIT.
        """
        if trainer.global_step not in (self.step, trainer.max_steps):
            self._look(trainer, pl_module)

    def _look(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.step = trainer.global_step
        mark = torch.tensor(self.told.number, dtype=torch.int32, device=module.device if dist.active() else "cpu")
        number = int(dist.all_max(mark))
        if not number:
            return
        checkpoints = next(c for c in trainer.callbacks if isinstance(c, Checkpoints))  # type: ignore[attr-defined]
        checkpoints.save_now(trainer)
        if trainer.is_global_zero:
            note_left(self.run, f"told to leave by {signal.Signals(number).name}", self.step)
        dist.all_objects(None)  # the end of one rank ends the others: none may go before that is written
        where = f"saved at step {self.step}" if self.step else "left before its first step"
        raise Left(f"{where}, add resume=auto to go on from there")


def _register_none() -> None:
    """In place of Lightning's handlers."""
