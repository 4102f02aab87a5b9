"""Tiny copies of detection data sets in their true layouts, of noise; boxes are written as their makers write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

BOX = (4, 6, 20, 16)
"""x0 y0 x1 y1 of the first object of every image."""
CORNERS = ((10, 4), (24, 12), (20, 20), (6, 12))
"""A rotated object; drawn clockwise from the upper left."""


def write_picture(path: Path, height: int = 32, width: int = 48, gray: bool = False) -> None:
    """Noise that depends on the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(sum(path.stem.encode()))
    Image.fromarray(rng.integers(0, 255, (height, width) if gray else (height, width, 3), dtype=np.uint8)).save(path)


def voc(objects: str, size: tuple[int, int] = (32, 48)) -> str:
    """A Pascal VOC file around its objects."""
    return (
        f"<annotation><filename>x</filename><size><width>{size[1]}</width><height>{size[0]}</height>"
        f"<depth>3</depth></size>{objects}</annotation>"
    )


def box(name: str, numbers: Sequence[float] = BOX, difficult: int = 0) -> str:
    """One horizontal object."""
    sides = "".join(f"<{k}>{v:g}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), numbers, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox></object>"


def rotated(name: str, corners: Sequence[tuple[float, float]] = CORNERS) -> str:
    """One object as DIOR-R has it."""
    places = ("left_top", "right_top", "right_bottom", "left_bottom")
    points = "".join(f"<x_{p}>{x:g}</x_{p}><y_{p}>{y:g}</y_{p}>" for p, (x, y) in zip(places, corners, strict=False))
    return (
        f"<object><name>{name}</name><type>robndbox</type><difficult>0</difficult><angle>0</angle>"
        f"<robndbox>{points}</robndbox></object>"
    )


def points(name: str, corners: Sequence[tuple[float, float]] = CORNERS) -> str:
    """One object as FAIR1M has it, closed."""
    drawn = "".join(f"<point>{x:.6f},{y:.6f}</point>" for x, y in [*corners, corners[0]])
    return (
        "<object><coordinate>pixel</coordinate><type>rectangle</type><description>None</description>"
        f"<possibleresult><name>{name}</name></possibleresult><points>{drawn}</points></object>"
    )


def write_text(path: Path, text: str) -> None:
    """A file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_dior(root: Path) -> Path:
    """The original layout with horizontal and oriented boxes: two images of train, one of val and one of test."""
    for stem, part in (("00001", "train"), ("00002", "train"), ("00003", "val"), ("11726", "test")):
        write_picture(root / f"JPEGImages-{'test' if part == 'test' else 'trainval'}" / f"{stem}.jpg")
        labels = root / "Annotations"
        write_text(
            labels / "Horizontal Bounding Boxes" / f"{stem}.xml",
            voc(box("airplane") + box("Expressway-toll-station", (30, 2, 48, 30), 1)),
        )
        write_text(labels / "Oriented Bounding Boxes" / f"{stem}.xml", voc(rotated("ship")))
        listed = root / "ImageSets" / "Main" / f"{part}.txt"
        write_text(listed, (listed.read_text() if listed.is_file() else "") + f"{stem}\n")
    return root


def write_fair1m(root: Path) -> Path:
    """Four images of training, two of validation and one of the test part, which has no labels."""
    for stem in range(7):
        place = "train/part1" if stem < 2 else "train/part2" if stem < 4 else "validation" if stem < 6 else "test"
        write_picture(root / place / "images" / f"{stem}.tif")
        if place != "test":
            drawn = points("Boeing737") + points("other-ship", ((30, 2), (44, 2), (44, 9), (30, 9)))
            text = f"<annotation><objects>{drawn}</objects></annotation>"
            write_text(root / place / "labelXml" / f"{stem}.xml", text)
    return root


def write_hit_uav(root: Path) -> Path:
    """Twelve thermal images with a person, a region of no class, and an object of each other class."""
    for number in range(12):
        stem = f"0_60_30_0_{number:05d}"
        write_picture(root / "normal_xml" / "JPEGImages" / f"{stem}.jpg", gray=True)
        objects = box("Person") + box("DontCare", (24, 0, 40, 8)) + box("Car", (1, 20, 9, 30), 1)
        write_text(root / "normal_xml" / "Annotations" / f"{stem}.xml", voc(objects))
    return root


def write_neon(root: Path) -> Path:
    """The layout of NeonTreeEvaluation: nine images of training and two plots."""
    for number in range(11):
        where = "training" if number < 9 else "evaluation"
        write_picture(root / where / "RGB" / f"SITE_{number:03d}.tif")
        write_text(root / "annotations" / f"SITE_{number:03d}.xml", voc(box("Tree") + box("Tree", (30, 2, 50, 30))))
    return root


WRITERS = {
    "dior": write_dior, "dior-r": write_dior, "fair1m": write_fair1m, "hit-uav": write_hit_uav, "neon-trees": write_neon
}  # fmt: skip
"""By name of the data set: what writes it below a folder."""
