"""What a run shows while it trains: a progress line, TensorBoard, and `metrics.jsonl` (an object per log step)."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import pytorch_lightning as pl
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from torch import Tensor

from skyframe import dist
from skyframe.spec import InputError
from skyframe.train.guards import skip_sentence
from skyframe.train.module import PretrainModule, row_due
from skyframe.train.throughput import Throughput


class ProgressLog(pl.Callback):
    """Logs where `row_due` says so; on resume it drops the rows that lie after the restored step."""

    def __init__(self, run: Path, show: bool) -> None:
        self.run, self.show = run, show
        self.file: TextIO | None = None
        self.board: Any = None
        self.bar: Progress | None = None
        self.speed: Throughput | None = None
        self.begun = 0.0
        self.replaced = 0  # samples of this rank that stood in for damaged ones, since the last row
        self.logged_step = self.first_step = 0
        self.lr = 0.0
        self.news = ""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the log and the progress line on rank 0."""
        assert isinstance(pl_module, PretrainModule)
        self.begun = time.perf_counter()
        self.logged_step, self.first_step = trainer.global_step, trainer.global_step + 1
        self.speed = Throughput(pl_module.recipe, pl_module.system, pl_module.device, _waited_s(trainer))
        if not trainer.is_global_zero:
            return
        self._open(trainer.global_step)
        if self.show:
            steps = 2 * len(str(trainer.max_steps)) + 1
            columns = (  # on a narrow terminal the news is cut, at its end
                TextColumn("{task.description}"),
                BarColumn(bar_width=12),
                MofNCompleteColumn(table_column=Column(min_width=steps)),
                TimeRemainingColumn(table_column=Column(min_width=7)),
                TextColumn("{task.fields[news]}", table_column=Column(no_wrap=True, ratio=1)),
            )
            self.bar = Progress(*columns, expand=True)
            self.bar.add_task("pretrain", total=trainer.max_steps, completed=trainer.global_step, news="")
            self.bar.start()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Where a run that is under way goes back: what lies after that step is no longer its history."""
        if self.begun:
            self.logged_step = int(checkpoint["global_step"])
        if self.file is not None:
            self.file.close()
            self.board.close()
            self._open(self.logged_step)

    def _open(self, step: int) -> None:
        """Log and curves, to go on after a step."""
        path = self.run / "metrics.jsonl"
        kept = [r for r in read_metrics(self.run) if r["step"] <= step]
        aside = path.with_suffix(".tmp")
        aside.write_text("".join(json.dumps(r) + "\n" for r in kept))
        os.replace(aside, path)
        self.file = path.open("a")
        from torch.utils.tensorboard import SummaryWriter  # many files, for rank 0 alone

        self.board = SummaryWriter(str(self.run / "tensorboard"), purge_step=step + 1)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The learning rate of the step: taken here, as the schedule moves on before the batch ends."""
        self.lr = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a row where a log step or a checkpoint is due, and stop there on a non-finite loss: none is saved."""
        assert isinstance(pl_module, PretrainModule) and self.speed is not None
        self.speed.samples += batch.size
        self._note_damage(batch.damage)
        step = trainer.global_step
        due = step != self.logged_step and row_due(pl_module.recipe.train, step)
        if due:
            row = self._row(trainer, pl_module, self.speed)
            bad = [k for k, v in row.items() if not math.isfinite(v)]
            if bad:
                raise InputError(
                    f"step {step}: {', '.join(bad)} not finite, expected numbers; resume from the last checkpoint "
                    "with a lower optim.lr "
                    f"or look at the samples since step {self.logged_step}"
                )
            self.logged_step, self.first_step = step, 0
            self._write(row)
        elif step == self.first_step:  # slower than all others
            self.speed.restart(_waited_s(trainer))
            self.first_step = 0
        if self.bar is not None:
            replaced = trainer.datamodule.replaced + self.replaced  # type: ignore[attr-defined]
            rate, more = self.speed.in_short()
            news = f"{rate}  {_in_short(pl_module.terms)}  {more}".rstrip()
            news += f"  {replaced} replaced" if replaced else ""
            skipped = trainer.datamodule.skipped  # type: ignore[attr-defined]
            news += f"  {skipped} steps skipped" if skipped else ""
            self.news = news
            self.bar.update(self.bar.task_ids[0], completed=step, news=news)
            if due and not self.bar.console.is_terminal:  # a log, in which the line itself appears but once, at its end
                print(f"step {step}/{trainer.max_steps}  {news}", flush=True)

    def _row(self, trainer: pl.Trainer, module: PretrainModule, speed: Throughput) -> dict[str, float]:
        """Terms averaged over ranks, schedules, throughput and health figures."""
        terms = {name: float(dist.all_sum(value)) / dist.world_size() for name, value in module.terms.items()}
        train, data = module.recipe.train, trainer.datamodule  # type: ignore[attr-defined]
        row: dict[str, float] = {
            "step": trainer.global_step,
            "epoch": trainer.global_step * train.global_batch / max(1, len(data.plan)),
            "time_s": time.perf_counter() - self.begun,
            "total": terms.pop("total"),
            **{f"loss/{name}": value for name, value in terms.items()},
            "lr": self.lr,
            **speed.row(_waited_s(trainer)),
        }
        row["skipped"] = data.skipped
        if module.recipe.data.on_damage == "skip":
            data.replaced += int(dist.all_sum(torch.tensor(self.replaced, device=module.device)))
            self.replaced = 0
            row["replaced"] = data.replaced
        return row | module.system.monitors()

    def _write(self, row: dict[str, float]) -> None:
        if self.file is None:
            return
        self.file.write(json.dumps({k: round(v, 6) for k, v in row.items()}) + "\n")
        self.file.flush()
        from tensorboard.compat.proto.summary_pb2 import Summary

        # One event for the row: the writer opens its file anew for each.
        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items() if name != "step"]
        self.board.file_writer.add_summary(Summary(value=values), int(row["step"]))

    def tell(self, news: str, kept: bool = True) -> None:
        """Say what the run does between two steps on its line, "" = no more; what is kept gets a line in a log too."""
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], news=news or self.news)
            if news and kept and not self.bar.console.is_terminal:
                print(news, flush=True)

    def draw(self, step: int, values: Mapping[str, float]) -> None:
        """Further curves for TensorBoard."""
        for name, value in values.items() if self.board is not None else ():
            self.board.add_scalar(name, value, step)

    def leave_out(self, seconds: float) -> None:
        """Time that is none of training's, from its speeds."""
        if self.speed is not None:
            self.speed.begun += seconds

    def _note_damage(self, sentences: list[str]) -> None:
        """Count the samples that stood in for damaged ones, and keep the reasons beside the log, a file per rank."""
        if sentences:
            self.replaced += len(sentences)
            with (self.run / f"{DAMAGE}{dist.rank()}.txt").open("a") as file:
                file.write("".join(sentence + "\n" for sentence in sentences))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close what was opened, and say what was damaged."""
        self._close()
        replaced = trainer.datamodule.replaced  # type: ignore[attr-defined]
        if replaced and self.show and trainer.is_global_zero:
            Console(stderr=True, soft_wrap=True).print(damage_sentence(self.run, replaced), markup=False)
        skipped = trainer.datamodule.skipped  # type: ignore[attr-defined]
        if skipped and self.show and trainer.is_global_zero:
            Console(stderr=True, soft_wrap=True).print(skip_sentence(self.run, skipped), markup=False)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the terminal whole."""
        self._close()

    def _close(self) -> None:
        for thing in (self.bar, self.file, self.board, self.speed):
            if thing is not None:
                thing.stop() if isinstance(thing, Progress) else thing.close()
        self.bar = self.file = self.board = self.speed = None


