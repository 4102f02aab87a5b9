"""Scoring while a model trains: the tasks of a suite dealt out over ranks, each failure a sentence, never an end."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from skyframe import dist
from skyframe.config.evaluate import Suite
from skyframe.evaluate.feed.baselines import RawPixels
from skyframe.evaluate.protocol import ResultRow, Subject
from skyframe.evaluate.run import Run
from skyframe.evaluate.scores import BASELINES, RESULTS, keep_scores, step_folder, write_rows
from skyframe.evaluate.suite import RAW
from skyframe.evaluate.task import Task, open_tasks
from skyframe.spec import InputError

TEACHER = "teacher"
"""Name of the encoder in the rows."""


@dataclass(frozen=True)
class Found:
    """What all ranks together found."""

    rows: list[ResultRow]
    failures: list[str]  # a sentence each
    suspicions: list[str]  # of what the network received
    whole: bool  # no rank left off early


@dataclass(frozen=True)
class Plan:
    """What is scored again and again."""

    suite: Suite
    tasks: dict[str, Task]  # with their protocols over frozen features alone


def open_plan(suite: Suite, data: Path | None) -> Plan:
    """Open a suite's tasks for scoring while a model trains.

    Raises:
        InputError: data that are not there or not whole, or a suite without a protocol over frozen features.
    """
    opened = open_tasks(suite, data)
    tasks = {n: dataclasses.replace(t, protocols=tuple(t.probes)) for n, t in opened.items() if t.probes}
    if not tasks:
        raise InputError(
            f"suite {suite.name}: no task is scored on frozen features, expected one such as knn or linear on scene "
            "classes; choose another suite"
        )
    return Plan(suite, tasks)


def score_step(
    plan: Plan,
    subject: Subject | None,
    folder: Path,
    step: int,
    enough: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = lambda text: None,
) -> Found:
    """Score an encoder as that of a step, and keep the scores; all ranks call it.

    Args:
        plan: what to score on.
        subject: the encoder; None on a rank without a task.
        folder: RUN/evaluation, shared by the ranks.
        step: optimizer step.
        enough: asked between tasks; true = leave the rest and keep nothing, so that it is done at the next start.
        tell: is told what this rank does.
    """
    found = score_on_ranks(plan, [subject] if subject else [], step_folder(folder, step), enough, tell)
    if found.whole and found.rows and dist.rank() == 0:
        try:
            keep_scores(folder, step, found.rows)
        except (OSError, InputError) as error:
            found.failures.append(f"the scores are not kept: {error}")
    return found


def score_baselines(
    plan: Plan,
    random: Subject | None,
    folder: Path,
    enough: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = lambda text: None,
) -> Found:
    """Score what does not change with the steps: raw pixels, random weights and the majority class; all ranks call it.

    Args:
        plan: what to score on.
        random: the architecture with weights never trained; None on a rank without a task.
        folder: RUN/evaluation; `baselines/results.csv` is written there.
        enough: as in `score_step`.
        tell: as in `score_step`.
    """
    subjects = [Subject(RAW, RawPixels(random.encoder.contract), "raw"), random] if random else []
    found = score_on_ranks(plan, subjects, folder / BASELINES, enough, tell)
    if found.whole and dist.rank() == 0:
        write_rows(folder / BASELINES / RESULTS, found.rows)
    return found


def tasks_of_rank(plan: Plan) -> dict[str, Task]:
    """The tasks that are this rank's."""
    return dict(list(plan.tasks.items())[dist.rank() :: dist.world_size()])


def score_on_ranks(
    plan: Plan, subjects: Sequence[Subject], folder: Path, enough: Callable[[], bool], tell: Callable[[str], None]
) -> Found:
    """Score this rank's tasks in a folder of its own, and gather the rows of all ranks in the order of the suite."""
    mine, whole = tasks_of_rank(plan), True
    failures: list[str] = []
    here = folder / f"rank_{dist.rank():05d}"
    rows: list[ResultRow] = []
    suspicions: list[str] = []
    if mine:
        run = _run(plan, here, subjects)
        for seed in plan.suite.seeds:
            for number, (name, task) in enumerate(mine.items(), 1):
                if whole and enough():
                    whole = False
                if whole:
                    tell(f"{name} ({number} of {len(mine)})")
                    failures += _score(run, task, seed)
        rows, suspicions = _current(run, mine), [alarm.message for alarm in run.suspicions]
        shutil.rmtree(here / "features", ignore_errors=True)  # of weights that no one will meet again
    gathered = dist.all_objects((rows, failures, suspicions, whole))
    order = {name: number for number, name in enumerate(plan.tasks)}
    return Found(
        sorted((r for part in gathered for r in part[0]), key=lambda r: (r.seed, order[r.task])),
        [s for part in gathered for s in part[1]],
        [s for part in gathered for s in part[2]],
        all(part[3] for part in gathered),
    )


def _run(plan: Plan, folder: Path, subjects: Sequence[Subject]) -> Run:
    try:
        return Run(plan.suite, folder, False, subjects)
    except InputError:  # a kill cut off a row, or another version wrote them: what is there can be computed again
        shutil.rmtree(folder)
        return Run(plan.suite, folder, False, subjects)


def _score(run: Run, task: Task, seed: int) -> list[str]:
    """One task; what goes wrong is told, as the run that is scored matters more than a score."""
    try:
        for subject in run.subjects:
            run.score(subject, task, seed)
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
        text = " ".join(str(error).split())
        return [text if isinstance(error, InputError) else f"task {task.name}: {type(error).__name__}: {text}"]
    finally:
        run.forget()
    return []


def _current(run: Run, tasks: dict[str, Task]) -> list[ResultRow]:
    """Rows of these weights and tasks; the file may hold those of an earlier try."""
    weights = {s.name: run.weights_of(s) for s in run.subjects}
    return [
        r
        for r in run.rows
        if r.task in tasks
        and r.config_sha256 in run.configs
        and (r.role == "majority" or weights.get(r.encoder) == r.weights_sha256)
    ]
