"""TreeSatAI of one date and of a year."""

import json
import shutil
from datetime import date
from pathlib import Path

import h5py
import numpy as np
import pytest

from skyframe.calendar import day_of
from skyframe.evaluate.benchmarks import open_dataset
from tests.evaluate.layouts.damage import Damage, assert_told, cut, empty, remove, replaced
from tests.evaluate.layouts.scenes import PLOTS, WRITERS, stack, write_raster

LABELS = "labels/TreeSatBA_v9_60m_multi_labels.json"
SERIES = f"sentinel-ts/{PLOTS[0]}_2020.h5"
FIRST_DAY = day_of(date(2020, 1, 1))


def test_one_date_of_three_sensors(tmp_path: Path) -> None:
    WRITERS["treesatai"](tmp_path)
    dataset = open_dataset("treesatai", tmp_path)
    assert ([len(dataset.part(p)) for p in ("train", "val", "test")], dataset.problems) == ([2, 0, 1], ())
    assert [i.label for i in dataset.items] == [(0,), (5, 13), (2,)]  # linden covers less than 7 % of the first
    sample = dataset.read(dataset.items[1])
    s2 = dict(zip(dataset.modalities["s2"].band_names, sample.series["s2"].values[0, :, 0, 0].tolist(), strict=True))
    assert (s2["B02"], s2["B08"], s2["B05"], s2["B01"], s2["B09"]) == (101, 104, 105, 111, 112)
    assert dataset.modalities["rgb"].band_names == ("nir", "green", "blue", "red")
    assert sample.series["rgb"].values[0, :, 0, 0].tolist() == [101, 102, 103, 104]
    assert np.flatnonzero(sample.targets["classes"]).tolist() == [5, 13]


def test_impossible_backscatter_is_not_valid(tmp_path: Path) -> None:
    WRITERS["treesatai"](tmp_path)
    values = np.full((3, 6, 6), -8.0, np.float32)
    values[1, 2, 3] = -9999
    write_raster(tmp_path / "s1/60m" / f"{PLOTS[0]}.tif", values)
    dataset = open_dataset("treesatai", tmp_path)
    valid = dataset.read(dataset.items[0]).series["s1"].valid
    assert np.argwhere(~valid).tolist() == [[0, 2, 3]]


def test_a_year_of_both_sensors(tmp_path: Path) -> None:
    WRITERS["treesatai-ts"](tmp_path)
    dataset = open_dataset("treesatai-ts", tmp_path)
    assert ([i.part for i in dataset.items], dataset.problems) == (["train", "val", "test"], ())
    sample = dataset.read(dataset.items[0])
    s2, s1 = sample.series["s2"], sample.series["s1"]
    assert s2.values.shape == (3, 10, 6, 6)
    assert (s2.day - FIRST_DAY).tolist() == [1, 4, 6]
    assert s2.valid.sum((1, 2)).tolist() == [36, 0, 35]  # all, none under cloud, all but one under snow
    assert (s1.day - FIRST_DAY).tolist() == [2, 5, 8]  # the descending pass between the ascending ones
    assert s1.values[:, 0, 0, 0].tolist() == pytest.approx([0.03, 0.06, 0.09])
    assert (dataset.modalities["s1"].units, dataset.modalities["s2"].kind) == ("linear power", "series")


def _without_sentinel(path: Path) -> None:
    remove(path)
    remove(path.parent / "s1")


@pytest.mark.parametrize(
    ("path", "damage", "words"),
    [
        (f"s2/60m/{PLOTS[0]}.tif", remove, f"{PLOTS[0]}.tif is missing, expected by train item {PLOTS[0]}"),
        (f"s1/60m/{PLOTS[2]}.tif", empty, f"{PLOTS[2]}.tif has 0 bytes"),
        (f"aerial/60m/{PLOTS[0]}.tif", cut, f"{PLOTS[0]}.tif: not a readable raster"),
        (f"s2/60m/{PLOTS[0]}.tif", lambda p: write_raster(p, stack(1, 10, 6)), "10 bands, expected 12 (B02, B03"),
        ("test_filenames.lst", remove, "lacks test_filenames.lst"),
        ("test_filenames.lst", replaced(b"Alnus", b"Ulmus"), "has no genera in TreeSatBA_v9_60m_multi_labels.json"),
        (LABELS, replaced(b"Fagus", b"Tagus"), f"{PLOTS[1]} of train_filenames.lst has no genera"),
        (LABELS, cut, "not valid JSON"),
        (LABELS, lambda p: p.write_text("[]"), "holds no plots by name"),
        ("s2", _without_sentinel, "expected Sentinel-2"),
    ],
)
def test_a_damaged_copy_of_one_date_is_told(path: str, damage: Damage, words: str, tmp_path: Path) -> None:
    WRITERS["treesatai"](tmp_path)
    damage(tmp_path / path)
    assert_told("treesatai", tmp_path, words)


