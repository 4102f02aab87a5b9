import shutil
from datetime import date

import numpy as np
import pytest

from skyframe.calendar import day_of
from skyframe.evaluate.benchmarks import open_dataset
from skyframe.evaluate.benchmarks.dynamicearthnet import S2
from skyframe.spec import InputError
from tests.evaluate.layouts.damage import assert_told, cut, empty, remove, scribble
from tests.evaluate.layouts.dynamicearthnet import AREAS, DAYS, ZONE, write_dynamicearthnet
from tests.evaluate.layouts.rasters import noise, write_tif

NAME, CHANGE = "dynamicearthnet", "dynamicearthnet-change"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_dynamicearthnet(tmp_path_factory.mktemp("geobench2"))


def test_six_days_of_a_month_its_composites_and_label(whole):
    dataset = open_dataset(NAME, whole)
    assert dataset.problems == ()
    assert (dataset.kind, len(dataset.items), len(dataset.classes)) == ("pixel", 9, 6)
    assert {i.cluster: i.part for i in dataset.items} == AREAS
    sample = dataset.read(next(i for i in dataset.items if i.key == "2029_3764_13/2018-02"))
    planet = sample.series["planet"]
    assert planet.values.shape == (6, 4, 8, 8)
    assert planet.values[:, 0, 0, 0].tolist() == list(DAYS)
    assert planet.day.tolist() == [day_of(date(2018, 2, d)) for d in DAYS]
    assert sample.series["s2"].values.shape == (1, 12, 8, 8)
    assert sample.series["s1"].values.shape == (1, 2, 8, 8)
    assert sample.targets["mask"][:, 3].tolist() == [4, 1, 4, 4, 4, 4, -1, -1]  # no layer, then snow


def test_a_composite_that_was_never_made_is_absent(whole):
    dataset = open_dataset(NAME, whole)
    march = next(i for i in dataset.items if i.key.endswith("2018-03"))
    assert sorted(dataset.read(march).series) == ["planet", "s1"]


def test_band_order_names_every_band_of_level_2a_once():
    assert sorted(S2) == sorted({*S2})
    assert set(S2) == {f"B{n:02d}" for n in (*range(1, 10), 11, 12)} | {"B8A"}


@pytest.mark.parametrize(("lists", "suffix"), [("pangaea", ".npy"), ("pangaea", ".tif"), ("geobench2", ".npy")])
def test_lists_and_frames_of_other_copies_give_the_same_split(whole, tmp_path, lists, suffix):
    dataset = open_dataset(NAME, write_dynamicearthnet(tmp_path, lists, suffix))
    assert dataset.problems == ()
    first = open_dataset(NAME, whole)
    assert dataset.split_sha256 == first.split_sha256
    a, b = (next(i for i in d.items if i.key == "1311_3077_13/2018-01") for d in (dataset, first))
    assert np.array_equal(dataset.read(a).series["planet"].values, first.read(b).series["planet"].values)
    assert sorted(dataset.read(a).series) == ["planet", "s1", "s2"]


def test_without_lists_areas_are_split_by_hash(tmp_path):
    dataset = open_dataset(NAME, write_dynamicearthnet(tmp_path, lists="none"))
    assert (len(dataset.items), dataset.problems) == (9, ())
    assert dataset.split.startswith("by hash of the area")
    assert len({(i.cluster, i.part) for i in dataset.items}) == 3
    shutil.rmtree(tmp_path / "sentinel2")
    assert list(open_dataset(NAME, tmp_path).modalities) == ["planet", "s1"]


def test_change_pairs_successive_months_of_an_area(whole):
    dataset = open_dataset(CHANGE, whole)
    assert dataset.kind == "semantic_change"
    assert [i.key for i in dataset.part("test")] == [
        "4127_2991_13/2018-01_2018-02",
        "4127_2991_13/2018-02_2018-03",
    ]
    sample = dataset.read(dataset.part("test")[0])
    assert sample.series["planet"].values.shape == (2, 4, 8, 8)
    assert sample.series["s2"].day.tolist() == [day_of(date(2018, m, 1)) for m in (1, 2)]
    assert sample.targets["masks"][:, :, 0].tolist() == [[0, 4, 4, 4, 4, 4, -1, -1], [4, 1, 4, 4, 4, 4, -1, -1]]
    later = dataset.read(dataset.part("test")[1])
    assert sorted(later.series) == ["planet", "s1"]  # Sentinel-2 of March was never made


