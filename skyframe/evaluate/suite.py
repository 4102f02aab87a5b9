"""Run a suite: inputs, features, probes, intervals, rows in a resumable CSV, alarms."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from skyframe.config.evaluate import Suite, TaskConfig
from skyframe.evaluate.alarms import Alarm, find_alarms
from skyframe.evaluate.baselines import RawPixels
from skyframe.evaluate.benchmarks.eurosat import load_eurosat
from skyframe.evaluate.benchmarks.simulated import load_simulated, targets, vary
from skyframe.evaluate.features import TEST, FeatureTable, Inputs, extract, feature_spread
from skyframe.evaluate.protocol import ResultRow, Subject, append_rows, digest, read_rows, weights_sha256
from skyframe.evaluate.record import Shown, data_fingerprint, make_rows, write_log
from skyframe.evaluate.scoring import (
    Prediction,
    make_target,
    predict_knn,
    predict_linear,
    predict_majority,
    rows_of,
)
from skyframe.spec import InputError

MAJORITY: Literal["majority"] = "majority"
RAW = "raw_pixels"


@dataclass(frozen=True)
class Outcome:
    """Rows of this suite for these encoders, found or new, and what looks wrong in them."""

    rows: list[ResultRow]
    alarms: list[Alarm]
    num_new: int
    csv: Path


def evaluate(suite: Suite, subjects: Sequence[Subject], out_dir: Path, show_progress: bool = True) -> Outcome:
    """Score encoders and the baselines raw pixels and majority class.

    Args:
        suite: what to run.
        subjects: encoders in the order of printing; random initialisations come from the caller (role `random`).
        out_dir: receives `results.csv`, `features/` and `logs/`; scores already in the CSV are not computed again.
        show_progress: draw bars.

    Returns:
        All rows of the suite's tasks and seeds for these encoders.

    Raises:
        InputError: data missing or contradicting a contract, or two encoders of one name.
    """
    if not subjects:
        raise InputError(f"suite {suite.name}: no encoder given, expected at least one exported folder")
    everyone = [*subjects, Subject(RAW, RawPixels(subjects[0].encoder.contract), "raw")]
    names = [s.name for s in everyone]
    if len({*names, MAJORITY}) <= len(names):
        raise InputError(
            f"suite {suite.name}: encoder names {', '.join(names)}, expected different ones other than {RAW} and "
            f"{MAJORITY}"
        )
    run = _Run(suite, out_dir, show_progress)
    for seed in suite.seeds:
        for subject in everyone:
            for task in suite.selected:
                run.score(subject, task, seed)
    tasks = {*suite.selected}
    rows = [
        r
        for r in run.rows
        if r.config_sha256 in run.configs and r.task in tasks and (r.encoder in names or r.role == MAJORITY)
    ]
    current = {s.name: run.weights[s.name] for s in everyone}
    rows = [r for r in rows if r.weights_sha256 == current.get(r.encoder, "") and r.seed in suite.seeds]
    return Outcome(rows, find_alarms(rows), run.num_new, run.csv)


@dataclass
class _Run:
    """What one call of `evaluate` has read and computed so far."""

    suite: Suite
    out_dir: Path
    show_progress: bool
    num_new: int = 0
    configs: set[str] = field(default_factory=set)
    weights: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, Inputs] = field(default_factory=dict)
    tables: dict[str, FeatureTable] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.csv = self.out_dir / "results.csv"
        self.rows = read_rows(self.csv)
        self.keys = {r.key for r in self.rows}

    def score(self, subject: Subject, task_name: str, seed: int) -> None:
        """Rows of one encoder on one task, for the protocols that have none yet."""
        task = self.suite.tasks[task_name]
        if task.part == "context" and subject.role == "raw":
            return
        sha = self.weights.setdefault(subject.name, weights_sha256(subject.encoder))
        open_protocols = [
            p for p in self.suite.protocols if not self._done(task_name, task, p, subject.name, sha, seed)
        ]
        wants_majority = subject.role == "raw" and not self._done(task_name, task, MAJORITY, MAJORITY, "", seed)
        if not open_protocols and not wants_majority:
            return
        start = time.perf_counter()
        inputs = self._inputs(subject, task, seed)
        labels = inputs.truth[""][:, 0] if task.benchmark == "eurosat" else targets(inputs, task.label, task)
        target = make_target(task_name, task, inputs, labels)
        shown = Shown(task_name, seed, target, inputs, 0.0, start)
        if wants_majority:
            self._write(Subject(MAJORITY, subject.encoder, MAJORITY), task, [predict_majority(target)], shown)
        rows = rows_of(task, self._table(subject, task, seed, inputs), target)
        spread = feature_spread(next(iter(rows.values()))[target.of(TEST)])
        for protocol in open_protocols:
            if protocol == "knn":
                found = predict_knn(rows, target, self.suite.knn)
            else:
                found = [predict_linear(rows, target, task, self.suite.linear, seed)]
            self._write(subject, task, found, dataclasses.replace(shown, spread=spread, start=start))
            start = time.perf_counter()

    def _done(self, name: str, task: TaskConfig, protocol: str, encoder: str, sha: str, seed: int) -> bool:
        config = self._config(task, protocol)
        self.configs.add(config)
        return all((config, name, protocol, m, encoder, sha, str(seed)) in self.keys for m in task.metrics)

    def _config(self, task: TaskConfig, protocol: str) -> str:
        """Digest of all values that bear on a score, and of the data behind them."""
        family = protocol.split("_")[0]
        probe = {"knn": dataclasses.asdict(self.suite.knn), "linear": dataclasses.asdict(self.suite.linear)}.get(
            family, {}
        )
        if task.benchmark not in self.fingerprints:
            self.fingerprints[task.benchmark] = data_fingerprint(self.suite, task.benchmark)
        return digest(dataclasses.asdict(task), probe, family, self.suite.bootstrap, self.fingerprints[task.benchmark])

    def _inputs(self, subject: Subject, task: TaskConfig, seed: int) -> Inputs:
        contract = subject.encoder.contract
        key = digest(
            task.benchmark, seed, dataclasses.asdict(dataclasses.replace(contract, weights_sha256="", build={}))
        )
        if key not in self.inputs:
            data = self.suite.data
            if task.benchmark == "simulated":
                assert data.simulated is not None
                labels = sorted({t.label for t in self.suite.selected.values() if t.benchmark == "simulated"})
                self.inputs[key] = load_simulated(data.simulated, contract, labels, seed, self.show_progress)
            else:
                assert data.eurosat is not None
                self.inputs[key] = load_eurosat(data.eurosat, contract, self.show_progress)
        inputs = self.inputs[key]
        return vary(inputs, task, contract, seed) if task.benchmark == "simulated" else inputs

    def _table(self, subject: Subject, task: TaskConfig, seed: int, inputs: Inputs) -> FeatureTable:
        key = digest(subject.name, task.benchmark, seed, task.modalities, task.clear_frames, task.regions)
        if key not in self.tables:
            self.tables[key] = extract(
                subject, inputs, self.suite.batch_size, self.out_dir / "features", self.show_progress
            )
        return self.tables[key]

    def _write(self, subject: Subject, task: TaskConfig, found: Sequence[Prediction], shown: Shown) -> None:
        """Score predictions, append their rows and a log of how they came about."""
        sha = "" if subject.role == MAJORITY else self.weights[subject.name]
        log = (
            self.out_dir / "logs" / f"{shown.task}-{found[-1].protocol}-{subject.name}-seed{shown.seed}-{sha[:8]}.json"
        )
        rows: list[ResultRow] = []
        for prediction in found:
            config = self._config(task, prediction.protocol)
            about = {"suite": self.suite.name, "weights_sha256": sha, "config_sha256": config, "log": str(log)}
            rows += make_rows(subject, task, prediction, shown, self.suite.bootstrap, about)
        write_log(log, subject, sha, found, shown)
        rows = [r for r in rows if r.key not in self.keys]
        append_rows(self.csv, rows)
        self.rows += rows
        self.keys |= {r.key for r in rows}
        self.configs |= {r.config_sha256 for r in rows}
        self.num_new += len(rows)
