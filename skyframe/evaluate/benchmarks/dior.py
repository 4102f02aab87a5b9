"""DIOR and DIOR-R: 20 classes of objects on 23,463 images of 800 x 800, 0.5 to 30 m, horizontal or oriented.

| layout | images | annotations below `Annotations` | parts |
|---|---|---|---|
| torchgeo's | `Images/{trainval,test}/*.jpg` | `trainval/*.xml` | `sample_df.csv` |
| original | `JPEGImages-{trainval,test}/*.jpg` | `{Horizontal,Oriented} Bounding Boxes/` | `ImageSets/Main/*.txt` |

In the first nothing of the test part is labelled, so that val is scored. DIOR-R is the second with oriented boxes
(`robndbox`), over the same images.

Source: Li et al., Object detection in optical remote sensing images, ISPRS 2020; Cheng et al., Anchor-free oriented
proposal generator (DIOR-R), TGRS 2022. The original layout is written from descriptions of it.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

from skyframe.evaluate.datasets.annotations import read_voc, targets
from skyframe.evaluate.datasets.dataset import PARTS, Dataset, Item, hashed_part, missing_files, need_folder
from skyframe.evaluate.datasets.files import read_image, read_lines, read_table
from skyframe.evaluate.datasets.imagery import image_sample, rgb
from skyframe.sample import Sample
from skyframe.spec import InputError

CLASSES = (
    "airplane", "airport", "baseballfield", "basketballcourt", "bridge", "chimney", "dam", "Expressway-Service-area",
    "Expressway-toll-station", "golffield", "groundtrackfield", "harbor", "overpass", "ship", "stadium", "storagetank",
    "tenniscourt", "trainstation", "vehicle", "windmill",
)  # fmt: skip
GSD_M = 0.5
"""Nominal: the images mix 0.5 to 30 m."""
FOLDERS = {"dior": "Horizontal Bounding Boxes", "dior-r": "Oriented Bounding Boxes"}
SOURCES = {
    "dior": "Li et al., ISPRS 2020; papers train Faster R-CNN on train + val and report VOC's mAP50 on test",
    "dior-r": "Cheng et al., TGRS 2022; papers train Oriented R-CNN on train + val and report VOC07's mAP50 on test",
}


def open_dataset(name: str, root: Path) -> Dataset:
    """DIOR or DIOR-R below `root`, in either layout."""
    folder = next((f for f in (root / "DIOR-R", root / "DIOR") if f.is_dir()), root)
    if (folder / "sample_df.csv").is_file() and name == "dior":
        items, split, problems = _listed(name, folder)
    else:
        items, split, problems = _original(name, folder)
    return Dataset(
        name=name,
        kind="oriented" if name == "dior-r" else "boxes",
        classes=CLASSES,
        modalities={"rgb": rgb(GSD_M)},
        items=tuple(items),
        read=partial(_read, oriented=name == "dior-r"),
        split=split,
        source=SOURCES[name],
        problems=(*problems, *missing_files(name, items)),
    )


def _read(item: Item, oriented: bool) -> Sample:
    pixels, path = read_image(item.files["image"]), item.files["boxes"]
    size = pixels.shape[1], pixels.shape[2]
    found = targets(path, read_voc(path, size, oriented), CLASSES, size, oriented=oriented)
    return image_sample("rgb", pixels, found)


def _listed(name: str, folder: Path) -> tuple[list[Item], str, list[str]]:
    """The parts of torchgeo's table. Without labels of the test part, its val part is scored."""
    table, items = folder / "sample_df.csv", []
    for row in read_table(table, ("image_path", "label_path", "split")):
        if row["split"] not in PARTS:
            raise InputError(f"{table}: split {row['split']!r}, expected one of {', '.join(PARTS)}; fetch it again")
        if row["label_path"]:
            files = {"image": folder / row["image_path"], "boxes": folder / row["label_path"]}
            items.append(Item(Path(row["image_path"]).with_suffix("").as_posix(), row["split"], files))
    if any(i.part == "test" for i in items):
        return items, "sample_df.csv", []
    return _val_as_test(items), "sample_df.csv, its val part as test (the test part is not labelled here)", []


def _val_as_test(items: list[Item]) -> list[Item]:
    """Val becomes test, and an eighth of train by hash becomes val."""
    shares = (0.875, 0.125, 0.0)
    return [
        dataclasses.replace(i, part="test" if i.part == "val" else hashed_part(i.key, shares, "dior")) for i in items
    ]


def _original(name: str, folder: Path) -> tuple[list[Item], str, list[str]]:
    labels = need_folder(name, folder, "Annotations", FOLDERS[name])
    items, problems = [], []
    for part in PARTS:
        path = folder / "ImageSets" / "Main" / f"{part}.txt"
        if not path.is_file():
            problems.append(f"{name}: no {path}, expected the list of part {part}")
            continue
        images = folder / ("JPEGImages-test" if part == "test" else "JPEGImages-trainval")
        for line in read_lines(path):
            files = {"image": images / f"{line}.jpg", "boxes": labels / f"{line}.xml"}
            items.append(Item(line, part, files))
    return items, "ImageSets/Main/{train,val,test}.txt", problems
