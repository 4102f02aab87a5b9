"""From `skyframe launch` to trained runs: on the private SLURM over two nodes, and on this machine."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from skyframe.launch.overview import statuses
from skyframe.launch.status import launches, queued, status
from skyframe.launch.submit import plan_launch
from skyframe.spec import InputError
from tests.launch.clusters import LOCAL, MINI, cluster_file
from tests.train.runs import overrides

ROOT = Path(__file__).resolve().parents[2]


def skyframe(here: Path, env: dict[str, str], *words: str, code: int = 0) -> str:
    env = {**env, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "skyframe", *words], cwd=here, env=env, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def nano(earth: Path, *more: str) -> list[str]:
    steps = ("train.max_steps=4", "train.log_every=1", "train.checkpoint_every=2")
    return [*overrides(earth, Path("runs"), "nano", *steps, *more)]


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def cluster(slurm, monkeypatch: pytest.MonkeyPatch):
    """The private SLURM, for what is called inside this process too."""
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm.env[name])
    return slurm


@pytest.mark.xdist_group("slurm")
def test_two_nodes_train_as_one_process_does(cluster, earth: Path, tmp_path: Path, monkeypatch):
    mini = cluster_file(tmp_path)
    said = skyframe(tmp_path, cluster.env, "launch", "skysense_demo", "--cluster", mini, "--nodes", "2", *nano(earth))
    run = tmp_path / "runs/nano"
    (record,) = launches(run).values()
    assert f"job      {record['id']}: nano, 2 nodes x 1 processes" in said and "skyframe logs runs/nano -f" in said

    with pytest.raises(InputError, match=rf"job {record['id']} of this run is .*--after {record['id']}"):
        monkeypatch.chdir(tmp_path)
        from skyframe.launch.submit import launch

        launch(plan_launch("skysense_demo", nano(earth), mini, 2))

    assert cluster.wait(record["id"], timeout_s=240) == "COMPLETED"
    kept = run / "launch/1"
    assert {p.name for p in kept.iterdir()} >= {"script.sh", "recipe.yaml", "record.json"}
    assert record["nodes"] == 2 and len(record["commit"]) in (7, 40)
    assert sorted(p.name.partition("_")[2] for p in (run / "slurm").iterdir()) == [
        "rank0.log", "rank1.log", "script.log",
    ]  # fmt: skip
    script = (run / f"slurm/{record['id']}_script.log").read_text()
    assert "start 0 on n[1-2], ranks meet at 127.0.0.1:" in script and "ended with code 0" in script

    alone = skyframe(tmp_path, dict(os.environ), "pretrain", "skysense_demo", *nano(earth, "name=alone"))
    assert "run in" in alone
    pairs = list(zip(rows(run), rows(tmp_path / "runs/alone"), strict=True))
    assert [left["step"] for left, _ in pairs] == [1, 2, 3, 4]
    for left, right in pairs:
        assert left["total"] == pytest.approx(right["total"], rel=1e-6)

    entry = status(run, [])
    assert (entry.state, entry.step, entry.max_steps, entry.restarts) == ("FINISHED", 4, 4, 0)
    assert "finished at step 4" in skyframe(
        tmp_path, cluster.env, "launch", "skysense_demo", "--cluster", mini, "--nodes", "2", *nano(earth), code=2
    )
    shown = skyframe(tmp_path, {**cluster.env, "COLUMNS": "160"}, "jobs")
    assert "runs/nano" in shown and "FINISHED" in shown and "4/4" in shown
    assert "run in" in skyframe(tmp_path, cluster.env, "logs", "runs/nano")
    assert "ended with code 0" in skyframe(tmp_path, cluster.env, "logs", "runs/nano", "--script", "-f")


@pytest.mark.xdist_group("slurm")
def test_a_waiting_job_is_listed_and_cancelled_for_good(cluster, earth: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    held = cluster.run("sbatch", "--parsable", "--hold", f"--output={tmp_path}/held.log", "--wrap", "true")
    words = ("launch", "skysense_demo", "--cluster", cluster_file(tmp_path), "--after", held)
    skyframe(tmp_path, cluster.env, *words, *nano(earth, "train.global_batch=4"))
    run = tmp_path / "runs/nano"
    (entry,) = statuses([], [e for e in queued() if e.run == run])
    assert (entry.run, entry.state, entry.message, entry.step, entry.max_steps) == (run, "PENDING", "Dependency", 0, 4)
    assert f"ended job {entry.job} of runs/nano" in skyframe(tmp_path, cluster.env, "cancel", "runs/nano")
    assert cluster.wait(entry.job) == "CANCELLED" and cluster.show(entry.job)["Requeue"] == "0"
    assert "nothing to end" in skyframe(tmp_path, cluster.env, "cancel", "runs/nano", code=2)
    cluster.run("scancel", held)


@pytest.mark.xdist_group("slurm")
def test_what_slurm_refuses_leaves_nothing(cluster, earth: Path, tmp_path: Path):
    mini = cluster_file(tmp_path, MINI + "partition: nowhere\n")
    words = ("launch", "skysense_demo", "--cluster", mini, *nano(earth))
    assert "sbatch refuses the job" in skyframe(tmp_path, cluster.env, *words, code=2)
    assert not (tmp_path / "runs/nano").exists()


def test_this_machine_trains_in_the_background(earth: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    local = cluster_file(tmp_path, LOCAL)
    env = {**os.environ, "COLUMNS": "160"}
    said = skyframe(tmp_path, env, "launch", "skysense_demo", "--cluster", local, *nano(earth))
    run = tmp_path / "runs/nano"
    pid = launches(run)[1]["pid"]
    assert f"local1: nano, process {pid}" in said
    with pytest.raises(InputError, match=f"launch 1 still runs here as process {pid}"):
        plan_launch("skysense_demo", nano(earth), local)
    followed = skyframe(tmp_path, env, "logs", "runs/nano", "--follow")
    assert "step 3/4  " in followed and "run in" in followed
    assert status(run, []).state == "FINISHED" and rows(run)[-1]["step"] == 4


def test_background_processes_are_ended(earth: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lasting = tmp_path / "lasting"  # in the interpreter's place, with a child as training has
    lasting.write_text("#!/bin/bash\nsleep 600 & echo begun\nwait\n")
    lasting.chmod(0o755)
    local = cluster_file(tmp_path, f"{LOCAL}python: {lasting}\n")
    skyframe(tmp_path, dict(os.environ), "launch", "skysense_demo", "--cluster", local, *nano(earth))
    run = tmp_path / "runs/nano"
    end = time.monotonic() + 30
    while "begun" not in (run / "slurm/local1_rank0.log").read_text():
        assert time.monotonic() < end
        time.sleep(0.05)
    entry = status(run, [])
    assert (entry.state, entry.job, entry.message, entry.max_steps) == ("RUNNING", "local1", "begun", 4)
    group = launches(run)[1]["pid"]
    assert f"ended process {group} of runs/nano" in skyframe(tmp_path, dict(os.environ), "cancel", "runs/nano")
    while subprocess.run(["pgrep", "-g", str(group)], capture_output=True).stdout:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert status(run, []).state == "ENDED"
