"""BigEarthNet v1 and v2, both sensors."""

import json
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skyframe.calendar import day_of
from skyframe.evaluate.benchmarks import open_dataset
from skyframe.evaluate.benchmarks.corine import CLASSES_19, CLASSES_43, TO_19
from tests.evaluate.layouts.damage import Damage, assert_told, cut, empty, remove, replaced, scribble
from tests.evaluate.layouts.scenes import BIGEARTHNET, WRITERS, stack, write_raster

S2 = "BigEarthNet-v1.0/S2A_MSIL2A_20170613T101031_26_57"
S1 = "BigEarthNet-S1-v1.0/S1A_IW_GRDH_1SDV_20170613T165043_33UUP_26_57"


def test_the_classes_are_joined_by_the_published_rule() -> None:
    assert (len(CLASSES_43), len(set(CLASSES_43)), len(CLASSES_19)) == (43, 43, 19)
    assert set(TO_19.values()) == set(CLASSES_19)
    assert len(TO_19) == 32  # eleven are dropped
    joined = [CLASSES_19.index(TO_19[c]) if c in TO_19 else -1 for c in CLASSES_43]
    assert joined == [
        0, 0, 1, -1, -1, -1, -1, -1, -1, -1, -1, 2, 2, 2, 3, 3, 3, 4, 3, 5, 6, 7, 8, 9, 10, 11, 12, 12, 13, 14, -1,
        11, -1, 15, 15, 16, 16, -1, 17, 17, 18, 18, 18,
    ]  # fmt: skip


