"""HIT-UAV: persons, cars, bicycles and other vehicles on thermal images of 640 x 512 pixels, from 60 to 130 m above.

Layout: `normal_xml/{JPEGImages,Annotations}` with one VOC file per image, perhaps `normal_xml/ImageSets/Main/*.txt`;
without the lists parts are by hash, 70/10/20 as published. `DontCare` marks what annotators could not tell: detections
there are neither right nor wrong. A name says 0 day or 1 night, altitude (m), angle of the camera, weather and number.

Source: Suo et al., HIT-UAV, Scientific Data 2023.
"""

from __future__ import annotations

from pathlib import Path

from skyframe.evaluate.datasets.annotations import read_voc, targets
from skyframe.evaluate.datasets.dataset import PARTS, Dataset, Item, hashed_part, missing_files, need_folder
from skyframe.evaluate.datasets.files import read_image, read_lines
from skyframe.evaluate.datasets.imagery import DISPLAY, bands, image_sample
from skyframe.sample import Sample
from skyframe.spec import Modality

CLASSES = ("Person", "Car", "Bicycle", "OtherVehicle")
IGNORED = ("DontCare",)
IR = Modality("ir", "image", bands(("lwir",)), 0.1, DISPLAY, "uint8", scale=1 / 255)
"""Brightness is stretched per image, so that it tells no temperature; 0.1 m is nominal, for 100 m above ground."""


def open_dataset(name: str, root: Path) -> Dataset:
    """HIT-UAV below `root`, or in its usual folders there."""
    places = (root, root / "normal_xml", root / "HIT-UAV" / "normal_xml")
    folder = next((f for f in places if (f / "JPEGImages").is_dir()), root / "normal_xml")
    images = need_folder(name, folder, "JPEGImages")
    labels = folder / "Annotations"
    parts, split = _parts(folder)
    stems = {p.stem for p in images.glob("*.jpg")}
    labelled = {p.stem for p in labels.glob("*.xml")} if labels.is_dir() else set()
    problems = []
    if labelled - stems:
        problems.append(
            f"{name}: {len(labelled - stems)} annotations in {labels} have no image, such as "
            f"{min(labelled - stems)}.xml"
        )
    items = []
    for stem in sorted(parts or stems):
        files = {"image": images / f"{stem}.jpg", "boxes": labels / f"{stem}.xml"}
        items.append(Item(stem, parts.get(stem) or hashed_part(stem, (0.7, 0.1, 0.2), name), files))
    return Dataset(
        name=name,
        kind="boxes",
        classes=CLASSES,
        modalities={"ir": IR},
        items=tuple(items),
        read=_read,
        split=split,
        source="Suo et al., HIT-UAV, Scientific Data 2023; 2,898 images, of which copies may hold fewer",
        problems=(*problems, *missing_files(name, items)),
    )


def _parts(folder: Path) -> tuple[dict[str, str], str]:
    """Part by image where lists lie beside."""
    lists = {p: folder / "ImageSets" / "Main" / f"{p}.txt" for p in PARTS}
    if not all(f.is_file() for f in lists.values()):
        return {}, "by hash of the image's name, 70/10/20"
    return {line: p for p, f in lists.items() for line in read_lines(f)}, "ImageSets/Main/{train,val,test}.txt"


def _read(item: Item) -> Sample:
    pixels, path = read_image(item.files["image"], "L")[None], item.files["boxes"]
    size = pixels.shape[1], pixels.shape[2]
    return image_sample("ir", pixels, targets(path, read_voc(path, size), CLASSES, size, ignored=IGNORED))
