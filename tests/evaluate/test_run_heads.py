"""Heads within a suite: rows, logs and maps, resumed without a step, and what cannot train is left out."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from skyframe.config.detection import DetectionConfig
from skyframe.config.evaluate import Suite, TaskConfig
from skyframe.config.heads import HeadSpec, HeadTraining
from skyframe.evaluate import run_heads
from skyframe.evaluate import task as task_module
from skyframe.evaluate.protocol import Subject
from skyframe.evaluate.report.log_view import maps_of
from skyframe.evaluate.suite import evaluate
from skyframe.export.folder import Exported
from skyframe.spec import InputError
from tests.evaluate import toy

TINY = HeadTraining(HeadSpec("token_linear"), lr=0.2, epochs=12, batch=4, side=8, flips=False)
TUNED = dataclasses.replace(TINY, encoder="tunable", lr=1e-3, epochs=1)


@pytest.fixture
def scored(monkeypatch, tmp_path):
    def run(data, subject=None, **changes):
        monkeypatch.setattr(task_module, "open_dataset", lambda name, root: data)
        task = {"metrics": (), "protocols": ("tiny",), **changes.pop("task", {})}
        suite = Suite("h", tasks={"t": TaskConfig("toy", **task)}, heads={"tiny": TINY, "tuned": TUNED}, bootstrap=50)
        subject = subject or Subject("pixels", toy.Pixels(toy.contract()))
        return evaluate(dataclasses.replace(suite, **changes), [subject], tmp_path, False, tmp_path)

    return run


def test_a_head_learns_is_logged_and_is_not_trained_twice(scored, monkeypatch):
    outcome = scored(toy.dataset("pixel"), task={"metrics": ("miou", "accuracy", "iou:bright")})
    rows = {(r.encoder, r.metric): r for r in outcome.rows}
    best = rows["pixels", "miou"]
    assert best.value > 0.9 and best.lo <= best.value <= best.hi
    assert {e for e, _ in rows} == {"pixels", "raw_pixels"}
    assert (best.protocol, best.num_clusters, best.num_test) == ("tiny", 8, 8 * 144)
    assert "head=token_linear encoder=frozen" in best.chosen and json.loads(best.config)["numbers"]["lr"] == 0.2
    log = json.loads(Path(best.log).read_text())
    assert len(log["history"]) == 12 and np.sum(log["confusion_true_by_predicted"]) == best.num_test
    maps = maps_of(Path(best.log), "tiny")
    assert len(maps) == 4 and maps[0].truth.shape == (12, 12) and maps[0].picture.shape == (12, 12, 3)
    agree = np.mean([(m.truth == m.predicted).mean() for m in maps])
    assert agree == pytest.approx(rows["pixels", "accuracy"].value, abs=0.1)

    monkeypatch.setattr(run_heads, "train_head", lambda *_: pytest.fail("trained again"))
    again = scored(toy.dataset("pixel"), task={"metrics": ("miou", "accuracy", "iou:bright")})
    assert again.num_new == 0 and {r.key for r in again.rows} == {r.key for r in outcome.rows}


def test_every_kind_has_its_measure(scored, tmp_path):
    for kind, metric, dates in (("change", "f1", 2), ("semantic_change", "scs", 2), ("scene", "accuracy", 1)):
        rows = scored(toy.dataset(kind, dates=dates), task={"metrics": (metric,)}).rows
        row = next(r for r in rows if r.encoder == "pixels" and r.level == kind)
        assert 0 <= row.value <= 1 and row.metric == metric
    row = next(r for r in scored(toy.dataset("regression")).rows if r.level == "regression" and r.encoder == "pixels")
    assert row.metric == "rmse" and 0 < row.value < 30


def test_few_labels_train_on_fewer_items_and_say_so_in_the_split(scored):
    whole = scored(toy.dataset("pixel")).rows
    tenth = scored(toy.dataset("pixel"), task={"label_share": 0.1}).rows
    assert {r.split_sha256 for r in whole}.isdisjoint(r.split_sha256 for r in tenth)


def test_a_tunable_encoder_trains_a_copy_and_raw_pixels_stand_aside(scored):
    encoder = Exported(toy.spatial(), toy.contract())
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    rows = scored(toy.dataset("pixel"), Subject("vit", encoder), task={"protocols": ("tuned",)}).rows
    assert {r.encoder for r in rows} == {"vit"}
    assert all((v == before[k]).all() for k, v in encoder.state_dict().items())


def test_protocols_of_another_kind_are_refused(scored):
    with pytest.raises(InputError, match=r"tasks.t: protocols \['detector'\], expected some of knn, linear, logistic"):
        scored(toy.dataset("pixel"), task={"protocols": ("detector",)})
    with pytest.raises(InputError, match=r"tasks.t: protocols \['knn', 'linear'\], expected some of .*pangaea.*change"):
        scored(toy.dataset("change", dates=2), task={"protocols": ()})
    assert isinstance(Suite("x").training("detector"), DetectionConfig)
