"""Every data set of `DATASETS` and one's own: read, a head trained, scored; then damaged, refused or scored as less."""

import dataclasses
import importlib.util
import math
from pathlib import Path

import pytest

from benchmarks.datasets_table import layouts
from skyframe.config.evaluate import check_kind, load_suite
from skyframe.evaluate.benchmarks import DATASETS, geobench1, geobench2
from skyframe.evaluate.task import open_tasks
from skyframe.spec import InputError
from tests.evaluate.every_dataset import CASES, break_one, encoder, real_cases, score

REAL = ("eopatch-land-cover",)
SUITES = [load_suite(p) for p in sorted(Path("recipes/eval").glob("*.yaml")) if p.stem != "published"]


@pytest.fixture(scope="module")
def model():
    return encoder()


def test_no_data_set_is_left_out():
    assert {*CASES, *REAL} - {"mine"} == set(DATASETS)
    assert set(layouts()) - {"mine", "mine.yaml"} == set(DATASETS), "docs/benchmarks.md lists layouts by name"


def test_geobench_suites_find_their_sets_below_one_folder(tmp_path):
    for name in geobench1.ABOUT:
        CASES[name].write(tmp_path)
    tasks = open_tasks(load_suite("geobench"), tmp_path)
    assert {t.dataset.name for t in tasks.values()} == set(geobench1.ABOUT)
    assert {t.kind: t.protocols for t in tasks.values()} == {
        "multilabel": ("knn", "linear"), "scene": ("knn", "linear"), "pixel": ("frozen_upernet",)
    }  # fmt: skip
    pytest.importorskip("tacoreader", reason="GEO-Bench v2 is read through tacoreader, an optional package")
    for name in geobench2.ABOUT:
        CASES[f"gb2-{name.replace('_', '-')}"].write(tmp_path)
    assert len(open_tasks(load_suite("geobench2"), tmp_path)) == 7
    assert [*open_tasks(load_suite("geobench2", ["select=[caffe]"]), tmp_path)] == ["caffe"]


@pytest.mark.parametrize("name", [*CASES, *REAL])
def test_read_scored_damaged_and_refused(name, model, tmp_path, request):
    if name.startswith("gb2-") and importlib.util.find_spec("tacoreader") is None:
        pytest.skip("GEO-Bench v2 is read through tacoreader, an optional package")
    case = CASES[name] if name in CASES else real_cases(request.getfixturevalue("shared_dir"))[name]
    root = tmp_path / "data"
    root.mkdir()
    case.write(root)
    whole = score(name, case, root, tmp_path / "whole", model)
    assert math.isfinite(whole.value) and 0 <= whole.lo <= whole.value <= whole.hi
    assert whole.num_test == case.num_test
    for suite in SUITES:
        for task in (t for t in suite.tasks.values() if t.benchmark == name):
            check_kind(suite, task, whole.level, suite.name)
    assert whole.source.startswith(name) and len(whole.split_sha256) == 16

    broken = break_one(name, case, root)
    with pytest.raises(InputError) as refused:
        score(name, dataclasses.replace(case, part=False), root, tmp_path / "damaged", model)
    sentence = str(refused.value)
    assert name in sentence and broken.stem in sentence and "\n" not in sentence

    try:
        less = score(name, dataclasses.replace(case, part=True), root, tmp_path / "less", model)
    except InputError as error:
        assert name in str(error) and "\n" not in str(error)
    else:
        assert math.isfinite(less.value) and less.split_sha256 != whole.split_sha256
