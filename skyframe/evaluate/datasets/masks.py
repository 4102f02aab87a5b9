"""Masks of strangers as class numbers: colours and numbers by table, sizes that must agree, and blocks of one scene."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skyframe.evaluate.datasets.files import read_image
from skyframe.spec import InputError

Colour = tuple[int, int, int]
UNKNOWN = -2


def classes_of_colours(
    path: Path, pixels: NDArray[np.generic], palette: Sequence[Colour], tolerance: int = 0
) -> NDArray[np.int64]:
    """Class of each pixel by its colour.

    Args:
        path: of the mask, for the message.
        pixels: uint8 `[3, H, W]`, red, green, blue.
        palette: colour of class 0, 1, ...
        tolerance: how far each of the three numbers may lie from the palette's.

    Returns:
        int64 `[H, W]`.

    Raises:
        InputError: a colour that the palette lacks, with the number of its pixels.
    """
    mask = np.full(pixels.shape[1:], UNKNOWN, np.int64)
    for number, colour in enumerate(palette):
        away = [np.abs(pixels[i].astype(np.int16) - c) <= tolerance for i, c in enumerate(colour)]
        mask[away[0] & away[1] & away[2]] = number
    strange = mask == UNKNOWN
    if strange.any():
        y, x = np.argwhere(strange)[0].tolist()
        raise InputError(
            f"{path}: {int(strange.sum())} pixels of colours that are no class, such as "
            f"{tuple(pixels[:, y, x].tolist())} at row {y}, column {x}, expected one of {len(palette)} colours; fetch "
            "the mask again, and not a copy that was resized or saved as JPEG"
        )
    return mask


def classes_of_numbers(
    path: Path, values: NDArray[np.generic], table: Mapping[int, int], scored: str = "classes"
) -> NDArray[np.int64]:
    """Class of each pixel by the number stored for it.

    Args:
        path: of the mask, for the message.
        values: any dtype, any shape.
        table: class number, or -1 for what is not scored, by stored number.
        scored: what the numbers stand for, for the message.

    Returns:
        int64 of the same shape.

    Raises:
        InputError: a number that the table lacks, with the number of its pixels.
    """
    mask = np.full(values.shape, UNKNOWN, np.int64)
    for stored, number in table.items():
        mask[values == stored] = number
    strange = mask == UNKNOWN
    if strange.any():
        raise InputError(
            f"{path}: {int(strange.sum())} pixels of value {values[strange][0].item():g}, expected {scored} "
            f"{', '.join(map(str, sorted(table)))}; fetch the mask again"
        )
    return mask


def number_image(path: Path) -> NDArray[np.uint8]:
    """A picture of numbers, uint8 `[H, W]`: grey values, or the numbers of a palette.

    Raises:
        InputError: as `read_image`, or a picture of colours, which would be turned into grey values silently.
    """
    numbers = read_image(path, "P")
    with Image.open(path) as image:
        if image.mode not in ("L", "P", "1"):
            raise InputError(
                f"{path}: a picture of mode {image.mode}, expected one number per pixel; give the mask of class numbers"
            )
    return numbers


def need_size(path: Path, mask: NDArray[np.generic], height: int, width: int) -> None:
    """Refuse a mask `[..., H, W]` of another size than the image it belongs to."""
    if mask.shape[-2:] != (height, width):
        raise InputError(
            f"{path}: {mask.shape[-2]} x {mask.shape[-1]} pixels, expected {height} x {width} as its image has; fetch "
            "both again"
        )


@dataclass(frozen=True)
class Block:
    """A square of one scene, whose part no neighbouring pixel shares unless it lies in the same block."""

    top: int
    left: int
    side: int
    part: str  # train | val | test


def blocks_of_scene(side_px: int, gap_px: int) -> Iterator[Block]:
    """5 x 5 blocks of one scene: 15 for training, 5 for validation and 5 for testing.

    Every row and column of blocks holds each part, so that a gradient across the scene favours none.

    Args:
        side_px: of a block.
        gap_px: pixels between blocks, which belong to none.
    """
    step = side_px + gap_px
    for row in range(5):
        for column in range(5):
            part = ("train", "train", "train", "val", "test")[(row + 2 * column) % 5]
            yield Block(row * step, column * step, side_px, part)
