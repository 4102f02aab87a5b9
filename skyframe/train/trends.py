"""What only the rows of a run show: a loss that jumps, and features that collapse while it falls."""

from __future__ import annotations

import statistics
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from skyframe import dist
from skyframe.config.recipe import GuardsConfig
from skyframe.train.module import PretrainModule, row_due
from skyframe.train.rollback import give

LEAST_ROWS = 5
"""Rows that a jump is measured against, at least, so as `train.guards.spike_rows`."""

LEAST_SPREAD = 0.02
"""Of the median: what a loss may always vary by, lest one that hardly moves is found to jump."""


class Trends(pl.Callback):
    """Compares each logged row with those before it; all ranks see the same figures.

    Stands after the log, so that the row itself is written, and before the checkpoints, so that none is saved of a step
    that a trouble was seen in.
    """

    def __init__(self, config: GuardsConfig) -> None:
        self.config = config
        self.losses: list[float] = []  # means between rows, the newest `spike_rows`
        self.low: dict[str, int] = {}  # rows in a row by source
        self.low_since: dict[str, int] = {}
        self.last_step = self.last_row = 0
        self.totals: list[Tensor] = []  # of this rank's passes since the last row
        self.before = 0.0, 0  # mean and number of those that were made before a restart

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the figures where a row was logged.

        Raises:
            InputError: a trouble that the recipe says `stop` about.
        """
        assert isinstance(pl_module, PretrainModule)
        step = trainer.global_step
        if step == self.last_step:  # in the middle of a step, or it was dropped
            return
        self.last_step = step
        self.totals += [terms["total"] for terms in pl_module.passes]
        if row_due(pl_module.recipe.train, step):
            self._spike(trainer, step)
            self._collapse(trainer, pl_module, step)
            self.last_row = step

    def _spike(self, trainer: pl.Trainer, step: int) -> None:
        """The mean loss since the last row against the rows before it."""
        now, _ = self._mean()
        self.totals, self.before = [], (0.0, 0)
        if self.config.on_spike == "ignore":
            return
        if len(self.losses) >= LEAST_ROWS and (far := spreads_above(now, self.losses)) > self.config.spike_spreads:
            why = (
                f"step {step}: the loss jumped to {now:.4g}, {far:.0f} spreads above the median of the "
                f"{len(self.losses)} rows before, {statistics.median(self.losses):.4g}, expected at most "
                f"train.guards.spike_spreads={self.config.spike_spreads:g}"
            )
            give(trainer, self.config.on_spike, why, "lower optim.lr or optim.clip_norm", self.last_row + 1)
        self.losses = [*self.losses, now][-self.config.spike_rows :]

    def _collapse(self, trainer: pl.Trainer, module: PretrainModule, step: int) -> None:
        """Rank and spread of each source's features; rank 0's samples decide."""
        config = self.config
        if config.on_collapse == "ignore":
            return
        figures = dist.all_objects(module.system.monitors())[0]
        names = [key.removeprefix("feature_std/") for key in figures if key.startswith("feature_std/")]
        found = {name: words for name in names if (words := self._low(figures, name))}
        self.low_since = {name: self.low_since.get(name, step) for name in found}
        self.low = {name: self.low.get(name, 0) + 1 for name in found}
        for name in (n for n, rows in self.low.items() if rows == config.collapse_rows):
            why = (
                f"step {step}: features of {name} have collapsed: {found[name]}, in {config.collapse_rows} rows of the "
                "log in a row, whatever the loss says"
            )
            remedy = "lower loss.teacher_temp or optim.lr, or see that loss.centering is on"
            give(trainer, config.on_collapse, why, remedy, self.low_since[name])

    def _low(self, figures: dict[str, float], name: str) -> str:
        """Which figure of a source is too low, in words; empty where none is."""
        for figure, least in (("effective_rank", self.config.least_rank), ("feature_std", self.config.least_std)):
            if figures[f"{figure}/{name}"] < least:
                return f"{figure} {figures[f'{figure}/{name}']:.4g} below {least:g}"
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Rows so far, and the mean of the passes since the last one over all ranks, which must all call it."""
        kept = {k: getattr(self, k) for k in ("losses", "low", "low_since", "last_step", "last_row")}
        return kept | {"before": list(self._mean())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from them."""
        for name, value in state_dict.items():
            setattr(self, name, value)
        self.totals, self.before = [], (float(self.before[0]), int(self.before[1]))

    def _mean(self) -> tuple[float, int]:
        """Mean total of the passes since the last row over all ranks, which must all call it, and how many they are."""
        mean, before = self.before
        here = len(self.totals)
        now = float(dist.all_sum(torch.stack(self.totals).mean())) / dist.world_size() if here else 0.0
        return (before * mean + here * now) / max(1, before + here), before + here


def spreads_above(value: float, before: list[float]) -> float:
    """How far a value lies above the median of others, in robust standard deviations.

    The spread is 1.4826 times the median distance from the median (of a normal distribution: its standard deviation),
    and `LEAST_SPREAD` of the median at least.
    """
    middle = statistics.median(before)
    spread = 1.4826 * statistics.median(abs(x - middle) for x in before)
    return (value - middle) / max(spread, LEAST_SPREAD * abs(middle), 1e-12)
