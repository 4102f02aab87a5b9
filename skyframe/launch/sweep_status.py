"""How the runs of a sweep stand, side by side: their values, losses, health and scores."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyframe.launch.script import logs
from skyframe.launch.status import SWEEP, Queued, Status, alive, cancel, launches, living, queued, status
from skyframe.spec import InputError

SMOOTHED = 10
"""Rows of the log whose mean is a smoothed loss."""

NOT_HEALTH = ("step", "epoch", "time_s", "total", "lr", "samples_per_s", "tokens_per_s", "data_wait_pct", "mfu_pct")
"""Figures of the log that say nothing of what was learnt."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep is; kept in its folder."""

    recipe: str  # name, or absolute path
    overrides: tuple[str, ...]  # of all runs
    cluster: str  # name, or absolute path
    num_nodes: int
    at_once: int
    here: str  # where relative paths begin
    keys: tuple[str, ...]  # that differ between the runs
    runs: dict[str, tuple[str, ...]]  # values of the keys by the run's name


@dataclass(frozen=True)
class Line:
    """A run of a sweep in the table of results."""

    name: str
    values: dict[str, str]  # by key
    state: str
    step: int
    max_steps: int
    loss: float | None  # of the last row of the log
    best: float | None  # the lowest mean of `SMOOTHED` rows in a row, or of all where there are fewer
    health: dict[str, float]  # other figures of the last row, such as effective_rank/s2
    scores: dict[str, float]  # of its encoders, by task, encoder, protocol and metric, the mean over seeds
    message: str


def is_sweep(folder: Path) -> bool:
    """Whether a folder is a sweep's."""
    return (folder / SWEEP).is_file()


def read_sweep(folder: Path) -> Sweep:
    """What a sweep is, from its folder."""
    tree: dict[str, Any] = json.loads((folder / SWEEP).read_text())
    runs = {name: tuple(values) for name, values in tree.pop("runs").items()}
    tree |= {key: tuple(tree[key]) for key in ("overrides", "keys")}
    return Sweep(runs=runs, **tree)


def sweep_lives(folder: Path) -> bool:
    """Whether anything of a sweep is in the queue, or runs here."""
    runs = [folder / name for name in read_sweep(folder).runs]
    if any(alive(record) for run in (folder, *runs) for record in launches(run).values()):
        return True
    ours = any(not record["pid"] for run in runs for record in launches(run).values())
    return ours and any(entry.run in runs for entry in queued())


def cancel_sweep(folder: Path) -> list[str]:
    """End all runs of a sweep for good, and say what was ended.

    Raises:
        InputError: nothing of it is under way, or SLURM refuses.
    """
    folder = folder.absolute()
    if any(map(alive, launches(folder).values())):
        return cancel(folder)
    ended = [word for name in read_sweep(folder).runs if living(folder / name) for word in cancel(folder / name)]
    if not ended:
        raise InputError(f"{folder}: has no job in the queue and no process here, nothing to end; see `skyframe jobs`")
    return ended


def sweep_lines(folder: Path, queue: list[Queued]) -> list[Line]:
    """The table of results, a run after another.

    Args:
        folder: the sweep's.
        queue: jobs in the queue, of these runs and others.
    """
    sweep = read_sweep(folder)
    return [_line(folder / name, dict(zip(sweep.keys, v, strict=True)), queue) for name, v in sweep.runs.items()]


def sweep_status(folder: Path, queue: list[Queued]) -> Status:
    """A sweep as a row of `skyframe jobs`: its runs are its steps."""
    lines = sweep_lines(folder, queue)
    states = Counter(line.state for line in lines)
    going = next((s for s in ("RUNNING", "PENDING", "ENDED", "NEW") if states[s]), "FINISHED")
    said = ", ".join(f"{count} {state.lower()}" for state, count in sorted(states.items()))
    best = min((line.best for line in lines if line.best is not None), default=None)
    return Status(
        folder, "", going, states["FINISHED"], len(lines), best, None, 0, "", f"sweep: {said} of {len(lines)}"
    )


def lowest(health: dict[str, float]) -> dict[str, float]:
    """Health figures over sources: effective_rank is the least of effective_rank/hr, effective_rank/s2, ..."""
    found: dict[str, float] = {}
    for name, value in health.items():
        group = name.partition("/")[0]
        found[group] = min(found.get(group, math.inf), value)
    return found


def write_csv(path: Path, lines: list[Line]) -> None:
    """The table with every figure that any run has."""
    rows = [
        {"run": x.name, **x.values, "state": x.state, "step": x.step, "max_steps": x.max_steps, "loss": x.loss,
         "best_loss": x.best, **x.health, **x.scores, "message": x.message}
        for x in lines
    ]  # fmt: skip
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _line(run: Path, values: dict[str, str], queue: list[Queued]) -> Line:
    found = status(run, [entry for entry in queue if entry.run == run])
    rows = _rows(run)
    losses = [row["total"] for row in rows]
    span = min(SMOOTHED, len(losses))
    means = [math.fsum(losses[i : i + span]) / span for i in range(len(losses) - span + 1)] if span else []
    last = rows[-1] if rows else {}
    health = {k: v for k, v in last.items() if k not in NOT_HEALTH and not k.startswith("loss/")}
    return Line(
        run.name, values, _state(run, found), found.step, found.max_steps, last.get("total"), min(means, default=None),
        health, _scores(run), found.message,
    )  # fmt: skip


def _state(run: Path, found: Status) -> str:
    """The state of one run where one process does them all, one after another."""
    if found.state != "RUNNING" or not found.job.startswith("local"):
        return found.state
    if 0 < found.max_steps <= found.step:
        return "FINISHED"
    newest = run / "launch" / str(max(launches(run)))
    if (newest / "code").is_file():
        return "ENDED"
    return "RUNNING" if (logs(run) / f"{found.job}_rank0.log").is_file() else "PENDING"


def _rows(run: Path) -> list[dict[str, float]]:
    """Rows of metrics.jsonl; a last line cut off by a kill is left out."""
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n") if path.is_file() else [""]
    return [json.loads(line) for line in lines[:-1]]


def _scores(run: Path) -> dict[str, float]:
    """What `skyframe evaluate` wrote into the run's folder; where a score was computed twice, the last one counts."""
    newest: dict[tuple[str, str], float] = {}
    for path in sorted(run.glob("**/results.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if row["role"] == "encoder":
                    name = f"{row['task']} {row['encoder']} {row['protocol']} {row['metric']}"
                    newest[name, row["seed"]] = float(row["value"])
    names = dict.fromkeys(name for name, _ in newest)
    by_name = {name: [value for (other, _), value in newest.items() if other == name] for name in names}
    return {name: math.fsum(values) / len(values) for name, values in by_name.items()}
