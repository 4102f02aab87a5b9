"""Algae blooms at single sites."""

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from skyframe.calendar import day_of
from skyframe.evaluate.benchmarks import open_dataset
from tests.evaluate.layouts.damage import Damage, assert_told, cut, empty, remove
from tests.evaluate.layouts.scenes import WRITERS


def test_sites_are_series_of_one_pixel(tmp_path: Path) -> None:
    WRITERS["presto-algae"](tmp_path)
    dataset = open_dataset("presto-algae", tmp_path)
    assert [(i.key, i.part, i.label) for i in dataset.items] == [
        ("aaff", "train", 1.0), ("aajk", "train", 3.0), ("aaql", "test", 5.0),
    ]  # fmt: skip
    sample = dataset.read(dataset.items[1])
    physical = {
        n: s.values[0, :, 0, 0].astype(float) * dataset.modalities[n].scale + dataset.modalities[n].offset
        for n, s in sample.series.items()
    }
    assert physical["s1"].tolist() == pytest.approx([-11, -20])
    assert physical["s2"].tolist() == pytest.approx([0.1001] * 11)  # the channel called NDVI is not among them
    assert physical["weather"].tolist() == pytest.approx([10.0, 2.0])  # degrees Celsius, mm per day
    assert physical["terrain"].tolist() == pytest.approx([300.0, 2.0])
    assert sample.series["s2"].day[[0, 3]].tolist() == [day_of(date(2001, 10, 1)), day_of(date(2002, 1, 1))]
    assert {n: s.values.shape for n, s in sample.series.items()} == {
        "s2": (12, 11, 1, 1), "s1": (12, 2, 1, 1), "weather": (12, 2, 1, 1), "terrain": (1, 2, 1, 1),
    }  # fmt: skip
    assert sample.targets["value"].tolist() == [3.0]
    assert sample.place.tolist() == [41.0, -91.0]


def _with(values: np.ndarray) -> Damage:
    return lambda path: np.save(path, values)


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("s1_s2_era5_srtm", remove, "s1_s2_era5_srtm.npy: no such file"),
        ("s1_s2_era5_srtm", cut, "s1_s2_era5_srtm.npy: cannot be read"),
        ("s1_s2_era5_srtm", empty, "s1_s2_era5_srtm.npy: begins with b''"),
        ("s1_s2_era5_srtm", _with(np.zeros((3, 12, 17))), "has shape (3, 12, 17)"),
        ("month", _with(np.full((3, 12), 12)), "month runs from 12 to 12"),
        ("latlon", _with(np.full((3, 2), 100.0)), "expected (3, 2) with latitude before longitude"),
        ("target", _with(np.array([1, 3])), "target has shape (2,), expected (3,)"),
        ("target", _with(np.array([1, 3, 9])), "severities of 1 to 9"),
        ("is_test", _with(np.array([0, 0, 2])), "is_test 0 or 1"),
        ("uid", _with(np.array(["a"])), "(1,) names for (3,) severities"),
        ("uid", empty, "uid.npy: 0 bytes"),
    ],
)
def test_damaged_arrays_are_told(name: str, damage: Damage, words: str, tmp_path: Path) -> None:
    WRITERS["presto-algae"](tmp_path)
    damage(tmp_path / "npy" / f"{name}.npy")
    assert_told("presto-algae", tmp_path, words)


def test_the_real_sites_open(shared_dir: Path) -> None:
    dataset = open_dataset("presto-algae", shared_dir / "data" / "presto")
    assert (len(dataset.part("train")), len(dataset.part("test")), dataset.problems) == (777, 345, ())
    counts = np.bincount([int(i.label) for i in dataset.items])
    assert counts.tolist() == [0, 246, 260, 494, 116, 6]
    for item in dataset.items[::100]:
        series = dataset.read(item).series["s2"]
        assert series.values.shape == (12, 11, 1, 1)
        assert (np.diff(series.day) >= 0).all()
