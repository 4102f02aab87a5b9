"""Launched runs that are interrupted in every way a cluster knows, and nodes that would spoil one; on a real SLURM."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from skyframe.launch.status import launches, status
from skyframe.launch.submit import launch, plan_launch
from skyframe.train.restarts import UNKNOWN, read_restarts
from tests.launch.clusters import MINI, cluster_file
from tests.minislurm import MiniSlurm
from tests.train.runs import finish, overrides, start
from tests.train.test_leave import TWO_RANKS, TWO_RANKS_STEPS, assert_same_run, saved_at, until

pytestmark = pytest.mark.xdist_group("slurm")


class Job:
    """A recipe launched on some nodes of the private SLURM."""

    def __init__(self, slurm: MiniSlurm, here: Path, cluster: str, words: list[str], num_nodes: int = 2) -> None:
        file = cluster_file(here, MINI + cluster)
        self.slurm = slurm
        self.run = here / "runs" / "run"
        self.id = launch(plan_launch("skysense_demo", words, file, num_nodes, here=here)).id

    def finish(self, state: str = "COMPLETED") -> str:
        """The log of the job's script, once the job has ended as it should."""
        got = self.slurm.wait(self.id, timeout_s=240)
        text = "".join(path.read_text() for path in sorted((self.run / "slurm").glob(f"{self.id}_*.log")))
        assert got == state, f"{got}: {text}"
        return (self.run / "slurm" / f"{self.id}_script.log").read_text()


