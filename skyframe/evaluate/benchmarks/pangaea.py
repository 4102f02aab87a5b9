"""Data sets in the layouts that PANGAEA reads, where others do not read them yet.

| data set | layout | split |
|---|---|---|
| mados | `Scene_<s>/<10,20,60>/Scene_<s>_L2R_<rhorc_<nm>,cl>_<n>.tif` | `splits/<part>_X.txt` |
| hls-burn-scars | `training/`, `validation/` with `*_merged.tif` and `*.mask.tif` | a tenth of training is val |
| xview2 | `<train,tier3,test>/<images,masks>/<disaster>_<n>_<pre,post>_disaster.png` | a tenth of the first two |

The tenths are drawn as PANGAEA draws them, so that its numbers can be compared.

Source: Marsocci et al., PANGAEA, arXiv 2412.04204; Kikaki et al., MADOS, ISPRS 2024; Gupta et al., xBD, CVPRW 2019.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import day_of
from skyframe.evaluate.datasets.dataset import PARTS, Dataset, Item, missing_files, need_folder
from skyframe.evaluate.datasets.files import read_image, read_lines, read_raster
from skyframe.evaluate.datasets.imagery import bands, rgb, series_of
from skyframe.sample import Sample
from skyframe.spec import InputError, Modality

FOLDERS = {"mados": "MADOS", "hls-burn-scars": "hls_burn_scars", "xview2": "xView2"}
MADOS_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
MADOS_CLASSES = (
    *("marine debris", "dense sargassum", "sparse floating algae", "natural organic material", "ship", "oil spill"),
    *("marine water", "sediment-laden water", "foam", "turbid water", "shallow water", "waves and wakes"),
    *("oil platform", "jellyfish", "sea snot"),
)
DAMAGE = ("no building", "no damage", "minor damage", "major damage", "destroyed")
HLS_BANDS = ("B02", "B03", "B04", "B8A", "B11", "B12")
HLS_NODATA = 9999
SEED = 23
"""Of PANGAEA's draws."""


def open_dataset(name: str, root: Path) -> Dataset:
    """One of the three below `root`, or in its usual folder there."""
    folder = root / FOLDERS[name] if (root / FOLDERS[name]).is_dir() else root
    return {"mados": _mados, "hls-burn-scars": _burn_scars, "xview2": _xview2}[name](name, folder)


def _tenth(num: int, groups: Sequence[str] | None = None) -> set[int]:
    """Numbers of the tenth that is for validation."""
    from sklearn.model_selection import train_test_split

    if num < 2:
        return set()
    _, chosen = train_test_split(np.arange(num), test_size=0.1, random_state=SEED, stratify=groups)
    return {int(k) for k in chosen}


# --- MADOS ----------------------------------------------------------------------------------------------------------


def _mados(name: str, root: Path) -> Dataset:
    splits = need_folder(name, root, "splits")
    items: list[Item] = []
    problems: list[str] = []
    for part in PARTS:
        path = splits / f"{part}_X.txt"
        if not path.is_file():
            problems.append(f"{name}: {path} is missing, expected the crops of part {part}")
            continue
        for key in read_lines(path):
            item = _mados_item(root, key, part)
            problems += [f"{name}: {item}"] if isinstance(item, str) else []
            items += [item] if isinstance(item, Item) else []
    s2 = Modality("s2", "image", bands(MADOS_BANDS), 10.0, "Rayleigh-corrected reflectance", "float32")
    return Dataset(
        name=name,
        kind="pixel",
        classes=MADOS_CLASSES,
        modalities={"s2": s2},
        items=tuple(items),
        read=_read_mados,
        split="splits/{train,val,test}_X.txt",
        source="Kikaki et al., MADOS, ISPRS 2024; sparse labels, bands of 20 and 60 m repeated",
        problems=(*problems, *missing_files(name, items)),
    )


def _mados_item(root: Path, key: str, part: str) -> Item | str:
    """A crop with its eleven bands in the order of their wavelengths, which differ between the two satellites."""
    scene, _, number = key.rpartition("_")
    folder = root / scene
    found = {}
    for path in folder.glob(f"*/{scene}_L2R_rhorc_*_{number}.tif"):
        nm = path.stem.split("_")[-2]
        if nm.isdigit() and path.parent.name in ("10", "20", "60"):
            found[int(nm)] = path
    if len(found) != len(MADOS_BANDS):
        return f"{part} item {key} has {len(found)} bands in {folder}, expected {len(MADOS_BANDS)}; fetch the scene"
    files = {b: found[nm] for b, nm in zip(MADOS_BANDS, sorted(found), strict=True)}
    return Item(key, part, {**files, "mask": folder / "10" / f"{scene}_L2R_cl_{number}.tif"}, cluster=scene)


def _read_mados(item: Item) -> Sample:
    mask = read_raster(item.files["mask"], [1])[0].astype(np.int64) - 1
    planes = []
    for band in MADOS_BANDS:
        path = item.files[band]
        factor = int(path.parent.name) // 10
        plane = np.kron(read_raster(path, [1])[0].astype(np.float32), np.ones((factor, factor), np.float32))
        if plane.shape != mask.shape:
            raise InputError(f"{path}: {plane.shape} pixels of 10 m, expected the mask's {mask.shape}; fetch it again")
        planes.append(plane)
    stack = np.stack(planes)[None]
    _check_mask(item.files["mask"], mask, len(MADOS_CLASSES))
    return _sample("s2", stack, np.isfinite(stack).all(1), None, mask)


