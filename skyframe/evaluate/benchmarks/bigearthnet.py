"""BigEarthNet v1 and v2: patches of 1.2 km in Europe with several CORINE land-cover classes, Sentinel-2 and Sentinel-1.

| | v1 | v2 |
|---|---|---|
| Sentinel-2 | `BigEarthNet-v1.0/<patch>/<patch>_B01.tif ...` | `BigEarthNet-S2/<tile>/<patch>/<patch>_B01.tif ...` |
| Sentinel-1 | `BigEarthNet-S1-v1.0/<s1>/<s1>_{VV,VH}.tif` | `BigEarthNet-S1/<tile>/<s1>/<s1>_{VV,VH}.tif` |
| labels | `<patch>_labels_metadata.json` of either sensor | column `labels` of `metadata.parquet` |
| split | `bigearthnet-{train,val,test}.csv`, else by hash | column `split` |

Either sensor may be absent. Twelve bands of Level-2A: those of 20 and 60 m come on the 10 m grid, each pixel repeated.
v1 has 43 classes; they become the 19 of v2 by the published rule, which drops eleven, or stay (`bigearthnet-v1-43`).

Source: Sumbul et al., BigEarthNet, IGARSS 2019, and BigEarthNet-MM, GRSM 2021 (the 19 classes); Clasen et al., reBEN,
arXiv 2407.03653 (v2).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.evaluate.benchmarks.corine import CLASSES_19, CLASSES_43, TO_19
from skyframe.evaluate.datasets.dataset import PARTS, Dataset, Item, hashed_part, missing_files, need_folder
from skyframe.evaluate.datasets.files import need_file, read_json, read_lines, read_raster
from skyframe.evaluate.datasets.imagery import product_day, sentinel1, sentinel2, series_of
from skyframe.sample import Sample
from skyframe.spec import InputError

SIDE_PX = 120
S2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
S1_BANDS = ("VV", "VH")
MODALITIES = {"s2": sentinel2(S2_BANDS), "s1": sentinel1(S1_BANDS)}
FIRST = {"s2": "B02", "s1": "VV"}
"""The band whose file stands for a patch; the others lie beside it."""
FLAGS = ("contains_seasonal_snow", "contains_cloud_or_shadow")
FLAG_LISTS = ("patches_with_seasonal_snow.csv", "patches_with_cloud_and_shadow.csv")
V2_PARTS = {"train": "train", "validation": "val", "test": "test"}


def open_dataset(name: str, root: Path) -> Dataset:
    """BigEarthNet below `root`: the sensors that are there."""
    items, split, problems = _open_v2(name, root) if name == "bigearthnet-v2" else _open_v1(name, root)
    classes = CLASSES_43 if name.endswith("-43") else CLASSES_19
    sensors = [s for s in MODALITIES if any(s in i.files for i in items)]
    return Dataset(
        name=name,
        kind="multilabel",
        classes=classes,
        modalities={s: MODALITIES[s] for s in sensors or MODALITIES},
        items=tuple(items),
        read=lambda item: _read(item, len(classes)),
        split=split,
        source="BigEarthNet v2 (reBEN), arXiv 2407.03653"
        if name == "bigearthnet-v2"
        else "BigEarthNet-MM, GRSM 2021; "
        "papers on 19 classes use its lists, which leave out snow, cloud and patches without any of the 19",
        problems=(*problems, *missing_files(name, items)),
    )


def _open_v1(name: str, root: Path) -> tuple[list[Item], str, list[str]]:
    folders = {"s2": root / "BigEarthNet-v1.0", "s1": root / "BigEarthNet-S1-v1.0"}
    here = {s: f for s, f in folders.items() if f.is_dir()}
    if not here:
        need_folder(name, root, "BigEarthNet-v1.0")
    lists = {p: root / f"bigearthnet-{p}.csv" for p in PARTS if (root / f"bigearthnet-{p}.csv").is_file()}
    problems = [f"{name}: {root} lacks bigearthnet-{p}.csv, its other lists are there" for p in PARTS if p not in lists]
    if lists:
        rows = [(p, line) for p, f in lists.items() for line in read_lines(f)]
        split = ", ".join(f.name for f in lists.values())
    else:
        problems = []
        rows, split = _unlisted(root, here, problems)
    items = []
    for part, line in rows:
        patch, _, s1 = line.partition(",")
        found = {s: here[s] / n for s, n in (("s2", patch), ("s1", s1)) if s in here and n}
        if not found:
            problems.append(
                f"{name}: {patch} is listed without the patch of a sensor that is there; fetch the list again"
            )
            continue
        first = next(iter(found.values()))
        label = _label_v1(first / f"{first.name}_labels_metadata.json", name, problems)
        labels = {"labels": first / f"{first.name}_labels_metadata.json"}
        items.append(Item(patch, part, labels | _files(found), label, _cluster(patch)))
    return items, split, problems


def _unlisted(root: Path, here: dict[str, Path], problems: list[str]) -> tuple[list[tuple[str, str]], str]:
    """Part and line, as lists have it, of all there is; an overpass stays whole, as neighbours are alike."""
    pairs: dict[str, str] = {}
    for folder in sorted(here["s1"].iterdir()) if "s1" in here else ():
        path = folder / f"{folder.name}_labels_metadata.json"
        try:
            pairs[str(read_json(path)["corresponding_s2_patch"])] = folder.name
        except (InputError, KeyError, TypeError) as error:
            problems.append(f"{path}: no corresponding_s2_patch, expected the name of a patch ({error})")
    names = sorted(p.name for p in here["s2"].iterdir() if p.is_dir()) if "s2" in here else sorted(pairs)
    flagged = {line for f in FLAG_LISTS if (root / f).is_file() for line in read_lines(root / f)}
    rows = [(hashed_part(_cluster(n)), f"{n},{pairs.get(n, '')}") for n in names if n not in flagged]
    return rows, f"by hash of the overpass, 60/20/20, without {len(flagged)} patches listed as snow or cloud"


def _label_v1(path: Path, name: str, problems: list[str]) -> tuple[int, ...]:
    """Class numbers of a patch; empty where the file is absent or unreadable, which is told."""
    if not path.is_file():  # told with the other missing files
        return ()
    try:
        known = [CLASSES_43.index(label) for label in read_json(path)["labels"]]
    except (InputError, KeyError, TypeError, ValueError) as error:
        problems.append(f"{path}: no list of CORINE labels ({error}); fetch the file again")
        return ()
    if not name.endswith("-43"):
        known = [CLASSES_19.index(TO_19[CLASSES_43[n]]) for n in known if CLASSES_43[n] in TO_19]
    return tuple(sorted(set(known)))


def _open_v2(name: str, root: Path) -> tuple[list[Item], str, list[str]]:
    folders = {"s2": root / "BigEarthNet-S2", "s1": root / "BigEarthNet-S1"}
    here = {s: f for s, f in folders.items() if f.is_dir()}
    if not here:
        need_folder(name, root, "BigEarthNet-S2")
    items, problems, flagged = [], [], 0
    for row in _metadata(root / "metadata.parquet"):
        if any(row.get(f) for f in FLAGS):
            flagged += 1
            continue
        patch, s1 = str(row["patch_id"]), str(row["s1_name"])
        unknown = [c for c in row["labels"] if c not in CLASSES_19]
        if row["split"] not in V2_PARTS or unknown:
            wrong = f"label {unknown[0]!r}" if unknown else f"split {row['split']!r}"
            problems.append(f"{name}: {patch} has {wrong} in metadata.parquet, which is not known; fetch it again")
            continue
        places = {"s2": Path(patch.rsplit("_", 2)[0], patch), "s1": Path(s1.rsplit("_", 3)[0], s1)}
        label = tuple(sorted(CLASSES_19.index(c) for c in row["labels"]))
        about = {"country": row["country"]} if "country" in row else {}
        files = _files({s: here[s] / places[s] for s in here})
        items.append(Item(patch, V2_PARTS[row["split"]], files, label, _cluster(patch), about))
    return items, f"metadata.parquet, without {flagged} patches flagged as snow or cloud", problems


def _metadata(path: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    need_file(path)
    wanted = ("patch_id", "s1_name", "split", "labels")
    try:
        names = pq.read_schema(path).names
        missing = [c for c in wanted if c not in names]
        if missing:
            raise InputError(
                f"{path}: no column {', '.join(missing)}, got {', '.join(names)}; it is not the file of BigEarthNet v2"
            )
        rows: list[dict[str, Any]] = pq.read_table(
            path, columns=[*wanted, *(c for c in ("country", *FLAGS) if c in names)]
        ).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path}: not a readable Parquet file ({' '.join(str(error).split())[:160]}); fetch it again"
        ) from error
    return rows


def _files(folders: dict[str, Path]) -> dict[str, Path]:
    """One file for each sensor, and each that is not there, so that it is told; the others follow from the names."""
    files = {}
    for sensor, folder in folders.items():
        files[sensor] = _band(folder, FIRST[sensor])
        try:
            there = set(os.listdir(folder))
        except OSError:
            continue  # that the folder is not there is told by its first file
        wanted = (f"{folder.name}_{b}.tif" for b in MODALITIES[sensor].band_names if b != FIRST[sensor])
        files |= {name: folder / name for name in wanted if name not in there}
    return files


def _band(folder: Path, band: str) -> Path:
    return folder / f"{folder.name}_{band}.tif"


def _cluster(patch: str) -> str:
    """The overpass or tile that a patch was cut from."""
    return patch.rsplit("_", 2)[0]


def _read(item: Item, num_classes: int) -> Sample:
    series = {}
    for sensor in MODALITIES:
        if sensor in item.files:
            folder = item.files[sensor].parent
            stack = np.stack(list(_bands(folder, MODALITIES[sensor].band_names)))
            series[sensor] = series_of(stack, np.array([product_day(folder.name)], np.int32))
    classes = np.zeros(num_classes, bool)
    classes[list(item.label)] = True
    return Sample(series, np.full(2, np.nan), -1, targets={"classes": classes})


def _bands(folder: Path, names: Sequence[str]) -> Iterable[NDArray[np.generic]]:
    """Each band `[120, 120]` on the 10 m grid."""
    for name in names:
        path = _band(folder, name)
        values = read_raster(path)
        count, height, width = values.shape
        if count != 1 or height != width or height < 1 or SIDE_PX % height:
            raise InputError(
                f"{path}: {count} bands of {height} x {width} pixels, expected one of 120, 60 or 20 pixels a side; "
                "fetch the file again"
            )
        times = SIDE_PX // height
        yield values[0].repeat(times, 0).repeat(times, 1)