@pytest.fixture
def here(slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to launch from, on the private SLURM, of which nothing goes on after the test."""
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm.env[name])
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    subprocess.run(("scancel", "-u", str(os.getuid())), env=slurm.env, capture_output=True)
    slurm.wait_idle()


@pytest.fixture(scope="module")
def whole(earth, tmp_path_factory) -> Path:
    """The same on two ranks, undisturbed."""
    runs = tmp_path_factory.mktemp("runs")
    finish(start(earth, runs, "whole", *TWO_RANKS, "train.devices=2"))
    return runs / "whole"


def words(earth: Path, *more: str) -> list[str]:
    return overrides(earth, Path("runs"), "run", *TWO_RANKS, *more)


@pytest.mark.slow
def test_told_requeued_and_killed_in_a_row_a_run_loses_nothing(slurm, here, earth, whole):
    """`make prove` does each of them alone, to steps of ZeRO too, and twenty preemptions."""
    job, steps = Job(slurm, here, "", words(earth)), list[int]()

    def disturbed(after: int, *how: str) -> None:
        until(job.run, (steps[-1] if steps else 0) + after)
        slurm.run(*how, job.id) if how else os.kill(slurm.rank(job.id, 1), signal.SIGKILL)
        slurm.release(job.id, len(steps) + 1)
        steps.append(saved_at(job.run))

    disturbed(2, "scancel", "-s", "USR2")
    disturbed(2, "scontrol", "requeue")
    disturbed(3)
    assert 2 <= steps[0] < steps[1] == steps[2] < TWO_RANKS_STEPS  # nothing but a kill costs steps
    script = job.finish()
    assert_same_run(whole, job.run)
    kept = zip(steps, ("told to leave by SIGUSR2", "told to leave by SIGTERM", UNKNOWN), strict=True)
    assert [(r["step"], r["why"], r["job"]) for r in read_restarts(job.run)] == [(s, why, job.id) for s, why in kept]
    assert slurm.show(job.id)["Restarts"] == "3" and status(job.run, []).restarts == 3
    first = (job.run / "slurm" / f"{job.id}_rank0.log").read_text()
    for step in steps[:2]:
        assert first.count(f"saved at step {step}, add resume=auto to go on from there") == 1
    assert script.count(f"queued again from checkpoint step_{steps[0]:08d} (1 of 3 from there)") == 1
    codes = re.findall(r"ended with code (\d+)\n", script)
    assert codes[0] == "75" and codes[-1] == "0" and codes[-2] not in ("0", "2", "75")  # 137, or 143 of its peer


def stand_in(here: Path, text: str) -> str:
    """A line of a cluster file that puts a script in the interpreter's place."""
    place = here / "stand_in"
    place.write_text(f"#!/bin/bash\n{text}\n")
    place.chmod(0o755)
    return f"python: {place}\n"


def test_one_rank_that_refuses_ends_the_job_though_the_others_are_killed(slurm, here, earth):
    """As a rank does that finds wrong input alone: it leaves its code, and `srun` tells that of the killed one."""
    cluster = stand_in(here, '[ "$SLURM_PROCID" = 1 ] && sleep 60\necho 2 >"$SKYFRAME_VERDICT"; exit 2')
    job = Job(slurm, here, cluster, words(earth))
    script = job.finish("FAILED")
    assert slurm.show(job.id)["ExitCode"] == "2:0" and "ended with code 2\n" in script and "queued" not in script


def test_a_killed_process_is_started_again_until_it_does_not_help(slurm, here, earth):
    job = Job(slurm, here, "max_restarts: 1\n" + stand_in(here, "kill -9 $$"), words(earth), 1)
    slurm.release(job.id)
    script = job.finish("FAILED")
    assert "start 0 on" in script and "start 1 on" in script and "start 2 on" not in script
    assert "queued again from checkpoint none (1 of 1 from there)" in script
    assert "not queued again: 1 restarts from checkpoint none did not help" in script
    entry = status(job.run, [])
    assert (entry.state, entry.job) == ("ENDED", job.id) and "error" in entry.message


def test_an_error_before_the_first_checkpoint_ends_the_job_and_a_later_one_does_not(slurm, here, earth):
    job = Job(slurm, here, stand_in(here, "exit 1"), words(earth), 1)
    assert "queued" not in job.finish("FAILED") and slurm.show(job.id)["ExitCode"] == "1:0"
    saves = (
        'mkdir -p runs/run/checkpoints; [ -e runs/run/checkpoints/LATEST ] && exit 0; echo step_9 >"$_"/LATEST; exit 1'
    )
    job = Job(slurm, here, stand_in(here, saves.replace('"$_"', "runs/run/checkpoints")), words(earth), 1)
    slurm.release(job.id)
    assert "queued again from checkpoint step_9 (1 of 3 from there)" in job.finish()


def test_a_bad_node_is_left_out_by_a_job_in_this_ones_place(slurm, here, earth):
    blames = '[ $SLURMD_NODENAME = n2 ] && exit 0; echo "2 $SLURMD_NODENAME" >"$SKYFRAME_VERDICT"; exit 2'
    job = Job(slurm, here, "exclude_bad_nodes: true\n" + stand_in(here, blames), words(earth), 1)
    script = job.finish("FAILED")
    (record,) = launches(job.run).values()
    assert record["id"] != job.id and f"job {record['id']} goes on in this one's place, without n1" in script
    job.id = record["id"]
    assert "start 0 on n2," in job.finish() and slurm.show(job.id)["ExcNodeList"] == "n1"


def test_cancelled_by_slurms_own_command_a_run_is_saved_and_stays_ended(slurm, here, earth):
    job = Job(slurm, here, "", words(earth), 1)
    until(job.run, 2)
    slurm.run("scancel", job.id)
    assert slurm.wait(job.id) == "CANCELLED"
    slurm.wait_idle()
    assert saved_at(job.run) >= 2 and slurm.state(job.id) == "CANCELLED" and slurm.show(job.id)["Restarts"] == "0"


OLD = (
    "mkdir -p old && cp -r {package} old && echo '__version__ = \"0.0.9\"' >>old/skyframe/__init__.py; "
    "PYTHONPATH=$PWD/old"
)
FAULTS = {
    "version": (OLD, "node n2: skyframe is 0.0.9, expected "),
    "disk": ("unshare --mount bash -c 'mount -t tmpfs -o size=1m none cache && exec \"$@\"' x",
             "node n2: cache has 0.00 GB free, expected at least 2 GB; make room there"),
    "port": ("unshare --net", "node n2: no word at 127.0.0.1:"),
}  # fmt: skip


@pytest.mark.skipif(os.getuid() != 0, reason="a disk and a network of one node alone need root")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_node_is_named_before_the_run_and_nothing_hangs(slurm, here, earth, fault):
    """A full disk and a blocked port are real ones, of the second node's processes alone."""
    spoil, sentence = FAULTS[fault]
    spoil = spoil.format(package=Path(sys.modules["skyframe"].__file__).parent)
    text = f'if [ $SLURMD_NODENAME = n1 ]; then exec {sys.executable} "$@"; fi\n{spoil} {sys.executable} "$@"'
    begun = time.monotonic()
    (here / "cache").mkdir()
    job = Job(slurm, here, stand_in(here, text), words(earth, "data.cache.path=cache", "data.cache.max_gb=1"))
    job.finish("FAILED")
    seconds = time.monotonic() - begun
    first = (job.run / "slurm" / f"{job.id}_rank0.log").read_text()
    assert sentence in first and slurm.show(job.id)["ExitCode"] == "2:0"
    assert seconds < 60
    assert not (job.run / "recipe.yaml").exists()
