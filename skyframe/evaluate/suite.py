"""Run a suite: inputs, features, probes and heads, intervals, rows in a resumable CSV, alarms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from skyframe.config.evaluate import Suite
from skyframe.evaluate.alarms import Alarm, find_alarms
from skyframe.evaluate.feed.baselines import RawPixels
from skyframe.evaluate.feed.features import Group
from skyframe.evaluate.protocol import ResultRow, Subject, write_parquet
from skyframe.evaluate.run import Run
from skyframe.evaluate.run_heads import score_heads
from skyframe.evaluate.task import MAJORITY, Task, open_tasks
from skyframe.spec import InputError

RAW = "raw_pixels"


@dataclass(frozen=True)
class Outcome:
    """Rows of this suite for these encoders, found or new, and what looks wrong in them."""

    rows: list[ResultRow]
    alarms: list[Alarm]
    num_new: int
    csv: Path


def evaluate(
    suite: Suite,
    subjects: Sequence[Subject],
    out_dir: Path,
    show_progress: bool = True,
    data: Path | None = None,
    group: Group | None = None,
) -> Outcome:
    """Score encoders and the baselines raw pixels and majority class.

    Args:
        suite: what to run.
        subjects: encoders in the order of printing; random initialisations come from the caller (role `random`).
        out_dir: receives `results.csv`, `results.parquet`, `features/` and `logs/`; scores already in the CSV are not
            computed again.
        show_progress: draw bars.
        data: folder below which the tasks' data sets lie.
        group: subjects whose features come from one pass.

    Returns:
        All rows of the suite's tasks and seeds for these encoders.

    Raises:
        InputError: data missing, damaged or contradicting a contract, or two encoders of one name.
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
    run = Run(suite, out_dir, show_progress, subjects, group)
    tasks = open_tasks(suite, data)
    for seed in suite.seeds:
        for task in tasks.values():
            for subject in everyone:
                run.score(subject, task, seed)
                score_heads(run, subject, task, seed)
            run.forget()
    rows = _current(run, tasks, everyone)
    if run.num_new:
        write_parquet(run.csv.with_suffix(".parquet"), run.rows)
    return Outcome(rows, [*find_alarms(rows), *run.suspicions], run.num_new, run.csv)


def _current(run: Run, tasks: dict[str, Task], everyone: Sequence[Subject]) -> list[ResultRow]:
    """Rows of these tasks, encoders and seeds as they are now, in the order of the file."""
    weights = {s.name: run.weights_of(s) for s in everyone} | {MAJORITY: ""}
    return [
        r
        for r in run.rows
        if r.config_sha256 in run.configs
        and r.task in tasks
        and r.seed in run.suite.seeds
        and weights.get(r.encoder) == r.weights_sha256
    ]
