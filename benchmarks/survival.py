"""Proofs about survival: one run under a real SLURM that is preempted twenty times, and one that loses its node.

Cells and tables of `make prove`; `benchmarks.prove` names them and keeps their answers.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import strategies
from benchmarks.tables import header

PREEMPTIONS = 20
STEPS = 90
SCRIPT = """#!/bin/bash
#SBATCH --job-name=survive --nodes=2 --ntasks-per-node=1 --cpus-per-task=1 --requeue --open-mode=append
#SBATCH --output={log}
export MASTER_ADDR=127.0.0.1 GLOO_SOCKET_IFNAME=lo OMP_NUM_THREADS=1
srun --kill-on-bad-exit=1 --cpus-per-task=1 {command}
code=$?
case $code in 0|2) exit $code;; esac
scontrol requeue $SLURM_JOB_ID
"""


def preempted(work: Path, way: str) -> dict[str, Any]:
    """SIGUSR2 again and again, at every second step or so; no save is due but the last."""
    return _survive(work, way, _preempt)


def lost_node(work: Path, way: str) -> dict[str, Any]:
    """SIGKILL to the daemon of a node; SLURM notices, ends the job and starts it again."""
    return _survive(work, way, _lose_node, "train.checkpoint_every=10")


def _survive(work: Path, way: str, disturb: Callable[..., list[int]], *more: str) -> dict[str, Any]:
    from skyframe.train.progress import read_metrics
    from skyframe.train.restarts import read_restarts
    from tests.minislurm import mini_slurm

    name = f"{disturb.__name__}{way}"
    whole, run = (work / "runs" / f"{kind}{name}" for kind in ("whole", "disturbed"))
    for folder in (whole, run):
        shutil.rmtree(folder, ignore_errors=True)
    words = [f"train.max_steps={STEPS}", "train.checkpoint_every=1000", "train.threads=1", "resume=auto", *more]
    strategies.start(strategies.words(work, whole.name, way, 2, 1, *words)).wait()
    words = [*words, "train.num_nodes=2"]
    command = [sys.executable, "-m", "skyframe", *strategies.words(work, run.name, way, 1, 1, *words)]
    script, log = work / f"{name}.sbatch", work / f"{name}.log"
    script.write_text(SCRIPT.format(log=log, command=shlex.join(command)))
    log.unlink(missing_ok=True)
    with mini_slurm() as slurm:
        job = slurm.run("sbatch", "--parsable", str(script))
        steps = disturb(slurm, job, run)
        state = slurm.wait(job, timeout_s=1200)
    if state != "COMPLETED":
        raise RuntimeError(f"{run.name}: job ended as {state}, expected COMPLETED; see {log}")
    rows = [[(r["step"], r["total"]) for r in read_metrics(r)] for r in (whole, run)]
    tensors, equal, far = strategies.compared(whole, run, STEPS)
    restarts = [line["why"] for line in read_restarts(run)]
    return {
        "way": way, "what": disturb.__name__[1:], "steps": steps, "restarts": len(restarts), "log": rows[0] == rows[1],
        "rows": len(rows[1]), "tensors": tensors, "equal": equal, "far": far,
    }  # fmt: skip


def _preempt(slurm: Any, job: str, run: Path) -> list[int]:
    steps = list[int]()
    for _ in range(PREEMPTIONS):
        _until(run, (steps[-1] if steps else 0) + 1)
        slurm.run("scancel", "-s", "USR2", job)
        slurm.release(job)
        steps.append(_newest(run))
    return steps


def _lose_node(slurm: Any, job: str, run: Path) -> list[int]:
    _until(run, 15)
    slurm.kill_node("n2")
    slurm.wait(job, "PENDING", timeout_s=120)
    step = _newest(run)
    slurm.start_node("n2")
    slurm.wait_idle()
    slurm.release(job)
    return [step]


def _until(run: Path, step: int) -> None:
    from skyframe.train.progress import read_metrics

    deadline = time.monotonic() + 600
    while not any(r["step"] >= step for r in read_metrics(run)):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{run.name}: not at step {step} after 600 s, expected it to train")
        time.sleep(0.02)


def _newest(run: Path) -> int:
    from skyframe.train.checkpoint import latest

    newest = latest(run / "checkpoints")
    return 0 if newest is None else int(newest.name.removeprefix("step_"))


def survival_table(answers: list[dict[str, Any]]) -> str:
    """What each run went through, and how its end compares with that of an uninterrupted one."""
    said = {"preempt": "SIGUSR2", "lose_node": "kill -9 of slurmd"}
    lines = header("Runs that survive", {a["commit"] for a in answers})
    lines += [
        f"{STEPS} steps on two nodes of a real SLURM (two slurmd on this machine, {os.cpu_count()} cores), "
        "a rank each. Under SIGUSR2 no save is due but the last; a node is lost with a save every 10 steps. Log: the "
        "steps and losses of metrics.jsonl are those of an uninterrupted run. Equal: tensors bit-equal at the end.",
        "",
        "| strategy | what | times | started again from steps | log | equal | far |",
        "|---|---|---|---|---|---|---|",
    ]
    for a in answers:
        steps = ", ".join(map(str, a["steps"]))
        log = f"same {a['rows']} rows" if a["log"] else "differs"
        ends = f"{a['equal']} of {a['tensors']} | {a['far']:.1e}"
        lines.append(f"| {a['way']} | {said[a['what']]} | {a['restarts']} | {steps} | {log} | {ends} |")
    return "\n".join(lines) + "\n"
