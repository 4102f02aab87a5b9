"""Guards: a step whose loss or gradient is not finite is dropped by all ranks, and collapse is noticed."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console
from torch import Tensor

from skyframe import dist
from skyframe.config.recipe import GuardsConfig
from skyframe.data.datamodule import CubeDataModule
from skyframe.sample import Batch
from skyframe.spec import InputError
from skyframe.train.module import PretrainModule, row_due

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

    Raises:
        InputError: as many steps in a row were dropped as the recipe allows.
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
    """Keeps what dropped steps saw, and ends a run that drops too many in a row.

    The number of dropped steps is part of the data's position, and saved with it. Checkpoints are saved after a step
    that was taken, so the number in a row is 0 in each.
    """

    def __init__(self, run: Path, max_skipped: int) -> None:
        self.run, self.max_skipped = run, max_skipped
        self.at_step, self.in_a_row = -1, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take back lines of batches that lie after the restored position."""
        path = self.run / f"{NAME}{dist.rank()}.jsonl"
        if path.is_file():
            lines = path.read_text().splitlines(keepends=True)
            consumed = trainer.datamodule.consumed  # type: ignore[attr-defined]
            aside = path.with_suffix(".tmp")
            aside.write_text("".join(line for line in lines if _batch_of(line) < consumed))
            os.replace(aside, path)

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
            raise InputError(
                f"step {step}: {self.in_a_row} times in a row the loss or a gradient was not finite, expected less "
                f"than train.guards.max_skipped={self.max_skipped}; look at the samples in {self.run}/{NAME}*.jsonl, "
                "then start anew with a lower optim.lr or other data, or allow more and add resume=auto"
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


class Collapse(pl.Callback):
    """Warns, or ends the run, where a source's features lose their rank or spread; the loss may well fall meanwhile.

    Rank 0's rows decide, which are those that are logged. Stands before the checkpoints, so that none is saved of a run
    that ends here.
    """

    def __init__(self, config: GuardsConfig) -> None:
        self.config = config
        self.low: dict[str, int] = {}  # rows in a row by source
        self.last_step = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the figures of each logged row.

        Raises:
            InputError: a source has collapsed, and the recipe says `stop`.
        """
        assert isinstance(pl_module, PretrainModule)
        step = trainer.global_step
        if self.config.on_collapse == "ignore" or step == self.last_step or not row_due(pl_module.recipe.train, step):
            return
        self.last_step = step
        figures = dist.all_objects(pl_module.system.monitors())[0]
        found = {name: words for name in self._sources(figures) if (words := self._low(figures, name))}
        self.low = {name: self.low.get(name, 0) + 1 for name in found}
        for name in (n for n, rows in self.low.items() if rows == self.config.collapse_rows):
            sentence = (
                f"step {step}: features of {name} have collapsed: {found[name]}, in {self.config.collapse_rows} rows "
                "of the log in a row, whatever the loss says; lower loss.teacher_temp or optim.lr, or see that "
                "loss.centering is on"
            )
            if self.config.on_collapse == "stop":
                raise InputError(sentence)
            if trainer.is_global_zero:
                Console(stderr=True, soft_wrap=True).print(f"warning: {sentence}", markup=False)

    def _sources(self, figures: dict[str, float]) -> list[str]:
        return [key.removeprefix("feature_std/") for key in figures if key.startswith("feature_std/")]

    def _low(self, figures: dict[str, float], name: str) -> str:
        """Which figure of a source is too low, in words; empty where none is."""
        for figure, least in (("effective_rank", self.config.least_rank), ("feature_std", self.config.least_std)):
            if figures[f"{figure}/{name}"] < least:
                return f"{figure} {figures[f'{figure}/{name}']:.4g} below {least:g}"
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Rows in a row so far."""
        return {"low": dict(self.low), "last_step": self.last_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue to count."""
        self.low, self.last_step = dict(state_dict["low"]), int(state_dict["last_step"])


def _about(batch: Batch) -> dict[str, Any]:
    """Which samples a batch holds, and which modalities each of them has."""
    held = {name: s.valid.flatten(1).any(1).tolist() for name, s in batch.series.items()}
    return {
        "rank": dist.rank(),
        "index": batch.index.tolist(),
        "epoch": batch.epoch.tolist(),
        "modalities": [[name for name, has in held.items() if has[i]] for i in range(batch.size)],
    }


def _batch_of(line: str) -> float:
    """The batch that a line is about; a line cut off by a kill belongs to none."""
    try:
        return float(json.loads(line)["batch"])
    except json.JSONDecodeError:
        return float("inf")


def evidence(run: Path) -> bool:
    """Whether a run has kept what a dropped step saw."""
    return any(run.glob(f"{NAME}*.jsonl"))


def skip_sentence(run: Path, skipped: int) -> str:
    """How many steps were dropped in a run."""
    return (
        f"warning: {skipped} steps were skipped as their loss or gradient was not finite; their samples are listed in "
        f"{run}/{NAME}*.jsonl"
    )
