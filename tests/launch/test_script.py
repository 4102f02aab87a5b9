"""The script as text, against one written down, and what SLURM itself makes of it."""

import subprocess
from pathlib import Path

import pytest

from skyframe.launch.cluster import Cluster, Container, load_cluster
from skyframe.launch.script import RENDEZVOUS, Job, render

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "launch"
RUN = Path("/data/runs/nano")
JOB = Job("nano", RUN / "launch/1/recipe.yaml", RUN, Path("/data"), 2, "/opt/sky/bin/python")


def test_the_script_of_an_a100_cluster_is_the_one_written_down():
    assert render(JOB, load_cluster("example_a100")) == (GOLDEN / "a100.sh").read_text()


def test_the_script_of_this_machine_is_the_one_written_down():
    local = Cluster(executor="local", setup=("source site.sh",), env={"A": "$HOME/x"})
    assert render(JOB, local) == (GOLDEN / "local.sh").read_text()


def test_the_script_by_hand_meets_in_the_same_way():
    text = (ROOT / "launch" / "pretrain.sbatch").read_text()
    assert RENDEZVOUS in text
    for word in (
        "--signal=USR2@",
        "--requeue",
        "--open-mode=append",
        "--kill-on-bad-exit=1",
        "--ntasks-per-node=",
    ):
        assert word in text


def _srun(text: str) -> str:
    return " ".join(text.split("--open-mode=append \\\n")[1].split("|| code")[0].replace("\\\n", " ").split())


def test_a_process_runs_inside_an_image():
    apptainer = Container("apptainer", "/i.sif", ("/cubes",), ("--cleanenv",))
    assert _srun(render(JOB, Cluster(time_limit="01:00:00", gpus_per_node=2, container=apptainer))) == (
        '--output=/data/runs/nano/slurm/%j_rank%t.log apptainer exec --nv --bind "/data,/cubes" --pwd /data --cleanenv '
        '"/i.sif" python -m skyframe pretrain /data/runs/nano/launch/1/recipe.yaml resume=auto'
    )
    pyxis = Container("pyxis", "nvcr.io#nvidia/pytorch", ("/cubes:/c:ro",))
    away = Job("nano", JOB.recipe, RUN, Path("/home/me"), 2, "python")
    assert _srun(render(away, Cluster(time_limit="01:00:00", container=pyxis, python="/venv/bin/python"))) == (
        '--output=/data/runs/nano/slurm/%j_rank%t.log --container-image="nvcr.io#nvidia/pytorch" '
        '--container-mounts="/home/me:/home/me,/data/runs/nano:/data/runs/nano,/cubes:/c:ro" '
        '--container-workdir=/home/me "/venv/bin/python" -m skyframe pretrain '
        "/data/runs/nano/launch/1/recipe.yaml resume=auto"
    )


def test_options_appear_where_they_are_given():
    plain = render(JOB, Cluster(time_limit="01:00:00"))
    assert "--gpus" not in plain and "--mem" not in plain and "module" not in plain and "--dependency" not in plain
    after = Job("nano", JOB.recipe, RUN, Path("/data"), 2, "python", after="12")
    given = Cluster(time_limit="01:00:00", gpus_per_node=4, gpu_type="h100", gpu_request="gres", sbatch=("--nice",))
    lines = render(after, given).splitlines()
    assert {"#SBATCH --gres=gpu:h100:4", "#SBATCH --dependency=afterok:12", "#SBATCH --nice"} <= set(lines)
    assert "#SBATCH --ntasks-per-node=4" in lines
    assert "scontrol requeue" not in render(JOB, Cluster(time_limit="01:00:00", max_restarts=0))
    assert "--exclude=" not in plain
    assert '--exclude="$bad"' in render(JOB, Cluster(time_limit="01:00:00", exclude_bad_nodes=True))


@pytest.mark.parametrize("name", ["template", "example_a100", "example_h100_pyxis", "example_cpu"])
@pytest.mark.xdist_group("slurm")
def test_slurm_reads_the_script_of_every_example(slurm, tmp_path: Path, name: str):
    script = tmp_path / "script.sh"
    script.write_text(render(JOB, load_cluster(name)).replace("--chdir=/data", f"--chdir={tmp_path}"))
    done = subprocess.run(["sbatch", "--test-only", script], env=slurm.env, capture_output=True, text=True)
    assert done.returncode == 0 and "to start at" in done.stderr and "nodes n[1-2]" in done.stderr, done.stderr


@pytest.mark.xdist_group("slurm")
def test_tasks_of_an_array_meet_at_ports_of_their_own(slurm, tmp_path: Path):
    listen = (
        "import os, socket, time; s = socket.create_server((os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])))"
    )
    script = tmp_path / "array.sh"
    script.write_text(f'#!/bin/bash\nset -e\n{RENDEZVOUS}\nexec python3 -c "{listen}; time.sleep(2)"\n')
    job = slurm.run(
        "sbatch", "--parsable", "--array=0-3", "--cpus-per-task=1", f"--output={tmp_path}/%a.log", str(script)
    )
    for i in range(4):
        assert slurm.wait(f"{job}_{i}") == "COMPLETED"
    lines = [(tmp_path / f"{i}.log").read_text() for i in range(4)]
    assert all(line.count("\n") == 1 and "ranks meet at 127.0.0.1:" in line for line in lines), lines
    assert len({line.rsplit(":", 1)[1] for line in lines}) == 4
