"""Training as a user runs it: learns, resumes exactly after kill -9, and is equal on one and two processes."""

import json
import os
import random
import shutil
import signal
import time

import pytest
import torch

from skyframe.model.teacher import momentum_at
from skyframe.spec import InputError, find_yaml
from skyframe.system import skysense
from skyframe.train.checkpoint import latest
from skyframe.train.progress import read_metrics
from skyframe.train.run import load_run, pretrain
from tests.system.batches import nano_recipe
from tests.train.runs import (
    assert_equal,
    assert_near,
    finish,
    modalities_by_rank,
    overrides,
    saved,
    start,
    weights,
)


def test_a_run_leaves_recipe_metrics_tensorboard_and_a_checkpoint(earth, tmp_path):
    ramp = ["optim.lr=1e-3", "optim.min_lr=1e-9", "optim.warmup_steps=2", "loss.ema_start=0.5", "loss.ema_end=0.9"]
    recipe = nano_recipe(*overrides(earth, tmp_path, "one", *ramp))
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
    assert [r["lr"] for r in rows] == pytest.approx([5e-4, 1e-3, 1e-3, 5e-4], abs=2e-6)  # as each step took it
    assert [r["ema_momentum"] for r in rows] == pytest.approx([momentum_at(s / 4, 0.5, 0.9) for s in (1, 2, 3, 4)])
    stored, checkpoint = load_run(run)
    assert stored == recipe and checkpoint.name == "step_00000004"
    assert json.loads((run / "environment.json").read_text())["torch"] == torch.__version__


def test_health_is_worked_out_for_logged_rows_alone(earth, tmp_path, monkeypatch):
    asked, rank = [], skysense.effective_rank
    monkeypatch.setattr(skysense, "effective_rank", lambda rows: asked.append(len(rows)) or rank(rows))
    rows, calls = {}, {}
    for every in (1, 4):
        words = [f"train.log_every={every}", "train.micro_steps=2", "optim.lr=1e-3"]
        run = pretrain(nano_recipe(*overrides(earth, tmp_path, f"every_{every}", *words)), show=False)
        rows[every], calls[every] = read_metrics(run), len(asked)
        asked.clear()
    assert [r["step"] for r in rows[4]] == [4]
    assert 0 < calls[4] <= 4 < calls[1] <= 16  # four sources where they are seen, four steps of two passes each
    health = ("effective_rank/", "feature_std/", "teacher_agreement/")
    begun, ended, alone = (
        {k: v for k, v in r.items() if k.startswith(health)} for r in (rows[1][0], rows[1][3], rows[4][0])
    )
    assert ended == alone != begun


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
@pytest.mark.parametrize(("workers", "micro_steps", "inside"), [(0, 1, False), (2, 2, True)])
def test_kill_dash_nine_at_a_random_step_or_in_a_save_then_resume_is_bit_equal(
    earth, tmp_path, workers, micro_steps, inside
):
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
    while inside and killed.poll() is None and not any((run / "checkpoints").glob("step_*.tmp")):
        pass  # a save lasts some hundredths of a second
    os.killpg(killed.pid, signal.SIGKILL)
    output = killed.communicate()[0]
    assert any((run / "checkpoints").glob("step_*.tmp")) or not inside
    newest = latest(run / "checkpoints")
    assert newest is not None, f"never reached step {when}: {output}"
    reached = int(newest.name.removeprefix("step_"))
    assert 3 <= reached < 40, f"killed at step {when}, saved {reached}: the run ended before the kill"
    finish(start(earth, tmp_path, "killed", *more, "resume=auto"))
    assert saved(tmp_path / "whole")["modalities"] == saved(run)["modalities"], "the spec was edited during this test"
    assert_equal(weights(tmp_path / "whole"), weights(run))
    left, right = ({r["step"]: r["total"] for r in read_metrics(tmp_path / n)} for n in ("whole", "killed"))
    assert left == right and len(left) == 40


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
    assert_near(tmp_path / "one", tmp_path / "two", recipe, least_heard=300_000)

    run = tmp_path / "two"
    uninterrupted = weights(run)
    shutil.rmtree(run / "checkpoints" / "step_00000004")  # as if killed before it was written
    (run / "checkpoints" / "LATEST").write_text("step_00000002")
    finish(start(earth, tmp_path, "two", *ddp, "resume=auto"))
    assert_equal(uninterrupted, weights(run))
    assert [(r["step"], r["total"]) for r in read_metrics(run)] == [(r["step"], r["total"]) for r in two]


def test_a_run_is_not_resumed_on_another_spec_or_other_cubes(earth, tmp_path):
    spec = tmp_path / "own.yaml"
    spec.write_text(find_yaml("data_specs", "simulated_earth").read_text())
    cubes = tmp_path / "cubes"
    cubes.mkdir()
    (cubes / "a").symlink_to(earth / "a")
    recipe = nano_recipe(
        f"data.cubes=[{cubes}/*]", f"data.spec={spec}", f"train.run_dir={tmp_path}", "name=r", "train.max_steps=2",
        "train.checkpoint_every=1",
    )  # fmt: skip
    pretrain(recipe, show=False)
    before = weights(tmp_path / "r")
    shutil.rmtree(tmp_path / "r" / "checkpoints" / "step_00000002")  # as if killed before it was written
    (tmp_path / "r" / "checkpoints" / "LATEST").write_text("step_00000001")
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


def test_a_folder_that_is_no_run_is_said_so(tmp_path):
    with pytest.raises(InputError, match=r"no recipe.yaml, expected a run folder"):
        load_run(tmp_path)
