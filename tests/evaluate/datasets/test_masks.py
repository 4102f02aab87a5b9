import numpy as np
import pytest
from PIL import Image

from skyframe.evaluate.datasets.masks import (
    blocks_of_scene,
    classes_of_colours,
    classes_of_numbers,
    need_size,
    number_image,
)
from skyframe.spec import InputError

PALETTE = ((0, 0, 0), (255, 255, 0))


def colours(*values):
    return np.array(values, np.uint8).T[:, None]  # [3, 1, n]


def test_colours_become_classes_within_the_tolerance(tmp_path):
    pixels = colours((0, 0, 0), (255, 255, 0), (252, 255, 0))
    assert classes_of_colours(tmp_path, pixels, PALETTE, tolerance=3).tolist() == [[0, 1, 1]]
    with pytest.raises(
        InputError, match=r"1 pixels of colours that are no class, such as \(252, 255, 0\) at row 0, co"
    ):
        classes_of_colours(tmp_path, pixels, PALETTE, tolerance=2)


def test_numbers_become_classes_and_strange_ones_are_counted(tmp_path):
    values = np.array([[0, 4], [255, 4]], np.float32)
    assert classes_of_numbers(tmp_path, values, {0: 2, 4: 1, 255: -1}).tolist() == [[2, 1], [-1, 1]]
    with pytest.raises(InputError, match="2 pixels of value 4, expected classes 0, 255"):
        classes_of_numbers(tmp_path, values, {0: 0, 255: -1})
    with pytest.raises(InputError, match="1 pixels of value nan"):
        classes_of_numbers(tmp_path, np.array([[0, np.nan]]), {0: 0})


@pytest.mark.parametrize("mode", ["L", "P"])
def test_a_picture_of_numbers_keeps_them(tmp_path, mode):
    numbers = np.array([[0, 3], [15, 255]], np.uint8)
    image = Image.fromarray(numbers)
    if mode == "P":
        image = Image.fromarray(numbers, "P")
        image.putpalette([200, 10, 10] * 256)
    image.save(tmp_path / "mask.png")
    assert number_image(tmp_path / "mask.png").tolist() == numbers.tolist()


def test_a_picture_of_colours_is_no_picture_of_numbers(tmp_path):
    Image.new("RGB", (2, 2), (0, 0, 63)).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match="a picture of mode RGB, expected one number per pixel"):
        number_image(tmp_path / "mask.png")


def test_sizes_must_agree(tmp_path):
    need_size(tmp_path, np.zeros((3, 4, 5)), 4, 5)
    with pytest.raises(InputError, match="4 x 5 pixels, expected 5 x 4"):
        need_size(tmp_path, np.zeros((4, 5)), 5, 4)


def test_blocks_never_touch_and_every_row_and_column_holds_all_parts():
    blocks = list(blocks_of_scene(96, 8))
    assert [sum(b.part == p for b in blocks) for p in ("train", "val", "test")] == [15, 5, 5]
    assert max(b.top + b.side for b in blocks) == max(b.left + b.side for b in blocks) == 512
    owner = np.full((512, 512), -1)
    for number, b in enumerate(blocks):
        box = owner[b.top : b.top + b.side, b.left : b.left + b.side]
        assert (box == -1).all()
        box[:] = number
    for a, b in [(owner[:, :-8], owner[:, 8:]), (owner[:-8], owner[8:]), (owner[:-8, :-8], owner[8:, 8:])]:
        assert ((a == -1) | (b == -1) | (a == b)).all()  # eight pixels on stands the gap or the same block
    assert len({(b.top, b.part) for b in blocks}) == len({(b.left, b.part) for b in blocks}) == 15
