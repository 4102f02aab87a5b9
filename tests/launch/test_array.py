"""Arrays of other work than training: parts of an ingestion on the private SLURM, lists on this machine."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from skyframe.launch.array import launch_array, plan_array
from skyframe.launch.array_status import counted, read_results, summarise
from skyframe.launch.status import launches, living, queued
from tests.data.cubes import tiny_cube
from tests.launch.clusters import LOCAL, MINI, cluster_file
from tests.launch.scenes import damage, write_scenes
from tests.launch.test_submit import cluster, skyframe  # noqa: F401  a fixture

INGEST = ("ingest", "geotiff", "scenes.yaml", "cubes/x", "--spec", "spec.yaml")
FOLDER = Path("runs/arrays/ingest")


def wide(env: dict[str, str]) -> dict[str, str]:
    return {**env, "COLUMNS": "300"}


def wait_for(holds: Callable[[], bool], timeout_s: float = 120) -> None:
    """Until something holds; a test's failure after the time."""
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, f"not after {timeout_s:.0f} s"
        time.sleep(0.1)


def wait(folder: Path) -> None:
    """Until nothing of an array is in the queue or runs here."""
    wait_for(lambda: not living(folder.absolute()))


def contents(cube: Path) -> dict[str, bytes]:
    return {str(path.relative_to(cube)): path.read_bytes() for path in sorted(cube.rglob("*")) if path.is_file()}