# --- HLS burn scars -------------------------------------------------------------------------------------------------


def _burn_scars(name: str, root: Path) -> Dataset:
    items: list[Item] = []
    for folder in ("training", "validation"):
        here, ends = need_folder(name, root, folder), ("_merged.tif", ".mask.tif")
        keys = sorted({p.name.removesuffix(end) for end in ends for p in here.glob(f"*{end}")})
        chosen = _tenth(len(keys)) if folder == "training" else set()
        for k, key in enumerate(keys):
            part = "test" if folder == "validation" else "val" if k in chosen else "train"
            files = {role: here / f"{key}{end}" for role, end in zip(("image", "mask"), ends, strict=True)}
            items.append(Item(f"{folder}/{key}", part, files))
    s2 = Modality("s2", "image", bands(HLS_BANDS), 30.0, "reflectance", "float32")
    return Dataset(
        name=name,
        kind="pixel",
        classes=("not burned", "burn scar"),
        modalities={"s2": s2},
        items=tuple(items),
        read=_read_burn_scars,
        split="folder validation is test; val is PANGAEA's tenth of training (seed 23, sorted names)",
        source="Phillips et al., HLS Burn Scars, 2023; harmonised Landsat and Sentinel-2 of 30 m",
        problems=tuple(missing_files(name, items)),
    )


def _read_burn_scars(item: Item) -> Sample:
    image = read_raster(item.files["image"], range(1, len(HLS_BANDS) + 1)).astype(np.float32)
    mask = read_raster(item.files["mask"], [1])[0].astype(np.int64)
    if mask.shape != image.shape[1:]:
        raise InputError(f"{item.files['mask']}: {mask.shape} pixels, expected the image's {image.shape[1:]}")
    _check_mask(item.files["mask"], mask, 2)
    found = re.search(r"\.(\d{4})(\d{3})\.v", item.key)
    day = None
    if found:
        day = np.array([day_of(date(int(found[1]), 1, 1) + timedelta(int(found[2]) - 1))], np.int32)
    return _sample("s2", image[None], (image != HLS_NODATA).all(0)[None], day, mask)


# --- xView2 ---------------------------------------------------------------------------------------------------------


def _xview2(name: str, root: Path) -> Dataset:
    items: list[Item] = []
    labelled = [p for f in ("train", "tier3") if (root / f).is_dir() for p in _pre(root / f)]
    tested = _pre(need_folder(name, root, "test"))
    disasters = [p.name.split("_")[0] for p in labelled]
    problems = [] if (root / "tier3").is_dir() else [f"{name}: no folder {root / 'tier3'}, expected train and tier3"]
    try:
        chosen = _tenth(len(labelled), disasters)
    except ValueError as error:
        raise InputError(
            f"{name}: {len(labelled)} images in train and tier3 do not split by disaster ({error})"
        ) from error
    for k, path in enumerate([*labelled, *tested]):
        part = "test" if k >= len(labelled) else "val" if k in chosen else "train"
        post = path.name.replace("_pre_", "_post_")
        files = {"pre": path, "post": path.with_name(post), "mask": path.parents[1] / "masks" / post}
        key = f"{path.parents[1].name}/{path.name.removesuffix('_pre_disaster.png')}"
        items.append(Item(key, part, files, cluster=path.name.split("_")[0]))
    lost = missing_files(name, items)
    if any("/masks/" in text for text in lost):
        lost.append(f"{name}: masks are drawn from labels/*.json by PANGAEA's xView2_create_masks.py, run it first")
    picture = rgb(0.5)
    series = Modality("rgb", "series", picture.bands, 0.5, picture.units, "uint8", scale=picture.scale)
    return Dataset(
        name=name,
        kind="pixel",
        classes=DAMAGE,
        modalities={"rgb": series},
        items=tuple(items),
        read=_read_xview2,
        split="val is PANGAEA's tenth of train and tier3, by disaster (seed 23, sorted names)",
        source="Gupta et al., xBD, CVPR workshops 2019; two dates, before and after; damage of buildings after",
        problems=(*problems, *lost),
    )


def _pre(folder: Path) -> list[Path]:
    names = (p.name for p in (folder / "images").glob("*_disaster.png"))
    return [folder / "images" / n for n in sorted({n.replace("_post_", "_pre_") for n in names})]


def _read_xview2(item: Item) -> Sample:
    images = [read_image(item.files[k]) for k in ("pre", "post")]
    mask = read_image(item.files["mask"], "L").astype(np.int64)
    if {i.shape[1:] for i in images} != {mask.shape}:
        raise InputError(f"{item.files['mask']}: {mask.shape} pixels, expected those of both images; fetch it again")
    _check_mask(item.files["mask"], mask, len(DAMAGE))
    stack = np.stack(images)
    return _sample("rgb", stack, np.ones((2, *mask.shape), bool), None, mask)


def _sample(
    name: str,
    stack: NDArray[np.generic],
    valid: NDArray[np.bool_],
    days: NDArray[np.int32] | None,
    mask: NDArray[np.int64],
) -> Sample:
    series = series_of(stack, days, valid)
    return Sample({name: series}, np.full(2, np.nan), -1, targets={"mask": mask})


def _check_mask(path: Path, mask: NDArray[np.int64], num: int) -> None:
    if mask.min() < -1 or mask.max() >= num:
        raise InputError(f"{path}: classes {mask.min()} to {mask.max()}, expected -1 to {num - 1}; fetch it again")
