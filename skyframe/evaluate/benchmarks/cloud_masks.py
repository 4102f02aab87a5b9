"""Clouds and their shadows in one Sentinel-2 and one Landsat-5 scene: the test files of ukis-csmask.

`sentinel2.npz`, `landsat5.npz`: `img` `[512, 512, 6]` float32, reflectance at the top of the atmosphere in blue, green,
red, near infrared and two shortwave bands; `msk` `[512, 512, 1]` with 0 = shadow, 4 = cloud, all else clear. One scene
each, cut into 25 blocks that do not touch, so the number tells of this scene alone.

Source: Wieland et al., Remote Sensing of Environment 2019; dlr-eoc/ukis-csmask, whose merging of classes is kept.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skyframe.evaluate.datasets.dataset import Dataset, Item, missing_files
from skyframe.evaluate.datasets.files import need_file
from skyframe.evaluate.datasets.imagery import bands, image_sample
from skyframe.evaluate.datasets.masks import blocks_of_scene, classes_of_numbers
from skyframe.sample import Sample
from skyframe.spec import Band, InputError, Modality

FILES = {"cloud-masks-s2": "sentinel2.npz", "cloud-masks-l5": "landsat5.npz"}
SIDE_PX, BLOCK_PX, GAP_PX = 512, 96, 8
CLASSES = {0: 2, 1: 0, 2: 0, 3: 0, 4: 1}
"""Class of each stored number: 0 clear, 1 cloud, 2 shadow."""
LANDSAT5 = {"blue": 0.485, "green": 0.560, "red": 0.660, "nir": 0.830, "swir1": 1.650, "swir2": 2.215}
"""Wavelengths of its bands 1 to 5 and 7, by names that other sensors share."""
GSD_M = 30.0
"""The library asks for about 30 m; the files do not tell theirs."""


def open_dataset(name: str, root: Path) -> Dataset:
    """The scene in `root`, or in its folder `ukis-csmask` there."""
    path = next((p for p in (root / FILES[name], root / "ukis-csmask" / FILES[name]) if p.is_file()), None)
    if path is None:
        raise InputError(f"{name}: no {FILES[name]} in {root}, expected the scene there; give the folder that holds it")
    items = [
        Item(f"{b.top}_{b.left}", b.part, {"scene": path}, about={"window": (b.top, b.left, b.side)})
        for b in blocks_of_scene(BLOCK_PX, GAP_PX)
    ]
    return Dataset(
        name=name,
        kind="pixel",
        classes=("clear", "cloud", "shadow"),
        modalities={m.name: m for m in [_modality(name)]},
        items=tuple(items),
        read=_read,
        split=f"25 blocks of {BLOCK_PX} pixels, {GAP_PX} apart: 15 train, 5 validate, 5 test",
        source="Wieland et al., Remote Sensing of Environment 2019; one scene of ukis-csmask, so no published number",
        problems=tuple(missing_files(name, items[:1])),
    )


def _modality(name: str) -> Modality:
    units = "top-of-atmosphere reflectance"
    if name == "cloud-masks-s2":
        return Modality("s2", "image", bands(("B02", "B03", "B04", "B08", "B11", "B12")), GSD_M, units, "float32")
    return Modality("l5", "image", tuple(Band(n, w) for n, w in LANDSAT5.items()), GSD_M, units, "float32")


def _read(item: Item) -> Sample:
    path = item.files["scene"]
    image, mask = _scene(path)
    top, left, side = item.about["window"]
    box = slice(top, top + side), slice(left, left + side)
    target = classes_of_numbers(path, mask[box], CLASSES)
    name = "s2" if path.name.startswith("sentinel2") else "l5"
    return image_sample(name, np.ascontiguousarray(np.moveaxis(image[box], -1, 0)), {"mask": target})


def _scene(path: Path) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Image `[512, 512, 6]` and mask `[512, 512]` of a file of plain arrays."""
    need_file(path)
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            image, mask = file["img"], file["msk"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        short = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: not two arrays of numbers img and msk ({short}); fetch the file again") from error
    if image.shape != (SIDE_PX, SIDE_PX, 6) or mask.shape != (SIDE_PX, SIDE_PX, 1):
        raise InputError(
            f"{path}: img {list(image.shape)} and msk {list(mask.shape)}, expected [512, 512, 6] and [512, 512, 1]; "
            "fetch the file again"
        )
    return image, mask[..., 0]
