"""Runs the system's `after_step` once per optimizer step, as a callback, so that a checkpoint holds its result."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from skyframe.train.module import PretrainModule


class AfterStep(pl.Callback):
    """Teacher, centres and prototypes move when the optimizer has, never per micro-step.

    Module hooks run after callbacks, so an update there would miss the checkpoint of the same step.
    """

    def __init__(self) -> None:
        self.last_step = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update if the optimizer stepped."""
        assert isinstance(pl_module, PretrainModule)
        if trainer.global_step == self.last_step:
            return
        self.last_step = trainer.global_step
        pl_module.system.after_step(trainer.global_step / pl_module.recipe.train.max_steps)

    def state_dict(self) -> dict[str, Any]:
        """The last step that was applied."""
        return {"last_step": self.last_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after the restored step."""
        self.last_step = int(state_dict["last_step"])
