import shutil
from collections import Counter

import numpy as np
import pytest

from skyframe.evaluate.benchmarks import open_dataset
from skyframe.evaluate.datasets.check import check_dataset
from skyframe.spec import InputError
from tests.evaluate.layouts.detection import (
    BOX,
    CORNERS,
    WRITERS,
    box,
    points,
    rotated,
    voc,
    write_picture,
    write_text,
)

NAMES = sorted(WRITERS)
IMAGE = {"dior": "JPEGImages-test/11726.jpg", "fair1m": "validation/images/4.tif"}
IMAGE |= {"dior-r": IMAGE["dior"], "hit-uav": "normal_xml/JPEGImages/0_60_30_0_00004.jpg"}
IMAGE |= {"neon-trees": "evaluation/RGB/SITE_009.tif"}
LABELS = {
    "dior": "Annotations/Horizontal Bounding Boxes/11726.xml",
    "dior-r": "Annotations/Oriented Bounding Boxes/11726.xml",
    "fair1m": "validation/labelXml/4.xml",
    "hit-uav": "normal_xml/Annotations/0_60_30_0_00004.xml",
    "neon-trees": "annotations/SITE_009.xml",
}
CLASS = {"dior": "airplane", "dior-r": "ship", "fair1m": "Van", "hit-uav": "Car", "neon-trees": "Tree"}
ORIENTED = ("dior-r", "fair1m")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return {name: write(tmp_path_factory.mktemp(name)) for name, write in WRITERS.items()}


@pytest.fixture
def copy(sound, tmp_path):
    return lambda name: shutil.copytree(sound[name], tmp_path / name)


@pytest.mark.parametrize("name", NAMES)
def test_a_sound_copy_can_be_scored(sound, name):
    dataset = open_dataset(name, sound[name])
    report = check_dataset(dataset)
    assert report.problems == ()
    assert len(report.readable) == len(dataset.items)
    assert dataset.kind == ("oriented" if name in ORIENTED else "boxes")
    assert open_dataset(name, sound[name]).split_sha256 == dataset.split_sha256


def test_dior_by_hand(sound):
    dataset = open_dataset("dior", sound["dior"])
    assert [(i.key, i.part) for i in dataset.items] == [
        ("00001", "train"), ("00002", "train"), ("00003", "val"), ("11726", "test"),
    ]  # fmt: skip
    sample = dataset.read(dataset.items[3])
    assert sample.series["rgb"].values.shape == (1, 3, 32, 48)
    assert sample.targets["boxes"].tolist() == [list(BOX), [30, 2, 48, 30]]
    assert sample.targets["box_class"].tolist() == [0, 8]
    assert sample.targets["difficult"].tolist() == [False, True]
    assert len(dataset.classes) == 20


def test_torchgeos_dior(shared_dir):
    dataset = open_dataset("dior", shared_dir / "data" / "layout_fixtures" / "dior")
    report = check_dataset(dataset)
    assert report.problems == ()
    assert Counter(i.part for i in dataset.items) == {"train": 4, "test": 2}  # its two test images are not labelled
    assert "its val part as test" in dataset.split
    sample = dataset.read(next(i for i in dataset.items if i.key.endswith("000001")))
    assert sample.targets["boxes"].tolist() == [[5, 0, 23, 20], [9, 9, 24, 28]]
    assert [dataset.classes[c] for c in sample.targets["box_class"]] == ["baseballfield", "basketballcourt"]


@pytest.mark.parametrize("name", ORIENTED)
def test_orientation_is_kept(sound, name):
    dataset = open_dataset(name, sound[name])
    targets = dataset.read(dataset.part("test")[0]).targets
    assert targets["corners"][0].tolist() == [list(p) for p in CORNERS]
    assert dataset.classes[targets["box_class"][0]] == {"dior-r": "ship", "fair1m": "Boeing737"}[name]
    assert len(dataset.classes) == {"dior-r": 20, "fair1m": 37}[name]


