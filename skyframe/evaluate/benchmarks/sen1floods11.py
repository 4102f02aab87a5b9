"""Flood and permanent water in Sentinel-1 and Sentinel-2: the hand-labelled chips of Sen1Floods11, 512 x 512.

`S1Hand/<Country>_<n>_S1Hand.tif` (VV, VH in dB), `S2Hand/..._S2Hand.tif` (13 bands, Level-1C), `LabelHand/...` with
-1 = not scored, 0 = land, 1 = water; `flood_{train,valid,test}_data.csv` list pairs of file names. They lie flat below
the root, or as in the bucket under `v1.1/data/flood_events/HandLabeled` and `v1.1/splits/flood_handlabeled`.

Source: Bonafilia et al., Sen1Floods11, CVPR Workshops 2020.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from skyframe.evaluate.datasets.dataset import Dataset, Item, hashed_part, leads_out, missing_files, read_or_tell
from skyframe.evaluate.datasets.files import read_lines, read_raster
from skyframe.evaluate.datasets.imagery import S2_BANDS, finite, place_of_raster, sentinel1, sentinel2, series_of
from skyframe.evaluate.datasets.masks import classes_of_numbers, need_size
from skyframe.sample import Sample
from skyframe.spec import InputError

LISTS = {"train": "flood_train_data.csv", "val": "flood_valid_data.csv", "test": "flood_test_data.csv"}
CHIPS = ("", "v1.1/data/flood_events/HandLabeled", "data/flood_events/HandLabeled", "HandLabeled", "data")
SPLITS = ("", "splits", "v1.1/splits/flood_handlabeled", "splits/flood_handlabeled")


def open_dataset(name: str, root: Path) -> Dataset:
    """Sen1Floods11 below `root`, flat or as its bucket lies."""
    folder = next((root / sub for sub in CHIPS if (root / sub / "LabelHand").is_dir()), None)
    if folder is None:
        raise InputError(
            f"{name}: no LabelHand in {root}, expected S1Hand, S2Hand and LabelHand there or under {CHIPS[1]}; give "
            "the folder that holds them"
        )
    found = {part: root / sub / file for sub in SPLITS for part, file in LISTS.items() if (root / sub / file).is_file()}
    problems = [f"{name}: no {LISTS[p]} in {root}, expected the published list" for p in LISTS if p not in found]
    no_lines: list[str] = []
    if found:
        pairs = [
            (part, line)
            for part, path in found.items()
            for line in read_or_tell(name, partial(read_lines, path), no_lines, problems)
        ]
        keys = [(part, line.split(",")[0].strip().removesuffix("_S1Hand.tif")) for part, line in pairs]
        split = "the published lists flood_{train,valid,test}_data.csv; the Bolivian chips that they leave out are not"
        split += " used"
    else:
        stems = sorted(p.name.removesuffix("_LabelHand.tif") for p in (folder / "LabelHand").glob("*_LabelHand.tif"))
        keys = [(hashed_part(s.rpartition("_")[0], name=name), s) for s in stems]
        split = "by hash of the country, 60/20/20, as the published lists are missing"
    wild = [key for _, key in keys if leads_out(key)]
    if wild:
        problems.append(f"{name}: a list names {wild[0]!r}, expected names of files in S1Hand; do not trust the list")
        keys = [(part, key) for part, key in keys if key not in wild]
    twice = len(keys) - len({key for _, key in keys})
    if twice:
        problems.append(f"{name}: {twice} chips stand in more than one list, expected each once; fetch the lists again")
    items = [_item(folder, part, key) for part, key in dict((k, (p, k)) for p, k in keys).values()]
    return Dataset(
        name=name,
        kind="pixel",
        classes=("land", "water"),
        modalities={"s2": sentinel2(S2_BANDS, level="L1C", dtype="int16"), "s1": sentinel1()},
        items=tuple(items),
        read=_read,
        split=split,
        source="Bonafilia et al., Sen1Floods11, CVPR Workshops 2020; hand-labelled chips; mIoU of both classes or IoU "
        "of water, over all test pixels",
        problems=(*problems, *missing_files(name, items)),
    )


def _item(folder: Path, part: str, key: str) -> Item:
    files = {r: folder / f"{d}Hand" / f"{key}_{d}Hand.tif" for r, d in (("s2", "S2"), ("s1", "S1"), ("mask", "Label"))}
    return Item(key, part, files, cluster=key.rpartition("_")[0])


def _read(item: Item) -> Sample:
    optical = read_raster(item.files["s2"])
    if len(optical) != len(S2_BANDS):
        raise InputError(f"{item.files['s2']}: {len(optical)} bands, expected 13 of Level-1C; fetch the file again")
    radar = read_raster(item.files["s1"], bands=(1, 2))
    mask = classes_of_numbers(item.files["mask"], read_raster(item.files["mask"], bands=(1,))[0], {-1: -1, 0: 0, 1: 1})
    for role, values in (("mask", mask), ("s1", radar)):
        need_size(item.files[role], values, *optical.shape[1:])
    series = {
        "s2": series_of(optical, valid=(optical != 0).any(0)[None]),
        "s1": series_of(radar, valid=finite(radar)[None]),
    }
    return Sample(series, place_of_raster(item.files["mask"]), -1, targets={"mask": mask})
