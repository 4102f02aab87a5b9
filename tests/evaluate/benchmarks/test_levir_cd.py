import shutil

import numpy as np
import pytest

from skyframe.calendar import DAY_UNKNOWN
from skyframe.evaluate.benchmarks import open_dataset
from skyframe.spec import InputError
from tests.evaluate.layouts.damage import assert_told, cut, empty, remove, scribble
from tests.evaluate.layouts.levir import write_levir
from tests.evaluate.layouts.rasters import noise, write_png


@pytest.mark.parametrize("flat", [False, True])
def test_both_layouts_hold_pairs_in_time_order(tmp_path, flat):
    dataset = open_dataset("levir-cd", write_levir(tmp_path / "LEVIR-CD", flat).parent)
    assert [len(dataset.part(p)) for p in ("train", "val", "test")] == [2, 2, 2]
    sample = dataset.read(dataset.part("test")[0])
    values = sample.series["rgb"].values
    assert np.array_equal(values, np.stack([noise(3, 8, 8, seed=ord(s)) for s in "AB"]))
    assert sample.series["rgb"].day.tolist() == [DAY_UNKNOWN] * 2
    assert sample.targets["mask"].sum(1).tolist() == [8, 8, 0, 0, 0, 0, 0, 0]
    assert dataset.problems == () and dataset.source.endswith("; this copy: 6 of 637 pairs")


def test_layout_fixtures_are_read(shared_dir):
    fixtures = shared_dir / "data/layout_fixtures/levircd"
    dataset = open_dataset("levir-cd", fixtures / "levircd")
    assert [i.key for i in dataset.items] == ["train_0", "train_1", "val_0", "val_1", "test_0", "test_1"]
    plus = open_dataset("levir-cd-plus", fixtures / "levircdplus")
    assert [i.key for i in plus.part("test")] == ["test/00", "test/01"]
    assert len(plus.part("train")) + len(plus.part("val")) == 2
    for item in (*dataset.items, *plus.items):
        sample = item and (dataset if item in dataset.items else plus).read(item)
        assert sample.series["rgb"].values.shape == (2, 3, 32, 32)
        assert set(np.unique(sample.targets["mask"])) == {0, 1}


@pytest.mark.parametrize(
    ("harm", "file", "sentence"),
    [
        (remove, "label/test_1.png", "label/test_1.png is missing, expected by test item test/test_1"),
        (remove, "A/test_1.png", "A/test_1.png is missing"),
        (empty, "B/test_1.png", "B/test_1.png has 0 bytes"),
        (cut, "B/test_1.png", "B/test_1.png: not a readable image"),
        (scribble, "label/test_1.png", "label/test_1.png: not a readable image"),
        (lambda p: write_png(p, noise(3, 8, 9)), "B/test_1.png", "8 x 9 pixels, expected 8 x 8"),
        (lambda p: write_png(p, noise(7, 8)), "label/test_1.png", "7 x 8 pixels, expected 8 x 8"),
        (lambda p: shutil.rmtree(p), "", "no image of part test"),
    ],
)
def test_damage_is_told(tmp_path, harm, file, sentence):
    root = write_levir(tmp_path)
    harm(root / "test" / file)
    assert_told("levir-cd", root, sentence)


def test_another_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="neither A nor train/A in"):
        open_dataset("levir-cd", tmp_path)
