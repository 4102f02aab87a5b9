"""Recipe, cluster and run folder against each other: every misfit is one sentence, before anything is written."""

from pathlib import Path

import pytest

from skyframe.launch.submit import launch, plan_launch
from skyframe.spec import InputError
from tests.launch.clusters import LOCAL, MINI, cluster_file

GPUS = MINI + "gpus_per_node: 3\n"
CUBES = "data.cubes=[x]"


@pytest.mark.parametrize(
    ("text", "nodes", "after", "overrides", "words"),
    [
        (GPUS, 2, "", ["train.global_batch=64"], "train.global_batch 64 is not a multiple of 6 ranks"),
        (MINI, 0, "", [], "--nodes 0, expected 1 or more"),
        (LOCAL, 2, "", [], "--nodes 2 with .*mini.yaml, which is this machine alone"),
        (LOCAL, 1, "7", [], "--after 7 with .*mini.yaml, which has no queue"),
        (MINI, 1, "soon", [], "--after 'soon', expected the id of a job"),
        (MINI, 1, "", ["train.num_nodes=2"], "train.num_nodes=2 is set by --nodes"),
        (MINI, 1, "", ["train.devices=2"], "train.devices=2 is set by the cluster file"),
        (MINI, 1, "", ["resume=auto"], "resume=auto is set by launch"),
        (MINI, 1, "", ["train.accelerator=gpu"], "train.accelerator is 'gpu' but .* has gpus_per_node 0"),
        (GPUS, 1, "", ["train.accelerator=cpu", "train.global_batch=3"], "is 'cpu' but .* has gpus_per_node 3"),
        (MINI, 1, "", ["train.max_step=2"], "unknown key 'max_step'; did you mean 'max_steps'"),
        (MINI, 1, "", ["train.run_dir=a%b"], "which logs of SLURM cannot"),
        (MINI, 1, "", ["train.run_dir=taken"], "taken/skysense_demo: is there but holds no run"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, text, nodes, after, overrides, words):
    (tmp_path / "taken/skysense_demo/other").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=words):
        plan_launch("skysense_demo", [CUBES, *overrides], cluster_file(tmp_path, text), nodes, after, tmp_path)
    assert {p.name for p in tmp_path.rglob("*")} - {p.name for p in before} == {"mini.yaml"}


def test_a_run_goes_on_with_its_own_recipe_alone(nano_run: Path, tmp_path: Path):
    from tests.system.batches import NANO

    mini = cluster_file(tmp_path)
    from skyframe.spec import load_yaml

    cubes = load_yaml(nano_run / "recipe.yaml")["data"]["cubes"]
    own = [*NANO, f"data.cubes=[{','.join(cubes)}]", f"train.run_dir={nano_run.parent}", "name=nano"]
    own += ["loss.ema_start=0.5"]
    with pytest.raises(InputError, match=r"nano: finished at step 2, so there is nothing to launch"):
        plan_launch("skysense_demo", [*own, "train.max_steps=2"], mini, 2)
    with pytest.raises(InputError, match="was started with another recipe"):
        plan_launch("skysense_demo", [*own, "train.max_steps=3"], mini, 2)


def test_without_sbatch_one_is_told_where_to_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plan = plan_launch("skysense_demo", [CUBES], cluster_file(tmp_path), 2, here=tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="sbatch is not found on this machine"):
        launch(plan)
    assert not (tmp_path / "runs").exists()


def test_an_environment_that_is_not_there_is_refused(tmp_path: Path):
    plan = plan_launch("skysense_demo", [CUBES], cluster_file(tmp_path, LOCAL + "venv: /nowhere\n"), here=tmp_path)
    with pytest.raises(InputError, match="/nowhere/bin/activate is not there"):
        launch(plan)
    assert not (tmp_path / "runs").exists()


def test_slurm_sends_the_signal_that_the_run_takes(tmp_path: Path):
    own = [CUBES, "train.survival.signal=SIGUSR1"]
    assert (
        "#SBATCH --signal=USR1@120\n" in plan_launch("skysense_demo", own, cluster_file(tmp_path), here=tmp_path).script
    )
