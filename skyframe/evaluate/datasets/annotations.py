"""Objects drawn on images, from XML of several makers or a table, as checked detection targets.

Coordinates are taken as written: makers count pixels from 0 or from 1 and hardly say which. A box may reach beyond its
image, as one of a cut object does, but not lie outside of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from skyframe.evaluate.datasets.files import read_table, read_xml
from skyframe.evaluate.heads.shapes import areas, corners_of, enclosing, is_convex
from skyframe.spec import InputError, did_you_mean

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

SIDES = ("xmin", "ymin", "xmax", "ymax")
CORNERS = ("left_top", "right_top", "right_bottom", "left_bottom")


@dataclass(frozen=True)
class Drawn:
    """One object as its file has it."""

    name: str
    numbers: list[float]  # four of a box, eight of corners
    difficult: bool = False


def read_voc(path: Path, size: tuple[int, int], oriented: bool = False) -> list[Drawn]:
    """Objects of a Pascal VOC file.

    Args:
        path: XML with `object/name` and `object/bndbox`, or `object/robndbox` with the four corners of DIOR-R.
        size: height and width of the image that it belongs to.
        oriented: read corners.

    Raises:
        InputError: not such a file, or one that was made for an image of another size.
    """
    root, found = read_xml(path), []
    told = tuple(
        int(_number(path, root, f"size/{side}")) for side in ("height", "width") if root.find("size") is not None
    )
    if told and told != (0, 0) and told != size:
        raise InputError(
            f"{path}: made for an image of {told[1]} x {told[0]} pixels, the one beside it has {size[1]} x {size[0]}; "
            "they do not belong together"
        )
    for item in root.iter("object"):
        if oriented:
            places = [f"robndbox/{axis}_{corner}" for corner in CORNERS for axis in "xy"]
        else:
            places = [f"bndbox/{side}" for side in SIDES]
        difficult = (item.findtext("difficult") or "0").strip() not in ("", "0")
        found.append(Drawn(_text(path, item, "name"), [_number(path, item, place) for place in places], difficult))
    return found


def read_points(path: Path) -> list[Drawn]:
    """Objects of a FAIR1M file: `possibleresult/name`, and `points/point` with `x,y`, the first repeated at the end.

    Raises:
        InputError: not such a file, or an object without four corners.
    """
    found = []
    for item in read_xml(path).iter("object"):
        name = _text(path, item, "possibleresult/name")
        points = [(point.text or "").split(",") for point in item.iter("point")]
        corners = points[:-1] if len(points) > 1 and points[-1] == points[0] else points
        if len(corners) != 4 or any(len(p) != 2 for p in corners):
            raise InputError(
                f"{path}: {name} is drawn by {len(corners)} corners, expected four corners x,y and the first again; "
                "fetch the file again"
            )
        found.append(Drawn(name, [_finite(path, name, value) for point in corners for value in point]))
    return found


def read_box_table(path: Path, name: str) -> list[Drawn]:
    """Boxes of one class from a CSV with the columns xmin, ymin, xmax and ymax in any order."""
    return [Drawn(name, [_finite(path, side, row[side]) for side in SIDES]) for row in read_table(path, SIDES)]


def targets(
    path: Path,
    drawn: Sequence[Drawn],
    classes: Sequence[str],
    size: tuple[int, int],
    *,
    oriented: bool = False,
    ignored: Sequence[str] = (),
) -> dict[str, NDArray[np.generic]]:
    """Objects as `boxes` or `corners`, `box_class` and `difficult`.

    Args:
        path: the annotation file, for errors.
        drawn: its objects.
        classes: names by number; upper and lower case, spaces, hyphens and underscores do not matter.
        size: height and width of the image.
        oriented: all are corners; boxes otherwise.
        ignored: names of what belongs to no class and whose detections are neither right nor wrong: class -1.

    Raises:
        InputError: an unknown class, or an object outside the image, without area or with crossing edges.
    """
    known = {_plain(c): i for i, c in enumerate(classes)} | {_plain(c): -1 for c in ignored}
    for thing in drawn:
        if _plain(thing.name) not in known:
            raise InputError(
                f"{path}: class {thing.name!r} is none of the {len(classes)}{did_you_mean(thing.name, classes)}; "
                "the file is of another data set or another release of this one"
            )
    shapes = np.array([d.numbers for d in drawn], np.float64).reshape((-1, 4, 2) if oriented else (-1, 4))
    for thing, fault in zip(drawn, _faults(shapes, size), strict=True):
        if fault:
            raise InputError(
                f"{path}: {thing.name} at {', '.join(f'{v:g}' for v in thing.numbers)} {fault}; correct it or take the "
                "object out"
            )
    numbers = np.array([known[_plain(d.name)] for d in drawn], np.int64)
    difficult = np.array([d.difficult for d in drawn], bool) | (numbers < 0)
    key = "corners" if oriented else "boxes"
    return {key: shapes.astype(np.float32), "box_class": numbers, "difficult": difficult}


def _faults(shapes: NDArray[np.float64], size: tuple[int, int]) -> list[str]:
    """What is wrong with each shape, empty where nothing is."""
    around, height, width = enclosing(shapes), *size
    empty = areas(shapes) <= 0
    outside = (around[:, 0] >= width) | (around[:, 1] >= height) | (around[:, 2] <= 0) | (around[:, 3] <= 0)
    crossed = ~is_convex(shapes if shapes.ndim == 3 else corners_of(shapes)) & ~empty
    said = ("has no area", f"lies outside the image of {width} x {height} pixels", "has edges that cross or a dent")
    flags = np.stack([empty, outside, crossed], 1)
    return [said[int(row.argmax())] if row.any() else "" for row in flags]


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c not in " -_")


def _text(path: Path, item: Element, place: str) -> str:
    found = (item.findtext(place) or "").strip()
    if not found:
        raise InputError(f"{path}: an object lacks {place}, expected every object to have one; fetch the file again")
    return found


def _number(path: Path, item: Element, place: str) -> float:
    return _finite(path, place, _text(path, item, place))


def _finite(path: Path, place: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{path}: {place} is {text!r}, expected a number of pixels; fetch the file again")
    return value
