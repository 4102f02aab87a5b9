"""Jumps of the loss and collapse of features, seen in the rows of a run."""

import math

import pytest

from skyframe.spec import InputError
from skyframe.system import SkySense
from skyframe.train.checkpoint import latest
from skyframe.train.progress import read_metrics
from skyframe.train.run import pretrain
from skyframe.train.trends import spreads_above
from tests.train.test_guards import raise_loss, recipe_of


def test_spreads_by_hand():
    before = [1.0, 2.0, 3.0, 4.0, 100.0]  # median 3, distances 2, 1, 0, 1, 97: median 1
    assert spreads_above(3.0 + 1.4826 * 8, before) == pytest.approx(8)
    assert spreads_above(3.0 - 1.4826, before) == pytest.approx(-1)
    assert spreads_above(5.5, [5.0] * 5) == pytest.approx(0.5 / 0.1)  # 2 % of the median, where nothing varies
    assert math.isfinite(spreads_above(1.0, [0.0] * 5))


def test_a_jump_is_told_once_or_ends_the_run_before_it_is_saved(earth, tmp_path, monkeypatch, capsys):
    raise_loss(monkeypatch, (6,))
    pretrain(recipe_of(earth, tmp_path, "warned", "train.max_steps=8"), show=False)
    said = capsys.readouterr().err
    assert said.count("the loss jumped") == 1 and "warning: step 7: the loss jumped to" in said
    with pytest.raises(InputError, match=r"step 7: the loss jumped to .*; lower optim\.lr or optim\.clip_norm"):
        pretrain(recipe_of(earth, tmp_path, "ended", "train.max_steps=8", "train.guards.on_spike=stop"), show=False)
    assert latest(tmp_path / "ended" / "checkpoints").name == "step_00000006"


def flatten(patch: pytest.MonkeyPatch) -> None:
    """An objective that is least where all features are the same, in place of telling teacher from student."""

    def spread(self, pairs, drop):
        far = sum((p.student - p.student.mean((0, 1, 2))).square().mean() for p in pairs.values())
        return {f"{name}/{level}": far for name in self.heads for level in self.config.granularity}

    patch.setattr(SkySense, "_contrastive", spread)


def test_collapse_is_noticed_in_three_rows_while_the_loss_falls(earth, tmp_path, monkeypatch, capsys):
    flatten(monkeypatch)
    more = ["train.max_steps=12", "optim.lr=3e-3", "loss.ema_start=0", "loss.ema_end=0", "loss.beta=0"]
    pretrain(recipe_of(earth, tmp_path, "warned", "train.checkpoint_every=12", *more), show=False)
    said = capsys.readouterr().err
    rows = read_metrics(tmp_path / "warned")
    low = [r["step"] for r in rows if r["feature_std/fused"] < 0.02]
    assert 2 < low[0] < 10 and low[:3] == [low[0], low[0] + 1, low[0] + 2]
    assert said.count("features of fused have collapsed") == 1
    assert f"warning: step {low[2]}: features of fused have collapsed: feature_std 0.0" in said
    totals = [r["total"] for r in rows[: low[2]]]
    assert totals[-1] < 0.5 * totals[0] and rows[0]["feature_std/fused"] > 0.3
    with pytest.raises(InputError, match=rf"step {low[2]}: features of fused have collapsed"):
        pretrain(recipe_of(earth, tmp_path, "ended", "train.guards.on_collapse=stop", *more), show=False)
    assert [r["step"] for r in read_metrics(tmp_path / "ended")] == list(range(1, low[2] + 1))
    assert latest(tmp_path / "ended" / "checkpoints").name == f"step_{low[2] - 1:08d}"
