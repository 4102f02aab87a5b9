"""Scores the teacher every so many steps on the ranks that train it, and leaves training as if nothing had been."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from rich.console import Console
from torch import Tensor, nn

from skyframe import dist
from skyframe.config.recipe import TrainConfig
from skyframe.spec import InputError
from skyframe.train.module import PretrainModule
from skyframe.train.progress import ProgressLog
from skyframe.train.signals import Told
from skyframe.train.watchdog import Watchdog


class Scorer(Protocol):
    """What evaluation gives to training. All ranks make each call together, and each of them gets the same answer."""

    @property
    def has_work(self) -> bool:
        """Whether this rank has a share of the tasks, and so needs the weights."""
        ...

    def steps(self) -> set[int]:
        """Steps that have scores."""
        ...

    def forget(self, after: int) -> None:
        """Drop scores of later steps."""
        ...

    def curves(self, step: int) -> Mapping[str, float]:
        """Scores of a step by the names of their curves."""
        ...

    def begin(self, module: PretrainModule, enough: Callable[[], bool], tell: Callable[[str], None]) -> list[str]:
        """Score what does not change with the steps; sentences about what cannot be scored."""
        ...

    def score(
        self,
        module: PretrainModule,
        weights: Mapping[str, Tensor],
        step: int,
        enough: Callable[[], bool],
        tell: Callable[[str], None],
    ) -> list[str]:
        """Score the exported model with these weights (none on a rank without work); sentences about what went wrong.

        `enough` is asked between tasks: what is left then is done at the next start.
        """
        ...


class Scoring(pl.Callback):
    """Stands between the checkpoints and `Leave`: a step is saved before it is scored.

    What is scored is a copy, made from the teacher's weights, so that neither hooks nor partitions nor modes of the
    module in training are touched. A step that was saved and not scored, as the run was killed in between, is scored at
    the next start. Trouble is a warning; only at the start it ends the run.
    """

    def __init__(self, train: TrainConfig, scorer: Scorer, told: Told) -> None:
        """Nothing is scored yet.

        Args:
            train: how often, and the last step.
            scorer: who scores.
            told: marks of this process; a signal that came leaves the rest for later.
        """
        self.train, self.scorer, self.told = train, scorer, told
        self.done: set[int] = set()
        self.last = 0  # step that was scored or tried; weights before the first are those of `random_init`, or nearly
        self.said: set[str] = set()
        self.begun = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Score the baselines, which reads all data once, and a restored step that has no scores.

        Raises:
            InputError: the suite does not fit the model or its data; before the first step is taken.
        """
        assert isinstance(pl_module, PretrainModule)
        self.done, self.begun = dist.all_objects(self.scorer.steps())[0], True
        log = _of(trainer, ProgressLog)
        with untouched():
            log.tell("scoring raw pixels and random weights ...")
            wrong = self.scorer.begin(
                pl_module, self._enough, lambda text: log.tell(f"scoring baselines: {text}", False)
            )
        log.tell("")
        if wrong:
            raise InputError(f"train.evaluate: {wrong[0]}, or set train.evaluate.every=0")
        self._look(trainer, pl_module)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Where a run that is under way goes back, later scores are no longer its history."""
        if self.begun:
            self.last = int(checkpoint["global_step"])
            self.done = {step for step in self.done if step <= self.last}
            if trainer.is_global_zero:
                self.scorer.forget(self.last)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Score where a step is due."""
        assert isinstance(pl_module, PretrainModule)
        self._look(trainer, pl_module)

    def _look(self, trainer: pl.Trainer, module: PretrainModule) -> None:
        step = trainer.global_step
        due = step % self.train.evaluate.every == 0 or step == self.train.max_steps
        if not due or step == self.last:
            return
        self.last = step
        log = _of(trainer, ProgressLog)
        if step not in self.done:
            begun = time.perf_counter()
            log.tell(f"scoring step {step} ...")
            with untouched(), _of(trainer, Watchdog).rest():
                weights = whole_weights(module.system.exports()["model"], self.scorer.has_work)
                wrong = self.scorer.score(
                    module, weights, step, self._enough, lambda text: log.tell(f"scoring step {step} ... {text}", False)
                )
            self.done.add(step)
            self._warn(trainer, step, wrong)
            log.leave_out(time.perf_counter() - begun)
        if trainer.is_global_zero:  # also for a step that an earlier start scored and this one has taken again
            values = self.scorer.curves(step)
            log.draw(step, values)
            short = ", ".join(f"{k.removeprefix('eval/')} {v:.3f}" for k, v in values.items() if "/knn_" not in k)
            log.tell(f"scored step {step}: {short or 'nothing'}")
            log.tell("")

    def _enough(self) -> bool:
        return bool(self.told.number)

    def _warn(self, trainer: pl.Trainer, step: int, sentences: list[str]) -> None:
        """Each sentence once: what is wrong with a task mostly is so at every step."""
        for sentence in sentences if trainer.is_global_zero else ():
            if sentence not in self.said:
                Console(stderr=True, soft_wrap=True).print(f"warning: scoring step {step}: {sentence}", markup=False)
        self.said.update(sentences)


@contextmanager
def untouched() -> Iterator[None]:
    """Whatever happens inside, random states, threads and the choice of kernels are those from before."""
    cudnn = torch.backends.cudnn
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  the global one, of libraries
    cpu = torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    flags = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32
    matmul, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    try:
        with torch.enable_grad():  # probes learn
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)
            torch.cuda.empty_cache()
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = flags
        torch.set_float32_matmul_precision(matmul)
        torch.set_num_threads(threads)


def whole_weights(module: nn.Module, wanted: bool) -> dict[str, Tensor]:
    """A copy of a module's state in host memory, whole under every strategy; all ranks call it.

    Args:
        module: of the system in training.
        wanted: whether this rank keeps it; the others only take part in gathering.
    """
    found: dict[str, Tensor] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        # One by one, so that a GPU never holds the whole; what stage 3 keeps whole stays as it lies.
        parts = [value] if isinstance(value, nn.Parameter) and not dist.is_whole(value) else []
        with dist.full_parameters(parts):
            if wanted:
                found[name] = value.detach().to("cpu", copy=True)
    return found


def _of(trainer: pl.Trainer, kind: type[Any]) -> Any:
    """The trainer's callback of a kind."""
    return next(c for c in trainer.callbacks if isinstance(c, kind))  # type: ignore[attr-defined]
