"""Train a head on an encoder that stays frozen or trains along: one loop for every kind of target.

Everything drawn (order, crops, symmetries, dropout) depends on the seed, the epoch and the item alone, so two runs on
one machine are equal to the bit, and a run that was cut off goes on as if it had not been.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import nn

from skyframe.config.heads import LOWER_IS_BETTER, METRIC_OF, HeadTraining, check_training
from skyframe.evaluate.datasets.dataset import Item
from skyframe.evaluate.feed.crops import Reader, Whole, ahead, joined, training_crop
from skyframe.evaluate.feed.features import device_of, to_device
from skyframe.evaluate.feed.fit import Fit
from skyframe.evaluate.heads.layer_decay import parameter_groups
from skyframe.evaluate.heads.predict import KEPT_FEATURES, Memory, Trained, measure_items, num_bytes
from skyframe.evaluate.heads.setup import prepared
from skyframe.evaluate.heads.steps import Steps, plateau, rate, read_state, write_state
from skyframe.evaluate.measures.measure import value_of
from skyframe.evaluate.protocol import digest, weights_sha256
from skyframe.randomness import Draw, generator, hash64
from skyframe.sample import Batch, Sample
from skyframe.spec import InputError


def train_head(
    encoder: Any,
    fit: Fit,
    parts: Mapping[str, Sequence[Item]],
    config: HeadTraining,
    seed: int = 0,
    folder: Path | None = None,
    read: Callable[[Item], Sample] | None = None,
    show_progress: bool = True,
) -> Trained:
    """Train on `parts["train"]` and keep the epoch that scores best on `parts["val"]`, the last one without any.

    Args:
        encoder: an `Encoder`; never changed. Where it trains, a copy of it does (of `encoder.module`, if it has one).
        fit: the data set and the contract.
        parts: items; fewer training items are a low-label protocol (`few_labels`).
        config: head, rates, epochs.
        seed: of initial weights and all draws.
        folder: where the state after each epoch is kept; a run that was cut off goes on from there.
        read: an item for the encoder, `fit.read` by default; what else chooses dates or regions.
        show_progress: draw a bar with loss and score.

    Raises:
        InputError: no training item, a wrong configuration, an encoder that cannot train, a loss that is not finite,
            or a state in `folder` that cannot be read.
    """
    check_training(config, f"training a head on {fit.dataset.name}")
    steps = Steps.of(len(parts.get("train", ())), config, fit.dataset.name)
    reader = Reader(fit, read or fit.read)
    trained, names = prepared(encoder, reader, parts["train"], config, seed)
    run = _Run(trained, reader, config, seed, steps, names, list(parts["train"]), list(parts.get("val", ())))
    state = None
    if folder is not None:
        keys = [[i.key for i in parts.get(p, ())] for p in ("train", "val")]
        name = digest(dataclasses.asdict(config), keys, seed, fit.note, weights_sha256(encoder), _seen(reader, parts))
        state = folder / f"{name}.pt"
        run.resume(state)
    with _progress(show_progress) as bar:
        task = bar.add_task(f"{fit.dataset.name}: head", total=steps.epochs, completed=run.epoch, loss="", score="")
        while run.epoch < steps.epochs:
            run.one_epoch(bar, task)
            if state is not None:
                run.save(state)
    run.restore_best()
    return dataclasses.replace(trained, history=tuple(run.history), chosen=run.chosen)


def _seen(reader: Reader, parts: Mapping[str, Sequence[Item]]) -> str:
    """Digest of how the first items come to the encoder: bands, units, dates, region, and their truth."""
    found = []
    for whole in (reader(item) for part in ("train", "val") for item in parts.get(part, ())[:2]):
        arrays = [np.ascontiguousarray(a) for s in whole.sample.series.values() for a in (s.values, s.valid, s.day)]
        truth = [np.ascontiguousarray(t) for t in whole.sample.targets.values()]
        found.append(digest(list(whole.sample.series), whole.sample.region, whole.label_px, *arrays, *truth))
    return digest(found)


@dataclass
class _Run:
    """A training under way."""

    trained: Trained
    reader: Reader
    config: HeadTraining
    seed: int
    steps: Steps
    names: list[str]
    train: list[Item]
    val: list[Item]
    epoch: int = 0
    fall: float = 1.0  # what a plateau has left of the rate
    waited: int = 0  # epochs without a better score; below 0 = at rest after a fall
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    kept: list[list[torch.Tensor]] = field(default_factory=list)  # features of the training items that never change
    seen: Memory = field(default_factory=dict)  # features of the validation windows, where the encoder is frozen

    def __post_init__(self) -> None:
        predictor = self.trained.predictor
        known = dict(predictor.encoder.named_parameters()) if self.names else {}
        self.parameters = {n: known[n] for n in self.names}
        groups = parameter_groups(
            predictor.head, predictor.encoder if self.names else nn.Identity(), self.names, self.config
        )
        self.optimizer = torch.optim.AdamW(groups, lr=self.config.lr)
        self.metric = self.config.metric or METRIC_OF[self.trained.fit.dataset.kind]
        self.device = device_of(predictor.encoder)
        if not self.names and not self.config.flips and self.config.scale == (1.0, 1.0):
            self.kept = self._fixed_features()

    @property
    def chosen(self) -> str:
        """Which epoch, and why."""
        if not self.val:
            return f"epoch={self.epoch} last"
        return f"epoch={int(self.best['epoch'])} {self.metric}={self.best['score']:.4f}"

    def _fixed_features(self) -> list[list[torch.Tensor]]:
        """Features of every training item, made once in a fixed order; none where crops are drawn or memory lacks."""
        made: list[list[torch.Tensor]] = []
        trained, everything = self.trained, np.arange(len(self.train))
        for start in range(0, len(everything), self.config.batch):
            chosen = everything[start : start + self.config.batch]
            if any(max(self.reader(self.train[int(i)]).extent) > trained.side for i in chosen):
                return []
            batch, _ = self._batch(chosen)
            with torch.no_grad():
                found = trained.predictor.features(to_device(batch, self.device))
            each = [m.chunk(len(chosen)) for m in found]
            made += [[m[k].clone() for m in each] for k in range(len(chosen))]
            if num_bytes(made) * len(everything) > KEPT_FEATURES * len(made):
                return []
        return made

    def one_epoch(self, bar: Progress, task: TaskID) -> None:
        """One pass over the training items, then a score on the validation items."""
        order = generator(self.seed, "order", self.epoch).permutation(len(self.train))
        batches = [order[i : i + self.config.batch] for i in range(0, len(order), self.config.batch)]
        at = self.epoch * self.steps.per_epoch
        batches = batches[: self.steps.total - at]
        trains = bool(self.names) and self.epoch >= self.steps.frozen_epochs
        losses = []
        self.trained.predictor.head.train()
        for i, (batch, size) in enumerate(ahead(lambda i: self._batch(batches[i]), len(batches))):
            known = [torch.cat(m) for m in zip(*(self.kept[k] for k in batches[i]), strict=True)] if self.kept else None
            losses.append(self._step(batch, size, at + i, trains, known))
            bar.update(task, completed=self.epoch + (i + 1) / len(batches), loss=f"loss {losses[-1]:.3f}")
        self.trained.predictor.head.eval()
        self.epoch += 1
        row = {"epoch": float(self.epoch), "loss": float(np.mean(losses))}
        if self.val:
            plain, memory = dataclasses.replace(self.trained, overlap=0.0), None if self.names else self.seen
            row[self.metric] = value_of(measure_items(plain, self.val, self.reader, memory=memory), self.metric)
            bar.update(task, score=f"{self.metric} {row[self.metric]:.3f}")
        self.history.append(row)
        self._keep(row)

    def _batch(self, chosen: NDArray[np.int64]) -> tuple[Batch, int]:
        wholes = [(int(i), self.reader(self.train[i])) for i in chosen]
        if len({w.label_px for _, w in wholes}) > 1:
            raise InputError(
                f"{self.trained.fit.dataset.name}: masks of {', '.join(str(w.label_px) for _, w in wholes)} pixels per "
                "position in one batch, expected one number; leave out positions, or set batch: 1"
            )
        crops = [self._crop(number, whole) for number, whole in wholes]
        return joined(self.trained.fit, crops, self.trained.side), self.trained.side * wholes[0][1].label_px

    def _crop(self, number: int, whole: Whole) -> Sample:
        key = self.train[number].key
        made = training_crop(whole, self.trained.side, self.config, self.seed, self.epoch, key)
        if self.trained.scale is not None:
            made = dataclasses.replace(
                made, targets={"value": self.trained.standardised(made.targets["value"].astype(np.float32))}
            )
        return dataclasses.replace(made, index=number)

    def _step(self, batch: Batch, size: int, step: int, trains: bool, known: list[torch.Tensor] | None) -> float:
        config, predictor = self.config, self.trained.predictor
        share = rate(config, step, self.steps.total) * self.fall
        if config.encoder == "frozen_first" and trains:
            share *= config.unfrozen_factor
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * share * group["share"]
        moved = to_device(batch, self.device)
        targets = {k: v.to(self.device) for k, v in batch.targets.items()}
        drop = Draw(hash64(self.seed, "head_drop", step), batch.index.to(self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss = predictor.loss(dataclasses.replace(moved, targets=targets), size, trains, drop, known)
        if not bool(loss.isfinite()):
            raise InputError(
                f"{self.trained.fit.dataset.name}: the loss of step {step} is not finite, expected a number; lower lr, "
                "or check the encoder's features"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        if trains and all(p.grad is None for p in self.parameters.values()):
            raise InputError(
                f"{self.trained.fit.dataset.name}: no gradient reaches the encoder, expected features made with "
                "gradients; let its `encode` and `maps` run without no_grad, or set encoder: frozen"
            )
        if config.clip_norm:
            every = [p for g in self.optimizer.param_groups for p in g["params"]]
            torch.nn.utils.clip_grad_norm_(every, config.clip_norm)
        self.optimizer.step()
        return float(loss.detach())

    def _keep(self, row: dict[str, float]) -> None:
        """Keep the epoch's weights where it scores best, or is the last and none is chosen; fall on a plateau."""
        score = row.get(self.metric, float(self.epoch))
        gain = -score if self.metric in LOWER_IS_BETTER and self.val else score
        gain = gain if math.isfinite(gain) else -math.inf
        if not self.best or gain > self.best["gain"]:
            self.best = {"gain": gain, "score": score, "epoch": float(self.epoch), "weights": self._weights()}
        if self.config.schedule == "plateau":
            better = self.best["epoch"] == self.epoch
            self.fall, self.waited = plateau(self.fall, self.waited, better, self.config.plateau)

    def _weights(self) -> dict[str, dict[str, torch.Tensor]]:
        head = self.trained.predictor.head.state_dict()
        return {
            "head": {k: v.detach().clone() for k, v in head.items()},
            "encoder": {k: v.detach().clone() for k, v in self.parameters.items()},
        }

    def _put(self, weights: dict[str, dict[str, torch.Tensor]]) -> None:
        self.trained.predictor.head.load_state_dict(weights["head"])
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights["encoder"][name])

    def restore_best(self) -> None:
        """The kept epoch's weights, for good."""
        self._put(self.best["weights"])
        self.trained.predictor.head.eval().requires_grad_(False)
        for parameter in self.parameters.values():
            parameter.requires_grad_(False)

    def save(self, path: Path) -> None:
        """The state after an epoch, atomically."""
        state = {
            "epoch": self.epoch, "fall": self.fall, "waited": self.waited, "history": self.history, "best": self.best,
            "weights": self._weights(), "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip
        write_state(path, state)

    def resume(self, path: Path) -> None:
        """Go on from the state at `path`, if there is one."""
        state = read_state(path, self.device)
        if state is not None:
            self._put(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.epoch, self.fall, self.waited = state["epoch"], state["fall"], state["waited"]
            self.history, self.best = state["history"], state["best"]


def _progress(show: bool) -> Progress:
    text = TextColumn("{task.description} {task.fields[loss]} {task.fields[score]}")
    columns = (text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, transient=True, disable=not (show and Console().is_terminal))