def test_radar_of_eight_unexplained_channels_is_left_out(tmp_path):
    dataset = open_dataset(NAME, write_dynamicearthnet(tmp_path, radar_bands=8))
    assert list(dataset.modalities) == ["planet", "s2"]
    assert sorted(dataset.read(dataset.items[0]).series) == ["planet", "s2"]
    assert "eight channels of its Sentinel-1 files" in dataset.source.replace("\n", " ")


def test_the_area_that_was_never_published_is_no_problem_but_said(whole, tmp_path):
    root = shutil.copytree(whole, tmp_path / "set")
    table = root / "split_info/splits.csv"
    table.write_text(table.read_text().replace("4127_2991_13", "1417_3281_13"))
    dataset = open_dataset(NAME, root)
    assert dataset.problems == ()
    assert len(dataset.items) == 6
    assert dataset.split.endswith("without area 1417_3281_13, whose Planet images were never published")


AREA = "4127_2991_13"
FRAME, MASK = (
    f"planet/10N/26E-183N/{AREA}/PF-SR/2018-01-05.tif",
    f"labels/{AREA}_10N/Labels/Raster/{ZONE}/{ZONE}-2018_01_01.tif",
)


@pytest.mark.parametrize(
    ("harm", "file", "sentence"),
    [
        (remove, FRAME, "2018-01-05.tif is missing, expected by test item 4127_2991_13/2018-01"),
        (empty, MASK, "2018_01_01.tif has 0 bytes"),
        (cut, FRAME, "2018-01-05.tif: not a readable raster"),
        (scribble, MASK, "2018_01_01.tif: not a readable raster"),
        (lambda p: write_tif(p, noise(3, 8, 8)), FRAME, "an image [3, 8, 8], expected 4 bands"),
        (lambda p: write_tif(p, noise(4, 8, 9)), FRAME, "8 x 9 pixels, expected 8 x 8"),
        (lambda p: write_tif(p, np.zeros((7, 9, 8), np.uint8)), MASK, "9 x 8 pixels, expected 8 x 8"),
        (lambda p: write_tif(p, np.zeros((6, 8, 8), np.uint8)), MASK, "6 layers of 0 to 0, expected 7 of 0 or 255"),
        (lambda p: write_tif(p, np.ones((7, 8, 8), np.uint8)), MASK, "7 layers of 1 to 1, expected 7 of 0 or 255"),
        (remove, f"sentinel2/{AREA}/{AREA}_2018_02.tif", f"{AREA}_2018_02.tif is missing"),
        (shutil.rmtree, f"planet/10N/26E-183N/{AREA}", f"no Planet images of 1 areas, such as {AREA}"),
        (
            lambda p: p.write_text(p.read_text().replace("test,", "dev,")),
            "split_info/splits.csv",
            "line 8: no part, area and",
        ),
        (
            lambda p: p.write_text(p.read_text().replace(",labels/4127", ",../labels/4127", 1)),
            "split_info/splits.csv",
            "line 8: a path leads out of",
        ),
        (lambda p: p.write_text("split,label_path\n"), "split_info/splits.csv", "no column planet_path, year_month"),
    ],
)
def test_damage_is_told(whole, tmp_path, harm, file, sentence):
    root = shutil.copytree(whole, tmp_path / "set")
    harm(root / file)
    assert_told(NAME, root, sentence)


@pytest.mark.parametrize(
    ("harm", "file", "sentence"),
    [
        (
            lambda p: p.write_text("/1311_3077_13 /../y 2018-01\n"),
            "val.txt",
            "has a line '/1311_3077_13 /../y 2018-01'",
        ),
        (empty, "val.txt", "val.txt: 0 bytes"),
        (remove, "val.txt", "val.txt: no such file"),
        (
            lambda p: p.write_text("/planet/x /labels/y 2018-01\n"),
            "val.txt",
            "has a line '/planet/x /labels/y 2018-01'",
        ),
    ],
)
def test_damage_of_text_lists_is_told(whole, tmp_path, harm, file, sentence):
    root = write_dynamicearthnet(tmp_path, "pangaea")
    harm(root / "dynnet_training_splits" / file)
    assert sentence in "\n".join(open_dataset(NAME, root).problems)


def test_another_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="no folder planet in"):
        open_dataset(CHANGE, tmp_path)
