"""One call of `evaluate`: what it has read and computed so far, and the scores of one encoder on one task."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skyframe.config.evaluate import Suite
from skyframe.evaluate.alarms import Alarm
from skyframe.evaluate.benchmarks.simulated import load_simulated, targets, vary
from skyframe.evaluate.feed.features import TEST, FeatureTable, Group, Inputs, extract_group, feature_spread
from skyframe.evaluate.feed.fit import Fit, fit, training_statistics
from skyframe.evaluate.feed.inputs import dataset_inputs
from skyframe.evaluate.feed.received import empty, suspicions
from skyframe.evaluate.protocol import ResultRow, Subject, append_rows, digest, read_rows, weights_sha256
from skyframe.evaluate.record import Shown, make_rows, write_log
from skyframe.evaluate.scoring import (
    Prediction,
    Target,
    make_target,
    predict_constant,
    predict_knn,
    predict_linear,
    predict_logistic,
    predict_ridge,
    rows_of,
)
from skyframe.evaluate.task import MAJORITY, Task
from skyframe.spec import InputError


@dataclass
class Run:
    """A suite under way in one folder."""

    suite: Suite
    out_dir: Path
    show_progress: bool
    subjects: Sequence[Subject] = ()
    group: Group | None = None
    num_new: int = 0
    configs: set[str] = field(default_factory=set)
    suspicions: list[Alarm] = field(default_factory=list)
    weights: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, Inputs] = field(default_factory=dict)
    tables: dict[str, FeatureTable] = field(default_factory=dict)
    fits: dict[str, Fit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.csv = self.out_dir / "results.csv"
        self.rows = read_rows(self.csv)
        self.keys = {r.key for r in self.rows}

    def weights_of(self, subject: Subject) -> str:
        """Hash of an encoder's weights, computed once."""
        return self.weights.setdefault(subject.name, weights_sha256(subject.encoder))

    def forget(self) -> None:
        """Let go of what was read for the task before; windows of the simulated Earth serve several tasks."""
        self.inputs = {k: v for k, v in self.inputs.items() if not v.identity}
        self.tables.clear()
        self.fits.clear()

    def score(self, subject: Subject, task: Task, seed: int) -> None:
        """Rows of one encoder on one task, for the protocols that have none yet."""
        if task.config.part == "context" and subject.role == "raw":
            return
        probes = [p for p in task.probes if not self.done(task, p, subject, seed)]
        majority = Subject(MAJORITY, subject.encoder, MAJORITY)
        wants_majority = bool(task.probes) and subject.role == "raw" and not self.done(task, MAJORITY, majority, seed)
        if probes or wants_majority:
            self._probe(subject, task, seed, probes, majority if wants_majority else None)

    def _probe(
        self, subject: Subject, task: Task, seed: int, protocols: Sequence[str], majority: Subject | None
    ) -> None:
        start = time.perf_counter()
        found = self._inputs(subject, task, seed)
        first = next(iter(found.values()))
        target = make_target(
            task.name, task.config, task.kind, _labels(task, first), first.part, first.cluster,
            first.classes[task.config.label],
        )  # fmt: skip
        shown = Shown(
            suite=self.suite.name, task=task.name, kind=task.kind, metrics=task.metrics, seed=seed, weights_sha256="",
            source=first.source, normaliser="+".join(i.normaliser for i in found.values()), split=first.split,
            start=start,
        )  # fmt: skip
        if majority is not None:
            self._write(majority, task, [predict_constant(target)], shown, target)
        if not protocols:
            return
        tables = {name: self._table(subject, task, seed, i) for name, i in found.items()}
        self._look(subject, task, tables)
        rows = rows_of(task.config, task.kind, tables, target)
        spread = feature_spread(next(iter(rows.values()))[target.of(TEST)])
        received = next(iter(tables.values())).received
        shown = dataclasses.replace(shown, weights_sha256=self.weights_of(subject), spread=spread, received=received)
        for protocol in protocols:
            answers = self._predict(protocol, rows, target, task.metrics[0], seed)
            self._write(subject, task, answers, shown, target)
            shown = dataclasses.replace(shown, start=time.perf_counter())

    def _predict(
        self, protocol: str, rows: dict[str, NDArray[np.float32]], target: Target, metric: str, seed: int
    ) -> list[Prediction]:
        suite = self.suite
        if protocol == "knn":
            return predict_knn(rows, target, suite.knn)
        if protocol == "linear":
            return [predict_linear(rows, target, metric, suite.linear, seed)]
        if protocol == "logistic":
            return [predict_logistic(rows, target, metric, suite.logistic)]
        return [predict_ridge(rows, target, metric, suite.ridge)]

    def done(self, task: Task, protocol: str, subject: Subject, seed: int) -> bool:
        """Whether all rows of one encoder under a protocol stand in the file."""
        config = task.config_sha256(self.suite, protocol)
        self.configs.add(config)
        sha = "" if subject.role == MAJORITY else self.weights_of(subject)
        return all((config, task.name, protocol, m, subject.name, sha, str(seed)) in self.keys for m in task.metrics)

    def _inputs(self, subject: Subject, task: Task, seed: int) -> dict[str, Inputs]:
        """What an encoder is fed, by normaliser as the task names it."""
        contract = subject.encoder.contract
        about = digest(seed, dataclasses.asdict(dataclasses.replace(contract, weights_sha256="", build={})))
        if task.dataset is None:
            key, data = f"simulated {about}", self.suite.data.simulated
            assert data is not None
            if key not in self.inputs:
                labels = sorted({t.label for t in self.suite.selected.values() if t.benchmark == "simulated"})
                self.inputs[key] = load_simulated(data, contract, labels, seed, self.show_progress)
            return {"pretraining": vary(self.inputs[key], task.config, contract, seed)}
        made: dict[str, Inputs] = {}
        for normaliser in task.config.normalisers:
            key = f"{task.name} {normaliser} {about}"
            if key not in self.inputs:
                fitted = self.fit_of(subject, task, normaliser)
                self.inputs[key] = dataset_inputs(fitted, task.config, seed, self.show_progress)
            made[normaliser] = self.inputs[key]
        return made

    def fit_of(self, subject: Subject, task: Task, normaliser: str) -> Fit:
        """A task's data set for an encoder, its statistics measured where no exact rule converts it."""
        assert task.dataset is not None
        contract, config = subject.encoder.contract, task.config
        key = digest(
            task.name, normaliser, dataclasses.asdict(dataclasses.replace(contract, weights_sha256="", build={}))
        )
        if key not in self.fits:
            plan = fit(task.dataset, contract, normaliser, config.modalities, config.positions)  # type: ignore[arg-type]  # checked with the suite
            by_statistics = [n for n, m in plan.matches.items() if m.rule == "dataset"]
            if by_statistics:
                measured = training_statistics(task.dataset, by_statistics)
                plan = dataclasses.replace(plan, statistics=measured)
            self.fits[key] = plan
        return self.fits[key]

    def _table(self, subject: Subject, task: Task, seed: int, inputs: Inputs) -> FeatureTable:
        seen = task.config.modalities, task.config.clear_frames, task.config.regions
        of_task = task.config.benchmark, seed, seen, inputs.identity
        key = digest(subject.name, *of_task)
        if key not in self.tables:
            together = self.group is not None and subject.name in self.group.names
            subjects = (
                [s for s in self.subjects if s.name in self.group.names] if self.group and together else [subject]
            )
            found = extract_group(
                subjects, inputs, self.suite.batch_size, self.out_dir / "features",
                self.group if together else None, self.show_progress,
            )  # fmt: skip
            for one, table in zip(subjects, found, strict=True):
                self.tables[digest(one.name, *of_task)] = table
        return self.tables[key]

    def _look(self, subject: Subject, task: Task, tables: dict[str, FeatureTable]) -> None:
        """Refuse an input of which nothing was valid, and note one that cannot be what the encoder was trained on."""
        for table in tables.values():
            if empty(table.received):
                raise InputError(
                    f"task {task.name}: not one valid pixel reached {subject.name}; check units (dB are no linear "
                    "power) and the data set's masks"
                )
            if subject.role == "encoder":
                for sentence in suspicions(table.received, subject.encoder.contract):
                    alarm = Alarm("input", task.name, subject.name, f"{task.name}: {subject.name}: {sentence}")
                    self.suspicions += [alarm] if alarm not in self.suspicions else []

    def _write(self, subject: Subject, task: Task, found: Sequence[Prediction], shown: Shown, target: Target) -> None:
        """Score predictions, append their rows and a log of how they came about."""
        log = self.log_of(task, found[-1].protocol, subject, shown.seed)
        write_log(log, subject, found, shown, target)
        rows: list[ResultRow] = []
        for p in found:
            settings = task.settings(self.suite, p.protocol)
            rows += make_rows(subject, p, shown, self.suite.bootstrap, settings, log)
        self.append(rows)

    def log_of(self, task: Task, protocol: str, subject: Subject, seed: int) -> Path:
        """Where the log of one encoder's answers lies."""
        sha = "" if subject.role == MAJORITY else self.weights_of(subject)
        return self.out_dir / "logs" / f"{task.name}-{protocol}-{subject.name}-seed{seed}-{sha[:8]}.json"

    def append(self, rows: Sequence[ResultRow]) -> None:
        """Add rows to the file, those that are not there yet."""
        new = [r for r in rows if r.key not in self.keys]
        append_rows(self.csv, new)
        self.rows += new
        self.keys |= {r.key for r in new}
        self.configs |= {r.config_sha256 for r in new}
        self.num_new += len(new)


def _labels(task: Task, inputs: Inputs) -> NDArray[np.generic]:
    if task.dataset is None:
        return targets(inputs, task.config.label, task.config)
    return inputs.truth[""]