def test_coarse_bands_are_repeated_onto_the_10_m_grid(tmp_path: Path) -> None:
    WRITERS["bigearthnet-v1"](tmp_path)
    path = tmp_path / S2 / f"{Path(S2).name}_B01.tif"
    write_raster(path, np.arange(400, dtype=np.uint16).reshape(1, 20, 20))
    dataset = open_dataset("bigearthnet-v1", tmp_path)
    assert dataset.problems == ()
    sample = dataset.read(dataset.part("train")[0])
    values = sample.series["s2"].values[0]
    names = dataset.modalities["s2"].band_names
    assert values.shape == (12, 120, 120)
    assert values[0, 5, 5] == 0
    assert values[0, 6, 5] == 20  # a pixel of 60 m is six of 10 m
    assert values[0, 119, 119] == 399
    assert values[[names.index(b) for b in ("B02", "B8A", "B09", "B12")], 0, 0].tolist() == [2, 9, 10, 12]
    assert sample.series["s1"].values[0, :, 7, 7].tolist() == [-10.0, -11.0]
    assert sample.series["s2"].day.tolist() == [day_of(date(2017, 6, 13))]


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("bigearthnet-v1", {"train": (4, 18), "val": (3,), "test": (10,)}),  # both orchards are permanent crops
        ("bigearthnet-v1-43", {"train": (17, 42), "val": (5, 14, 16), "test": (24,)}),
        ("bigearthnet-v2", {"train": (4, 18), "val": (4, 18), "test": (4, 18)}),
    ],
)
def test_labels_are_known_without_pixels(name: str, labels: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    dataset = open_dataset(name, tmp_path)
    assert {i.part: i.label for i in dataset.items} == labels
    assert list(dataset.modalities) == ["s2", "s1"]
    for item in dataset.items:
        target = dataset.read(item).targets["classes"]
        assert (target.dtype, target.shape) == (bool, (len(dataset.classes),))
        assert tuple(np.flatnonzero(target)) == item.label
    assert dataset.problems == ()


def test_one_sensor_is_enough(tmp_path: Path) -> None:
    WRITERS["bigearthnet-v1"](tmp_path)
    remove(tmp_path / "BigEarthNet-v1.0")
    dataset = open_dataset("bigearthnet-v1", tmp_path)
    assert (list(dataset.modalities), dataset.problems) == (["s1"], ())
    assert list(dataset.read(dataset.items[0]).series) == ["s1"]


def test_without_lists_pairs_come_from_the_metadata_and_flagged_patches_stay_out(tmp_path: Path) -> None:
    WRITERS["bigearthnet-v1"](tmp_path)
    for path in tmp_path.glob("*.csv"):
        path.unlink()
    (tmp_path / "patches_with_seasonal_snow.csv").write_text(f"{BIGEARTHNET[1][0]}_26_57\n")
    dataset = open_dataset("bigearthnet-v1", tmp_path)
    assert [i.key for i in dataset.items] == [f"{BIGEARTHNET[k][0]}_26_57" for k in (0, 2)]
    assert dataset.items[0].files["s1"] == tmp_path / S1 / f"{Path(S1).name}_VV.tif"
    assert dataset.split == "by hash of the overpass, 60/20/20, without 1 patches listed as snow or cloud"


def test_v2_leaves_flagged_patches_out_and_keeps_the_country(tmp_path: Path) -> None:
    WRITERS["bigearthnet-v2"](tmp_path)
    dataset = open_dataset("bigearthnet-v2", tmp_path)
    assert dataset.split == "metadata.parquet, without 1 patches flagged as snow or cloud"
    assert {i.part: i.about["country"] for i in dataset.items} == dict.fromkeys(("train", "val", "test"), "Austria")


@pytest.mark.parametrize(
    ("path", "damage", "words"),
    [
        (f"{S2}/{Path(S2).name}_B02.tif", remove, "B02.tif is missing, expected by train item S2A_MSIL2A_20170613"),
        (f"{S2}/{Path(S2).name}_B07.tif", remove, "B07.tif is missing, expected by train item S2A_MSIL2A_20170613"),
        (f"{S2}/{Path(S2).name}_B07.tif", empty, "B07.tif: 0 bytes"),
        (f"{S2}/{Path(S2).name}_B07.tif", cut, "B07.tif: not a readable raster"),
        (f"{S2}/{Path(S2).name}_B07.tif", lambda p: write_raster(p, stack(1, 1, 50)), "1 bands of 50 x 50 pixels"),
        (f"{S2}/{Path(S2).name}_B07.tif", lambda p: write_raster(p, stack(1, 2, 60)), "2 bands of 60 x 60 pixels"),
        (f"{S1}/{Path(S1).name}_VH.tif", remove, "VH.tif is missing"),
        (S2, remove, "B02.tif is missing"),
        (f"{S2}/{Path(S2).name}_labels_metadata.json", remove, "_labels_metadata.json is missing"),
        (f"{S2}/{Path(S2).name}_labels_metadata.json", cut, "_labels_metadata.json: no list of CORINE labels"),
        (f"{S2}/{Path(S2).name}_labels_metadata.json", replaced(b"Sea and", b"See und"), "no list of CORINE labels"),
        ("bigearthnet-test.csv", remove, "lacks bigearthnet-test.csv"),
        ("bigearthnet-test.csv", scribble, "is missing, expected by test item <html>"),
    ],
)
def test_a_damaged_v1_is_told(path: str, damage: Damage, words: str, tmp_path: Path) -> None:
    WRITERS["bigearthnet-v1"](tmp_path)
    damage(tmp_path / path)
    assert_told("bigearthnet-v1", tmp_path, words)


def _with(**changes: object) -> Damage:
    def damage(path: Path) -> None:
        rows = pq.read_table(path).to_pylist()
        rows[2] |= changes
        pq.write_table(pa.Table.from_pylist(rows), path)

    return damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove, "metadata.parquet: no such file"),
        (cut, "metadata.parquet: not a readable Parquet file"),
        (lambda p: pq.write_table(pq.read_table(p).drop(["labels"]), p), "no column labels, got patch_id"),
        (_with(split="dev"), "has split 'dev' in metadata.parquet, which is not known"),
        (_with(labels=["Glaciers"]), "has label 'Glaciers' in metadata.parquet, which is not known"),
        (_with(patch_id="S2B_MSIL2A_20170701T093029_N9999_R022_T33UUP_1_1"), "_1_1_B02.tif is missing"),
    ],
)
def test_damaged_metadata_of_v2_is_told(damage: Damage, words: str, tmp_path: Path) -> None:
    WRITERS["bigearthnet-v2"](tmp_path)
    damage(tmp_path / "metadata.parquet")
    assert_told("bigearthnet-v2", tmp_path, words)


def test_a_pair_that_is_not_named_is_told(tmp_path: Path) -> None:
    WRITERS["bigearthnet-v1"](tmp_path)
    for path in tmp_path.glob("*.csv"):
        path.unlink()
    (tmp_path / S1 / f"{Path(S1).name}_labels_metadata.json").write_text(json.dumps({"labels": []}))
    assert_told("bigearthnet-v1", tmp_path, "no corresponding_s2_patch")


def test_the_published_layout_opens(shared_dir: Path) -> None:
    dataset = open_dataset("bigearthnet-v2", shared_dir / "data" / "layout_fixtures" / "bigearthnet" / "v2")
    assert ([len(dataset.part(p)) for p in ("train", "val", "test")], dataset.problems) == ([2, 1, 1], ())
    sample = dataset.read(dataset.items[0])
    assert sample.series["s2"].values.shape == (1, 12, 120, 120)
    assert tuple(np.flatnonzero(sample.targets["classes"])) == (0, 1, 5)
