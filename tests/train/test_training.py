"""Training as a user runs it: learns, resumes exactly after kill -9, and is equal on one and two processes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from skyframe.config import SkySenseRecipe
from skyframe.data.datamodule import CubeDataModule, StepSampler
from skyframe.spec import InputError, find_yaml
from skyframe.train.checkpoint import CHECKPOINT_FORMAT, latest, read_checkpoint
from skyframe.train.module import PretrainModule
from skyframe.train.progress import read_metrics
from skyframe.train.run import load_run, pretrain
from tests.system.batches import NANO, nano_recipe


def overrides(earth: Path, runs: Path, name: str, *more: str) -> list[str]:
    return [*NANO, f"data.cubes=[{earth}/a,{earth}/b]", f"train.run_dir={runs}", f"name={name}", *more]


def start(earth: Path, runs: Path, name: str, *more: str) -> subprocess.Popen:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "skyframe", "pretrain", "skysense_demo", *overrides(earth, runs, name, *more)]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen) -> str:
    output = process.communicate(timeout=240)[0]  # also closes the pipe
    assert process.returncode == 0, output
    return output


def saved(run: Path) -> dict[str, Any]:
    return read_checkpoint(latest(run / "checkpoints"))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return saved(run)["state_dict"]


def assert_equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert [k for k in left if not torch.equal(left[k], right[k])] == []


def test_a_run_leaves_recipe_metrics_tensorboard_and_a_checkpoint(earth, tmp_path):
    recipe = nano_recipe(*overrides(earth, tmp_path, "one"))
    run = pretrain(recipe, show=False)
    files = ["checkpoints", "environment.json", "metrics.jsonl", "recipe.yaml", "tensorboard"]
    assert sorted(p.name for p in run.iterdir()) == files
    rows = read_metrics(run)
    assert [r["step"] for r in rows] == [1, 2, 3, 4]
    wanted = {
        "total",
        "loss/s2/pix",
        "loss/align/s2-s1",
        "samples_per_s",
        "data_wait_pct",
        "effective_rank/fused",
        "lr",
    }
    assert wanted <= set(rows[0])
    stored, checkpoint = load_run(run)
    assert stored == recipe and checkpoint.name == "step_00000004.ckpt"
    assert json.loads((run / "environment.json").read_text())["torch"] == torch.__version__


def test_two_runs_of_one_seed_agree_and_another_seed_differs(earth, tmp_path):
    first = weights(pretrain(nano_recipe(*overrides(earth, tmp_path, "first")), show=False))
    again = weights(pretrain(nano_recipe(*overrides(earth, tmp_path, "again")), show=False))
    assert_equal(first, again)
    other = weights(pretrain(nano_recipe(*overrides(earth, tmp_path, "other", "seed=1")), show=False))
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_a_run_is_not_overwritten_and_resumes_only_its_own_recipe(earth, tmp_path):
    pretrain(nano_recipe(*overrides(earth, tmp_path, "run")), show=False)
    with pytest.raises(InputError, match="add resume=auto"):
        pretrain(nano_recipe(*overrides(earth, tmp_path, "run")), show=False)
    with pytest.raises(InputError, match="started with another recipe"):
        pretrain(nano_recipe(*overrides(earth, tmp_path, "run", "seed=9")), resume="auto", show=False)
    with pytest.raises(InputError, match="'yes' is not one of"):
        pretrain(nano_recipe(*overrides(earth, tmp_path, "run2")), resume="yes", show=False)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "micro_steps"), [(0, 1), (2, 2)])
def test_kill_dash_nine_at_a_random_step_then_resume_is_bit_equal(earth, tmp_path, workers, micro_steps):
    more = [f"data.workers={workers}", f"train.micro_steps={micro_steps}", "train.max_steps=40"]
    more += ["train.checkpoint_every=3", "views.drop_frames=0.3"]
    finish(start(earth, tmp_path, "whole", *more))
    when = random.Random().randint(4, 20)
    killed = start(earth, tmp_path, "killed", *more)
    run = tmp_path / "killed"
    deadline = time.monotonic() + 120
    while killed.poll() is None and time.monotonic() < deadline:
        if any(r["step"] >= when for r in read_metrics(run)):
            break
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    output = killed.communicate()[0]
    newest = latest(run / "checkpoints")
    assert newest is not None, f"never reached step {when}: {output}"
    reached = int(newest.stem.removeprefix("step_"))
    assert 3 <= reached < 40, f"killed at step {when}, saved {reached}: the run ended before the kill"
    finish(start(earth, tmp_path, "killed", *more, "resume=auto"))
    assert saved(tmp_path / "whole")["modalities"] == saved(run)["modalities"], "the spec was edited during this test"
    assert_equal(weights(tmp_path / "whole"), weights(run))
    left, right = ({r["step"]: r["total"] for r in read_metrics(tmp_path / n)} for n in ("whole", "killed"))
    assert left == right and len(left) == 40


def modalities_by_rank(recipe: SkySenseRecipe, world: int) -> list[list[set[str]]]:
    """What the samples of each rank hold together, step by step."""
    data = CubeDataModule(recipe)
    dataset, share = data.dataset(), recipe.train.global_batch // world
    ranks = []
    for rank in range(world):
        batches = StepSampler(recipe.train.max_steps, share, 1, rank, world)
        ranks.append([set().union(*(dataset.sample(p).series for p in batch)) for batch in batches])
    return ranks


@pytest.mark.slow
def test_two_processes_equal_one_though_one_holds_no_sar_and_both_resume_exactly(earth, optical_only, tmp_path):
    more = [f"data.cubes=[{earth}/a,{optical_only}]", "train.checkpoint_every=2", "views.drop_frames=0.3"]
    ddp = [*more, "train.devices=2", "train.strategy=ddp", "train.accelerator=cpu"]
    recipe = nano_recipe(*overrides(earth, tmp_path, "one", *more))
    ranks = modalities_by_rank(recipe, 2)
    assert sorted(any("s1" in held for held in steps) for steps in ranks) == [False, True], ranks
    finish(start(earth, tmp_path, "one", *more))
    finish(start(earth, tmp_path, "two", *ddp))

    one, two = (read_metrics(tmp_path / n) for n in ("one", "two"))
    assert [r["step"] for r in two] == [1, 2, 3, 4]
    for alone, both in zip(one, two, strict=True):
        same_weights = alone["step"] == 1
        assert both["total"] == pytest.approx(alone["total"], rel=1e-6 if same_weights else 3e-6), alone["step"]
        for term in (k for k in alone if k.startswith("loss/")):  # written with six decimals
            near = pytest.approx(alone[term], rel=1e-6 if same_weights else 2e-5, abs=2e-6)
            assert both[term] == near, (alone["step"], term)
    assert_near(saved(tmp_path / "one"), saved(tmp_path / "two"), recipe)

    run = tmp_path / "two"
    uninterrupted = weights(run)
    (run / "checkpoints" / "step_00000004.ckpt").unlink()  # as if killed before it was written
    (run / "checkpoints" / "LATEST").write_text("step_00000002.ckpt")
    finish(start(earth, tmp_path, "two", *ddp, "resume=auto"))
    assert_equal(uninterrupted, weights(run))
    assert [(r["step"], r["total"]) for r in read_metrics(run)] == [(r["step"], r["total"]) for r in two]


def assert_near(left: dict[str, Any], right: dict[str, Any], recipe: SkySenseRecipe) -> None:
    """Gradient averages agree to rounding, and weights where the gradient is more than rounding.

    Adam divides a gradient by its own size, so a weight whose true gradient is 0 (a query's bias, attention over a
    single pixel) moves by a full step in the direction of its rounding error, which no two reduction orders share.
    Hence a weight counts if it was given a gradient, and each tensor's difference stands beside the way it came.
    """
    data = CubeDataModule(recipe)
    module = PretrainModule(recipe, data.modalities, data.regions)
    begun = dict(module.named_parameters())
    names = {id(p): n for n, p in begun.items()}
    groups = module.configure_optimizers()["optimizer"].param_groups
    moments = [checkpoint["optimizer_states"][0]["state"] for checkpoint in (left, right)]
    weights = [checkpoint["state_dict"] for checkpoint in (left, right)]
    loudest = max(float(m["exp_avg"].abs().max()) for m in moments[0].values())
    num_heard = 0
    for number, name in enumerate(names[id(p)] for group in groups for p in group["params"]):
        a, b = (m[number] for m in moments)
        assert float((a["exp_avg"] - b["exp_avg"]).abs().max()) < 3e-5 * loudest, name
        heard = a["exp_avg_sq"].sqrt() > 1e-4 * loudest
        way = (weights[0][name] - begun[name].detach())[heard].norm()
        assert (weights[0][name] - weights[1][name])[heard].norm() <= 3e-3 * way, name
        num_heard += int(heard.sum())
    assert num_heard > 300_000
    for name in (n for n in weights[0] if "teacher" in n or n.endswith("bank") or ".center_" in n):
        value, other = (w[name].double() for w in weights)
        assert (value - other).norm() <= 5e-6 * value.norm() or float((value - other).abs().max()) < 5e-5, name


def test_a_run_is_not_resumed_on_another_spec_or_other_cubes(earth, tmp_path):
    spec = tmp_path / "own.yaml"
    spec.write_text(find_yaml("data_specs", "simulated_earth").read_text())
    cubes = tmp_path / "cubes"
    cubes.mkdir()
    (cubes / "a").symlink_to(earth / "a")
    recipe = nano_recipe(
        f"data.cubes=[{cubes}/*]", f"data.spec={spec}", f"train.run_dir={tmp_path}", "name=r", "train.max_steps=1"
    )
    pretrain(recipe, show=False)
    before = weights(tmp_path / "r")
    (cubes / "b").symlink_to(earth / "b")
    with pytest.raises(InputError, match=r"data.cubes: .*/cubes/\* make other regions than when the run was started"):
        pretrain(recipe, resume="auto", show=False)
    (cubes / "b").unlink()
    text = spec.read_text()
    spec.write_text(text.replace("units: dB", "units: decibel"))
    with pytest.raises(InputError, match=r"own.yaml: s1 has units decibel, the run was started with dB; restore the"):
        pretrain(recipe, resume="auto", show=False)
    spec.write_text(text)
    pretrain(recipe, resume="auto", show=False)
    assert_equal(before, weights(tmp_path / "r"))


def test_latest_alone_is_trusted(tmp_path):
    assert latest(tmp_path) is None
    (tmp_path / "step_00000009.ckpt").write_bytes(b"half")
    assert latest(tmp_path) is None
    (tmp_path / "LATEST").write_text("step_00000003.ckpt")
    with pytest.raises(InputError, match=r"names step_00000003.ckpt, which is not in"):
        latest(tmp_path)


def test_damaged_and_future_checkpoints_are_refused(tmp_path):
    path = tmp_path / "step_00000001.ckpt"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="not a readable checkpoint"):
        read_checkpoint(path)
    torch.save({"skyframe_format": CHECKPOINT_FORMAT + 1}, path)
    expected = f"checkpoint format {CHECKPOINT_FORMAT + 1}, expected {CHECKPOINT_FORMAT}; upgrade"
    with pytest.raises(InputError, match=expected):
        read_checkpoint(path)
    torch.save([1], path)
    with pytest.raises(InputError, match="checkpoint format None"):
        read_checkpoint(path)


def test_a_folder_that_is_no_run_is_said_so(tmp_path):
    with pytest.raises(InputError, match=r"no recipe.yaml, expected a run folder"):
        load_run(tmp_path)