def test_fair1m_scores_its_validation_part(sound):
    dataset = open_dataset("fair1m", sound["fair1m"])
    assert [i.key for i in dataset.part("test")] == ["validation/4", "validation/5"]
    assert {i.key for i in dataset.items if i.part != "test"} == {f"train/part{1 + n // 2}/{n}" for n in range(4)}


def test_hit_uav_by_hand(sound, tmp_path):
    dataset = open_dataset("hit-uav", sound["hit-uav"])
    sample = dataset.read(dataset.items[0])
    assert sample.series["ir"].values.shape == (1, 1, 32, 48)
    assert sample.targets["box_class"].tolist() == [0, -1, 1]
    assert sample.targets["difficult"].tolist() == [False, True, True]
    listed = shutil.copytree(sound["hit-uav"], tmp_path / "listed")
    for part, number in (("train", 0), ("val", 1), ("test", 2)):
        write_text(listed / "normal_xml" / "ImageSets" / "Main" / f"{part}.txt", f"0_60_30_0_{number:05d}\n")
    again = open_dataset("hit-uav", listed)
    assert [i.part for i in again.items] == ["train", "val", "test"]
    assert again.split == "ImageSets/Main/{train,val,test}.txt"


def test_real_thermal_images(shared_dir):
    dataset = open_dataset("hit-uav", shared_dir / "data" / "HIT-UAV")
    report = check_dataset(dataset)
    assert report.problems == ()
    assert sum(report.units.values(), Counter()) == {0: 511, 1: 601, 2: 675, 3: 17}
    assert report.sizes == {"1 x 1 x 512 x 640": 200}


def test_real_trees(shared_dir):
    dataset = open_dataset("neon-trees", shared_dir / "data" / "DeepForest")
    report = check_dataset(dataset)
    assert report.problems == ()
    assert {i.key[:4]: (i.part, i.files["boxes"].name[-9:]) for i in dataset.items} == {
        "2018": ("test", "truth.csv"), "2019": ("train", "_crop.xml"), "OSBS": ("test", "S_029.xml"),
    }  # fmt: skip
    assert (report.units["train"][0], report.units["test"][0]) == (279, 61 + 7)
    sjer = dataset.read(next(i for i in dataset.items if i.key.startswith("2018")))
    assert sjer.targets["boxes"][0].tolist() == [1, 103, 82, 235]  # the columns are xmin, xmax, ymin, ymax


def objects(name, text):
    return f"<annotation><objects>{text}</objects></annotation>" if name == "fair1m" else voc(text)


def drawn(name, kind, numbers):
    corners = [(numbers[i], numbers[j]) for i, j in ((0, 1), (2, 1), (2, 3), (0, 3))]
    shape = {"dior-r": lambda: rotated(kind, corners), "fair1m": lambda: points(kind, corners)}
    return objects(name, shape.get(name, lambda: box(kind, numbers))())


BOMB = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><annotation>&b;</annotation>'
WRONG_LABELS = {
    "bomb": (lambda n: BOMB, "not XML of plain elements"),
    "cut off": (lambda n: "<annotation><object><name>ship", "not XML of plain elements"),
    "unknown class": (lambda n: drawn(n, "zeppelin", BOX), "class 'zeppelin' is none of the"),
    "no area": (lambda n: drawn(n, CLASS[n], (4, 6, 4, 16)), "at 4, 6, .* has no area"),
    "outside": (lambda n: drawn(n, CLASS[n], (50, 6, 60, 16)), "lies outside the image of 48 x 32 pixels"),
    "not numbers": (lambda n: drawn(n, CLASS[n], BOX).replace("20", "many"), "'many.*, expected a number of pixels"),
    "nameless": (lambda n: drawn(n, "", BOX), "an object lacks .*name"),
}


@pytest.mark.parametrize("fault", WRONG_LABELS)
@pytest.mark.parametrize("name", NAMES)
def test_wrong_annotations_are_told_and_the_rest_is_read(copy, name, fault):
    root, (text, said) = copy(name), WRONG_LABELS[fault]
    write_text(root / LABELS[name], text(name))
    dataset = open_dataset(name, root)
    wrong = next(i for i in dataset.items if i.files["boxes"] == root / LABELS[name])
    with pytest.raises(InputError, match=rf"{wrong.files['boxes'].name}: .*{said}"):
        dataset.read(wrong)
    report = check_dataset(dataset)
    assert len(report.problems) == 1
    assert sum(report.sizes.values()) == len(dataset.items) - 1