def _waited_s(trainer: pl.Trainer) -> float:
    """How long this rank has waited for data since its loader was made."""
    loader = trainer.datamodule.loader  # type: ignore[attr-defined]
    return float(loader.waited_s) if loader is not None else 0.0


DAMAGE = "damaged_rank"


def damage_sentence(run: Path, replaced: int) -> str:
    """How many samples were replaced in a run, and the first reasons."""
    lines = [line for file in sorted(run.glob(f"{DAMAGE}*.txt")) for line in file.read_text().splitlines()]
    reasons = list(dict.fromkeys(line.rpartition(";")[0] for line in lines))
    more = f", and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return (
        f"warning: {replaced} samples were replaced by others as their chunks are lost or altered: "
        f"{'; '.join(reasons[:3])}{more}; all in {run}/{DAMAGE}*.txt, run `skyframe verify` on the cubes"
    )


def _in_short(terms: Mapping[str, Tensor]) -> str:
    """The total, and each source's terms averaged: `loss 9.28 (fused 3.46, align 4.10)`."""
    groups: dict[str, list[float]] = {}
    for name, value in terms.items():
        groups.setdefault(name.partition("/")[0], []).append(float(value))
    total = groups.pop("total")[0]
    parts = ", ".join(f"{name} {sum(values) / len(values):.2f}" for name, values in groups.items())
    return f"loss {total:.2f} ({parts})"


def read_metrics(run: Path) -> list[dict[str, float]]:
    """Rows of `metrics.jsonl`; a last line cut off by a kill is dropped."""
    path = run / "metrics.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
