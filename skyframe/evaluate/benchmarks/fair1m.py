"""FAIR1M: a million objects of 37 fine classes with oriented boxes on images of 1,000 to 10,000 pixels, 0.3 to 0.8 m.

Layout: `train/part{1,2}/{images,labelXml}/N.{tif,xml}`, `validation/{images,labelXml}/...`, `test/images/...`; corners
are five points, the first again at the end. Orientation is kept, unlike in readers that reduce it to horizontal boxes.
Labels of the test part are withheld, so the validation part is scored, and val is an eighth of train by hash.

Source: Sun et al., FAIR1M, ISPRS 2022.
"""

from __future__ import annotations

from pathlib import Path

from skyframe.evaluate.datasets.annotations import read_points, targets
from skyframe.evaluate.datasets.dataset import Dataset, Item, hashed_part, missing_files, need_folder
from skyframe.evaluate.datasets.files import read_image
from skyframe.evaluate.datasets.imagery import image_sample, rgb
from skyframe.sample import Sample

CLASSES = (
    "Passenger Ship", "Motorboat", "Fishing Boat", "Tugboat", "other-ship", "Engineering Ship", "Liquid Cargo Ship",
    "Dry Cargo Ship", "Warship", "Small Car", "Bus", "Cargo Truck", "Dump Truck", "other-vehicle", "Van", "Trailer",
    "Tractor", "Excavator", "Truck Tractor", "Boeing737", "Boeing747", "Boeing777", "Boeing787", "ARJ21", "C919",
    "A220", "A321", "A330", "A350", "other-airplane", "Baseball Field", "Basketball Court", "Football Field",
    "Tennis Court", "Roundabout", "Intersection", "Bridge",
)  # fmt: skip
GSD_M = 0.8
"""Nominal: Gaofen-2 images have 0.8 m, those of Google Earth 0.3 m and more."""
LABELLED = ("train/part1", "train/part2", "validation")


def open_dataset(name: str, root: Path) -> Dataset:
    """FAIR1M below `root`, or in its folder `FAIR1M` there."""
    folder = next((f for f in (root / "FAIR1M", root / "FAIR1M2.0") if f.is_dir()), root)
    need_folder(name, folder, "train")
    items, problems = [], []
    for place in LABELLED:
        images, labels = folder / place / "images", folder / place / "labelXml"
        found = sorted(images.glob("*.tif"), key=lambda p: (len(p.stem), p.stem)) if images.is_dir() else []
        if not found:
            problems.append(f"{name}: no image in {images}, expected .tif files; unpack the archive of {place}")
        alone = {p.stem for p in labels.glob("*.xml")} - {p.stem for p in found} if labels.is_dir() else set()
        if alone and found:
            problems.append(f"{name}: {len(alone)} annotations in {labels} have no image, such as {min(alone)}.xml")
        for path in found:
            key = f"{place}/{path.stem}"
            part = "test" if place == "validation" else hashed_part(key, (0.875, 0.125, 0.0), name)
            items.append(Item(key, part, {"image": path, "boxes": labels / f"{path.stem}.xml"}))
    return Dataset(
        name=name,
        kind="oriented",
        classes=CLASSES,
        modalities={"rgb": rgb(GSD_M)},
        items=tuple(items),
        read=_read,
        split="validation as test (labels of the test part are withheld), val an eighth of train by hash",
        source="Sun et al., FAIR1M, ISPRS 2022; papers report VOC07's mAP50 of the withheld test part by its server",
        problems=(*problems, *missing_files(name, items)),
    )


def _read(item: Item) -> Sample:
    pixels, path = read_image(item.files["image"]), item.files["boxes"]
    size = pixels.shape[1], pixels.shape[2]
    return image_sample("rgb", pixels, targets(path, read_points(path), CLASSES, size, oriented=True))
