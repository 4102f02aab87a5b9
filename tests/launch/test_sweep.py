"""Sweeps: a run for every combination, on this machine and on the private SLURM, and their table."""

import csv
import json
import os
from pathlib import Path

import pytest

from skyframe.launch.status import launches, queued
from skyframe.launch.sweep import plan_sweep, plan_sweep_again
from skyframe.launch.sweep_status import lowest, read_sweep, sweep_lines, sweep_lives, sweep_status
from skyframe.spec import InputError
from tests.launch.clusters import LOCAL, MINI, cluster_file
from tests.launch.test_array import wait_for, wide, worker
from tests.launch.test_submit import cluster, nano, skyframe  # noqa: F401  a fixture

CUBES = "data.cubes=[x]"
AXES = ("--sweep", "optim.lr=1e-3,2e-3", "--sweep", "seed=0,1")
NAMES = ["nano_lr=1e-3_seed=0", "nano_lr=1e-3_seed=1", "nano_lr=2e-3_seed=0", "nano_lr=2e-3_seed=1"]


def test_four_runs_on_this_machine_side_by_side(earth: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    local = cluster_file(tmp_path, LOCAL)
    words = nano(earth, "train.max_steps=2", "data.modalities=[s2]")
    launching = ("launch", "skysense_demo", "--cluster", local, *AXES, "--jobs=2")
    said = skyframe(tmp_path, dict(os.environ), *launching, *words)
    folder = tmp_path / "runs/nano_sweep"
    assert "local1: 4 runs, process" in said and f"run      runs/nano_sweep/{NAMES[2]}\n" in said
    with pytest.raises(InputError, match="nano_sweep: is under way"):
        plan_sweep_again(folder)
    wait_for(lambda: not sweep_lives(folder), 300)

    (folder / NAMES[1] / "export/evaluation").mkdir(parents=True)
    with (folder / NAMES[1] / "export/evaluation/results.csv").open("w") as file:
        file.write("task,encoder,role,protocol,metric,seed,value\n")
        file.write("crop,model,encoder,knn,accuracy,0,0.5\ncrop,model,encoder,knn,accuracy,1,0.7\n")
        file.write("crop,model,encoder,knn,accuracy,0,0.6\ncrop,raw_pixels,raw,knn,accuracy,0,0.1\n")
    shown = skyframe(tmp_path, wide(dict(os.environ)), "jobs", "runs/nano_sweep")
    assert "sweep: 4 finished of 4" in shown and "effective_rank" in shown and "--again" not in shown
    with (folder / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == NAMES
    assert [(row["optim.lr"], row["seed"]) for row in rows] == [(a, b) for a in ("1e-3", "2e-3") for b in "01"]
    assert {(row["state"], row["step"], row["max_steps"]) for row in rows} == {("FINISHED", "2", "2")}
    for row in rows:
        first, last = (json.loads(line) for line in (folder / row["run"] / "metrics.jsonl").read_text().splitlines())
        assert float(row["loss"]) == last["total"] and float(row["best_loss"]) == (first["total"] + last["total"]) / 2
        assert float(row["effective_rank/s2"]) == last["effective_rank/s2"] and float(row["skipped"]) == 0
    scores = [row["crop model knn accuracy"] for row in rows]  # seed 0 was scored twice, and the last one counts
    assert scores[0] == scores[2] == scores[3] == "" and float(scores[1]) == pytest.approx(0.65)
    assert len({row["loss"] for row in rows}) == 4
    with pytest.raises(InputError, match="all 4 runs are finished"):
        plan_sweep_again(folder)
    assert "runs/nano_sweep" in skyframe(tmp_path, wide(dict(os.environ)), "jobs")


def test_a_sweep_on_this_machine_is_ended_and_goes_on(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    acts = 'echo "$4" >>began; case "$4" in *seed=0*) echo "error: no seed"; exit 2 ;; *) sleep 600 ;; esac'
    local = cluster_file(tmp_path, f"{LOCAL}python: {worker(tmp_path, acts)}\n")
    words = ("launch", "skysense_demo", CUBES, "name=nano", "--cluster", local, "--sweep", "seed=0,1,2")
    skyframe(tmp_path, dict(os.environ), *words)
    folder = tmp_path / "runs/nano_sweep"
    wait_for(lambda: [line.state for line in sweep_lines(folder, [])] == ["ENDED", "RUNNING", "PENDING"])
    with pytest.raises(InputError, match=r"launch 1 still runs here"):
        from skyframe.launch.submit import plan_launch

        plan_launch("skysense_demo", [CUBES, "name=nano_seed=2", "seed=2", f"train.run_dir={folder}"], local)
    assert sweep_status(folder, []).message == "sweep: 1 ended, 1 pending, 1 running of 3"
    shown = skyframe(tmp_path, wide(dict(os.environ)), "jobs", "runs/nano_sweep")
    assert "nano_seed=0: error: no seed" in shown
    assert "ended process" in skyframe(tmp_path, dict(os.environ), "cancel", "runs/nano_sweep")
    wait_for(lambda: not sweep_lives(folder))
    shown = skyframe(tmp_path, wide(dict(os.environ)), "jobs", "runs/nano_sweep")
    assert "do what is not done: skyframe launch --again runs/nano_sweep" in shown
    done = tmp_path / "done"
    done.write_text("#!/bin/bash\necho done\n")
    done.chmod(0o755)
    cluster_file(tmp_path, f"{LOCAL}python: {done}\n", "other.yaml")
    skyframe(tmp_path, dict(os.environ), "launch", "--again", "runs/nano_sweep", "--cluster", "other.yaml")
    wait_for(lambda: not sweep_lives(folder))
    logs = [(folder / name / "slurm/local2_rank0.log").read_text() for name in read_sweep(folder).runs]
    assert logs == ["done\n"] * 3


@pytest.mark.xdist_group("slurm")
def test_runs_on_slurm_are_jobs_of_their_own(cluster, tmp_path: Path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    acts = 'echo "$4" >>began; while [ ! -f go ]; do sleep 0.1; done'
    mini = cluster_file(tmp_path, f"{MINI}python: {worker(tmp_path, acts)}\n")
    words = ("launch", "skysense_demo", CUBES, "name=nano", "train.global_batch=4", "--cluster", mini, "--nodes=2")
    skyframe(tmp_path, cluster.env, *words, "--sweep", "seed=0,1,2", "--jobs", "2")
    folder = tmp_path / "runs/nano_sweep"
    jobs = {entry.run.name: entry for entry in queued() if entry.run.parent == folder}
    assert sorted(jobs) == ["nano_seed=0", "nano_seed=1", "nano_seed=2"] and sweep_lives(folder)
    third = cluster.show(jobs["nano_seed=2"].id)
    assert third["Dependency"].startswith(f"afterany:{jobs['nano_seed=0'].id}") and third["NumNodes"][0] == "2"
    assert "#SBATCH --nodes=2\n" in (folder / "nano_seed=2/launch/1/script.sh").read_text()
    (tmp_path / "go").touch()
    wait_for(lambda: not sweep_lives(folder), 60)
    ends = [f"{folder}/nano_seed={seed}/slurm/{jobs[f'nano_seed={seed}'].id}_script.log" for seed in range(3)]
    assert all("ended with code 0" in Path(end).read_text() for end in ends)

    (tmp_path / "go").unlink()
    skyframe(tmp_path, cluster.env, "launch", "--again", "runs/nano_sweep")  # no run has come to its last step
    assert [max(launches(folder / name)) for name in sorted(jobs)] == [2, 2, 2]
    said = skyframe(tmp_path, cluster.env, "cancel", "runs/nano_sweep")
    assert said.count("job ") == 3
    wait_for(lambda: not sweep_lives(folder), 60)


@pytest.mark.xdist_group("slurm")
def test_what_slurm_refuses_leaves_no_sweep(cluster, tmp_path: Path):  # noqa: F811
    mini = cluster_file(tmp_path, MINI + "partition: nowhere\n")
    words = ("launch", "skysense_demo", CUBES, "--cluster", mini, "--sweep", "seed=0,1")
    assert "sbatch refuses the job" in skyframe(tmp_path, cluster.env, *words, code=2)
    assert not list((tmp_path / "runs").iterdir())


def test_values_with_commas_stand_in_brackets(tmp_path: Path):
    swept = ["optim.betas=[0.9, 0.95],[0.9,0.99]", "data.modalities=[s2]"]
    plan = plan_sweep("skysense_demo", [CUBES], swept, cluster_file(tmp_path, LOCAL), here=tmp_path)
    assert [run.recipe.optim.betas for run in plan.plans] == [(0.9, 0.95), (0.9, 0.99)]
    assert list(plan.sweep.runs) == [
        "skysense_demo_betas=-0.9-0.95_modalities=-s2", "skysense_demo_betas=-0.9-0.99_modalities=-s2",
    ]  # fmt: skip


def test_health_over_sources_is_that_of_the_worst():
    found = lowest({"effective_rank/hr": 3.0, "effective_rank/s2": 1.5, "skipped": 2.0})
    assert found == {"effective_rank": 1.5, "skipped": 2.0}


@pytest.mark.parametrize(
    ("sweeps", "more", "sentence"),
    [
        (["optim.lr"], {}, "--sweep 'optim.lr', expected key=value,value"),
        (["optim.lr=1e-4,"], {}, "--sweep 'optim.lr=1e-4,', expected key=value,value"),
        (["seed=0,0"], {}, "--sweep 'seed=0,0' has a key or a value twice"),
        (["seed=0", "seed=1"], {}, "--sweep 'seed=1' has a key or a value twice"),
        (["name=a,b"], {}, "--sweep name is set by --name"),
        (["train.run_dir=a,b"], {}, "--sweep train.run_dir is set by the sweep's folder"),
        (["train.devices=1,2"], {}, "train.devices=1: launch: train.devices=1 is set by the cluster file"),
        (["optim.rate=1,2"], {}, "launch --sweep optim.rate=1: .*unknown key 'rate'"),
        (
            ["train.global_batch=4,5", "seed=0,1"],
            {"num_nodes": 2},
            "global_batch=5 seed=0: .* 5 is not a multiple of 2",
        ),
        (["optim.lr=1e-4,-1"], {}, "launch --sweep optim.lr=-1: .*optim.lr"),
        (["optim.lr=a/b,a-b"], {}, "two runs would be called 'skysense_demo_lr=a-b'"),
        (["seed=" + ",".join(map(str, range(1001)))], {}, "--sweep makes 1001 runs, expected at most 1000"),
        (["seed=0,1"], {"name": "a/b"}, "--name 'a/b', expected letters"),
        (["seed=0,1"], {"name": "taken"}, "runs/taken: is there already; `skyframe launch --again"),
        (["seed=0,1"], {"at_once": -1}, "--jobs -1, expected 0 or more"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, sweeps, more, sentence):
    (tmp_path / "runs/taken").mkdir(parents=True)
    with pytest.raises(InputError, match=sentence) as refused:
        plan_sweep("skysense_demo", [CUBES], sweeps, cluster_file(tmp_path), here=tmp_path, **more)
    assert "\n" not in str(refused.value) and [p.name for p in (tmp_path / "runs").iterdir()] == ["taken"]
