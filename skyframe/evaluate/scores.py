"""Scores of one run against its steps: `scores.jsonl` in RUN/evaluation, beside a folder per scored step."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from skyframe.evaluate.protocol import ResultRow, append_rows
from skyframe.spec import InputError

FOLDER = "evaluation"
FILE, RESULTS, BASELINES = "scores.jsonl", "results.csv", "baselines"


@dataclass(frozen=True)
class Score:
    """One score of the teacher after a step; all else about it stands in the step's results.csv."""

    step: int
    suite: str
    task: str
    protocol: str
    metric: str
    seed: int
    value: float
    lo: float
    hi: float


def step_folder(folder: Path, step: int) -> Path:
    """Where results, logs and predictions of one step lie."""
    return folder / f"step_{step:08d}"


def read_scores(folder: Path) -> list[Score]:
    """All scores, none where nothing was scored yet.

    Args:
        folder: RUN/evaluation.

    Raises:
        InputError: a line that is none of ours; the file is only ever written whole.
    """
    path, found = folder / FILE, []
    for number, line in enumerate(path.read_text().splitlines() if path.is_file() else [], 1):
        try:
            found.append(Score(**json.loads(line)))
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: line {number} is no score ({error}); correct or delete that line") from error
    return found


def keep_scores(folder: Path, step: int, rows: Sequence[ResultRow]) -> list[Score]:
    """Write a step's results.csv and its scores, in place of what stood there for that step; a kill leaves old or new.

    Args:
        folder: RUN/evaluation.
        step: optimizer step.
        rows: of the teacher, not empty.

    Returns:
        The scores of this step.
    """
    write_rows(step_folder(folder, step) / RESULTS, rows)
    new = [Score(step, r.suite, r.task, r.protocol, r.metric, r.seed, r.value, r.lo, r.hi) for r in rows]
    _write(folder, [*(s for s in read_scores(folder) if s.step != step), *new])
    return new


def curves_of(scores: Sequence[Score], step: int) -> dict[str, float]:
    """Values of one step, means over seeds, by `eval/<task>/<protocol>/<metric>`."""
    groups: dict[str, list[float]] = {}
    for s in scores:
        if s.step == step:
            groups.setdefault(f"eval/{s.task}/{s.protocol}/{s.metric}", []).append(s.value)
    return {name: sum(values) / len(values) for name, values in groups.items()}


def forget_scores(folder: Path, after: int) -> None:
    """Take back scores of later steps, which are no longer the run's history."""
    for old in folder.glob("step_*"):
        if int(old.name.removeprefix("step_")) > after:
            shutil.rmtree(old)
    scores = read_scores(folder)
    if any(s.step > after for s in scores):
        _write(folder, [s for s in scores if s.step <= after])


def write_rows(path: Path, rows: Sequence[ResultRow]) -> None:
    """A results file written whole."""
    aside = path.with_suffix(".partial")
    aside.unlink(missing_ok=True)
    append_rows(aside, rows)
    os.replace(aside, path)


def _write(folder: Path, scores: Iterable[Score]) -> None:
    aside = folder / f"{FILE}.partial"
    kept = sorted(scores, key=lambda s: s.step)
    aside.write_text("".join(json.dumps(dataclasses.asdict(s)) + "\n" for s in kept))
    os.replace(aside, folder / FILE)
