"""Training as a user runs it: learns, resumes exactly after kill -9, and is equal on one and two processes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from skyframe.spec import InputError
from skyframe.train.checkpoint import CHECKPOINT_FORMAT, latest, read_checkpoint
from skyframe.train.progress import read_metrics
from skyframe.train.run import load_run, pretrain
from tests.system.batches import NANO, nano_recipe


def overrides(earth: Path, runs: Path, name: str, *more: str) -> list[str]:
    return [*NANO, f"data.cubes=[{earth}/a,{earth}/b]", f"train.run_dir={runs}", f"name={name}", *more]


def start(earth: Path, runs: Path, name: str, *more: str) -> subprocess.Popen:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "skyframe", "pretrain", "skysense_demo", *overrides(earth, runs, name, *more)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def finish(process: subprocess.Popen) -> str:
    output = process.communicate(timeout=240)[0]
    assert process.returncode == 0, output
    return output


def weights(run: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(latest(run / "checkpoints"))["state_dict"]


def assert_equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert [k for k in left if not torch.equal(left[k], right[k])] == []


def test_a_run_leaves_recipe_metrics_tensorboard_and_a_checkpoint(earth, tmp_path):
    recipe = nano_recipe(*overrides(earth, tmp_path, "one"))
    run = pretrain(recipe, show=False)
    assert sorted(p.name for p in run.iterdir()) == ["checkpoints", "environment.json", "metrics.jsonl", "recipe.yaml", "tensorboard"]
    rows = read_metrics(run)
    assert [r["step"] for r in rows] == [1, 2, 3, 4]
    assert {"total", "loss/s2/pix", "loss/align/s2-s1", "samples_per_s", "data_wait_pct", "effective_rank/fused", "lr"} <= set(rows[0])
    saved, checkpoint = load_run(run)
    assert saved == recipe and checkpoint.name == "step_00000004.ckpt"
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
    more = [
        f"data.workers={workers}", f"train.micro_steps={micro_steps}", "train.max_steps=24", "train.checkpoint_every=3", "views.drop_frames=0.3",
    ]  # fmt: skip
    whole = start(earth, tmp_path, "whole", *more)
    finish(whole)
    when = random.Random().randint(4, 18)
    killed = start(earth, tmp_path, "killed", *more)
    run = tmp_path / "killed"
    deadline = time.monotonic() + 120
    while not any(r["step"] >= when for r in read_metrics(run)) and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    reached = int(latest(run / "checkpoints").stem.removeprefix("step_"))
    assert 3 <= reached < 24, f"killed at step {when}, saved {reached}: the run ended before the kill"
    finish(start(earth, tmp_path, "killed", *more, "resume=auto"))
    assert_equal(weights(tmp_path / "whole"), weights(run))
    left, right = ({r["step"]: r["total"] for r in read_metrics(tmp_path / n)} for n in ("whole", "killed"))
    assert left == right and len(left) == 24


@pytest.mark.slow
def test_two_processes_equal_one(earth, tmp_path):
    """DDP over gloo, four steps; the cubes hold imagery on half of their area, so ranks differ in modalities."""
    finish(start(earth, tmp_path, "one"))
    finish(start(earth, tmp_path, "two", "train.devices=2", "train.strategy=ddp", "train.accelerator=cpu"))
    one, two = ([r["total"] for r in read_metrics(tmp_path / n)] for n in ("one", "two"))
    assert len(one) == 4 and max(abs(a - b) for a, b in zip(one, two, strict=True)) < 2e-5
    left, right = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert left.keys() == right.keys()
    worst = max(float((left[k].double() - right[k].double()).abs().max()) for k in left)
    assert worst < 5e-4, worst  # Adam's first steps divide by gradients near 0; the losses above are the sharper test


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
    with pytest.raises(InputError, match=f"checkpoint format {CHECKPOINT_FORMAT + 1}, expected {CHECKPOINT_FORMAT}; upgrade"):
        read_checkpoint(path)
    torch.save([1], path)
    with pytest.raises(InputError, match="checkpoint format None"):
        read_checkpoint(path)


def test_a_folder_that_is_no_run_is_said_so(tmp_path):
    with pytest.raises(InputError, match=r"no recipe.yaml, expected a run folder"):
        load_run(tmp_path)
