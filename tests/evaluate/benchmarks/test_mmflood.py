import shutil

import numpy as np
import pytest

from skyframe.evaluate.benchmarks import open_dataset
from skyframe.spec import InputError
from tests.evaluate.layouts.damage import assert_told, cut, empty, remove, scribble
from tests.evaluate.layouts.mmflood import EVENTS, write_mmflood
from tests.evaluate.layouts.rasters import write_tif


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_mmflood(tmp_path_factory.mktemp("mmflood"))


def test_pixels_without_radar_are_not_scored(whole):
    dataset = open_dataset("mmflood", whole)
    assert dataset.problems == ()
    assert [(i.key, i.part, i.cluster) for i in dataset.items] == [
        ("EMSR1-0/EMSR1-0", "train", "EMSR1"),
        ("EMSR2-0/EMSR2-0", "test", "EMSR2"),
    ]
    sample = dataset.read(dataset.items[0])
    assert sample.targets["mask"][:, 7].tolist() == [1, -1, 0, 0, 0, -1]
    assert np.argwhere(~sample.series["s1"].valid[0]).tolist() == [[5, 7]]
    assert sample.series["terrain"].values.shape == (1, 1, 6, 8)
    assert sample.place.tolist() == [45.8, 14.5]
    assert dataset.modalities["s1"].units == "linear power"


def test_layout_fixture_is_read(shared_dir):
    dataset = open_dataset("mmflood", shared_dir / "data/layout_fixtures/mmflood")
    assert [len(dataset.part(p)) for p in ("train", "val", "test")] == [5, 2, 1]
    sample = dataset.read(dataset.items[0])
    assert sample.series["s1"].values.shape == (1, 2, 16, 16)
    assert set(np.unique(sample.targets["mask"])) == {0, 1}


PLACE, TILE = "activations/EMSR2-0", "EMSR2-0.tif"


@pytest.mark.parametrize(
    ("harm", "file", "sentence"),
    [
        (remove, f"{PLACE}/mask/{TILE}", "mask/EMSR2-0.tif is missing, expected by test item EMSR2-0/EMSR2-0"),
        (remove, f"{PLACE}/s1_raw/{TILE}", "s1_raw/EMSR2-0.tif is missing"),
        (empty, f"{PLACE}/DEM/{TILE}", "DEM/EMSR2-0.tif has 0 bytes"),
        (cut, f"{PLACE}/s1_raw/{TILE}", "s1_raw/EMSR2-0.tif: not a readable raster"),
        (scribble, f"{PLACE}/mask/{TILE}", "mask/EMSR2-0.tif: not a readable raster"),
        (lambda p: write_tif(p, np.zeros((6, 7), np.float32)), f"{PLACE}/mask/{TILE}", "6 x 7 pixels, expected 6 x 8"),
        (lambda p: write_tif(p, np.full((6, 8), 2, np.uint8)), f"{PLACE}/mask/{TILE}", "48 pixels of value 2"),
        (shutil.rmtree, PLACE, "no tile of 1 events that activations.json names, such as EMSR2"),
        (lambda p: p.write_text(EVENTS.replace("test", "dev")), "activations.json", "EMSR2 is of subset 'dev'"),
        (lambda p: p.write_text(EVENTS.replace("-1", '"S1"')), "activations.json", "EMSR2 has place ['S1', 30]"),
        (empty, "activations.json", "activations.json: 0 bytes"),
        (lambda p: p.write_text("[]"), "activations.json", "EMSR1 is of subset None in activations.json"),
    ],
)
def test_damage_is_told(whole, tmp_path, harm, file, sentence):
    root = shutil.copytree(whole, tmp_path / "set")
    harm(root / file)
    assert_told("mmflood", root, sentence)


def test_another_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no folder .*activations"):
        open_dataset("mmflood", tmp_path)
