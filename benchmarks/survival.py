"""Proofs about jobs: launched on a real SLURM of two nodes, one equals a single process, others are interrupted.

Cells and tables of `make prove`; `benchmarks.prove` names them and keeps their answers.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import strategies
from benchmarks.tables import header

PREEMPTIONS = 20
CLUSTER = """\
time_limit: "{limit}"
tasks_per_node: {tasks}
cpus_per_task: 1
interface: lo
signal_lead_s: 30
env: {{OMP_NUM_THREADS: "1"}}
"""


@dataclass(frozen=True)
class Run:
    """What is launched, and where its files are."""

    slurm: Any
    job: str
    folder: Path


@dataclass(frozen=True)
class Trouble:
    """A way to interrupt a run of two ranks, with what makes it long enough."""

    what: str
    way: str
    steps: int
    disturb: Callable[[Run], list[int]]
    limit: str = "01:00:00"
    save_every: int = 10_000  # steps; so many that only what a signal asks for is saved


def equal(work: Path) -> dict[str, Any]:
    """ZeRO-2 on two nodes with two processes each against one process; and how long the way to the first step is."""
    from skyframe.train.progress import read_metrics

    alone, run = (work / "runs" / name for name in ("one_process", "two_by_two"))
    for folder in (alone, run):
        shutil.rmtree(folder, ignore_errors=True)
    begin(strategies.words(work, alone.name, "alone", 1, 1, preset="tiny"))
    with _cluster(work, "two_by_two", 2) as (slurm, file):
        begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        launched = _launch(work, slurm, file, run.name, "zero2", preset="tiny")
        after, command_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - begun
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        _until(run, 1)
        first_s = time.perf_counter() - begun
        _finish(launched)
    losses = [[row["total"] for row in read_metrics(r)] for r in (alone, run)]
    far = max(abs(a - b) / abs(b) for a, b in zip(*losses, strict=True))
    return {
        "kind": "equal",
        "steps": len(losses[1]),
        "far": far,
        "command_s": command_s,
        "cpu_s": cpu_s,
        "first_s": first_s,
    }


def survive(work: Path, name: str) -> dict[str, Any]:
    """Launch a run, interrupt it, and compare its end with that of an uninterrupted one on as many ranks."""
    trouble = TROUBLES[name]
    whole, run = (work / "runs" / f"{kind}_{name}" for kind in ("whole", "disturbed"))
    for folder in (whole, run):
        shutil.rmtree(folder, ignore_errors=True)
    more = [f"train.max_steps={trouble.steps}", f"train.checkpoint_every={trouble.save_every}", "train.threads=1"]
    begin(strategies.words(work, whole.name, trouble.way, 2, 1, *more))
    with _cluster(work, name, 1, trouble.limit) as (slurm, file):
        launched = _launch(work, slurm, file, run.name, trouble.way, *more)
        steps = trouble.disturb(launched)
        _finish(launched)
    return _compared(whole, run, trouble, steps)


def torchrun(work: Path) -> dict[str, Any]:
    """kill -9 of a rank under `torchrun --max-restarts=1`, without SLURM."""
    whole, run = (work / "runs" / f"{kind}_torchrun" for kind in ("whole", "disturbed"))
    for folder in (whole, run):
        shutil.rmtree(folder, ignore_errors=True)
    trouble = Trouble("kill -9 of a rank under torchrun", "ddp", 60, _killed, save_every=10)
    more = [f"train.max_steps={trouble.steps}", f"train.checkpoint_every={trouble.save_every}", "train.threads=1"]
    begin(strategies.words(work, whole.name, trouble.way, 2, 1, *more))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    words = strategies.words(work, run.name, trouble.way, 2, 1, *more, "resume=auto")
    with (work / "torchrun.log").open("w") as log:
        # Without the second, torchrun's ranks find the addresses of those that died and never meet again.
        env = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        process = subprocess.Popen([*launcher, "-m", "skyframe", *words], env=env, stdout=log, stderr=log)
        _until(run, 15)
        second = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[1]
        os.kill(int(second), signal.SIGKILL)
        steps = [_newest(run)]
        if process.wait():
            raise RuntimeError(f"torchrun ended with {process.returncode}, expected 0; see {log.name}")
    return _compared(whole, run, trouble, steps)


def _compared(whole: Path, run: Path, trouble: Trouble, steps: list[int]) -> dict[str, Any]:
    """How a disturbed run ended beside one that was not, and from which steps it went on."""
    from skyframe.train.progress import read_metrics
    from skyframe.train.restarts import read_restarts

    rows = [[(r["step"], r["total"]) for r in read_metrics(r)] for r in (whole, run)]
    tensors, same, far = strategies.compared(whole, run, trouble.steps)
    restarts = [line["why"] for line in read_restarts(run)]
    return {
        "kind": "survived", "way": trouble.way, "what": trouble.what, "steps": steps, "restarts": len(restarts),
        "of": trouble.steps, "log": rows[0] == rows[1], "tensors": tensors, "equal": same, "far": far,
        "why": sorted(set(restarts)),
    }  # fmt: skip


def begin(arguments: list[str]) -> None:
    """A run on this machine without SLURM, to its end."""
    if code := strategies.start(arguments).wait():
        raise RuntimeError(f"skyframe {' '.join(arguments[:4])} ended with {code}, expected 0; run it by hand")


def _told(run: Run) -> list[int]:
    """SIGUSR2 twenty times, at every second step or so."""
    steps = list[int]()
    for count in range(1, PREEMPTIONS + 1):
        _until(run.folder, (steps[-1] if steps else 0) + 1)
        run.slurm.run("scancel", "-s", "USR2", run.job)
        run.slurm.release(run.job, count, timeout_s=120)
        steps.append(_newest(run.folder))
    return steps


def _preempted(run: Run) -> list[int]:
    """Jobs of a more important partition want both nodes, twenty times: SIGTERM, and the run is queued again."""
    steps = list[int]()
    for count in range(1, PREEMPTIONS + 1):
        _until(run.folder, (steps[-1] if steps else 0) + 1)
        other = run.slurm.run(
            "sbatch", "--parsable", "--partition=urgent", "-N2", "--exclusive", "--output=/dev/null", "--wrap=true"
        )
        run.slurm.wait(other)
        run.slurm.release(run.job, count, timeout_s=120)
        steps.append(_newest(run.folder))
    return steps


def _requeued(run: Run) -> list[int]:
    """`scontrol requeue`, as an administrator does: SIGTERM, and five seconds to save."""
    _until(run.folder, 15)
    run.slurm.run("scontrol", "requeue", run.job)
    run.slurm.release(run.job, timeout_s=120)
    return [_newest(run.folder)]


def _killed(run: Run) -> list[int]:
    """kill -9 of the second rank."""
    _until(run.folder, 15)
    os.kill(run.slurm.rank(run.job, 1), signal.SIGKILL)
    run.slurm.release(run.job, timeout_s=120)
    return [_newest(run.folder)]


def _lost_node(run: Run) -> list[int]:
    """kill -9 of a node's slurmd: SLURM notices, ends the job and starts it again where it can."""
    _until(run.folder, 15)
    run.slurm.kill_node("n2")
    run.slurm.wait(run.job, "PENDING", timeout_s=180)
    step = _newest(run.folder)
    run.slurm.start_node("n2")
    run.slurm.wait_idle()
    run.slurm.release(run.job, timeout_s=120)
    return [step]


