import shutil

import numpy as np
import pytest

from skyframe.evaluate.benchmarks import open_dataset
from skyframe.spec import InputError
from tests.evaluate.layouts.damage import assert_told, cut, empty, remove, scribble
from tests.evaluate.layouts.rasters import noise, write_tif
from tests.evaluate.layouts.sen1floods11 import write_sen1floods11


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_sen1floods11(tmp_path_factory.mktemp("flat"))


@pytest.mark.parametrize("bucket", [False, True])
def test_chips_of_both_sensors_are_read_in_either_layout(tmp_path, bucket):
    dataset = open_dataset("sen1floods11", write_sen1floods11(tmp_path, bucket))
    assert dataset.problems == ()
    assert [i.key for i in dataset.part("train")] == ["Ghana_1", "Ghana_2", "India_3"]
    assert [i.key for p in ("val", "test") for i in dataset.part(p)] == ["Spain_4", "USA_5"]
    assert [i.cluster for i in dataset.part("train")] == ["Ghana", "Ghana", "India"]
    sample = dataset.read(dataset.items[0])
    s2, s1 = sample.series["s2"], sample.series["s1"]
    assert (s2.values.shape, s1.values.shape) == ((1, 13, 8, 8), (1, 2, 8, 8))
    assert (dataset.modalities["s2"].units, dataset.modalities["s1"].units) == ("top-of-atmosphere reflectance", "dB")
    assert np.argwhere(~s2.valid[0]).tolist() == [[0, 1]]  # 0 in all bands
    assert np.argwhere(~s1.valid[0]).tolist() == [[0, 0]]  # NaN
    assert sample.targets["mask"][:, 0].tolist() == [1, 1, 0, 0, 0, 0, 0, -1]
    assert sample.place == pytest.approx([45.1534, 15.0005], abs=2e-3)


def test_without_lists_the_countries_are_split_and_the_lists_missed(tmp_path):
    dataset = open_dataset("sen1floods11", write_sen1floods11(tmp_path, lists=False))
    assert len(dataset.items) == 5
    assert len({i.part for i in dataset.items if i.cluster == "Ghana"}) == 1
    assert dataset.split.startswith("by hash of the country")
    assert [f"flood_{p}_data.csv" in s for p, s in zip(("train", "valid", "test"), dataset.problems, strict=True)]


CHIP = "USA_5"


@pytest.mark.parametrize(
    ("harm", "file", "sentence"),
    [
        (remove, f"LabelHand/{CHIP}_LabelHand.tif", "USA_5_LabelHand.tif is missing, expected by test item USA_5"),
        (remove, f"S1Hand/{CHIP}_S1Hand.tif", "USA_5_S1Hand.tif is missing"),
        (empty, f"S2Hand/{CHIP}_S2Hand.tif", "USA_5_S2Hand.tif has 0 bytes"),
        (cut, f"S2Hand/{CHIP}_S2Hand.tif", "USA_5_S2Hand.tif: not a readable raster"),
        (scribble, f"LabelHand/{CHIP}_LabelHand.tif", "USA_5_LabelHand.tif: not a readable raster"),
        (lambda p: write_tif(p, noise(8, 7)), f"LabelHand/{CHIP}_LabelHand.tif", "pixels of value"),
        (lambda p: write_tif(p, np.zeros((8, 7), np.int16)), f"LabelHand/{CHIP}_LabelHand.tif", "8 x 7 pixels, exp"),
        (lambda p: write_tif(p, noise(12, 8, 8)), f"S2Hand/{CHIP}_S2Hand.tif", "12 bands, expected 13 of Level-1C"),
        (lambda p: p.write_text("Peru_9_S1Hand.tif,x\n"), "flood_test_data.csv", "Peru_9_LabelHand.tif is missing"),
        (lambda p: p.write_text("Ghana_1_S1Hand.tif,x\n"), "flood_test_data.csv", "1 chips stand in more than one"),
        (lambda p: p.write_text("../../x_S1Hand.tif,x\n"), "flood_test_data.csv", "a list names '../../x', expected"),
        (empty, "flood_valid_data.csv", "flood_valid_data.csv: 0 bytes"),
        (remove, "flood_valid_data.csv", "no flood_valid_data.csv in"),
    ],
)
def test_damage_is_told(whole, tmp_path, harm, file, sentence):
    root = shutil.copytree(whole, tmp_path / "set")
    harm(root / file)
    assert_told("sen1floods11", root, sentence)


def test_another_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="no LabelHand in"):
        open_dataset("sen1floods11", tmp_path)
