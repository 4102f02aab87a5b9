"""fMoW-Sentinel's lists and composites."""

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from skyframe.calendar import day_of
from skyframe.evaluate.benchmarks import open_dataset
from tests.evaluate.layouts.damage import Damage, assert_told, cut, empty, remove, replaced
from tests.evaluate.layouts.scenes import WRITERS, stack, write_raster

IMAGE = "fmow-sentinel/train/airport/airport_0/airport_0_1.tif"


def test_images_of_one_place_are_one_cluster(tmp_path: Path) -> None:
    WRITERS["fmow-sentinel"](tmp_path)
    dataset = open_dataset("fmow-sentinel", tmp_path)
    assert (len(dataset.classes), dataset.problems) == (62, ())
    assert [(i.part, i.key, i.label, i.cluster) for i in dataset.items] == [
        ("train", "train/airport_0_0", 0, "train/airport_0"),
        ("train", "train/airport_0_1", 0, "train/airport_0"),
        ("val", "val/zoo_7_3", 61, "val/zoo_7"),
        ("test", "test/zoo_9_1", 61, "test/zoo_9"),
    ]
    series = dataset.read(dataset.items[1]).series["s2"]
    assert series.values.shape == (1, 13, 9, 9)
    assert series.day.tolist() == [day_of(date(2016, 2, 1))]
    named = dict(zip(dataset.modalities["s2"].band_names, series.values[0, :, 0, 0].tolist(), strict=True))
    assert (named["B8A"], named["B09"], named["B10"], named["B11"]) == (109, 110, 111, 112)


def test_pixels_that_hold_nothing_are_not_valid(tmp_path: Path) -> None:
    WRITERS["fmow-sentinel"](tmp_path)
    values = np.array(stack(1, 13, 9))
    values[:, 0, 0] = 0
    values[:12, 0, 1] = 0
    write_raster(tmp_path / IMAGE, values)
    valid = open_dataset("fmow-sentinel", tmp_path).items[1]
    series = open_dataset("fmow-sentinel", tmp_path).read(valid).series["s2"]
    assert series.valid[0, 0, :3].tolist() == [False, True, True]


@pytest.mark.parametrize("inner", ["fmow-sentinel/train", "fmow-sentinel", "."])
def test_the_images_may_lie_higher(inner: str, tmp_path: Path) -> None:
    WRITERS["fmow-sentinel"](tmp_path)
    where = tmp_path / "fmow-sentinel" / "train" / "airport"
    (tmp_path / inner).mkdir(exist_ok=True)
    if inner != "fmow-sentinel/train":
        where.rename(tmp_path / inner / "airport")
        remove(tmp_path / "fmow-sentinel" / "train")
    if inner == ".":
        for part in ("val", "test_gt"):
            (tmp_path / "fmow-sentinel" / part).rename(tmp_path / part)
        remove(tmp_path / "fmow-sentinel")
    assert open_dataset("fmow-sentinel", tmp_path).problems == ()


@pytest.mark.parametrize(
    ("path", "damage", "words"),
    [
        (IMAGE, remove, "airport_0_1.tif is missing, expected by train item train/airport_0_1"),
        (IMAGE, empty, "airport_0_1.tif has 0 bytes"),
        (IMAGE, cut, "airport_0_1.tif: not a readable raster"),
        (IMAGE, lambda p: write_raster(p, stack(1, 12, 9)), "12 bands, expected 13 (B01, "),
        ("val.csv", remove, "lacks val.csv"),
        ("val.csv", replaced(b"location_id", b"place"), "no column location_id"),
        ("val.csv", replaced(b"zoo", b"circus"), "category 'circus' of circus_7_3 is none of the 62"),
        ("val.csv", replaced(b"2016-04-01T", b"April"), "timestamp 'April00:00:00Z' of zoo_7_3 is no date"),
    ],
)
def test_a_damaged_copy_is_told(path: str, damage: Damage, words: str, tmp_path: Path) -> None:
    WRITERS["fmow-sentinel"](tmp_path)
    damage(tmp_path / path)
    assert_told("fmow-sentinel", tmp_path, words)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    assert_told("fmow-sentinel", tmp_path, "no train.csv in")
