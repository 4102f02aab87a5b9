import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from skyframe.config.evaluate import DataConfig, LinearConfig, SimulatedData, Suite, TaskConfig
from skyframe.data.cube import open_cube
from skyframe.evaluate.protocol import Subject, read_rows
from skyframe.evaluate.record import simulated_fingerprint
from skyframe.evaluate.suite import evaluate
from skyframe.sample import Batch, Features
from skyframe.spec import InputError
from tests.evaluate.worlds import SeasonEncoder, contract, labelled_cube


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("suite")
    labelled_cube(root / "train_1.zarr", 1, 1280.0)
    labelled_cube(root / "test_2.zarr", 2, 1280.0)
    return root


def suite(world, **changes):
    data = SimulatedData((f"{world}/train_*",), (f"{world}/test_*",), 120, 40, 60, positions=6)
    tasks = {
        "crops": TaskConfig("simulated", "pixel", "crop_type", metrics=("accuracy", "miou")),
        "cover": TaskConfig("simulated", "scene", "land_cover"),
    }
    made = Suite("t", DataConfig(data), tasks, linear=LinearConfig(epochs=10), bootstrap=200)
    return dataclasses.replace(made, **changes)


def subjects(world, seed=0):
    given = contract(open_cube(world / "train_1.zarr"))
    return [
        Subject("season", SeasonEncoder(given, seed=seed)),
        Subject("flat", SeasonEncoder(given, scale=0.0), "random"),
    ]


class ConstantContext(SeasonEncoder):
    """Features of the season, and two columns of context that are the same everywhere."""

    def encode(self, batch: Batch) -> Features:
        fused = super().encode(batch).fused
        fused = torch.cat([fused, torch.ones_like(fused[..., :2])], -1)
        return Features(fused, fused.mean(1), context_dims=2)


def test_scores_stand_beside_their_baselines_with_everything_needed_to_compare(world, tmp_path):
    outcome = evaluate(suite(world), subjects(world), tmp_path, False)
    rows = {(r.task, r.protocol, r.metric, r.encoder): r for r in outcome.rows}
    best, flat = rows["crops", "linear", "accuracy", "season"], rows["crops", "linear", "accuracy", "flat"]
    raw, majority = rows["crops", "knn", "accuracy", "raw_pixels"], rows["crops", "majority", "accuracy", "majority"]
    assert best.value > 0.85 > flat.hi
    assert raw.value > 0.85
    assert flat.value == pytest.approx(majority.value, abs=0.2)
    assert best.lo < best.value < best.hi
    assert best.chosen in best.grid.replace("lr={", "lr=") or best.chosen.startswith("lr=")
    assert "pooling=none" in best.chosen and "standardise={no,yes}" in best.grid
    assert rows["cover", "linear", "accuracy", "season"].chosen.split("pooling=")[1] in ("mean", "max")
    assert rows["crops", "knn", "accuracy", "season"].chosen == "k=20 T=0.07 L2-normalised pooling=none"
    assert {("crops", f"knn_k{k}", "miou", "season") in rows for k in (5, 10, 100, 200)} == {True}
    assert (best.num_clusters, best.normaliser, best.level) == (4, "pretraining", "pixel")
    assert best.split_sha256 == raw.split_sha256
    assert (
        len({best.config_sha256, raw.config_sha256, rows["cover", "linear", "accuracy", "season"].config_sha256}) == 3
    )
    assert "torch" in best.versions and best.seconds > 0 and best.peak_memory_mb > 50


def test_log_tells_every_choice_on_validation_and_the_confusion(world, tmp_path):
    outcome = evaluate(suite(world, select=("crops",)), subjects(world)[:1], tmp_path, False)
    row = next(r for r in outcome.rows if r.protocol == "linear" and r.encoder == "season")
    log = json.loads(Path(row.log).read_text())
    entry = log["protocols"][0]
    assert log["classes"] == ["wheat", "maize"]
    assert len(entry["validation"]) == 8 * 2
    assert entry["validation"][row.chosen] == max(entry["validation"].values())
    assert sum(map(sum, entry["confusion_true_by_predicted"])) == row.num_test == sum(log["units"]["test"])


def test_predictions_are_kept_beside_the_log(world, tmp_path):
    outcome = evaluate(suite(world, select=("crops",)), subjects(world)[:1], tmp_path, False)
    for row in (r for r in outcome.rows if r.metric == "accuracy" and r.encoder != "majority"):
        with np.load(Path(row.log).with_suffix(".npz")) as kept:
            assert (kept["truth"] == kept[row.protocol]).mean() == pytest.approx(row.value)
            assert len(np.unique(kept["unit"])) == row.num_test
            assert len(np.unique(kept["cluster"])) == row.num_clusters


def test_region_context_is_scored_alone(world, tmp_path):
    tasks = {
        "all": TaskConfig("simulated", "pixel", "crop_type"),
        "context": TaskConfig("simulated", "pixel", "crop_type", part="context"),
    }
    given = contract(open_cube(world / "train_1.zarr"))
    placed = [Subject("placed", ConstantContext(given))]
    outcome = evaluate(suite(world, tasks=tasks, protocols=("linear",)), placed, tmp_path, False)
    found = {(r.task, r.encoder): r.value for r in outcome.rows}
    assert found["all", "placed"] > 0.85
    assert found["context", "placed"] < 0.75  # a constant context says nothing
    assert ("context", "raw_pixels") not in found and ("all", "raw_pixels") in found
    again = evaluate(suite(world, tasks=tasks, protocols=("linear",)), placed, tmp_path, False)
    assert again.num_new == 0
    with pytest.raises(InputError, match=r"part: context: the encoder's features hold no region context"):
        evaluate(suite(world, tasks=tasks, select=("context",)), subjects(world), tmp_path / "b", False)


