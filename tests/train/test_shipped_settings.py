"""Training under the objective of the small shipped recipes: across an epoch's border, and on two processes."""

import pytest

from skyframe.config import load_recipe
from skyframe.data.datamodule import CubeDataModule
from skyframe.train.checkpoint import latest
from skyframe.train.progress import read_metrics
from skyframe.train.run import pretrain
from tests.system.batches import nano_recipe
from tests.train.runs import (
    SHIPPED,
    Killed,
    assert_equal,
    assert_near,
    finish,
    modalities_by_rank,
    overrides,
    start,
    watch_batches,
    weights,
)


@pytest.mark.parametrize("name", ["skysense_demo", "skysense_mixed", "skysense_s2s1"])
def test_the_small_recipes_ship_the_settings_that_are_tested_here(name, earth, tmp_path):
    shipped, tested = load_recipe(name), nano_recipe(*overrides(earth, tmp_path, "r", *SHIPPED))
    for recipe in (shipped, tested):
        assert (recipe.loss.cl, recipe.loss.sources, recipe.loss.student_temp) == ("infonce", ("fused",), 0.05)
        assert recipe.views.split_dates and recipe.model.fusion.positions == 0.25


@pytest.mark.parametrize(("micro_steps", "killed_in", "saved_step"), [(1, 4, 2), (2, 4, 2), (2, 5, 4)])
def test_a_run_stopped_in_one_epoch_and_finished_in_the_next_is_bit_equal(
    earth, tmp_path, monkeypatch, micro_steps, killed_in, saved_step
):
    """Epochs of four steps: resumed in the middle of the first, and at its very end."""
    more = [*SHIPPED, "data.stride_px=40", "views.drop_frames=0.3", "loss.ema_start=0.9", "optim.lr=1e-3"]
    more += ["train.max_steps=6", "train.checkpoint_every=2", f"train.micro_steps={micro_steps}"]
    whole, stopped = (nano_recipe(*overrides(earth, tmp_path, name, *more)) for name in ("whole", "stopped"))
    assert CubeDataModule(whole).plan.num_steps == 4
    with monkeypatch.context() as patch:
        passes = watch_batches(patch)
        pretrain(whole, show=False)
    done = killed_in * micro_steps - 1  # killed in the last micro-step
    with monkeypatch.context() as patch, pytest.raises(Killed):
        before = watch_batches(patch, stop_after=done)
        pretrain(stopped, show=False)
    run = tmp_path / "stopped"
    assert latest(run / "checkpoints").name == f"step_{saved_step:08d}"
    assert read_metrics(run)[-1]["step"] == killed_in - 1
    with monkeypatch.context() as patch:
        after = watch_batches(patch)
        pretrain(stopped, resume="auto", show=False)

    places, first, second = ([(w.epoch.tolist(), w.index.tolist()) for w in x] for x in (passes, before, after))
    epochs = [set(epoch) for epoch, _ in places]
    assert epochs == [{0}] * 4 * micro_steps + [{1}] * 2 * micro_steps
    assert first == places[:done] and second == places[saved_step * micro_steps :]
    assert_equal(weights(tmp_path / "whole"), weights(run))
    left, right = (
        [(r["step"], r["total"], r["epoch"]) for r in read_metrics(tmp_path / n)] for n in ("whole", "stopped")
    )
    assert left == right and [step for step, _, _ in left] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_two_processes_equal_one_under_the_shipped_settings(earth, optical_only, tmp_path):
    """InfoNCE takes its negatives from both processes, and one of them holds no SAR."""
    more = [*SHIPPED, f"data.cubes=[{earth}/a,{optical_only}]", "train.max_steps=3", "views.drop_frames=0.3"]
    recipe = nano_recipe(*overrides(earth, tmp_path, "one", *more))
    ranks = modalities_by_rank(recipe, 2)
    assert sorted(any("s1" in held for held in steps) for steps in ranks) == [False, True], ranks
    both = start(earth, tmp_path, "two", *more, "train.devices=2", "train.strategy=ddp", "train.accelerator=cpu")
    pretrain(recipe, show=False)
    finish(both)
    one, two = (read_metrics(tmp_path / n) for n in ("one", "two"))
    assert [r["step"] for r in two] == [r["step"] for r in one] == [1, 2, 3]
    for alone, together in zip(one, two, strict=True):
        terms = [k for k in alone if k == "total" or k.startswith("loss/")]
        assert {"loss/fused/pix", "loss/fused/obj", "loss/fused/img", "loss/align/s2-s1"} <= set(terms)
        for term in terms:  # written with six decimals
            assert together[term] == pytest.approx(alone[term], rel=2e-5, abs=2e-6), (alone["step"], term)
    assert_near(tmp_path / "one", tmp_path / "two", recipe, least_heard=400_000)
