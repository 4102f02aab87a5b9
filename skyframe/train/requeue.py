"""Leaves a run between two steps, saved, when a signal told it to make room; SLURM then starts it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console

from skyframe import dist
from skyframe.train.checkpoint import Checkpoints
from skyframe.train.restarts import note_left
from skyframe.train.signals import EXIT, MAKE_ROOM, Left, Told, cannot_requeue, job_id, requeue


class Requeue(pl.Callback):
    """Stands last, after the checkpoints.

    A launcher may send its signal to one rank, to all, or to each at another moment. So a handler sets a mark, and all
    ranks look at all marks after every step that was taken: one number by all-reduce. They save where no save is due,
    and leave by the same exception.
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
        """Hold SIGTERM from now on, and say at once where requeuing is not possible.

        Lightning's own handler of SIGTERM calls a collective from inside the signal, at which ranks in another one
        break; its handler for SLURM saves there. Neither is wanted.
        """
        trainer._signal_connector.register_signal_handlers = _register_none  # type: ignore[method-assign]
        self.told.hold_term()
        if trainer.is_global_zero and (reason := cannot_requeue()):
            Console(stderr=True, soft_wrap=True).print(f"warning: {reason}", markup=False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What was told while the run was set up."""
        self._look(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Leave if any rank was told to; a run at its last step just ends.

        Raises:
            Left: saved; the process is to end with the exception's code.
        """
        if trainer.global_step not in (self.step, trainer.max_steps):
            self._look(trainer, pl_module)

    def _look(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.step = trainer.global_step
        mark = torch.tensor(self.told.word, dtype=torch.int32, device=module.device if dist.active() else "cpu")
        word = int(dist.all_max(mark))
        if word:
            self._leave(trainer, word)

    def _leave(self, trainer: pl.Trainer, word: int) -> None:
        checkpoints = next(c for c in trainer.callbacks if isinstance(c, Checkpoints))  # type: ignore[attr-defined]
        checkpoints.save_now(trainer)
        why = "been told to make room" if word == MAKE_ROOM else "been told to end (SIGTERM)"
        job, failure = job_id() if word == MAKE_ROOM else None, ""
        if trainer.is_global_zero:
            note_left(self.run, why, self.step)
            failure = requeue(job) if job else ""
        failure = dist.all_objects(failure)[0]  # no rank may end before: SLURM would end the one that asks
        where = f"saved at step {self.step}" if self.step else "left before its first step"
        if job and not failure:
            raise Left(f"{where}, and SLURM starts job {job} again from there", 0)
        raise Left(f"{failure}{'; ' if failure else ''}{where}, add resume=auto to go on from there", EXIT)


def _register_none() -> None:
    """In place of Lightning's handlers."""
