"""What a check of a data set finds, and what it leaves alone."""

import dataclasses

import numpy as np
import pytest
from rich.console import Console

from skyframe.evaluate.datasets.check import SHOWN, check_dataset, spread, summary
from skyframe.evaluate.datasets.samples_picture import draw_samples
from skyframe.spec import InputError
from tests.evaluate.toy_sets import TARGETS, toy, with_items, with_targets


def told(dataset, width=200):
    console = Console(width=width)
    with console.capture() as found:
        console.print(summary(dataset, check_dataset(dataset)))
    return found.get()


@pytest.mark.parametrize("kind", TARGETS)
def test_a_whole_set_of_each_kind_has_no_problem(kind):
    report = check_dataset(toy(kind))
    assert report.problems == () and report.warnings == () and len(report.readable) == 12
    assert report.sizes == {f"{2 if 'change' in kind else 1} x 3 x 8 x 8": 12}


def test_units_are_counted_by_hand():
    assert check_dataset(toy()).units["test"] == {0: 1, 1: 2, 2: 1}
    assert check_dataset(toy("pixel", 3)).units["train"] == {0: 16, 1: 16, 2: 16}  # a quarter is not scored
    assert check_dataset(toy("boxes", 3)).units["train"] == {0: 1, 2: 1}
    assert check_dataset(toy("change", 3)).units["val"] == {0: 21, 1: 21}
    assert check_dataset(toy("regression")).units["train"] == {0: 4}
    text = told(toy("pixel"))
    assert "labelled pixels" in text and "split " + toy().split_sha256 in text
    assert "12 of 1 x 3 x 8 x 8" in text and "red, green, blue, 1 m, display value" in text


MASK = np.zeros((8, 8), np.int64)
WRONG = [
    ("scene", {"class": np.int64(3)}, "class holds 3, expected 0 to 2"),
    ("scene", {"class": np.int64(-1)}, "class holds -1, expected 0 to 2"),
    ("multilabel", {"classes": np.ones(4, bool)}, r"classes has shape \[4\], expected \[3\]"),
    ("pixel", {"mask": MASK + 3}, "mask holds 3, expected 0 to 2 or -1 for what is not scored"),
    ("pixel", {"mask": MASK - 2}, "mask holds -2, expected"),
    ("pixel", {"mask": MASK[:4]}, r"mask has shape \[4, 8\], expected \[8, 8\] as its image"),
    ("change", {"mask": MASK + 255}, "mask holds 255, expected 0 to 1 or -1"),
    ("semantic_change", {"masks": np.zeros((2, 4, 8), int)}, r"masks has shape \[2, 4, 8\], expected \[2, 8, 8\]"),
    ("boxes", {"boxes": np.array([[0, 0, 1, 1], [1, 1, 4, 42.0]])}, "boxes 1 at 1,1 4,42 lies beyond the image"),
    ("boxes", {"boxes": np.array([[0, 0, 1, 1], [-8, 1, -2, 5.0]])}, "boxes 1 at -8,1 -2,5 lies beyond"),
    ("boxes", {"boxes": np.array([[0, 0, 1, 1], [np.nan, 1, 4, 5]])}, "boxes 1 at nan,1 4,5 lies beyond"),
    ("boxes", {"boxes": np.array([[3, 3, 3, 5], [0, 1, 4, 5.0]])}, "boxes 0 at 3,3 3,5 has no area"),
    ("boxes", {"boxes": np.zeros((1, 4))}, r"boxes has shape \[1, 4\], expected \[2, 4\]"),
    ("boxes", {"box_class": np.array([0, 3])}, "box_class holds 3, expected 0 to 2"),
    ("boxes", {"box_class": np.array([-1, 0])}, "box_class holds -1, expected 0 to 2$"),
    ("boxes", {"box_class": np.array([0, -2])}, "box_class holds -2, expected 0 to 2 or -1"),
    ("oriented", {"corners": np.full((2, 4, 2), 20.0)}, "corners 0 at 20,20 .* lies beyond"),
    ("regression", {"value": np.array([np.nan])}, "value is not a finite number"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "targets", "sentence"), WRONG)
def test_targets_that_contradict_pixels_or_classes(kind, targets, sentence):
    report = check_dataset(with_targets(toy(kind, 3), **targets))
    assert len(report.problems) == 3 and report.readable == ()
    with pytest.raises(AssertionError, match=f"^toy: train item i0: {sentence}"):
        raise AssertionError(report.problems[0])


