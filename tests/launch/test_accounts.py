"""What SLURM's accounts tell about a job that has left the queue: on a real slurmdbd and database."""

import time
from pathlib import Path

import pytest

from skyframe.launch.overview import statuses
from skyframe.launch.status import accounted, launches, queued
from skyframe.launch.submit import launch, plan_launch
from tests.launch.clusters import MINI, cluster_file
from tests.minislurm import mini_slurm, need
from tests.train.runs import overrides


@pytest.mark.slow
@pytest.mark.xdist_group("slurm")
def test_a_job_that_left_the_queue_is_said_to_have_ended_as_its_accounts_tell(earth: Path, tmp_path: Path, monkeypatch):
    need(accounting=True)
    lasting = tmp_path / "lasting"  # in the interpreter's place
    lasting.write_text("#!/bin/bash\necho begun\nexec sleep 600\n")
    lasting.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    with mini_slurm(num_nodes=1, accounting=True) as slurm:
        for name in ("SLURM_CONF", "PATH"):
            monkeypatch.setenv(name, slurm.env[name])
        words = overrides(earth, Path("runs"), "nano")
        done = launch(plan_launch("skysense_demo", words, cluster_file(tmp_path, f"{MINI}python: {lasting}\n"), 1))
        slurm.wait(done.id, "RUNNING")
        slurm.run("scancel", done.id)
        end = time.monotonic() + 60
        while queued() or accounted([done.id]) != {done.id: "CANCELLED"}:
            assert time.monotonic() < end, (queued(), accounted([done.id]))
            time.sleep(0.2)
        (row,) = statuses([Path("runs")], queued())
        assert (row.state, row.job, row.step) == ("CANCELLED", done.id, 0)
        assert "Terminated" in row.message or "CANCELLED" in row.message
        assert launches(tmp_path / "runs/nano")[1]["id"] == done.id
    assert accounted([done.id]) == {} and accounted(["local1"]) == {}
