"""AID, RESISC-45 and EuroSAT RGB from folders of images."""

from pathlib import Path

import pytest

from skyframe.calendar import DAY_UNKNOWN
from skyframe.evaluate.benchmarks import open_dataset
from skyframe.evaluate.datasets.check import check_dataset
from skyframe.spec import InputError
from tests.evaluate.layouts.damage import Damage, assert_told, cut, empty, remove, replaced, scribble
from tests.evaluate.layouts.scenes import WRITERS, write_class_folders, write_picture

RESISC = "NWPU-RESISC45/airplane/airplane_"


def test_resisc45_follows_its_lists(tmp_path: Path) -> None:
    WRITERS["resisc45"](tmp_path)
    dataset = open_dataset("resisc45", tmp_path)
    assert [len(dataset.part(p)) for p in ("train", "val", "test")] == [9, 3, 3]
    assert [i.key for i in dataset.part("test")] == [
        "airplane/airplane_5", "baseball_diamond/baseball_diamond_5", "wetland/wetland_5",
    ]  # fmt: skip
    assert dataset.class_counts("train") == {0: 3, 2: 3, 44: 3}  # numbers of the 45, whatever is there
    assert dataset.problems == ()
    assert dataset.source.endswith("; this copy: 15 of 31,500 images, 3 of 45 classes")
    sample = dataset.read(dataset.items[0])
    series = sample.series["rgb"]
    assert series.values.shape == (1, 3, 64, 64)
    assert series.values[0, :, 5, 5].tolist() == pytest.approx([1, 50, 100], abs=3)  # JPEG
    assert (series.day[0], bool(series.valid.all()), int(sample.targets["class"])) == (DAY_UNKNOWN, True, 0)


@pytest.mark.parametrize(("name", "train"), [("aid-20", 1), ("aid-50", 2), ("resisc45-10", 1), ("resisc45-20", 1)])
def test_shares_are_of_each_class(name: str, train: int, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    dataset = open_dataset(name, tmp_path)
    numbers = sorted({int(i.label) for i in dataset.items})
    assert dataset.class_counts("train") == dict.fromkeys(numbers, train)
    assert dataset.class_counts("test") == dict.fromkeys(numbers, 5 - train)
    assert not dataset.part("val")
    assert f"{int(name[-2:])}%" in dataset.split


def test_a_larger_share_holds_the_smaller_one(tmp_path: Path) -> None:
    WRITERS["aid"](tmp_path)
    few, many = ({i.key for i in open_dataset(n, tmp_path).part("train")} for n in ("aid-20", "aid-50"))
    assert few < many


def test_the_classes_may_lie_in_the_folder_itself_and_be_spelt_otherwise(tmp_path: Path) -> None:
    write_class_folders(tmp_path, "", ("bare land", "StorageTanks"), ("bareland", "storagetanks"), ".png")
    dataset = open_dataset("aid", tmp_path)
    assert dataset.problems == ()
    assert {i.key.partition("/")[0] for i in dataset.items} == {"BareLand", "StorageTanks"}
    assert dataset.split == "by hash of class and name, 60/20/20"
    assert dataset.read(dataset.items[3]).series["rgb"].values[0, 0, 0, 0] == 4


@pytest.mark.parametrize(
    ("path", "damage", "words"),
    [
        (f"{RESISC}1.jpg", remove, "airplane_1.jpg is missing, expected by train item airplane/airplane_1"),
        (f"{RESISC}4.jpg", empty, "airplane_4.jpg has 0 bytes"),
        (f"{RESISC}5.jpg", cut, "airplane_5.jpg: not a readable image"),
        (f"{RESISC}5.jpg", scribble, "airplane_5.jpg: not a readable image"),
        ("NWPU-RESISC45/wetland", remove, "wetland_5.jpg is missing, expected by test item wetland/wetland_5"),
        ("NWPU-RESISC45/wetland", lambda p: p.rename(p.parent / "wetlnad"), "classes; did you mean 'wetland'?"),
        ("resisc45-val.txt", remove, "lacks resisc45-val.txt"),
        ("resisc45-val.txt", empty, "resisc45-val.txt: 0 bytes"),
        ("resisc45-val.txt", replaced(b"wetland_4", b"swamp_4"), "names swamp_4.jpg, which is of no known class"),
        (
            "resisc45-test.txt",
            replaced(b"wetland_5.jpg\n", b""),
            "1 images stand in no list, such as wetland/wetland_5",
        ),
        ("NWPU-RESISC45", remove, "no folder"),
    ],
)
def test_a_damaged_resisc45_is_told(path: str, damage: Damage, words: str, tmp_path: Path) -> None:
    WRITERS["resisc45"](tmp_path)
    damage(tmp_path / path)
    assert_told("resisc45", tmp_path, words)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: write_picture(p / "AnnualCrop/AnnualCrop_1.jpg", 1, 32), "32 x 32 pixels, expected 64 x 64"),
        (lambda p: [f.unlink() for f in (p / "SeaLake").iterdir()], "no image in"),
    ],
)
def test_a_damaged_eurosat_is_told(damage: Damage, words: str, tmp_path: Path) -> None:
    WRITERS["eurosat-rgb"](tmp_path)
    damage(tmp_path / "EuroSAT_RGB")
    assert_told("eurosat-rgb", tmp_path, words)


def test_an_archive_that_is_not_unpacked_is_named(tmp_path: Path) -> None:
    (tmp_path / "AID.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"unpack AID.zip there \(`skyframe data-check aid .* --unpack`\)"):
        open_dataset("aid", tmp_path)


def test_real_chips_are_whole(shared_dir: Path) -> None:
    dataset = open_dataset("eurosat-rgb", shared_dir / "data" / "EuroSAT")
    assert (len(dataset.items), len(dataset.classes), dataset.problems) == (4000, 10, ())
    assert [len(dataset.part(p)) for p in ("train", "val", "test")] == [2363, 798, 839]
    report = check_dataset(dataset, decode=False)
    assert report.problems == ()
    assert dict(report.sizes).keys() == {"1 x 3 x 64 x 64"}