def test_a_difficult_object_may_be_of_no_class_and_a_turned_box_reach_over_the_edge(tmp_path):
    plain = with_targets(toy("boxes", 3), box_class=np.array([0, -1]))
    report = check_dataset(plain)
    assert report.problems == () and report.units["train"] == {0: 1}
    assert draw_samples(plain, plain.items[:1], tmp_path / "a.png").is_file()
    corners = np.array([[[-3, 1], [4, 1], [4, 5], [-3, 5]], [[1, 1], [2, 1], [2, 2], [1, 2]]], float)
    assert check_dataset(with_targets(toy("oriented", 3), corners=corners)).problems == ()


def test_modalities_and_bands_that_nobody_announced():
    plain = toy()
    fewer = dataclasses.replace(plain.modalities["rgb"], bands=plain.modalities["rgb"].bands[:2])
    report = check_dataset(dataclasses.replace(plain, modalities={"rgb": fewer}))
    assert "rgb has shape [1, 3, 8, 8], expected 2 bands" in report.problems[0]
    report = check_dataset(dataclasses.replace(plain, modalities={"hr": fewer}))
    assert report.problems[0] == "toy: train item i0: modalities rgb, expected some of hr"
    assert (
        "1 dates, expected 2 to tell a change" in check_dataset(dataclasses.replace(plain, kind="change")).problems[0]
    )


def test_items_that_cannot_be_read_are_named_and_many_are_counted():
    broken = with_items(toy(), (1, {"about": {"n": -1}}), (3, {"about": {}}))
    report = check_dataset(broken)
    assert report.problems == (
        "toy: test item i1: i1.png: 0 bytes, the download broke off; fetch the file again",
        "toy: train item i3: cannot be read (KeyError: 'n')",
    )
    assert [i.key for i in report.readable[:3]] == ["i0", "i2", "i4"]
    many = with_items(toy(count=90), *((n, {"about": {"n": -1}}) for n in range(0, 90, 2)))
    problems = check_dataset(many).problems
    assert len(problems) == SHOWN + 1 and problems[-1] == "toy: 25 further items are damaged or contradictory"


def test_parts_keys_and_what_the_reader_found_stand_first():
    report = check_dataset(dataclasses.replace(toy(count=1), problems=("toy: list.txt is missing",)))
    assert report.problems == ("toy: list.txt is missing", "toy: no item in part test, expected some (in turn)")
    twice = check_dataset(with_items(toy(), (1, {"key": "i0", "about": {"n": 0}})))
    assert twice.problems == ("toy: item i0 is listed 2 times (train, test), expected once",)
    assert twice.warnings == ()


def test_equal_pixels_in_train_and_test_are_a_warning_and_black_ones_are_not():
    same = with_items(toy(), (1, {"about": {"n": 0}}), (2, {"about": {"n": 0}}))
    report = check_dataset(same)
    assert report.problems == () and len(report.warnings) == 1
    assert report.warnings[0].startswith(
        "toy: 1 of 4 test items have the very pixels of a training item, such as i1 and train item i0;"
    )
    plain = toy("multilabel")

    def black(item):
        sample = plain.read(item)
        sample.series["rgb"].values[:] = 0
        return sample

    assert check_dataset(dataclasses.replace(plain, read=black)).warnings == ()


def test_classes_that_only_the_test_part_has_are_a_warning():
    plain = toy()

    def read(item):
        sample = plain.read(item)
        return dataclasses.replace(sample, targets={"class": np.int64(2 if item.part == "test" else 0)})

    found = check_dataset(dataclasses.replace(plain, read=read))
    assert found.warnings == (
        "toy: 1 of 3 classes are in the test part and not in the training part (town); no head can learn them",
    )
    assert check_dataset(dataclasses.replace(plain, read=read), decode=False).warnings == ()


def test_a_quick_look_reads_a_few_of_each_part():
    opened = []
    plain = toy(count=60)

    def read(item):
        opened.append(item.key)
        return plain.read(item)

    report = check_dataset(dataclasses.replace(plain, read=read), decode=False)
    assert len(opened) == 12 and len(report.readable) == 12
    assert sum(report.units["test"].values()) == 4
    assert "in the 12 items that were read" in _summary_of(plain, report)


def _summary_of(dataset, report):
    console = Console(width=200)
    with console.capture() as found:
        console.print(summary(dataset, report))
    return found.get()


def test_items_at_even_distances():
    items = toy(count=9).items
    assert [i.key for i in spread(items, 3)] == ["i0", "i4", "i8"]
    assert spread(items, 20) == list(items) and spread([], 3) == []


def test_an_unreadable_item_is_not_drawn(tmp_path):
    with pytest.raises(InputError, match=r"i0.png: 0 bytes"):
        draw_samples(toy(), with_items(toy(), (0, {"about": {"n": -1}})).items[:1], tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
