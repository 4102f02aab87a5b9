"""The private SLURM that other tests use: it runs, requeues, loses a node, and leaves nothing behind."""

from pathlib import Path

import pytest

from tests.minislurm import mini_slurm, missing_programs

pytestmark = pytest.mark.xdist_group("slurm")


def test_two_nodes_run_a_step_and_a_batch_job(slurm, tmp_path: Path):
    ran = slurm.run("srun", "-N2", "--ntasks-per-node=2", "sh", "-c", "echo $SLURMD_NODENAME $SLURM_PROCID")
    assert sorted(ran.splitlines()) == ["n1 0", "n1 1", "n2 2", "n2 3"]
    out = tmp_path / "out"
    job = slurm.run("sbatch", "--parsable", f"--output={out}", "--wrap", "echo restarts=${SLURM_RESTART_COUNT:-0}")
    assert slurm.wait(job, timeout_s=30) == "COMPLETED"
    assert out.read_text() == "restarts=0\n"


def test_a_requeued_job_is_released_at_once(slurm, tmp_path: Path):
    out = tmp_path / "out"
    words = 'echo restarts=${SLURM_RESTART_COUNT:-0}; [ -n "$SLURM_RESTART_COUNT" ] || sleep 60'
    job = slurm.run("sbatch", "--parsable", "--requeue", "--open-mode=append", f"--output={out}", "--wrap", words)
    slurm.wait(job, "RUNNING", timeout_s=30)
    slurm.run("scontrol", "requeue", job)
    slurm.release(job)
    assert slurm.wait(job, timeout_s=30) == "COMPLETED"
    assert slurm.show(job)["Restarts"] == "1" and "restarts=1\n" in out.read_text()


def test_a_cluster_leaves_nothing_behind(slurm):
    assert not missing_programs()
    with mini_slurm(num_nodes=1) as other:
        other.run("sbatch", "--output=/dev/null", "--wrap", "sleep 600")
        other.kill_node("n1")
        other.start_node("n1")
        pids = [daemon.pid for daemon in other.daemons.values()]
    assert not other.root.exists()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert slurm.run("sinfo", "-h", "-N", "-p", "debug", "-o", "%N").split() == ["n1", "n2"]
