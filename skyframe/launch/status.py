"""How runs stand: what squeue says, joined with what lies in their folders."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from skyframe.launch.script import NEXT, logs
from skyframe.spec import InputError, load_yaml

RECORD = "record.json"
TAIL_BYTES = 1 << 16
PATIENCE_S = 5.0
SWEEP = "sweep.json"
"""Names the runs of a sweep, in the folder that holds them."""

MARK = "skyframe:"
"""Begins the comment of a job of ours; the run's folder follows."""

BAD_NEWS = re.compile(r"(error: |srun: error: |[\w.]+(Error|Exception)\b)")


@dataclass(frozen=True)
class Queued:
    """A job of ours as squeue knows it."""

    id: str
    state: str  # PENDING, RUNNING, COMPLETING, ...
    left: str  # time to its limit
    reason: str  # why it is pending
    run: Path


@dataclass(frozen=True)
class Status:
    """A row of `skyframe jobs`."""

    run: Path
    job: str
    state: str
    step: int
    max_steps: int
    loss: float | None
    samples_per_s: float | None
    restarts: int
    left: str
    message: str


def queued() -> list[Queued]:
    """This user's jobs that `skyframe launch` submitted, none where there is no SLURM.

    Raises:
        InputError: SLURM does not answer.
    """
    if shutil.which("squeue") is None:
        return []
    asked = ("squeue", "--noheader", "--me", "--format=%i|%T|%L|%r|%k")
    done = subprocess.run(asked, capture_output=True, text=True)
    if done.returncode:
        words = " ".join(done.stderr.split())
        raise InputError(f"squeue: does not answer ({words}), expected the jobs of this user; try again later")
    rows = [line.split("|", 4) for line in done.stdout.splitlines()]
    ours = [(job, state, left, why, mark) for job, state, left, why, mark in rows if mark.startswith(MARK)]
    return [Queued(job, state, left, why, Path(mark.removeprefix(MARK))) for job, state, left, why, mark in ours]