def _limit(run: Run) -> list[int]:
    """Two minutes of time limit, the signal half a minute or more before."""
    steps = list[int]()
    while True:
        state = run.slurm.wait(run.job, "PENDING", "COMPLETED", timeout_s=240)
        if state == "COMPLETED":
            return steps
        run.slurm.release(run.job, len(steps) + 1, timeout_s=120)
        run.slurm.wait(run.job, "RUNNING", "COMPLETED")
        steps.append(_newest(run.folder))


TROUBLES = {
    "told": Trouble("SIGUSR2, twenty times", "ddp", 90, _told),
    "preempted": Trouble("preempted by another job, twenty times", "ddp", 90, _preempted),
    "limit": Trouble("time limit of two minutes", "ddp", 700, _limit, "00:02:00"),
    "requeued": Trouble("scontrol requeue", "zero2", 90, _requeued),
    "killed": Trouble("kill -9 of a rank", "zero2", 60, _killed, save_every=10),
    "lost_node": Trouble("kill -9 of a slurmd", "zero2", 600, _lost_node, save_every=10),
}


@contextmanager
def _cluster(work: Path, name: str, tasks: int, limit: str = "01:00:00") -> Iterator[tuple[Any, Path]]:
    """A private SLURM of two nodes, and a cluster file for it."""
    from tests.minislurm import mini_slurm

    file = work / f"{name}.yaml"
    file.write_text(CLUSTER.format(limit=limit, tasks=tasks))
    with mini_slurm() as slurm:
        yield slurm, file