def _with(name: str, change: object) -> Damage:
    def damage(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file[name]
            if change is not None:
                file[name] = change

    return damage


@pytest.mark.parametrize(
    ("path", "damage", "words"),
    [
        (SERIES, remove, f"{PLOTS[0]}.h5 is missing, expected by train item {PLOTS[0]}"),
        (SERIES, empty, f"{PLOTS[0]}_2020.h5 has 0 bytes"),
        (SERIES, cut, f"{PLOTS[0]}_2020.h5: not a readable HDF5 file"),
        (SERIES, _with("sen-2-masks", None), "no array sen-2-masks, got sen-1-asc-data"),
        (SERIES, _with("sen-2-data", np.zeros((3, 12, 6, 6))), "sen-2-data has shape (3, 12, 6, 6)"),
        (SERIES, _with("sen-2-data", np.zeros((2, 10, 6, 6))), "sen-2 has 2 dates, 3 products and masks for 3"),
        (SERIES, _with("sen-1-des-products", ["S1A_2020"]), "and a date in every product's name"),
        (
            SERIES,
            _with("sen-1-asc-products", ["S1A_20201340T1", "S1A_20200101T1"]),
            "and a date in every product's name",
        ),
        (SERIES, _with("sen-1-des-data", np.zeros((1, 1, 6, 6))), "expected numbers of [T, 2, 6, 6]"),
        (SERIES, _with("sen-1-des-data", np.zeros(1)), "expected numbers of [T, 2, 6, 6]"),
        ("split/val_filenames.lst", remove, "lacks val_filenames.lst"),
    ],
)
def test_a_damaged_copy_of_series_is_told(path: str, damage: Damage, words: str, tmp_path: Path) -> None:
    WRITERS["treesatai-ts"](tmp_path)
    damage(tmp_path / path)
    assert_told("treesatai-ts", tmp_path, words)


def test_the_published_layout_opens(shared_dir: Path) -> None:
    dataset = open_dataset("treesatai", shared_dir / "data" / "layout_fixtures" / "treesatai")
    assert ([len(dataset.part(p)) for p in ("train", "test")], dataset.problems) == ([9, 1], ())
    assert [int(dataset.read(i).targets["classes"].sum()) > 0 for i in dataset.items] == [True] * 10


def test_a_real_plot_opens(shared_dir: Path, tmp_path: Path) -> None:
    sample_dir = shared_dir / "data" / "AnySat"
    for folder, name in (("sentinel-ts", f"{PLOTS[0]}.h5"), ("aerial", f"{PLOTS[0]}.tif")):
        (tmp_path / folder).mkdir()
        shutil.copyfile(sample_dir / name, tmp_path / folder / name)
    (tmp_path / "labels").mkdir()
    (tmp_path / LABELS).write_text(json.dumps({f"{PLOTS[0]}.tif": [["Abies", 1.0]]}))
    for part in ("train", "val", "test"):
        (tmp_path / f"{part}_filenames.lst").write_text(f"{PLOTS[0]}.tif\n" if part == "train" else "")
    (tmp_path / "val_filenames.lst").unlink()
    (tmp_path / "test_filenames.lst").unlink()
    dataset = open_dataset("treesatai-ts", tmp_path)
    sample = dataset.read(dataset.items[0])
    s2, s1, photo = (sample.series[n] for n in ("s2", "s1", "rgb"))
    assert (s2.values.shape, s1.values.shape, photo.values.shape) == ((146, 10, 6, 6), (146, 2, 6, 6), (1, 4, 304, 304))
    assert (np.diff(s1.day) >= 0).all()
    assert s2.day[0] == day_of(date(2020, 1, 2))
    assert 0.2 < s2.valid.mean() < 0.8  # northern Germany under cloud
    vv, vh = 10 * np.log10(np.median(s1.values.astype(float), (0, 2, 3)))
    assert -12 < vh + 4 < vv < -7  # a forest: VV near -10 dB, VH some 5 dB below
    dark = photo.values[0][:, photo.values[0, 0] < np.percentile(photo.values[0, 0], 10)].mean(1)
    assert dark[2] > dark[1] > dark[3]  # the sky lights the shade: blue above green above red