def accounted(jobs: Iterable[str]) -> dict[str, str]:
    """How jobs ended that have left the queue, by their ids: TIMEOUT, OUT_OF_MEMORY, NODE_FAIL, CANCELLED, ...

    Empty where SLURM keeps no accounts.
    """
    known = [job for job in jobs if job.isdecimal()]
    if not known or shutil.which("sacct") is None:
        return {}
    asked = ("sacct", "--noheader", "--allocations", "--parsable2", f"--jobs={','.join(known)}", "--format=JobID,State")
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:  # it tries for a minute to reach a database that is down
        return {}
    rows = [line.split("|") for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return {job: state.split()[0] for job, state in rows}  # CANCELLED says by whom


def launches(run: Path) -> dict[int, dict[str, Any]]:
    """Records of a run's launches by number, the oldest first."""
    found = {int(p.parent.name): p for p in run.glob(f"launch/[0-9]*/{RECORD}")}
    records = {number: json.loads(found[number].read_text()) for number in sorted(found)}
    for number, record in records.items():
        instead = found[number].with_name(NEXT)
        if instead.is_file():
            record["id"] = instead.read_text().strip()
    return records


def started(pid: int) -> str:
    """When a process started, empty where there is none: with it a number used again is not taken for the old one."""
    asked = subprocess.run(("ps", "-o", "stat=,lstart=", "-p", str(pid)), capture_output=True, text=True)
    state, _, when = asked.stdout.strip().partition(" ")
    return "" if state.startswith("Z") else when.strip()


def alive(record: dict[str, Any]) -> bool:
    """Whether a launch without SLURM still runs; one of another machine counts as ended."""
    here = bool(record["pid"]) and record["host"] == socket.gethostname()
    return here and bool(record["started"]) and started(record["pid"]) == record["started"]


def last_row(run: Path) -> dict[str, float]:
    """The last whole row of a run's metrics.jsonl, empty where there is none."""
    for line in reversed(tail(run / "metrics.jsonl")):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # cut off, at either end
            continue
        return dict(row)
    return {}


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """Runs, arrays and sweeps among folders: the folder itself, or those in it and in its arrays/."""
    found: dict[Path, None] = {}
    for folder in folders:
        inside = [*sorted(folder.glob("*")), *sorted(folder.glob("arrays/*"))]
        for place in (folder, *inside):
            if (place / "launch").is_dir() or any((place / name).is_file() for name in ("recipe.yaml", SWEEP)):
                found[place.absolute()] = None
                if place == folder:
                    break
    return list(found)


def jobs_of(run: Path) -> list[Queued]:
    """A run's jobs in the queue; SLURM is not asked about a run that it never had.

    Raises:
        InputError: SLURM does not answer.
    """
    ours = any(not record["pid"] for record in launches(run).values())
    return [entry for entry in queued() if entry.run == run] if ours else []


def living(run: Path) -> bool:
    """Whether anything of a run is in the queue, or runs here."""
    return any(map(alive, launches(run).values())) or bool(jobs_of(run))


def status(run: Path, queue: list[Queued], ended: Mapping[str, str] = MappingProxyType({})) -> Status:
    """How one run stands.

    Args:
        run: its folder.
        queue: its jobs in the queue.
        ended: how jobs ended, by their ids, as far as SLURM's accounts tell.
    """
    records, row = launches(run), last_row(run)
    newest = newest_of(records)
    step, max_steps = int(row.get("step", 0)), _max_steps(run, records)
    if queue:
        state, job, left = queue[0].state, queue[0].id, queue[0].left
    else:
        done = 0 < max_steps <= step
        state = "RUNNING" if newest and alive(newest) else "FINISHED" if done else "ENDED" if row or newest else "NEW"
        job, left = str(newest.get("id", "")), ""
        state = ended.get(job, state) if state == "ENDED" else state
    over = not queue and state not in ("RUNNING", "FINISHED")
    message = _waiting(run, job, queue[0].reason) if state == "PENDING" else _message(run, job, over)
    loss, rate = row.get("total"), row.get("samples_per_s")
    return Status(run, job, state, step, max_steps, loss, rate, _restarts(run), left, message)


def log_of(run: Path, rank: int | None) -> Path:
    """The newest job's log of a rank, or of its script (None).

    Raises:
        InputError: the run was not launched, or no such process has written yet.
    """
    records = launches(run)
    if not records:
        raise InputError(f"{run}: holds no launch/, expected a run of `skyframe launch`; give the folder of one")
    job = list(records.values())[-1]["id"]
    name = f"{job}_script.log" if rank is None else f"{job}_rank{rank}.log"
    path = logs(run) / name
    if not path.is_file():
        there = ", ".join(sorted(p.name for p in logs(run).glob(f"{job}_*.log"))) or "none yet"
        raise InputError(f"{path}: is not there; the logs of job {job} are: {there}; see `skyframe jobs {run}`")
    return path


def cancel(run: Path) -> list[str]:
    """End what runs or waits for a run, and say what was ended. A job that saves as it is told to end stays ended.

    Raises:
        InputError: nothing of it is under way, or SLURM refuses.
    """
    run = run.absolute()
    ended = []
    for job in dict.fromkeys(entry.id.partition("_[")[0] for entry in jobs_of(run)):
        if "_" not in job:  # a run would queue itself again; elements of an array do not
            _slurm("scontrol", "update", f"JobId={job}", "Requeue=0")
        _slurm("scancel", job)
        ended.append(f"job {job}")
    for record in launches(run).values():
        if alive(record):
            os.killpg(record["pid"], signal.SIGTERM)
            ended.append(f"process {record['pid']}")
    if not ended:
        raise InputError(f"{run}: has no job in the queue and no process here, nothing to end; see `skyframe jobs`")
    return ended


def _slurm(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{' '.join(command)}: refused ({' '.join(done.stderr.split())}); try it by hand")


def newest_of(records: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The last launch's record, empty where there is none."""
    return records[max(records)] if records else {}


def _max_steps(run: Path, records: dict[int, Any]) -> int:
    kept = [run / "recipe.yaml", *(run / "launch" / str(n) / "recipe.yaml" for n in reversed(records))]
    for path in kept:
        if path.is_file():
            return int(load_yaml(path)["train"]["max_steps"])
    return 0


def _restarts(run: Path) -> int:
    """Starts after the first, as the run itself counts them."""
    path = run / "restarts.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def _waiting(run: Path, job: str, reason: str) -> str:
    """Why a job waits, and how its last start ended where it had one."""
    lines = tail(logs(run) / f"{job}_script.log")
    ends = [line for line in lines if line.startswith("queued again") or " ended with code " in line]
    return f"{reason}: {ends[-1]}" if ends else reason


def _message(run: Path, job: str, ended: bool) -> str:
    """The line written last, by the job's script or its first process; for one that ended, bad news before that."""
    script, first = logs(run) / f"{job}_script.log", logs(run) / f"{job}_rank0.log"
    if ended:
        for path in (*sorted(logs(run).glob(f"{job}_rank*.log")), script):
            bad = [line.strip() for line in tail(path) if BAD_NEWS.match(line)]
            if bad:
                return bad[-1]
    there = [path for path in (script, first) if path.is_file()]
    newest = max(there, key=lambda path: path.stat().st_mtime_ns, default=script)
    return next((line.strip() for line in reversed(tail(newest)) if line.strip()), "")


def tail(path: Path) -> list[str]:
    """Lines at the end of a file, of which the first may be cut; none where there is no file."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()
