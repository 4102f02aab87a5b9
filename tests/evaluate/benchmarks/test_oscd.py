import shutil
from datetime import date

import numpy as np
import pytest

from skyframe.calendar import DAY_UNKNOWN, day_of
from skyframe.evaluate.benchmarks import open_dataset
from skyframe.evaluate.benchmarks.oscd import CITIES
from skyframe.evaluate.datasets.imagery import S2_BANDS
from skyframe.spec import InputError
from tests.evaluate.layouts.damage import assert_told, cut, empty, remove, scribble
from tests.evaluate.layouts.oscd import ARCHIVE, write_oscd
from tests.evaluate.layouts.rasters import noise, write_png, write_tif


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_oscd(tmp_path_factory.mktemp("oscd"))


@pytest.mark.parametrize("tif_mask", [False, True])
def test_bands_stand_on_one_grid_at_two_days(tmp_path, tif_mask):
    dataset = open_dataset("oscd", write_oscd(tmp_path, tif_mask=tif_mask))
    assert (dataset.kind, dataset.modalities["s2"].units) == ("change", "top-of-atmosphere reflectance")
    assert [i.key for i in dataset.part("test")] == ["rio"]
    sample = dataset.read(dataset.part("test")[0])
    series = sample.series["s2"]
    assert series.values.shape == (2, 13, 12, 18)
    assert np.unique(series.values[:, 0]).tolist() == [600]  # B01 from 60 m
    assert np.array_equal(series.values[0, S2_BANDS.index("B8A")], 1 + noise(12, 18, dtype=np.uint16))
    assert series.day.tolist() == [day_of(date(2016, 1, 20)), day_of(date(2018, 3, 28))]
    assert sample.targets["mask"].sum(1).tolist() == [18, 18] + [0] * 10


def test_published_cities_are_24_and_the_absent_are_named(whole):
    assert (len(set(CITIES["train"])), len(set(CITIES["test"]))) == (14, 10)
    dataset = open_dataset("oscd", whole)
    held = len({*CITIES["train"], *CITIES["test"]} & {i.key for i in dataset.items})
    assert dataset.problems == () and dataset.source.endswith(f"; this copy lacks {24 - held} of 24 cities")


def test_a_published_city_with_images_and_without_labels_is_told(whole, tmp_path):
    root = tmp_path / "set"
    shutil.copytree(whole, root)
    shutil.copytree(root / f"{ARCHIVE}Images" / "rio", root / f"{ARCHIVE}Images" / "chongqing")
    (told,) = open_dataset("oscd", root).problems
    assert "no labels of chongqing, expected the 10 published test cities" in told


IMAGES, LABELS = f"{ARCHIVE}Images/rio", f"{ARCHIVE}Test Labels/rio/cm/cm.png"


@pytest.mark.parametrize(
    ("harm", "file", "sentence"),
    [
        (remove, f"{IMAGES}/imgs_2_rect/B11.tif", "imgs_2_rect/B11.tif is missing, expected by test item rio"),
        (empty, f"{IMAGES}/imgs_1_rect/B02.tif", "B02.tif has 0 bytes"),
        (cut, f"{IMAGES}/imgs_1_rect/B02.tif", "B02.tif: not a readable raster"),
        (scribble, LABELS, "cm.png: not a readable image"),
        (remove, LABELS, "cm.png is missing"),
        (lambda p: write_png(p, noise(12, 17)), LABELS, "12 x 17 pixels, expected 12 x 18"),
        (lambda p: write_tif(p, noise(13, 18)), f"{IMAGES}/imgs_2_rect/B02.tif", "pixels, expected 12 x 18"),
        (remove, f"{IMAGES}/dates.txt", "dates of rio are not known"),
        (lambda p: p.write_text("date_1: 2016\n"), f"{IMAGES}/dates.txt", "dates of rio are not known"),
        (lambda p: p.write_text("date_1: 20160120\n"), f"{IMAGES}/dates.txt", "expected an earlier and a later one"),
        (lambda p: p.write_text("d: 20180120\nd: 20160101"), f"{IMAGES}/dates.txt", "has dates 20180120, 20160101"),
    ],
)
def test_damage_is_told(whole, tmp_path, harm, file, sentence):
    root = shutil.copytree(whole, tmp_path / "oscd")
    harm(root / file)
    assert_told("oscd", root, sentence)


def test_a_mask_of_other_numbers_and_days_that_are_not_known(tmp_path):
    root = write_oscd(tmp_path, tif_mask=True)
    write_tif(root / f"{ARCHIVE}Test Labels/rio/cm/rio-cm.tif", np.full((12, 18), 3, np.uint8))
    (root / IMAGES / "dates.txt").unlink()
    assert_told("oscd", root, "216 pixels of value 3, expected 1 and 2 for the classes 1, 2")
    city = next(i for i in open_dataset("oscd", root).items if i.key == "rio")
    assert city.about["days"] == [DAY_UNKNOWN] * 2


def test_another_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no folder 'Onera .* - Images'"):
        open_dataset("oscd", tmp_path)
