import numpy as np
import pytest

from skyframe.evaluate.benchmarks import open_dataset
from skyframe.evaluate.benchmarks.isaid import CLASSES
from skyframe.spec import InputError
from tests.evaluate.layouts.damage import assert_told, cut, empty, remove, scribble, told
from tests.evaluate.layouts.isaid import write_isaid, write_isaid_crops
from tests.evaluate.layouts.rasters import noise, write_png


def test_published_layout_is_read_by_colour(tmp_path):
    dataset = open_dataset("isaid", write_isaid(tmp_path / "iSAID").parent)
    assert (dataset.kind, len(dataset.classes), dataset.classes[1]) == ("pixel", 16, "ship")
    assert dataset.problems == ()
    assert [i.key for i in dataset.part("test")] == ["val/P0002", "val/P0004"]
    assert len(dataset.part("train")) + len(dataset.part("val")) == 6
    sample = dataset.read(dataset.part("test")[0])
    assert sample.series["rgb"].values.shape == (1, 3, 8, 8)
    assert np.unique(sample.targets["mask"][:4]).tolist() == [1]
    assert np.unique(sample.targets["mask"][4:]).tolist() == [0]
    assert sample.targets["mask"].dtype == np.int64


def test_colours_of_all_classes_differ():
    assert len(set(CLASSES.values())) == 16


def test_masks_may_lie_in_a_folder_of_their_own(tmp_path):
    root = write_isaid(tmp_path)
    for part in ("train", "val"):
        (root / part / "semantic_masks").mkdir()
        for path in (root / part / "images").glob("*_instance_*.png"):
            path.rename(root / part / "semantic_masks" / path.name)
    assert told("isaid", root) == []


def test_crops_are_read_by_number_and_those_of_one_image_share_their_part(tmp_path):
    dataset = open_dataset("isaid", write_isaid_crops(tmp_path))
    assert len(dataset.items) == 16
    parts = {}
    for item in dataset.items:
        parts.setdefault(item.cluster, set()).add(item.part)
    assert all(len(found) == 1 for found in parts.values())
    mask = dataset.read(dataset.items[0]).targets["mask"]
    assert mask[:, 0].tolist() == [1, 1, 1, 1, 0, 0, 0, -1]


MASK, IMAGE = "val/images/P0002_instance_color_RGB.png", "val/images/P0002.png"


@pytest.mark.parametrize(
    ("harm", "file", "sentence"),
    [
        (remove, MASK, "P0002_instance_color_RGB.png is missing, expected by test item val/P0002"),
        (empty, MASK, "P0002_instance_color_RGB.png has 0 bytes"),
        (cut, IMAGE, "P0002.png: not a readable image"),
        (scribble, MASK, "not a readable image"),
        (remove, IMAGE, "without an image, such as P0002_instance_color_RGB.png"),
        (lambda p: write_png(p, np.zeros((3, 8, 7), np.uint8)), MASK, "8 x 7 pixels, expected 8 x 8"),
        (lambda p: write_png(p, noise(3, 8, 8)), MASK, "64 pixels of colours that are no class"),
    ],
)
def test_damage_of_the_published_layout_is_told(tmp_path, harm, file, sentence):
    root = write_isaid(tmp_path)
    harm(root / file)
    assert_told("isaid", root, sentence)


@pytest.mark.parametrize(
    ("pixels", "sentence"),
    [
        (np.full((8, 8), 16, np.uint8), "64 pixels of value 16"),
        (np.zeros((3, 8, 8), np.uint8), "a picture of mode RGB, expected one number per pixel"),
    ],
)
def test_damage_of_crops_is_told(tmp_path, pixels, sentence):
    root = write_isaid_crops(tmp_path)
    write_png(root / "ann_dir/val/P0002_0_8_0_8_instance_color_RGB.png", pixels)
    assert_told("isaid", root, sentence)


def test_a_part_without_images_and_another_folder_are_named(tmp_path):
    root = write_isaid(tmp_path / "set")
    for path in (root / "val/images").iterdir():
        path.unlink()
    assert_told("isaid", root, "no image in")
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="neither img_dir nor train/images"):
        open_dataset("isaid", tmp_path / "other")