def worker(folder: Path, text: str) -> Path:
    """A script in the interpreter's place: it gets -m skyframe COMMAND ..."""
    path = folder / "worker"
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.xdist_group("slurm")
def test_twenty_parts_three_of_which_fail_at_first(cluster, tmp_path: Path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    scenes = write_scenes(tmp_path)
    whole = {k: damage(scenes[k - 1]) for k in (3, 11, 20)}
    env = wide(cluster.env)
    mini = cluster_file(tmp_path)
    said = skyframe(tmp_path, env, "launch", "--array", "20", "--cluster", mini, "--jobs", "5", "--", *INGEST)
    job = str(launches(FOLDER)[1]["id"])
    assert f"job      {job}: ingest, 20 elements, then ingest geotiff scenes.yaml cubes/x --spec spec.yaml\n" in said
    script = (FOLDER / "launch/1/script.sh").read_text()
    assert "#SBATCH --array=1-20%5\n" in script and "--gpus" not in script and "--requeue" in script
    wait(FOLDER)

    assert not Path("cubes/x").exists()
    shown = skyframe(tmp_path, env, "jobs", str(FOLDER))
    assert "17 done, 3 failed, 0 running, 0 waiting of 20; last step waiting" in shown
    failed = [line.split("│") for line in shown.splitlines() if "/20" in line and "cannot be read" in line]
    assert [(cells[1].strip(), cells[2].strip(), cells[3].strip()) for cells in failed] == [
        ("3", "3/20", "2"), ("11", "11/20", "2"), ("20", "20/20", "2"),
    ]  # fmt: skip
    for k, cells in zip(whole, failed, strict=True):
        assert cells[4].strip().startswith(f"error: 20210601_{k:02d}.tif: red for ms: block at row")
    assert f"do what is not done: skyframe launch --again {FOLDER}" in shown
    assert "cannot be read" in skyframe(tmp_path, env, "logs", str(FOLDER), "--item", "11")

    for k, content in whole.items():
        scenes[k - 1].write_bytes(content)
    before = {k: (FOLDER / f"{k}.log").read_text() for k in range(1, 21)}
    said = skyframe(tmp_path, env, "launch", "--again", str(FOLDER))
    assert ": ingest, 3 of 20 elements, then ingest" in said
    assert "#SBATCH --array=3,11,20%5\n" in (FOLDER / "launch/2/script.sh").read_text()
    wait(FOLDER)
    assert [k for k, text in before.items() if (FOLDER / f"{k}.log").read_text() != text] == [3, 11, 20]
    assert {result.code for result in read_results(FOLDER).values()} == {"0"}
    shown = skyframe(tmp_path, env, "jobs")
    assert "FINISHED" in shown and "20/20" in shown and "last step done" in shown
    refused = skyframe(tmp_path, env, "launch", "--again", str(FOLDER), code=2)
    assert "all 20 elements are done" in refused

    skyframe(tmp_path, env, *[word.replace("cubes/x", "cubes/serial") for word in INGEST])
    assert contents(Path("cubes/x")) == contents(Path("cubes/serial"))


@pytest.mark.xdist_group("slurm")
def test_what_is_done_or_failed_is_not_done_again_by_a_restart(cluster, tmp_path: Path, monkeypatch):  # noqa: F811
    """One task is killed twice and comes through, one fails, one is put back into the queue while it works."""
    monkeypatch.chdir(tmp_path)
    acts = """
echo "$4" >>began
case "$4" in
killed) if [ "$(grep -c killed began)" -le 2 ]; then kill -9 $$; fi ;;
wrong) echo "error: it is wrong"; exit 2 ;;
slow) while [ ! -f go ]; do sleep 0.1; done ;;
esac"""
    mini = cluster_file(tmp_path, f"{MINI}python: {worker(tmp_path, acts)}\n")
    (tmp_path / "list").write_text("# what is done\nkilled\nwrong\n\nslow\n")
    skyframe(
        tmp_path, cluster.env, "launch", "--array", "list", "--cluster", mini, "--name", "x", "--", "verify", "{item}"
    )
    folder = Path("runs/arrays/x").absolute()
    job = str(launches(folder)[1]["id"])
    wait_for(lambda: counted(summarise(folder, queued())) == "1 done, 1 failed, 1 running, 0 waiting of 3")
    refused = skyframe(tmp_path, cluster.env, "launch", "--again", "runs/arrays/x", code=2)
    assert "runs/arrays/x: is under way" in refused
    task = cluster.show(f"{job}_3")["JobId"]
    cluster.run("scontrol", "requeue", task)
    cluster.release(task)
    (tmp_path / "go").touch()
    wait(folder)
    assert sorted((tmp_path / "began").read_text().split()) == ["killed"] * 3 + ["slow"] * 2 + ["wrong"]
    assert counted(summarise(folder, [])) == "2 done, 1 failed, 0 running, 0 waiting of 3"
    (element,) = summarise(folder, []).failed
    assert (element.key, element.item, element.code, element.sentence) == ("2", "wrong", "2", "error: it is wrong")
    assert (folder / "1.log").read_text().count("launch 1, try ") == 3


def test_a_list_on_this_machine_is_done_item_by_item(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "it's $HOME"):
        tiny_cube(tmp_path / "cubes" / name)
    (tmp_path / "cubes/d.partial").mkdir()
    shard = max((tmp_path / "cubes/b").rglob("c/**/0"), key=lambda path: path.stat().st_size)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    env = wide(dict(os.environ))
    words = ("launch", "--array", "cubes/*", "--cluster", cluster_file(tmp_path, LOCAL), "--jobs", "2")
    said = skyframe(tmp_path, env, *words, "--", "verify", "{item}")
    assert "local1: verify, 3 elements, process " in said
    folder = Path("runs/arrays/verify")
    wait(folder)
    shown = skyframe(tmp_path, env, "jobs", str(folder))
    assert "2 done, 1 failed, 0 running, 0 waiting of 3" in shown and "cubes/b: 1 damages, named above" in shown
    assert "chunks in" in skyframe(tmp_path, env, "logs", str(folder), "--item", "3")
    assert "it's $HOME: " in (folder / "3.log").read_text()

    shard.write_bytes(whole)
    again = skyframe(tmp_path, env, "launch", "--again", str(folder), "--dry-run")
    assert "launch 2, try $try" in again and not (folder / "launch/2").exists()
    skyframe(tmp_path, env, "launch", "--again", str(folder))
    wait(folder)
    assert [(key, result.launch) for key, result in sorted(read_results(folder).items())] == [
        ("1", 1),
        ("2", 2),
        ("3", 1),
    ]
    assert "FINISHED" in skyframe(tmp_path, env, "jobs")


def test_an_array_is_ended_and_goes_on(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    acts = f"if [ -f go ]; then exec {sys.executable} -c 'print(1)'; fi; touch begun; sleep 600"
    local = cluster_file(tmp_path, f"{LOCAL}python: {worker(tmp_path, acts)}\n")
    skyframe(tmp_path, dict(os.environ), "launch", "--array", "2", "--cluster", local, "--", *INGEST)
    wait_for((tmp_path / "begun").exists)
    assert counted(summarise(FOLDER, [])) == "0 done, 0 failed, 1 running, 1 waiting of 2; last step waiting"
    group = launches(FOLDER)[1]["pid"]
    assert f"ended process {group}" in skyframe(tmp_path, dict(os.environ), "cancel", str(FOLDER))
    wait_for(lambda: not subprocess.run(["pgrep", "-g", str(group)], capture_output=True).stdout)
    found = summarise(FOLDER, [])
    assert (found.state, found.waiting, [(e.key, e.code) for e in found.failed]) == ("ENDED", 1, [("1", "none")])
    (tmp_path / "go").touch()
    skyframe(tmp_path, dict(os.environ), "launch", "--again", str(FOLDER))
    wait(FOLDER)
    assert counted(summarise(FOLDER, [])) == "2 done, 0 failed, 0 running, 0 waiting of 2; last step done"


@pytest.mark.xdist_group("slurm")
def test_tasks_do_several_elements_where_there_are_many(cluster, tmp_path: Path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("skyframe.launch.array_script.MOST_TASKS", 2)
    mini = cluster_file(tmp_path, f"{MINI}python: {worker(tmp_path, 'echo $4 $5 on $SLURM_ARRAY_TASK_ID >>began')}\n")
    (tmp_path / "list").write_text("x/a\nx/b c\ny/d\ne\nf\n")
    plan = plan_array(("rechunk", "{item}", "out/{name}"), "list", mini)
    assert "#SBATCH --array=1-2\n" in plan.scripts["script.sh"]
    launch_array(plan)
    wait(Path("runs/arrays/rechunk"))
    assert sorted((tmp_path / "began").read_text().splitlines()) == [
        "e out/e on 2", "f out/f on 1", "x/a out/a on 1", "x/b c out/b c on 2", "y/d out/d on 1",
    ]  # fmt: skip


@pytest.mark.xdist_group("slurm")
def test_a_waiting_array_is_cancelled_with_its_last_step(cluster, tmp_path: Path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    held = cluster.run("sbatch", "--parsable", "--hold", f"--output={tmp_path}/held.log", "--wrap", "true")
    words = ("launch", "--array", "4", "--cluster", cluster_file(tmp_path), "--after", held, "--", *INGEST)
    skyframe(tmp_path, cluster.env, *words)
    entries = [entry for entry in queued() if entry.run == FOLDER.absolute()]
    record = launches(FOLDER)[1]
    assert sorted(entry.id for entry in entries) == sorted([f"{record['id']}_[1-4]", record["finish"]])
    assert counted(summarise(FOLDER, entries)) == "0 done, 0 failed, 0 running, 4 waiting of 4; last step waiting"
    said = skyframe(tmp_path, cluster.env, "cancel", str(FOLDER))
    assert f"job {record['id']}" in said and f"job {record['finish']}" in said and not living(FOLDER.absolute())
    cluster.run("scancel", held)


@pytest.mark.xdist_group("slurm")
def test_what_slurm_refuses_leaves_no_array(cluster, tmp_path: Path):  # noqa: F811
    mini = cluster_file(tmp_path, MINI + "partition: nowhere\n")
    words = ("launch", "--array", "4", "--cluster", mini, "--", *INGEST)
    assert "ingest: sbatch refuses the job" in skyframe(tmp_path, cluster.env, *words, code=2)
    assert not (tmp_path / "runs/arrays/ingest").exists()