def _launch(work: Path, slurm: Any, file: Path, name: str, way: str, *more: str, preset: str = "nano") -> Run:
    from skyframe.launch.status import launches

    words = [w for w in strategies.words(work, name, way, 1, 1, *more, preset=preset)[1:] if "train.devices=" not in w]
    command = [sys.executable, "-m", "skyframe", "launch", *words, "--cluster", str(file), "--nodes", "2"]
    done = subprocess.run(command, cwd=work, env=slurm.env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"skyframe launch {name} ended with {done.returncode}: {done.stderr}")
    folder = work / "runs" / name
    return Run(slurm, launches(folder)[1]["id"], folder)


def _finish(run: Run) -> None:
    state = run.slurm.wait(run.job, timeout_s=1800)
    if state != "COMPLETED":
        raise RuntimeError(f"{run.folder.name}: job ended as {state}, expected COMPLETED; see {run.folder / 'slurm'}")


def _until(folder: Path, step: int) -> None:
    from skyframe.train.progress import read_metrics

    deadline = time.monotonic() + 600
    while not any(r["step"] >= step for r in read_metrics(folder)):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{folder.name}: not at step {step} after 600 s, expected it to train")
        time.sleep(0.02)


def _newest(folder: Path) -> int:
    from skyframe.train.checkpoint import latest, step_of

    newest = latest(folder / "checkpoints")
    return 0 if newest is None else step_of(newest)


def survival_table(answers: list[dict[str, Any]]) -> str:
    """How a launched run compares with one process, what others went through, and how they ended."""
    lines = header("Jobs on SLURM", {a["commit"] for a in answers})
    lines += [
        f"A real SLURM of two nodes (two slurmd on this machine, {os.cpu_count()} cores), by `skyframe launch`.",
        "",
    ]
    for a in (a for a in answers if a["kind"] == "equal"):
        lines += [
            f"SkySense tiny under ZeRO-2 on 2 nodes x 2 processes against one process, {a['steps']} steps: greatest "
            f"relative difference of a loss {a['far']:.1e}. `skyframe launch` took {a['command_s']:.2f} s "
            f"({a['cpu_s']:.2f} s of CPU); the first step was done {a['first_s']:.0f} s after it was called.",
            "",
        ]
    lines += [
        "Interrupted runs of SkySense nano, a rank on each node, against an uninterrupted one of two ranks without "
        "SLURM. Under a signal no save is due but the last; else every 10 steps. Log: the steps and losses of "
        "metrics.jsonl are the same, none missing and none twice. Equal: tensors bit-equal at the end.",
        "",
        "| strategy | what | restarts | from steps | of | log | equal | greatest difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for a in (a for a in answers if a["kind"] == "survived"):
        steps, log = ", ".join(map(str, a["steps"])), "same" if a["log"] else "differs"
        ends = f"{a['equal']} of {a['tensors']} | {a['far']:.1e}"
        lines.append(f"| {a['way']} | {a['what']} | {a['restarts']} | {steps} | {a['of']} | {log} | {ends} |")
    return "\n".join(lines) + "\n"
