import json
import shutil
from datetime import date

import numpy as np
import pytest

from skyframe.calendar import DAY_UNKNOWN, day_of
from skyframe.evaluate.benchmarks import open_dataset
from skyframe.evaluate.datasets.archive import unpack
from skyframe.spec import InputError
from tests.evaluate.layouts.damage import assert_told, cut, empty, remove, scribble
from tests.evaluate.layouts.pastis import write_pastis
from tests.evaluate.layouts.rasters import noise, write_npy


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_pastis(tmp_path_factory.mktemp("pastis"))


def test_folds_dates_places_and_void(whole):
    dataset = open_dataset("pastis-r", whole)
    assert dataset.problems == ()
    assert [i.part for i in dataset.items] == ["train", "train", "train", "val", "test"]
    sample = dataset.read(dataset.items[0])
    s2 = sample.series["s2"]
    assert s2.values.shape == (3, 10, 8, 8)
    assert s2.day.tolist() == [day_of(date(2018, 9, 17)), day_of(date(2018, 10, 2)), day_of(date(2018, 12, 31))]
    assert sample.place == pytest.approx([46.5, 3.0], abs=0.01)
    assert sample.targets["mask"].tolist() == [[-1] * 8] + [[1] + [0] * 7] * 7
    assert "void" not in " ".join(dataset.classes)


def test_both_passes_become_one_series_by_day_without_the_ratio(whole):
    s1 = (dataset := open_dataset("pastis-r", whole)).read(dataset.items[0]).series["s1"]
    assert s1.values.shape == (3, 2, 8, 8)
    assert s1.values[:, 0, 5, 5].tolist() == [-10, -20, -10]  # ascending, descending, ascending
    assert (np.diff(s1.day) > 0).all()
    assert np.argwhere(~s1.valid).tolist() == [[0, 0, 0], [1, 0, 0]]  # the first image of each pass has a NaN


def test_high_resolution_adds_a_picture_and_may_lack_descending_passes(tmp_path):
    root = write_pastis(tmp_path / "PASTIS-HD", high_resolution=True)
    shutil.rmtree(root / "DATA_S1D")
    dataset = open_dataset("pastis-hd", tmp_path)
    assert dataset.problems == ()
    sample = dataset.read(dataset.items[0])
    assert sample.series["spot"].values.shape == (1, 3, 80, 80)
    assert sample.series["s1"].values[:, 0, 5, 5].tolist() == [-10, -10]
    assert list(dataset.modalities) == ["s2", "s1", "spot"]


def test_layout_fixture_lacks_dates_and_is_read_without(shared_dir, tmp_path):
    unpack(shared_dir / "data/layout_fixtures/pastis/PASTIS-R.zip", tmp_path)
    dataset = open_dataset("pastis-r", tmp_path)
    assert dataset.problems == () and "; this copy: 15 series without dates" in dataset.source
    shapes = [dataset.read(i).series["s2"].values.shape for i in dataset.items]
    assert shapes == [(t, 10, 32, 32) for t in (6, 5, 3, 9, 4)]
    s1 = dataset.read(dataset.items[0]).series["s1"]
    assert (len(s1.day), set(s1.day.tolist())) == (4 + 8, {DAY_UNKNOWN})


def change(**properties):
    """Give patch 10005 other properties."""

    def harm(path):
        tree = json.loads(path.read_text())
        tree["features"][4]["properties"].update(properties)
        path.write_text(json.dumps(tree))

    return harm


META, S2, MASK = "metadata.geojson", "DATA_S2/S2_10005.npy", "ANNOTATIONS/TARGET_10005.npy"


@pytest.mark.parametrize(
    ("harm", "file", "sentence"),
    [
        (remove, MASK, "TARGET_10005.npy is missing, expected by test item 10005"),
        (empty, S2, "S2_10005.npy has 0 bytes"),
        (cut, S2, "S2_10005.npy: not a readable array"),
        (scribble, MASK, "TARGET_10005.npy: not a readable array"),
        (lambda p: np.save(p, np.array([{"a": 1}])), S2, "S2_10005.npy: not a readable array of numbers"),
        (lambda p: write_npy(p, noise(3, 9, 8, 8)), S2, "an array [3, 9, 8, 8], expected [T, 10, H, W]"),
        (lambda p: write_npy(p, noise(2, 10, 8, 8)), S2, "2 images but 3 dates-S2 in metadata.geojson"),
        (lambda p: write_npy(p, np.zeros((3, 8, 7), np.uint8)), MASK, "8 x 7 pixels, expected 8 x 8"),
        (lambda p: write_npy(p, np.full((3, 8, 8), 20, np.uint8)), MASK, "64 pixels of value 20"),
        (change(Fold=6), META, "patch 10005 is of fold 6, expected 1 to 5"),
        (change(Fold=None), META, "entry 4 of metadata.geojson lacks ID_PATCH, Fold or a shape"),
        (change(**{"dates-S2": {"0": 20181301}}), META, "1 series have no readable dates in"),
        (change(ID_PATCH="../7"), META, "patch '../7' leads out of"),
        (change(ID_PATCH=7), META, "S2_7.npy is missing"),
        (cut, META, "metadata.geojson: not valid JSON"),
        (lambda p: p.write_text('{"type": "Feature"}'), META, "is not GeoJSON of features"),
    ],
)
def test_damage_is_told(whole, tmp_path, harm, file, sentence):
    root = shutil.copytree(whole, tmp_path / "set")
    harm(root / file)
    assert_told("pastis-r", root, sentence)


def test_another_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no metadata.geojson in"):
        open_dataset("pastis-hd", tmp_path)
