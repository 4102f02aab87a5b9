import numpy as np
import pytest

from skyframe.evaluate.benchmarks import open_dataset, potsdam
from skyframe.spec import InputError
from tests.evaluate.layouts.damage import assert_told, cut, empty, remove, scribble
from tests.evaluate.layouts.potsdam import write_potsdam
from tests.evaluate.layouts.rasters import noise, write_tif


def test_published_split_has_24_and_14_tiles_that_differ():
    assert (len(set(potsdam.TRAIN)), len(set(potsdam.TEST))) == (24, 14)
    assert not set(potsdam.TRAIN) & set(potsdam.TEST)


@pytest.mark.parametrize("labels", ["5_Labels_all", ""])
def test_windows_cover_each_tile_once_in_either_place_of_the_labels(tmp_path, monkeypatch, labels):
    monkeypatch.setattr(potsdam, "WINDOW_PX", 16)
    dataset = open_dataset("potsdam", write_potsdam(tmp_path, labels))
    assert len(dataset.items) == 3 * 4  # 24 x 20 pixels in windows of 16
    assert dataset.class_counts("train") == {}
    seen = np.zeros((24, 20), int)
    for item in dataset.part("test"):
        y, x, h, w = item.about["window"]
        seen[y : y + h, x : x + w] += 1
        sample = dataset.read(item)
        assert sample.series["rgb"].values.shape == (1, 4, h, w)
        assert sample.targets["mask"].tolist() == [[1 if x + c == 0 else 4 for c in range(w)]] * h
    assert (seen == 1).all()
    assert {i.cluster for i in dataset.part("test")} == {"5_15"}
    assert dataset.problems == () and dataset.source.endswith("; this copy: 3 of 38 tiles")


def test_pixels_of_a_window_are_those_of_the_tile(tmp_path, monkeypatch):
    monkeypatch.setattr(potsdam, "WINDOW_PX", 16)
    dataset = open_dataset("potsdam", write_potsdam(tmp_path))
    item = next(i for i in dataset.items if i.key == "5_15/16_16")
    assert np.array_equal(dataset.read(item).series["rgb"].values[0], noise(4, 24, 20)[:, 16:, 16:])


def test_torchgeo_layout_fixture_is_read(shared_dir):
    dataset = open_dataset("potsdam", shared_dir / "data/layout_fixtures/potsdam")
    assert sorted(i.key for i in dataset.items) == ["2_10/0_0", "2_11/0_0", "5_15/0_0", "6_15/0_0"]
    assert [i.key for i in dataset.part("test")] == ["5_15/0_0", "6_15/0_0"]
    assert dataset.read(dataset.items[0]).targets["mask"].tolist() == [[5, 0], [1, 2]]


MASK, IMAGE = "5_Labels_all/top_potsdam_5_15_label.tif", "4_Ortho_RGBIR/top_potsdam_5_15_RGBIR.tif"


@pytest.mark.parametrize(
    ("harm", "file", "sentence"),
    [
        (remove, MASK, "top_potsdam_5_15_label.tif is missing, expected by test item 5_15"),
        (empty, IMAGE, "top_potsdam_5_15_RGBIR.tif has 0 bytes"),
        (scribble, IMAGE, "top_potsdam_5_15_RGBIR.tif: not a readable raster"),
        (cut, IMAGE, "top_potsdam_5_15_RGBIR.tif: not a readable raster"),
        (lambda p: write_tif(p, noise(3, 24, 19)), MASK, "an image of 4 x 24 x 20 and a mask of 3 x 24 x 19"),
        (lambda p: write_tif(p, noise(3, 24, 20)), MASK, " pixels of colours that are no class"),
        (lambda p: p.rename(p.with_name("top_potsdam_9_9_RGBIR.tif")), IMAGE, "9_9_RGBIR.tif is none of the 38"),
    ],
)
def test_damage_is_told(tmp_path, harm, file, sentence):
    root = write_potsdam(tmp_path)
    harm(root / file)
    assert_told("potsdam", root, sentence)


def test_another_folder_is_named(tmp_path):
    (tmp_path / "4_Ortho_RGBIR.zip").write_bytes(b"x")
    with pytest.raises(InputError, match=r"no folder .*4_Ortho_RGBIR, unpack 4_Ortho_RGBIR.zip there"):
        open_dataset("potsdam", tmp_path)
