"""Tasks scored one after another: what goes wrong with one of them is a sentence."""

import dataclasses
from pathlib import Path

import pytest

from skyframe.config.evaluate import DataConfig, KnnConfig, SimulatedData, Suite, TaskConfig
from skyframe.data.cube import open_cube
from skyframe.evaluate import during, run
from skyframe.evaluate.during import Plan, open_plan, score_baselines, score_step
from skyframe.evaluate.protocol import Subject, read_rows
from skyframe.evaluate.scores import read_scores
from skyframe.spec import InputError
from tests.evaluate.worlds import SeasonEncoder, contract, labelled_cube


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("during")
    labelled_cube(root / "train", 1, 640.0)
    labelled_cube(root / "test", 2, 640.0)
    return root


def plan_of(world: Path, **more: TaskConfig) -> Plan:
    data = SimulatedData((f"{world}/train",), (f"{world}/test",), 24, 8, 24, block_px=16, positions=4)
    tasks = {"cover": TaskConfig("simulated", "scene", "land_cover"), **more}
    suite = Suite("t", DataConfig(data), tasks, protocols=("knn", "segment"), knn=KnnConfig(3, also=()), bootstrap=20)
    return open_plan(suite, None)


def season(world: Path, **more) -> Subject:
    return Subject("teacher", SeasonEncoder(contract(open_cube(world / "train")), **more))


def test_a_task_that_fails_is_a_sentence_and_the_others_are_scored(world, tmp_path, monkeypatch):
    plan, told = plan_of(world, alike=TaskConfig("simulated", "pixel", "land_cover")), []
    assert [t.protocols for t in plan.tasks.values()] == [("knn",), ("knn",)]  # heads are trained after the run
    make = run.make_target

    def broken(name, *more):
        if name == "alike":
            raise RuntimeError("two\nlines")
        return make(name, *more)

    monkeypatch.setattr(run, "make_target", broken)
    found = score_step(plan, season(world), tmp_path, 5, tell=told.append)
    assert found.failures == ["task alike: RuntimeError: two lines"] and found.whole
    assert [r.task for r in found.rows] == ["cover"] and told == ["cover (1 of 2)", "alike (2 of 2)"]
    assert [(s.step, s.task) for s in read_scores(tmp_path)] == [(5, "cover")]


def test_rows_of_other_weights_and_a_row_that_a_kill_cut_off_are_not_taken(world, tmp_path):
    plan = plan_of(world)
    first = score_step(plan, season(world), tmp_path, 5).rows
    other = score_step(plan, season(world, scale=0.0), tmp_path, 5).rows
    assert len(first) == len(other) == 1 and first[0].weights_sha256 != other[0].weights_sha256
    assert read_rows(tmp_path / "step_00000005/results.csv") == other
    with (tmp_path / "step_00000005/rank_00000/results.csv").open("a") as file:
        file.write("t,cover,sce")
    again = score_step(plan, season(world), tmp_path, 5).rows
    assert [r.value for r in again] == [r.value for r in first]


def test_what_is_left_early_is_not_kept(world, tmp_path):
    found = score_step(plan_of(world), season(world), tmp_path, 5, enough=lambda: True)
    assert not found.whole and read_scores(tmp_path) == []
    assert not score_baselines(plan_of(world), season(world), tmp_path, enough=lambda: True).whole
    assert not (tmp_path / "baselines/results.csv").exists()


def test_scores_that_cannot_be_written_are_told(world, tmp_path):
    (tmp_path / "scores.jsonl").write_text("edited\n")
    found = score_step(plan_of(world), season(world), tmp_path, 5)
    assert len(found.failures) == 1 and "line 1 is no score" in found.failures[0]


def test_a_suite_without_frozen_features_is_refused(world, monkeypatch):
    boxes = dataclasses.replace(plan_of(world).tasks["cover"], kind="boxes", protocols=("detect",))
    monkeypatch.setattr(during, "open_tasks", lambda suite, data: {"cover": boxes})
    with pytest.raises(InputError, match=r"suite t: no task is scored on frozen features, expected one such as knn"):
        plan_of(world)
