"""Aerial segmentation of objects: iSAID, as published or in the 896 x 896 crops that segmentation toolboxes make.

| layout | image | mask |
|---|---|---|
| published | `{train,val}/images/P0002.png` | `P0002_instance_color_RGB.png` beside it, or in `semantic_masks/` |
| crops | `img_dir/{train,val}/P0002_0_896_0_896.png` | `ann_dir/...`, class numbers, 255 = not scored |

The labels of its test part are withheld: the field scores on `val`, which is the part `test` here, and a tenth of the
training images is kept for validation. Background is a class like the others, as in the published scores.

Source: Waqas Zamir et al., iSAID, CVPR Workshops 2019.
"""

from __future__ import annotations

from pathlib import Path

from skyframe.evaluate.datasets.dataset import Dataset, Item, hashed_part, missing_files, need_folder
from skyframe.evaluate.datasets.files import read_image
from skyframe.evaluate.datasets.imagery import image_sample, rgb
from skyframe.evaluate.datasets.masks import classes_of_colours, classes_of_numbers, need_size, number_image
from skyframe.sample import Sample
from skyframe.spec import InputError

CLASSES = {
    "background": (0, 0, 0), "ship": (0, 0, 63), "store tank": (0, 63, 63), "baseball diamond": (0, 63, 0),
    "tennis court": (0, 63, 127), "basketball court": (0, 63, 191), "ground track field": (0, 63, 255),
    "bridge": (0, 127, 63), "large vehicle": (0, 127, 127), "small vehicle": (0, 0, 127), "helicopter": (0, 0, 191),
    "swimming pool": (0, 0, 255), "roundabout": (0, 191, 127), "soccer ball field": (0, 127, 191),
    "plane": (0, 127, 255), "harbor": (0, 100, 155),
}  # fmt: skip
"""Colour of each class, in the order of class numbers."""
SUFFIX = "_instance_color_RGB"
GSD_M = 0.3
"""Nominal: images of several sensors, few of which give it."""
VAL_SHARE = 0.1


def open_dataset(name: str, root: Path) -> Dataset:
    """iSAID below `root`, or in its folder `iSAID` there, in either layout."""
    folder = root / "iSAID" if (root / "iSAID").is_dir() else need_folder(name, root)
    crops = (folder / "img_dir").is_dir()
    if not crops and not any((folder / part / "images").is_dir() for part in ("train", "val")):
        raise InputError(
            f"{name}: neither img_dir nor train/images in {folder}, expected iSAID as published or its 896 x 896 "
            "crops; give the folder that holds one of them"
        )
    items, problems = [], []
    for stored in ("train", "val"):
        images, masks = _folders(folder, stored, crops)
        found = sorted(p for p in images.glob("*.png") if "_instance_" not in p.name)
        if not found:
            problems.append(f"{name}: no image in {images}, expected P*.png of part {stored}")
        items += [_item(image, masks, stored, "numbers" if crops else "colours") for image in found]
        known = {item.files["mask"].name for item in items}
        lonely = sorted(p.name for p in masks.glob(f"*{SUFFIX}.png") if p.name not in known)
        if lonely:
            problems.append(f"{name}: {len(lonely)} masks in {masks} without an image, such as {lonely[0]}")
    return Dataset(
        name=name,
        kind="pixel",
        classes=tuple(CLASSES),
        modalities={"rgb": rgb(GSD_M)},
        items=tuple(items),
        read=_read,
        split="val as published is the test part; a tenth of the training images, by hash of the image, validates",
        source="Waqas Zamir et al., iSAID, CVPR Workshops 2019; 16 classes with background, scored on val",
        problems=(*problems, *missing_files(name, items)),
    )


def _folders(folder: Path, stored: str, crops: bool) -> tuple[Path, Path]:
    """Where the images and masks of a part lie."""
    if crops:
        return folder / "img_dir" / stored, folder / "ann_dir" / stored
    images = folder / stored / "images"
    apart = [folder / stored / "semantic_masks", folder / stored / "Semantic_masks" / "images"]
    return images, next((p for p in apart if p.is_dir()), images)


def _item(image: Path, masks: Path, stored: str, kind: str) -> Item:
    scene = image.stem.partition("_")[0]  # crops of one image share its part
    part = "test" if stored == "val" else hashed_part(scene, (1 - VAL_SHARE, VAL_SHARE, 0), "isaid")
    mask = masks / f"{image.stem}{SUFFIX}.png"
    return Item(f"{stored}/{image.stem}", part, {"image": image, "mask": mask}, cluster=scene, about={"mask": kind})


def _read(item: Item) -> Sample:
    pixels, path = read_image(item.files["image"]), item.files["mask"]
    if item.about["mask"] == "colours":
        mask = classes_of_colours(path, read_image(path), tuple(CLASSES.values()))
    else:
        table = {n: n for n in range(len(CLASSES))} | {255: -1}
        mask = classes_of_numbers(path, number_image(path), table)
    need_size(path, mask, *pixels.shape[1:])
    return image_sample("rgb", pixels, {"mask": mask})
