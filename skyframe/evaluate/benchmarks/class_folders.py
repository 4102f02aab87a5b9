"""Scene classification from folders of images, one per class: AID and RESISC-45.

| data set | layout | split |
|---|---|---|
| AID | `<Class>/<class>_<n>.jpg`, 30 classes, 10,000 images of 600 x 600, 0.5 to 8 m | by hash; 20 % or 50 % train |
| RESISC-45 | `<class>/<class>_NNN.jpg`, 45 classes, 31,500 images of 256 x 256 | `resisc45-{train,val,test}.txt` |

Source: Xia et al., AID, TGRS 2017; Cheng et al., NWPU-RESISC45, Proc. IEEE 2017; the list files are torchgeo's.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from skyframe.evaluate.dataset import PARTS, Dataset, Item, hashed_part, missing_files, need_folder
from skyframe.evaluate.files import read_image, read_lines
from skyframe.evaluate.imagery import image_sample, rgb
from skyframe.sample import Sample

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif")
GSD_M = {"aid": 0.5, "resisc45": 0.5}
"""Nominal: both mix sensors, AID 0.5 to 8 m and RESISC-45 0.2 to 30 m."""
NUM_CLASSES = {"aid": 30, "resisc45": 45}
FOLDERS = {"aid": "AID", "resisc45": "NWPU-RESISC45"}
SOURCES = {
    "aid": "Xia et al., AID, TGRS 2017; papers train on a random 20 or 50 %, which none of them publishes",
    "resisc45": "Cheng et al., NWPU-RESISC45, Proc. IEEE 2017; papers train on 10 or 20 %, torchgeo's lists on 60 %",
}


def open_dataset(name: str, root: Path) -> Dataset:
    """AID or RESISC-45 below `root`, or in its usual folder there."""
    folder = root / FOLDERS[name] if (root / FOLDERS[name]).is_dir() else need_folder(name, root)
    classes = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    items, problems = [], []
    if len(classes) != NUM_CLASSES[name]:
        problems.append(f"{name}: {len(classes)} class folders in {folder}, expected {NUM_CLASSES[name]}")
    for number, kind in enumerate(classes):
        found = sorted(p for p in (folder / kind).iterdir() if p.suffix.lower() in SUFFIXES)
        if not found:
            problems.append(f"{name}: no image in {folder / kind}, expected .jpg files")
        items += [Item(f"{kind}/{p.stem}", "", {"image": p}, number) for p in found]
    items, split, more = _with_parts(name, root, folder, items)
    return Dataset(
        name=name,
        kind="scene",
        classes=classes,
        modalities={"rgb": rgb(GSD_M[name])},
        items=tuple(items),
        read=_read,
        split=split,
        source=SOURCES[name],
        problems=(*problems, *more, *missing_files(name, items)),
    )


def _read(item: Item) -> Sample:
    return image_sample("rgb", read_image(item.files["image"]), {"class": np.int64(item.label)})


def _with_parts(name: str, root: Path, folder: Path, items: list[Item]) -> tuple[list[Item], str, list[str]]:
    """Parts from the list files where they lie beside, by hash of the key otherwise."""
    lists = {p: f for p in PARTS for f in (root / f"{name}-{p}.txt", folder / f"{name}-{p}.txt") if f.is_file()}
    if not lists:
        return [dataclasses.replace(i, part=hashed_part(i.key)) for i in items], "by hash of the key, 60/20/20", []
    by_file = {i.files["image"].name: i for i in items}
    listed, problems = [], [f"{name}: {folder} lacks {name}-{p}.txt" for p in PARTS if p not in lists]
    for part, path in lists.items():
        for line in read_lines(path):
            known = by_file.pop(line, None)
            if known is None:
                kind = line.rpartition("_")[0]
                known = Item(f"{kind}/{Path(line).stem}", "", {"image": folder / kind / line})
            listed.append(dataclasses.replace(known, part=part))
    if by_file:
        problems.append(f"{name}: {len(by_file)} images stand in no list, such as {min(by_file)}")
    return listed, f"{name}-{{train,val,test}}.txt", problems
