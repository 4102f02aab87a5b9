"""Images: what the script says to apptainer, on the private SLURM with a stand-in; and what an image is made of."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from skyframe.launch.status import launches
from tests.launch.clusters import MINI, cluster_file
from tests.launch.test_submit import cluster, nano, rows, skyframe  # noqa: F401  cluster is a fixture

ROOT = Path(__file__).resolve().parents[2]

STAND_IN = """#!/bin/bash
# apptainer as far as the script uses it: looks at its words, and runs the command where an image would
set -euo pipefail
[ "$1" = exec ]; shift
echo "$*" >>{log}
[ "$1" = --nv ]; shift
[ "$1" = --bind ]
for mount in ${{2//,/ }}; do [ -e "${{mount%%:*}}" ] || {{ echo "no $mount" >&2; exit 255; }}; done; shift 2
[ "$1" = --pwd ]; cd "$2"; shift 2
[ "$1" = --cleanenv ]; shift
[ -f "$1" ]; shift
export APPTAINER_CONTAINER=stand-in
exec "$@"
"""


@pytest.mark.xdist_group("slurm")
def test_a_job_runs_inside_an_image(cluster, earth: Path, tmp_path: Path):  # noqa: F811
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "apptainer").write_text(STAND_IN.format(log=tmp_path / "words.txt"))
    (programs / "apptainer").chmod(0o755)
    (tmp_path / "skyframe.sif").touch()
    box = f"container: {{kind: apptainer, image: {tmp_path}/skyframe.sif, mounts: ['{earth}'], options: [--cleanenv]}}"
    mini = cluster_file(
        tmp_path, f"{MINI}gpus_per_node: 1\npython: {sys.executable}\n{box}\nscratch: {tmp_path}/disk/$SLURM_JOB_ID\n"
    )
    env = {**cluster.env, "PATH": f"{programs}:{cluster.env['PATH']}"}
    words = nano(earth, "train.max_steps=2", "data.cache={path: $TMPDIR/cubes, max_gb: 0.1, of: all}")
    skyframe(tmp_path, env, "launch", "skysense_demo", "--cluster", mini, *words)

    run = tmp_path / "runs/nano"
    job = launches(run)[1]["id"]
    said = f"{run}/slurm/{job}_rank0.log"
    assert cluster.wait(job, timeout_s=120) == "COMPLETED", Path(said).read_text()
    assert [row["step"] for row in rows(run)] == [1, 2]
    assert int((tmp_path / f"disk/{job}/cubes/total").read_text()) > 0  # on the disk of the node that ran it
    recipe = f"-m skyframe pretrain {run}/launch/1/recipe.yaml resume=auto"
    image = f"--cleanenv {tmp_path}/skyframe.sif"
    assert (tmp_path / "words.txt").read_text() == (
        f"--nv --bind {tmp_path},{earth} --pwd {tmp_path} {image} {sys.executable} {recipe}\n"
    )


def test_an_image_holds_what_an_installation_needs():
    text = (ROOT / "launch/skyframe.def").read_text()
    files = [line.split() for line in text.partition("%files\n")[2].partition("\n\n")[0].splitlines()]
    assert all((ROOT / source).exists() for source, _ in files if source != "wheelhouse")
    assert all(target == f"/opt/skyframe/{source}" for source, target in files if source != "wheelhouse")
    post = text.partition("%post\n")[2].partition("\n\n")[0]
    assert subprocess.run(["bash", "-n", "-c", post], env=dict(os.environ)).returncode == 0
    assert "launch/install.sh --use-site-torch --wheelhouse /opt/wheelhouse /opt/env" in post
