"""BioMassters and SpaceNet 7 read from tiny copies of their layouts, whole and damaged."""

from datetime import date
from pathlib import Path

import numpy as np
import pytest

from skyframe.calendar import day_of
from skyframe.evaluate.benchmarks import open_dataset
from skyframe.evaluate.datasets.check import check_dataset
from skyframe.spec import InputError
from tests.evaluate.layouts.pangaea import tif, write_biomassters, write_spacenet7


def test_biomassters_months_and_mean_biomass(tmp_path: Path) -> None:
    write_biomassters(tmp_path)
    dataset = open_dataset("biomassters", tmp_path)
    assert check_dataset(dataset).problems == ()
    assert [(i.key, i.part) for i in dataset.items][::2] == [("train0", "train"), ("val0", "val"), ("test0", "test")]
    first, second = (dataset.read(i) for i in dataset.items[:2])
    assert first.targets["value"].tolist() == [0.5] and second.targets["value"].tolist() == [1.5]
    s1, s2 = second.series["s1"], second.series["s2"]
    assert s1.values[:, 1, 1, 1].tolist() == [100.0 + m for m in range(12)] and s1.values.shape == (12, 2, 4, 4)
    assert s2.values.shape == (12, 10, 4, 4) and not s1.valid[:, 0, 0].any() and s1.valid[:, 1, 1].all()
    assert s1.day[[0, 3, 4, 11]].tolist() == [
        day_of(d) for d in (date(2020, 9, 15), date(2020, 12, 15), date(2021, 1, 15), date(2021, 8, 15))
    ]
    assert first.series["s2"].values.shape[0] == 11 and first.series["s2"].values[3, 0, 0, 0] == 4.0


def test_spacenet7_keeps_a_place_in_one_part_and_clouds_out(tmp_path: Path) -> None:
    write_spacenet7(tmp_path)
    dataset = open_dataset("spacenet7", tmp_path)
    assert check_dataset(dataset).problems == () and len(dataset.items) == 24
    parts: dict[str, set[str]] = {}
    for item in dataset.items:
        parts.setdefault(item.cluster, set()).add(item.part)
    assert len(parts) == 12 and all(len(p) == 1 for p in parts.values())
    sample = dataset.read(dataset.items[1])
    assert sample.series["rgb"].values.shape == (1, 3, 8, 8) and sample.series["rgb"].values[0, 0, 1, 1] == 2
    assert sample.series["rgb"].day.tolist() == [day_of(date(2018, 2, 15))]
    mask = np.asarray(sample.targets["mask"])
    assert mask[0, 0] == -1 and mask[4, 4] == 1 and int((mask == 0).sum()) == 62


def test_damaged_copies_tell_each_fault(tmp_path: Path) -> None:
    chips = write_biomassters(tmp_path)
    for month in range(12):
        (chips / f"train_features/val1_S1_{month:02d}.tif").unlink()
    (chips / "train_agbm/train0_agbm.tif").unlink()
    tif(chips / "train_agbm/train1_agbm.tif", np.full((1, 4, 4), np.nan, np.float32))
    (chips / "test_Data_list.csv").unlink()
    told = "\n".join(check_dataset(open_dataset("biomassters", tmp_path)).problems)
    assert "val item val1 has no Sentinel-1 month" in told and "train0_agbm.tif is missing" in told
    assert "chip train1 has no biomass or no image" in told and "test_Data_list.csv is missing" in told
    places = write_spacenet7(tmp_path)
    first = sorted((places / "train").iterdir())
    for path in (first[0] / "labels_raster").iterdir():
        path.unlink()
    image = next((first[1] / "images_masked").iterdir())
    tif(image, np.zeros((2, 8, 8), np.uint8))
    next((first[2] / "images_masked").iterdir()).write_bytes(b"")
    told = "\n".join(check_dataset(open_dataset("spacenet7", tmp_path)).problems)
    assert f"no label in {first[0] / 'labels_raster'}" in told and "2 bands of (8, 8) pixels" in told
    assert "has 0 bytes" in told


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"biomassters: no folder .*train_features"):
        open_dataset("biomassters", tmp_path)
    with pytest.raises(InputError, match=r"spacenet7: no folder .*train"):
        open_dataset("spacenet7", tmp_path)