@pytest.mark.parametrize("name", ORIENTED)
def test_corners_that_make_no_quadrilateral(copy, name):
    root = copy(name)
    draw = rotated if name == "dior-r" else points
    write_text(root / LABELS[name], objects(name, draw(CLASS[name], [(4, 4), (24, 16), (24, 4), (4, 9)])))
    item = next(i for i in open_dataset(name, root).items if i.files["boxes"] == root / LABELS[name])
    with pytest.raises(InputError, match="edges that cross"):
        open_dataset(name, root).read(item)
    write_text(root / LABELS[name], objects(name, draw(CLASS[name], CORNERS[:3])))
    with pytest.raises(InputError, match=r"lacks robndbox/x_left_bottom|drawn by 3 corners, expected four corners"):
        open_dataset(name, root).read(item)


@pytest.mark.parametrize("name", NAMES)
def test_missing_and_empty_files_are_told(copy, name):
    root = copy(name)
    (root / LABELS[name]).unlink()
    (root / IMAGE[name]).write_bytes(b"")
    said = " ".join(check_dataset(open_dataset(name, root)).problems)
    assert f"{IMAGE[name]} has 0 bytes" in said
    assert f"{LABELS[name]} is missing" in said


@pytest.mark.parametrize("name", ["dior", "dior-r", "hit-uav", "neon-trees"])
def test_boxes_of_another_image(copy, name):
    root = copy(name)
    write_picture(root / IMAGE[name], 64, 64, gray=name == "hit-uav")
    problems = check_dataset(open_dataset(name, root)).problems
    assert len(problems) == 1
    assert "made for an image of 48 x 32 pixels, the one beside it has 64 x 64" in problems[0]


def test_an_object_may_reach_beyond_its_image(copy):
    root = copy("dior")
    write_text(root / LABELS["dior"], voc(box("ship", (40, -3, 55, 10))))
    dataset = open_dataset("dior", root)
    assert dataset.read(dataset.part("test")[0]).targets["boxes"].tolist() == [[40, -3, 55, 10]]


def test_images_without_objects_are_items(copy):
    root = copy("dior-r")
    write_text(root / LABELS["dior-r"], voc(""))
    dataset = open_dataset("dior-r", root)
    targets = dataset.read(dataset.part("test")[0]).targets
    assert targets["corners"].shape == (0, 4, 2)
    assert targets["corners"].dtype == np.float32


def test_other_folders_are_refused(tmp_path):
    for name in NAMES:
        with pytest.raises(InputError, match=rf"{name}: no (folder|image)"):
            open_dataset(name, tmp_path)


def test_lists_and_parts_that_are_not_there(copy):
    root = copy("dior")
    (root / "ImageSets" / "Main" / "val.txt").unlink()
    assert "expected the list of part val" in " ".join(open_dataset("dior", root).problems)
    root = copy("fair1m")
    shutil.rmtree(root / "train" / "part2" / "images")
    write_text(root / "validation" / "labelXml" / "99.xml", "<annotation/>")
    said = " ".join(open_dataset("fair1m", root).problems)
    assert "part2/images, expected .tif files; unpack the archive of train/part2" in said
    assert "1 annotations in" in said
    assert "such as 99.xml" in said


def test_a_models_answers_are_no_truth(copy):
    root = copy("neon-trees")
    shutil.rmtree(root / "training")
    shutil.rmtree(root / "evaluation")
    write_picture(root / "plot.png", 400, 400)
    write_picture(root / "large.png", 420, 400)
    write_text(root / "plot.csv", "xmin,ymin,xmax,ymax,scores\n1,2,3,4,0.5\n")
    write_text(root / "large.csv", "image_path,xmin,ymin,xmax,ymax\nlarge.png,1,2,3,4\n")
    assert [(i.key, i.part) for i in open_dataset("neon-trees", root).items] == [("large", "train")]
