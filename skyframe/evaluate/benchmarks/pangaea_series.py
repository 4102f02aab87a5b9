"""Series in the layouts that PANGAEA reads: BioMassters and SpaceNet 7.

| data set | layout | split |
|---|---|---|
| biomassters | `<part>_features/<chip>_<S1,S2>_<month>.tif`, `<part>_agbm/<chip>_agbm.tif` | `<part>_Data_list.csv` |
| spacenet7 | `train/<place>/<images_masked,labels_raster>/global_monthly_<y>_<m>_mosaic_<place>*.tif` | by hash |

Months of BioMassters count from September; its years are not told, so the dates stand in 2020/21 by name only. Its
published score is per pixel; here the mean biomass of a chip is predicted.

Source: Nascetti et al., BioMassters, NeurIPS 2023; Van Etten et al., SpaceNet 7, CVPR 2021.
"""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import numpy as np

from skyframe.calendar import day_of
from skyframe.evaluate.datasets.dataset import PARTS, Dataset, Item, hashed_part, missing_files, need_folder
from skyframe.evaluate.datasets.files import read_raster, read_table
from skyframe.evaluate.datasets.imagery import rgb, sentinel1, sentinel2, series_of
from skyframe.sample import Sample, Series
from skyframe.spec import InputError

S2 = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
S1_NODATA = -9999
MONTHS = 12
FOLDERS = {"biomassters": "Biomassters", "spacenet7": "spacenet7"}


def open_dataset(name: str, root: Path) -> Dataset:
    """One of the two below `root`, or in its usual folder there."""
    folder = root / FOLDERS[name] if (root / FOLDERS[name]).is_dir() else root
    return {"biomassters": _biomassters, "spacenet7": _spacenet7}[name](name, folder)


def _biomassters(name: str, root: Path) -> Dataset:
    items: list[Item] = []
    problems: list[str] = []
    for part in PARTS:
        path = root / f"{part}_Data_list.csv"
        own = "test" if part == "test" else "train"
        features = need_folder(name, root, f"{own}_features")
        if not path.is_file():
            problems.append(f"{name}: {path} is missing, expected the chips of part {part}")
            continue
        there = {p.name for p in features.iterdir()}
        for row in read_table(path, ["chip_id"]):
            key = row["chip_id"]
            names = {f"{s} {m:02d}": f"{key}_{s}_{m:02d}.tif" for s in ("S1", "S2") for m in range(MONTHS)}
            files = {role: features / file for role, file in names.items() if file in there}
            if not any(role.startswith("S1") for role in files):
                problems.append(f"{name}: {part} item {key} has no Sentinel-1 month in {features}; fetch it")
            files["biomass"] = root / f"{own}_agbm" / f"{key}_agbm.tif"
            items.append(Item(key, part, files))
    return Dataset(
        name=name,
        kind="regression",
        classes=(),
        modalities={"s2": sentinel2(S2, many=True), "s1": sentinel1(many=True)},
        items=tuple(items),
        read=_read_biomassters,
        split="{train,val,test}_Data_list.csv",
        source="Nascetti et al., BioMassters, NeurIPS 2023; mean t/ha of a chip, not per pixel as published; "
        "Sentinel-1 of ascending orbits; the year is nominal",
        problems=(*problems[:20], *missing_files(name, items)),
    )


def _read_biomassters(item: Item) -> Sample:
    series = {}
    for name, sensor, count in (("s2", "S2", len(S2)), ("s1", "S1", 2)):
        months = sorted(role for role in item.files if role.startswith(sensor))
        if months:
            stack = np.stack([read_raster(item.files[m], range(1, count + 1)).astype(np.float32) for m in months])
            days = np.array([_month(int(m[-2:])) for m in months], np.int32)
            series[name] = series_of(stack, days, (stack != S1_NODATA).all(1))
    biomass = read_raster(item.files["biomass"], [1]).astype(np.float64)
    known = biomass[np.isfinite(biomass)]
    if not known.size or not series:
        raise InputError(f"{item.files['biomass']}: chip {item.key} has no biomass or no image; fetch it again")
    return Sample(series, np.full(2, np.nan), -1, targets={"value": np.array([known.mean()], np.float32)})


def _month(number: int) -> int:
    """Middle of the month, September first."""
    return day_of(date(2020 + (number >= 4), (8 + number) % 12 + 1, 15))


def _spacenet7(name: str, root: Path) -> Dataset:
    folder = need_folder(name, root, "train")
    items: list[Item] = []
    problems: list[str] = []
    for place in sorted(p for p in folder.iterdir() if p.is_dir()):
        part = hashed_part(place.name, name="spacenet7")
        labels = sorted((place / "labels_raster").glob("global_monthly_*_Buildings.tif"))
        if not labels:
            problems.append(f"{name}: no label in {place / 'labels_raster'}, expected global_monthly_*_Buildings.tif")
        for mask in labels:
            key = mask.name.removesuffix("_Buildings.tif")
            image = place / "images_masked" / f"{key}.tif"
            items.append(Item(key, part, {"image": image, "mask": mask}, cluster=place.name))
    return Dataset(
        name=name,
        kind="pixel",
        classes=("background", "building"),
        modalities={"rgb": rgb(4.0)},
        items=tuple(items),
        read=_read_spacenet7,
        split="by hash of the place, 60/20/20",
        source="Van Etten et al., SpaceNet 7, CVPR 2021; papers split the labelled places each in their own way",
        problems=(*problems, *missing_files(name, items)),
    )


def _read_spacenet7(item: Item) -> Sample:
    image = read_raster(item.files["image"])
    mask = read_raster(item.files["mask"], [1])[0] > 0
    if image.shape[0] not in (3, 4) or image.shape[1:] != mask.shape:
        raise InputError(
            f"{item.files['image']}: {image.shape[0]} bands of {image.shape[1:]} pixels, expected three and a mask of "
            f"what is clouded, of {mask.shape}; fetch both again"
        )
    seen = image[3] > 0 if image.shape[0] == 4 else np.ones(mask.shape, bool)
    found = re.search(r"global_monthly_(\d{4})_(\d{2})_", item.key)
    days = None if found is None else np.array([day_of(date(int(found[1]), int(found[2]), 15))], np.int32)
    series: Series = series_of(image[:3], days, seen[None])
    target = np.where(seen, mask.astype(np.int64), -1)
    return Sample({"rgb": series}, np.full(2, np.nan), -1, targets={"mask": target})
