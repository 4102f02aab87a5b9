"""How a run stands, from files by hand."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from skyframe.launch.status import Queued, alive, cancel, find_runs, last_row, log_of, started, status
from skyframe.spec import InputError

START = "2026-11-21 20:00:00 job 7 start {} on n[1-2], ranks meet at 10.0.0.1:12049\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of ten steps whose job 7 was started three times and stands at step 4."""
    folder = tmp_path / "runs/nano"
    (folder / "launch/1").mkdir(parents=True)
    (folder / "slurm").mkdir()
    (folder / "launch/1/record.json").write_text(json.dumps({"id": "7", "pid": 0, "started": "", "host": "n1"}))
    (folder / "launch/1/recipe.yaml").write_text("train: {max_steps: 10}\n")
    rows = [{"step": 2, "total": 9.5, "samples_per_s": 3.0}, {"step": 4, "total": 8.25, "samples_per_s": 3.5}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 6, "tot')
    (folder / "slurm/7_script.log").write_text("".join(START.format(i) for i in range(3)))
    (folder / "restarts.jsonl").write_text('{"step": 2}\n{"step": 4}\n')
    (folder / "slurm/7_rank0.log").write_text("one\ntwo\n")
    return folder


def test_a_row_of_the_table(run: Path):
    job = Queued("7", "RUNNING", "1:02:03", "None", run)
    row = status(run, [job])
    assert (row.job, row.state, row.step, row.max_steps, row.loss, row.samples_per_s) == (
        "7",
        "RUNNING",
        4,
        10,
        8.25,
        3.5,
    )
    assert (row.restarts, row.left) == (2, "1:02:03") and row.message == "two"
    os.utime(run / "slurm/7_rank0.log", (1, 1))
    assert status(run, [job]).message.endswith("meet at 10.0.0.1:12049")
    waiting = Queued("7", "PENDING", "1:00", "BeginTime", run)
    assert status(run, [waiting]).message == "BeginTime"
    with (run / "slurm/7_script.log").open("a") as log:
        log.write("queued again from checkpoint step_4 (1 of 3 from there)\nslurmstepd: *** JOB 7 CANCELLED ***\n")
    assert status(run, [waiting]).message == "BeginTime: queued again from checkpoint step_4 (1 of 3 from there)"
    assert status(run, []).state == "ENDED"


def test_of_an_ended_job_bad_news_come_before_the_last_line(run: Path):
    (run / "slurm/7_rank1.log").write_text("begun\nerror: cube x: no such folder; correct the path\nmore\n")
    assert status(run, []).message == "error: cube x: no such folder; correct the path"
    assert status(run, [Queued("7", "RUNNING", "1:00", "None", run)]).message == "two"
    (run / "slurm/7_rank0.log").write_text("  File x\ntorch.OutOfMemoryError: CUDA out of memory\n")
    assert status(run, []).message == "torch.OutOfMemoryError: CUDA out of memory"


def test_runs_are_found_by_themselves_and_in_a_folder(run: Path):
    (run.parent / "other").mkdir()
    assert find_runs([run.parent]) == [run] == find_runs([run]) == find_runs([run.parent, run])
    assert find_runs([run.parent / "other", run / "nowhere"]) == []
    assert last_row(run)["step"] == 4 and last_row(run.parent) == {}


def test_logs_are_those_of_the_newest_launch(run: Path):
    assert log_of(run, 0).read_text() == "one\ntwo\n" and log_of(run, None).name == "7_script.log"
    with pytest.raises(
        InputError, match=r"7_rank3.log: is not there; the logs of job 7 are: 7_rank0.log, 7_script.log"
    ):
        log_of(run, 3)
    with pytest.raises(InputError, match="holds no launch/"):
        log_of(run.parent, 0)


def test_a_process_number_used_again_is_not_ours(run: Path, monkeypatch: pytest.MonkeyPatch):
    me = os.getpid()
    record = {"pid": me, "started": started(me), "host": os.uname().nodename}
    assert alive(record) and not alive(record | {"started": "Mon Jan  1 00:00:00 2024"})
    assert not alive(record | {"host": "elsewhere"}) and not alive(record | {"pid": 0})
    done = subprocess.Popen(["true"])
    done.wait()
    assert started(done.pid) == ""
    (run / "launch/1/record.json").write_text(json.dumps(record | {"id": "local1", "started": "long ago"}))
    monkeypatch.setenv("PATH", "/bin:/usr/bin")
    with pytest.raises(InputError, match="nothing to end"):
        cancel(run)
