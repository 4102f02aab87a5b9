"""EuroSAT's thirteen bands."""

from pathlib import Path

import numpy as np
import pytest

from skyframe.evaluate.benchmarks import open_dataset
from tests.evaluate.layouts.damage import Damage, assert_told, cut, empty, remove
from tests.evaluate.layouts.scenes import WRITERS, stack, write_class_folders, write_raster

TIF = Path("ds/images/remote_sensing/otherDatasets/sentinel_2/tif")


def test_bands_are_in_the_order_of_the_files(tmp_path: Path) -> None:
    WRITERS["eurosat-ms"](tmp_path)
    dataset = open_dataset("eurosat-ms", tmp_path)
    assert (len(dataset.part("train")), dataset.problems) == (6, ())
    s2 = dataset.modalities["s2"]
    series = dataset.read(dataset.part("val")[1]).series["s2"]  # SeaLake_4 is number 9
    named = dict(zip(s2.band_names, series.values[0, :, 3, 3].tolist(), strict=True))
    assert (named["B01"], named["B08"], named["B09"], named["B12"], named["B8A"]) == (901, 908, 909, 912, 913)
    assert (s2.units, s2.scale, series.values.dtype) == ("top-of-atmosphere reflectance", 1e-4, np.uint16)


def test_without_lists_the_same_places_are_held_out_as_in_rgb(tmp_path: Path) -> None:
    WRITERS["eurosat-ms"](tmp_path)
    for path in tmp_path.glob("*.txt"):
        path.unlink()
    write_class_folders(tmp_path, "EuroSAT_RGB", ("AnnualCrop", "SeaLake"), ("AnnualCrop", "SeaLake"), ".jpg")
    parts = [{i.key: i.part for i in open_dataset(n, tmp_path).items} for n in ("eurosat-ms", "eurosat-rgb")]
    assert parts[0] == parts[1]
    assert [k for k, part in parts[0].items() if part != "train"] == [
        "AnnualCrop/AnnualCrop_2",
        "AnnualCrop/AnnualCrop_4",
    ]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove, "is missing, expected by train item AnnualCrop/AnnualCrop_1"),
        (empty, "has 0 bytes"),
        (cut, "AnnualCrop_1.tif: not a readable raster"),
        (lambda p: write_raster(p, stack(1, 12, 64)), "12 bands, expected 13 (B01, "),
        (lambda p: write_raster(p, stack(1, 13, 60)), "60 x 60 pixels, expected 64 x 64"),
    ],
)
def test_a_damaged_chip_is_told(damage: Damage, words: str, tmp_path: Path) -> None:
    WRITERS["eurosat-ms"](tmp_path)
    damage(tmp_path / TIF / "AnnualCrop" / "AnnualCrop_1.tif")
    assert_told("eurosat-ms", tmp_path, words)


def test_the_layout_of_the_archive_opens(shared_dir: Path) -> None:
    dataset = open_dataset("eurosat-ms", shared_dir / "data" / "layout_fixtures" / "eurosat")
    assert dataset.read(dataset.items[0]).series["s2"].values.shape == (1, 13, 64, 64)
