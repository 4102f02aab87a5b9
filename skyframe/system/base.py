"""The protocol every system keeps: the evaluator needs `encode`, the exporter `exports`, the trainer the rest."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from skyframe.sample import Batch, Features


class System(Protocol):
    """A trainable system. Implementations are `nn.Module`s and say so in their own class."""

    def encode(self, batch: Batch) -> Features:
        """Features of a batch in stored units, by the weights that are exported, without randomness."""
        ...

    def losses(self, views: tuple[Batch, ...]) -> dict[str, Tensor]:
        """Named, unweighted terms, each a mean over valid rows within a sample, then over the samples of this rank."""
        ...

    def weights(self) -> dict[str, float]:
        """Weight of each term in the total."""
        ...

    def set_progress(self, progress: float, watched: bool = True) -> None:
        """Share of the run that is done (0..1), before the pass: schedules follow it. Watched = `monitors` is asked."""
        ...

    def after_step(self, progress: float) -> None:
        """Once per optimizer step: teacher, centres and prototypes from the statistics pending since the last one."""
        ...

    def discard_step(self) -> None:
        """Drop the pending statistics of a step that was skipped."""
        ...

    def monitors(self) -> dict[str, float]:
        """Health figures of the last pass watched: teacher agreement, effective rank and spread of features."""
        ...

    def exports(self) -> dict[str, nn.Module]:
        """The modules that leave the run, by folder name."""
        ...