def test_a_second_call_computes_nothing_and_a_change_computes_what_it_touches(world, tmp_path):
    first = evaluate(suite(world), subjects(world), tmp_path, False)
    again = evaluate(suite(world), subjects(world), tmp_path, False)
    assert again.num_new == 0
    assert {r.key for r in again.rows} == {r.key for r in first.rows}
    assert len(first.rows) == len({r.key for r in first.rows}) == len(read_rows(first.csv))
    other = evaluate(suite(world), subjects(world, seed=5), tmp_path, False)
    assert {r.encoder for r in read_rows(first.csv)[len(first.rows) :]} == {"season"}
    assert {r.weights_sha256 for r in other.rows if r.encoder == "season"}.isdisjoint(
        r.weights_sha256 for r in first.rows
    )
    longer = suite(world, linear=LinearConfig(epochs=11))
    changed = evaluate(longer, subjects(world), tmp_path, False)
    assert {r.protocol for r in read_rows(first.csv)[-changed.num_new :]} == {"linear"}


def test_an_interrupted_run_goes_on_where_it_stopped(world, tmp_path):
    whole = evaluate(suite(world), subjects(world), tmp_path / "a", False)
    (tmp_path / "b").mkdir()
    lines = whole.csv.read_text().splitlines(keepends=True)
    (tmp_path / "b" / "results.csv").write_text("".join(lines[:15]))
    rest = evaluate(suite(world), subjects(world), tmp_path / "b", False)
    assert 0 < rest.num_new < len(whole.rows)
    assert {(r.key, r.value, r.lo) for r in rest.rows} == {(r.key, r.value, r.lo) for r in whole.rows}


def test_seeds_draw_other_windows_and_alarms_are_raised(world, tmp_path):
    outcome = evaluate(
        suite(world, seeds=(0, 1), select=("cover",), protocols=("knn",)), subjects(world)[1:], tmp_path, False
    )
    rows = [r for r in outcome.rows if r.encoder == "flat" and r.protocol == "knn"]
    assert [r.seed for r in rows] == [0, 1]
    assert rows[0].split_sha256 != rows[1].split_sha256
    collapsed = [Subject("flat", subjects(world)[1].encoder)]
    found = evaluate(suite(world, select=("cover",), protocols=("knn",)), collapsed, tmp_path / "c", False)
    assert {"below_pixels", "collapsed"} <= {a.kind for a in found.alarms}


def test_sar_keeps_the_score_under_cloud(world, tmp_path):
    crops = TaskConfig("simulated", "pixel", "crop_type", clear_frames=1)
    tasks = {"cloudy": crops, "cloudy_s2": dataclasses.replace(crops, modalities=("s2",))}
    outcome = evaluate(suite(world, tasks=tasks, protocols=("linear",)), subjects(world)[:1], tmp_path, False)
    value = {r.task: r for r in outcome.rows if r.encoder == "season"}
    assert value["cloudy"].value > value["cloudy_s2"].hi
    assert "only s2, at most 1 clear optical dates" in value["cloudy_s2"].source


def test_wrong_calls_are_named(world, tmp_path):
    with pytest.raises(InputError, match=r"suite t: no encoder given"):
        evaluate(suite(world), [], tmp_path, False)
    with pytest.raises(InputError, match=r"encoder names raw_pixels, raw_pixels, expected different ones"):
        evaluate(suite(world), [Subject("raw_pixels", subjects(world)[0].encoder)], tmp_path, False)
    empty = TaskConfig("simulated", "scene", "land_cover", ignore=(0, 1))
    with pytest.raises(
        InputError, match=r"task one: .* units and 1 training classes carry a label, expected some of each"
    ):
        evaluate(suite(world, tasks={"one": empty}), subjects(world), tmp_path, False)
    assert not (tmp_path / "results.csv").exists()


def test_fingerprint_follows_the_data_and_not_its_place(world, tmp_path):
    here = simulated_fingerprint(suite(world).data.simulated)
    for name in ("train_1.zarr", "test_2.zarr"):
        (tmp_path / name).symlink_to(world / name)
    assert simulated_fingerprint(suite(tmp_path).data.simulated) == here
    (tmp_path / "test_2.zarr").unlink()
    labelled_cube(tmp_path / "test_2.zarr", 3, 640.0)
    assert simulated_fingerprint(suite(tmp_path).data.simulated) != here


def test_real_eurosat_chips_from_end_to_end(shared_dir, tmp_path):
    task = TaskConfig("eurosat-rgb", root="EuroSAT", limit={"train": 120, "val": 40, "test": 40}, side=16, tiles=1)
    made = Suite("rgb", tasks={"rgb": task}, linear=LinearConfig(epochs=5), bootstrap=100)
    season = Subject("season", SeasonEncoder(contract()))
    outcome = evaluate(made, [season], tmp_path, False, shared_dir / "data")
    rows = {(r.encoder, r.protocol): r for r in outcome.rows}
    assert rows["raw_pixels", "linear"].value > 2 * rows["majority", "majority"].value
    assert rows["season", "knn"].normaliser == "dataset"
    assert rows["season", "knn"].num_clusters == rows["season", "knn"].num_test
