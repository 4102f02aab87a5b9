"""Runs of several ranks that are interrupted in every way a cluster knows: under a real SLURM, and under torchrun."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyframe.train.progress import read_metrics
from skyframe.train.restarts import UNKNOWN, read_restarts
from skyframe.train.signals import EXIT
from tests.minislurm import MiniSlurm
from tests.train.runs import finish, overrides, start
from tests.train.test_requeue import assert_same_run, saved_at, until

STEPS = 30
RUN = [
    f"train.max_steps={STEPS}", "train.checkpoint_every=1000", "views.drop_frames=0.3", "train.strategy=ddp",
    "train.accelerator=cpu", "train.threads=1",
]  # fmt: skip
SCRIPT = """#!/bin/bash
#SBATCH --job-name=survive --nodes=2 --ntasks-per-node=1 --cpus-per-task=1 --requeue --open-mode=append
#SBATCH --output={log}
export MASTER_ADDR=127.0.0.1 MASTER_PORT={port} GLOO_SOCKET_IFNAME=lo OMP_NUM_THREADS=1
srun --kill-on-bad-exit=1 --cpus-per-task=1 {command}
code=$?
case $code in 0|2) exit $code;; esac
scontrol requeue $SLURM_JOB_ID
"""

pytestmark = pytest.mark.xdist_group("slurm")


@pytest.fixture(scope="module")
def whole(earth, tmp_path_factory) -> Path:
    """The same on two ranks, undisturbed."""
    runs = tmp_path_factory.mktemp("runs")
    finish(start(earth, runs, "whole", *RUN, "train.devices=2"))
    return runs / "whole"


class Job:
    """A run as a job of two nodes with a rank each."""

    def __init__(self, slurm: MiniSlurm, earth: Path, runs: Path, name: str, *more: str) -> None:
        self.slurm, self.run, self.log = slurm, runs / name, runs / f"{name}.out"
        words = [*overrides(earth, runs, name, *RUN, "train.num_nodes=2", "resume=auto"), *more]
        quoted = " ".join(f"'{w}'" for w in (sys.executable, "-m", "skyframe", "pretrain", "skysense_demo", *words))
        script = runs / f"{name}.sbatch"
        script.write_text(SCRIPT.format(log=self.log, port=20000 + os.getpid() % 9000, command=quoted))
        self.id = slurm.run("sbatch", "--parsable", str(script))

    def until(self, step: int) -> None:
        until(self.run, step)

    def again(self) -> None:
        """Wait for the requeued job, and let it start at once."""
        self.slurm.wait(self.id, "PENDING")
        time.sleep(3)  # a node that still clears up fails the same job's new script; SLURM's own hold is long enough
        self.slurm.release(self.id)

    def finish(self) -> str:
        state = self.slurm.wait(self.id, timeout_s=300)
        assert state == "COMPLETED", f"{state}: {self.log.read_text()}"
        return self.log.read_text()

    def ranks(self) -> list[int]:
        """Processes of the ranks, by their place in the job."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "environ").read_bytes().split(b"\0")
                argv = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"SLURM_JOB_ID={self.id}".encode() in words and f"name={self.run.name}".encode() in argv:
                rank = next((int(w[13:]) for w in words if w.startswith(b"SLURM_PROCID=")), None)
                if rank is not None and argv[0].endswith(b"python"):
                    found[rank] = int(entry.name)
        return [found[r] for r in sorted(found)]


@pytest.fixture
def job(slurm, earth, tmp_path) -> Iterator[Job]:
    made = Job(slurm, earth, tmp_path, "run")
    yield made
    subprocess.run(("scancel", made.id), env=slurm.env)
    slurm.wait_idle()


@pytest.mark.slow
def test_usr2_in_the_middle_requeues_and_several_in_a_row_lose_nothing(job, whole):
    steps = []
    for _ in range(3):
        job.until((steps[-1] if steps else 0) + 2)
        job.slurm.run("scancel", "-s", "USR2", job.id)
        job.again()
        steps.append(saved_at(job.run))
    output = job.finish()
    assert steps == sorted(set(steps)) and steps[-1] < STEPS
    assert_same_run(whole, job.run)
    restarts = read_restarts(job.run)
    assert [r["step"] for r in restarts] == steps and {r["why"] for r in restarts} == {"been told to make room"}
    assert {r["job"] for r in restarts} == {job.id} and job.slurm.show(job.id)["Restarts"] == "3"
    for step in steps:
        assert output.count(f"saved at step {step}, and SLURM starts job {job.id} again from there") == 1
    assert "Traceback" not in output
    assert job.slurm.show(job.id)["ExitCode"] == "0:0"


@pytest.mark.slow
def test_scontrol_requeue_saves_on_sigterm_and_a_killed_rank_costs_what_was_not_saved(job, whole):
    job.until(4)
    job.slurm.run("scontrol", "requeue", job.id)
    job.again()
    step = saved_at(job.run)
    assert 4 <= step < STEPS
    job.until(step + 3)
    os.kill(job.ranks()[1], signal.SIGKILL)
    job.again()
    assert saved_at(job.run) == step
    job.finish()
    assert_same_run(whole, job.run)
    assert [(r["step"], r["why"]) for r in read_restarts(job.run)] == [
        (step, "been told to end (SIGTERM)"), (step, UNKNOWN)
    ]  # fmt: skip


@pytest.mark.slow
def test_torchrun_of_two_ranks_leaves_together_when_one_is_told(earth, tmp_path, whole):
    def torchrun(*more: str) -> subprocess.Popen:
        words = ["pretrain", "skysense_demo", *overrides(earth, tmp_path, "run", *RUN, "train.devices=2"), *more]
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            "-m",
            "skyframe",
        ]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen([*command, *words], env=env, **pipes)

    process, run = torchrun(), tmp_path / "run"
    until(run, 3, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGUSR2)
    output = process.communicate(timeout=90)[0]
    assert process.returncode == 1 and re.search(rf"exitcode\s*: {EXIT} ", output), output
    step = saved_at(run)
    assert 3 <= step < STEPS and f"saved at step {step}, add resume=auto" in output
    again = torchrun("resume=auto")
    until(run, step + 2, again)
    again.terminate()
    again.communicate(timeout=90)
    later = saved_at(run)
    assert later > step and max(r["step"] for r in read_metrics(run)) == later
    finish(torchrun("resume=auto"))
    assert_same_run(whole, run)


@pytest.mark.slow
def test_a_job_that_never_comes_further_ends_with_a_sentence_and_is_not_requeued(slurm, earth, tmp_path):
    job = Job(slurm, earth, tmp_path, "loop", "train.survival.max_restarts=1")
    for restarts in range(2):
        begun = time.monotonic()
        while len(job.ranks()) < 2 or not (job.run / "recipe.yaml").is_file() or len(read_restarts(job.run)) < restarts:
            assert time.monotonic() - begun < 60, job.log.read_text()
            time.sleep(0.1)
        os.kill(job.ranks()[0], signal.SIGKILL)
        job.again()
    state, output = job.slurm.wait(job.id), job.log.read_text()
    assert state == "FAILED" and job.slurm.show(job.id)["ExitCode"] == "2:0", f"{job.slurm.show(job.id)}: {output}"
    assert (
        "error: " in output and "started again 1 times in a row from step 0 (train.survival.max_restarts=1)" in output
    )
    assert len(read_restarts(job.run)) == 1
    slurm.wait_idle()
