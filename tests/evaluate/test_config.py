from pathlib import Path

import pytest
import yaml

from skyframe.config.evaluate import load_suite
from skyframe.evaluate.benchmarks import DATASETS
from skyframe.spec import InputError

SUITE = {
    "name": "t",
    "data": {"simulated": {"train": ["a"], "test": ["b"]}},
    "tasks": {"crops": {"benchmark": "simulated", "label": "crop_type"}},
}


def write(tmp_path, **changes):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**SUITE, **changes}))
    return path


SHIPPED = sorted(p.stem for p in Path("recipes/eval").glob("*.yaml") if p.stem != "published")


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_suites_load(name):
    suite = load_suite(name)
    assert suite.name == name
    assert {t.benchmark for t in suite.tasks.values()} <= {"simulated", *DATASETS}
    assert suite.linear.lrs == (1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1, 5e-1)
    assert (suite.linear.epochs, suite.linear.warmup, suite.knn.k, suite.knn.temperature) == (50, 0.1, 20, 0.07)
    assert (suite.bootstrap, suite.knn.also) == (1000, (5, 10, 100, 200))


def test_overrides_reach_any_depth_and_select_keeps_the_suites_order():
    suite = load_suite(
        "quick", ["seeds=[0, 1]", "data.simulated.train_windows=10", "select=[crop_type_pixel, land_cover_scene]"]
    )
    assert suite.seeds == (0, 1)
    assert suite.data.simulated is not None
    assert suite.data.simulated.train_windows == 10
    assert list(suite.selected) == ["land_cover_scene", "crop_type_pixel"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("protocol=[knn]", "mine.yaml: unknown key 'protocol'; did you mean 'protocols'"),
        ("protocols=[svm]", "mine.yaml: tasks.crops: protocols .'svm'., expected some of knn, linear, logistic"),
        ("select=[crop]", "mine.yaml: select names 'crop', expected some of crops; did you mean 'crops'"),
        ("tasks.crops.metrics=[f1]", "tasks.crops: metrics .'f1'., expected some of accuracy"),
        ("tasks.crops.label_share=1.5", "tasks.crops: label_share is 1.5, expected a share above 0"),
        ("tasks.crops.min_share=0", "tasks.crops: min_share is 0.0, expected a share above 0"),
        ("tasks.crops.clear_frames=-1", "tasks.crops: clear_frames is -1, expected 0 or more dates"),
        ("tasks.crops.label=", "tasks.crops.label: expected str, got None"),
        ("tasks.crops.protocols=[ridge]", "tasks.crops: protocols .'ridge'., expected some of knn, linear, logistic"),
        ("tasks.crops.side=-1", "tasks.crops: side is -1, expected 0 or more"),
        ("tasks.crops.limit={trian: 5}", "tasks.crops: limit .* expected at least 1 item of train, val or test"),
        ("tasks.crops.normalisers=[auto, auto]", "tasks.crops: .*different normalisers"),
        ("logistic.iterations=0", "logistic.iterations is 0, expected at least 1"),
        ("data.simulated.window_px=100", "window_px 100 is larger than block_px 64"),
        ("data.simulated.test=[]", "data.simulated.test is empty, expected paths of cubes"),
        ("data.simulated.val_share=1.0", "val_share is 1.0, expected a share between 0 and 1"),
        ("seeds=[0, 0]", "seeds is .0, 0., expected at least one value and none twice"),
        ("bootstrap=0", "bootstrap is 0, expected at least 1"),
        ("knn.temperature=0", "knn.temperature is 0.0, expected a positive number"),
    ],
)
def test_wrong_values_are_named(tmp_path, override, message):
    with pytest.raises(InputError, match=message):
        load_suite(write(tmp_path), [override])


def test_a_suite_without_tasks_or_with_a_task_of_mixed_kind_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"tasks is empty, expected at least one"):
        load_suite(write(tmp_path, tasks={}))
    tasks = {"rgb": {"benchmark": "eurosat-rgb", "clear_frames": 1}}
    with pytest.raises(InputError, match=r"clear_frames and part belong to the simulated Earth, not to eurosat-rgb"):
        load_suite(write(tmp_path, tasks=tasks))
    with pytest.raises(InputError, match=r"benchmark 'simulated' has no entry under data; add data.simulated"):
        load_suite(write(tmp_path, data={}))
    with pytest.raises(InputError, match=r"label is empty, expected a truth layer"):
        load_suite(write(tmp_path, tasks={"crops": {"benchmark": "simulated"}}))
