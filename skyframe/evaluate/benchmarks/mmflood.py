"""Floods in Sentinel-1 with terrain: MMFlood, 1,748 tiles of 95 events, sizes differ.

`activations/<event>-<n>/{s1_raw,DEM,mask}/<tile>.tif` and `activations.json`, whose `subset` parts the events.
Pixels without Sentinel-1 are NaN, and 255 in some copies of the mask; neither is scored. The dates of the acquisitions
are not published, only the event's.

Source: Montello et al., MMFlood, IEEE Access 2022.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from skyframe.evaluate.datasets.dataset import PARTS, Dataset, Item, missing_files, need_folder, read_or_tell
from skyframe.evaluate.datasets.files import read_json, read_raster
from skyframe.evaluate.datasets.imagery import finite, sentinel1, series_of
from skyframe.evaluate.datasets.masks import classes_of_numbers, need_size
from skyframe.sample import Sample
from skyframe.spec import Band, Modality

ROLES = {"s1": "s1_raw", "terrain": "DEM", "mask": "mask"}


def open_dataset(name: str, root: Path) -> Dataset:
    """MMFlood below `root`; one item per tile."""
    folder = need_folder(name, root, "activations")
    items: list[Item] = []
    problems: list[str] = []
    found: Any = read_or_tell(name, lambda: read_json(root / "activations.json"), {}, problems)
    events = {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}
    for place in sorted(p for p in folder.iterdir() if p.is_dir()):
        code = place.name.partition("-")[0]
        event = events.get(code, {})
        part = event.get("subset")
        if part not in PARTS:
            problems.append(f"{name}: {code} is of subset {part!r} in activations.json, expected {', '.join(PARTS)}")
            continue
        where = [event.get(k) for k in ("lat", "lon")]
        if not all(isinstance(number, float | int) for number in where):
            problems.append(f"{name}: {code} has place {where} in activations.json, expected lat and lon in degrees")
            where = [np.nan, np.nan]
        tiles = sorted({p.name for role in ("s1_raw", "mask") for p in (place / role).glob("*.tif")})
        for tile in tiles:
            files = {role: place / sub / tile for role, sub in ROLES.items()}
            key = f"{place.name}/{tile.removesuffix('.tif')}"
            items.append(Item(key, part, files, cluster=code, about={"place": where}))
    seen = {item.cluster for item in items}
    lost = sorted(set(events) - seen)
    if lost:
        problems.append(f"{name}: no tile of {len(lost)} events that activations.json names, such as {lost[0]}")
    return Dataset(
        name=name,
        kind="pixel",
        classes=("no flood", "flood"),
        modalities={
            "s1": sentinel1(units="linear power"),
            "terrain": Modality("terrain", "static", (Band("elevation_m"),), 10.0, "m", "float32"),
        },
        items=tuple(items),
        read=_read,
        split="subset of activations.json, by event",
        source="Montello et al., MMFlood, IEEE Access 2022; IoU and F1 of the class flood over all test pixels",
        problems=(*problems, *missing_files(name, items)),
    )


def _read(item: Item) -> Sample:
    radar = read_raster(item.files["s1"], bands=(1, 2))
    terrain = read_raster(item.files["terrain"], bands=(1,))
    drawn = np.nan_to_num(read_raster(item.files["mask"], bands=(1,))[0], nan=255)
    mask = classes_of_numbers(item.files["mask"], drawn, {0: 0, 1: 1, 255: -1})
    for role, values in (("mask", mask), ("terrain", terrain)):
        need_size(item.files[role], values, *radar.shape[1:])
    seen = finite(radar)
    mask[~seen] = -1
    series = {"s1": series_of(radar, valid=seen[None]), "terrain": series_of(terrain)}
    return Sample(series, np.array(item.about["place"], np.float64), -1, targets={"mask": mask})
