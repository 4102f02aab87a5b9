"""Change of buildings between two aerial images: LEVIR-CD and LEVIR-CD+, 0.5 m, 1024 x 1024 pixels.

| layout | files |
|---|---|
| published | `{train,val,test}/{A,B,label}/<name>.png`; LEVIR-CD+ has no `val` |
| torchgeo | `{A,B,label}/{train,val,test}_<n>.png` |

A is the earlier image. Any value but 0 in `label` is change.

Source: Chen & Shi, A Spatial-Temporal Attention-Based Method, Remote Sensing 2020.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from skyframe.evaluate.datasets.dataset import PARTS, Dataset, Item, hashed_part, missing_files, need_folder
from skyframe.evaluate.datasets.files import read_image
from skyframe.evaluate.datasets.imagery import rgb, series_of
from skyframe.evaluate.datasets.masks import need_size
from skyframe.sample import Sample
from skyframe.spec import InputError

ROLES = {"A": "earlier", "B": "later", "label": "mask"}
FOLDERS = {"levir-cd": "LEVIR-CD", "levir-cd-plus": "LEVIR-CD+"}
NUM_ITEMS = {"levir-cd": 637, "levir-cd-plus": 985}
VAL_SHARE = 0.1


def open_dataset(name: str, root: Path) -> Dataset:
    """LEVIR-CD or LEVIR-CD+ below `root`, or in its usual folder there, in either layout."""
    folder = root / FOLDERS[name] if (root / FOLDERS[name]).is_dir() else need_folder(name, root)
    by_role = (folder / "A").is_dir()
    if not by_role and not any((folder / part / "A").is_dir() for part in PARTS):
        raise InputError(
            f"{name}: neither A nor train/A in {folder}, expected pairs of images in A and B and masks in label; give "
            "the folder that holds them"
        )
    items: list[Item] = []
    problems = []
    parts = PARTS if by_role or name == "levir-cd" else ("train", "test")
    for stored in parts:
        where = {role: folder / side if by_role else folder / stored / side for side, role in ROLES.items()}
        pattern = f"{stored}_*.png" if by_role else "*.png"
        names = sorted({p.name for place in where.values() for p in place.glob(pattern)})
        if not names:
            problems.append(f"{name}: no image of part {stored} in {where['earlier']}, expected {pattern}")
        for file in names:
            key = file if by_role else f"{stored}/{file}"
            part = hashed_part(key, (1 - VAL_SHARE, VAL_SHARE, 0), name) if parts != PARTS and stored == "train" else ""
            items.append(Item(key.removesuffix(".png"), part or stored, {r: p / file for r, p in where.items()}))
    held = "" if len(items) == NUM_ITEMS[name] else f"; this copy: {len(items)} of {NUM_ITEMS[name]} pairs"
    return Dataset(
        name=name,
        kind="change",
        classes=("no change", "change"),
        modalities={"rgb": rgb(0.5)},
        items=tuple(items),
        read=_read,
        split="as published" if parts == PARTS else "as published; a tenth of train, by hash of the name, validates",
        source="Chen & Shi, Remote Sensing 2020; F1 of the class change over all test pixels; dates are not published"
        + held,
        problems=(*missing_files(name, items), *problems),
    )


def _read(item: Item) -> Sample:
    earlier, later = (read_image(item.files[role]) for role in ("earlier", "later"))
    need_size(item.files["later"], later, *earlier.shape[1:])
    mask = read_image(item.files["mask"], "L") > 0
    need_size(item.files["mask"], mask, *earlier.shape[1:])
    pair = series_of(np.stack([earlier, later]))
    return Sample({"rgb": pair}, np.full(2, np.nan), -1, targets={"mask": mask.astype(np.int64)})
