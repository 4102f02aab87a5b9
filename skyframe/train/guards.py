"""A step whose loss or gradient is not finite is dropped by all ranks; many in a row make the run go back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from skyframe import dist
from skyframe.data.datamodule import CubeDataModule
from skyframe.sample import Batch
from skyframe.train.module import PretrainModule
from skyframe.train.rollback import keep_lines, rollback_of

NAME = "nonfinite_rank"
KEPT_BATCHES = 3
"""Batches that a rank writes whole; the lines go on."""


def all_finite(gradients: Iterable[Tensor]) -> bool:
    """Whether every gradient of every rank is finite, and their norms can be told; the same answer on all ranks.

    Args:
        gradients: of this rank, float, any shapes.
    """
    norms = torch._foreach_norm(list(gradients))  # one or two kernels for all of them
    finite = torch.stack([n.float() for n in norms]).isfinite().all()
    return not bool(dist.all_max((~finite).int()))


def drop_step(trainer: pl.Trainer) -> None:
    """Called in place of an optimizer step, on all ranks: nothing has moved but the data.

    Lightning counts a step after its optimizer step whatever came of it, so its count is taken back beforehand.
    """
    module = trainer.lightning_module
    assert isinstance(module, PretrainModule)
    module.system.discard_step()
    guard = next(c for c in trainer.callbacks if isinstance(c, Guards))  # type: ignore[attr-defined]
    guard.dropped(trainer, module)
    counts = trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step
    for count in (counts.total, counts.current):
        count.ready -= 1
        count.completed -= 1


class Guards(pl.Callback):
    """Keeps what dropped steps saw, and asks to go back where too many are dropped in a row.

    The number of dropped steps is part of the data's position, and saved with it. Checkpoints are saved after a step
    that was taken, so the number in a row is 0 in each.
    """

    def __init__(self, run: Path, max_skipped: int) -> None:
        self.run, self.max_skipped = run, max_skipped
        self.at_step, self.in_a_row = -1, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take back lines of batches that lie after the restored position."""
        keep_lines(self.run / f"{NAME}{dist.rank()}.jsonl", trainer.datamodule.consumed)  # type: ignore[attr-defined]

    def dropped(self, trainer: pl.Trainer, module: PretrainModule) -> None:
        """Note a dropped step, on all ranks."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, CubeDataModule)
        step = trainer.global_step + 1
        self.in_a_row = self.in_a_row + 1 if step == self.at_step else 1
        self.at_step = step
        self._keep(data, module, step)
        data.drop_step()
        if self.in_a_row >= self.max_skipped:
            self.at_step = -1  # of another data order the count begins anew
            rollback_of(trainer).ask(
                f"step {step}: {self.in_a_row} times in a row the loss or a gradient was not finite, expected less "
                f"than train.guards.max_skipped={self.max_skipped} (samples in {self.run}/{NAME}*.jsonl)",
                step,
            )

    def _keep(self, data: CubeDataModule, module: PretrainModule, step: int) -> None:
        """Write a line for each batch of this rank in the step, and those with most terms not finite.

        Batches are read once more: each is a function of its position, so none is held for this while a step goes on.
        """
        assert data.sampler is not None
        dataset, micro = data.dataset(), data.recipe.train.micro_steps
        bad = [[name for name, value in terms.items() if not value.isfinite()] for terms in module.passes]
        worst = int(dist.all_max(torch.tensor(max(map(len, bad)), device=module.device)))  # terms over ranks spread it
        first = data.consumed - data.consumed % micro
        for batch, names in enumerate(bad, first):
            windows = dataset.__getitems__(data.sampler.positions(batch))
            assert isinstance(windows, Batch)
            with (self.run / f"{NAME}{dist.rank()}.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, "batch": batch, "not_finite": names} | _about(windows)) + "\n")
            path = self.run / f"{NAME}{dist.rank()}_batch{batch:08d}.pt"
            full = len(list(self.run.glob(f"{NAME}{dist.rank()}_batch*.pt"))) >= KEPT_BATCHES
            if len(names) == worst and not full:
                torch.save(dataclasses.asdict(windows), path)


def _about(batch: Batch) -> dict[str, Any]:
    """Which samples a batch holds, and which modalities each of them has."""
    held = {name: s.valid.flatten(1).any(1).tolist() for name, s in batch.series.items()}
    return {
        "rank": dist.rank(),
        "index": batch.index.tolist(),
        "epoch": batch.epoch.tolist(),
        "modalities": [[name for name, has in held.items() if has[i]] for i in range(batch.size)],
    }


def evidence(run: Path) -> bool:
    """Whether a run has kept what a dropped step saw."""
    return any(run.glob(f"{NAME}*.jsonl"))


def skip_sentence(run: Path, skipped: int) -> str:
    """How many steps were dropped in a run."""
    return (
        f"warning: {skipped} steps were skipped, as their loss or gradient was not finite or the run went back; see "
        f"{run}/{NAME}*.jsonl and rollbacks.jsonl there"
    )
