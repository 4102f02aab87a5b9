"""TreeSatAI and TreeSatAI-TS: genera of trees in 60 m plots of Lower Saxony, from the air and from both Sentinels.

| | TreeSatAI | TreeSatAI-TS |
|---|---|---|
| air photo, 0.2 m | `aerial/60m/<plot>.tif` | `aerial/<plot>.tif` |
| Sentinel-2 | `s2/60m/<plot>.tif`, twelve bands of one date | `sentinel-ts/<plot>_<year>.h5`, a year of ten bands |
| Sentinel-1 | `s1/60m/<plot>.tif`, VV, VH in dB and a ratio | the same file, both orbits, linear power |
| labels | `labels/TreeSatBA_v9_60m_multi_labels.json` | the same |
| split | `{train,test}_filenames.lst` | `split/{train,val,test}_filenames.lst`, or beside |

A genus counts where it covers at least 7 % of a plot, as in the authors' scores. Bands of the air photo are near
infrared, green, blue, red in this order; it reaches 0.4 m farther than the plot on each side. A pixel of Sentinel-2 in
a series is valid where its probabilities of cloud and of snow are at most 50 %; ascending and descending passes of
Sentinel-1 stand in one series, by day.

Source: Ahlswede et al., TreeSatAI, ESSD 2023; Astruc et al., OmniSat, ECCV 2024 (TreeSatAI-TS).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import DAY_UNKNOWN
from skyframe.evaluate.datasets.dataset import PARTS, Dataset, Item, missing_files
from skyframe.evaluate.datasets.files import read_json, read_lines, read_raster
from skyframe.evaluate.datasets.hdf5 import read_h5
from skyframe.evaluate.datasets.imagery import product_day, rgb, sentinel1, sentinel2, series_of
from skyframe.sample import Sample, Series
from skyframe.spec import InputError

CLASSES = (
    "Abies", "Acer", "Alnus", "Betula", "Cleared", "Fagus", "Fraxinus", "Larix", "Picea", "Pinus", "Populus", "Prunus",
    "Pseudotsuga", "Quercus", "Tilia",
)  # fmt: skip
MIN_SHARE = 0.07
MAX_PROBABILITY = 50.0
PLAUSIBLE_DB = 60.0
"""Sentinel-1 of one date holds some values far beyond what a radar measures; these are not valid."""
AERIAL_BANDS = ("nir", "green", "blue", "red")
S2_ONE = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09")
S2_MANY = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
ARRAYS = {"sen-2-data": (10,), "sen-1-asc-data": (2,), "sen-1-des-data": (2,), "sen-2-masks": (2, 10)}
"""Bands of each array of a file of series; masks begin with the probabilities of snow and of cloud, in percent."""
LABELS = Path("labels", "TreeSatBA_v9_60m_multi_labels.json")


def open_dataset(name: str, root: Path) -> Dataset:
    """The plots that the lists below `root` name."""
    many = name == "treesatai-ts"
    sensors = ("sentinel-ts",) if many else ("s2", "s1")
    if not any((root / s).is_dir() for s in sensors):
        raise InputError(f"{name}: no folder {root / sensors[0]}, expected Sentinel-2; give the folder that holds it")
    items, split, problems = _plots(name, root, many)
    series = {"s2": sentinel2(S2_MANY, many=True), "s1": sentinel1(units="linear power", many=True)}
    return Dataset(
        name=name,
        kind="multilabel",
        classes=CLASSES,
        modalities={
            **(series if many else {"s2": sentinel2(S2_ONE), "s1": sentinel1()}),
            "rgb": rgb(0.2, AERIAL_BANDS),
        },
        items=tuple(items),
        read=_read_many if many else _read_one,
        split=split,
        source="Ahlswede et al., TreeSatAI, ESSD 2023; genera of at least 7 % of a plot"
        + ("; series by Astruc et al., OmniSat, ECCV 2024" if many else ""),
        problems=(*problems, *missing_files(name, items)),
    )


def _plots(name: str, root: Path, many: bool) -> tuple[list[Item], str, list[str]]:
    lists = {
        p: f for p in PARTS for f in (root / f"{p}_filenames.lst", root / "split" / f"{p}_filenames.lst") if f.is_file()
    }
    wanted = PARTS if many else ("train", "test")
    problems = [f"{name}: {root} lacks {p}_filenames.lst, expected a list of plots" for p in wanted if p not in lists]
    labels = read_json(root / LABELS)
    if not isinstance(labels, dict):
        raise InputError(f"{root / LABELS}: holds no plots by name, expected genera and shares of each; fetch it again")
    series = _series_files(root / "sentinel-ts") if many else {}
    items = []
    for part, path in lists.items():
        for line in read_lines(path):
            plot = line.removesuffix(".tif")
            label = _label(labels.get(f"{plot}.tif"))
            if label is None:
                problems.append(f"{name}: {plot} of {path.name} has no genera in {LABELS.name}; fetch both again")
                continue
            if many:
                where = series.get(plot, root / "sentinel-ts" / f"{plot}.h5")
                files = {"series": where, "rgb": root / "aerial" / f"{plot}.tif"}
            else:
                files = {
                    s: root / f / "60m" / f"{plot}.tif" for s, f in (("s2", "s2"), ("s1", "s1"), ("rgb", "aerial"))
                }
            items.append(Item(plot, part, files, label))
    return items, ", ".join(str(f.relative_to(root)) for f in lists.values()), problems


def _series_files(folder: Path) -> dict[str, Path]:
    """Files by plot; the year that may follow a plot's name is cut off."""
    return {re.sub(r"_\d{4}$", "", p.stem): p for p in sorted(folder.glob("*.h5"))}


def _label(genera: Any) -> tuple[int, ...] | None:
    """Class numbers of a plot; None where the entry is not a list of known genera and shares."""
    try:
        return tuple(sorted({CLASSES.index(genus) for genus, share in genera if float(share) >= MIN_SHARE}))
    except (TypeError, ValueError):
        return None


def _read_one(item: Item) -> Sample:
    s2 = series_of(_raster(item.files["s2"], S2_ONE))
    both = _raster(item.files["s1"], ("VV", "VH", "VV/VH"))[:2]
    s1 = series_of(both, valid=(np.abs(both) < PLAUSIBLE_DB).all(0)[None])
    return _sample(item, {"s2": s2, "s1": s1})


def _read_many(item: Item) -> Sample:
    path = item.files["series"]
    found = read_h5(path, [*ARRAYS, "sen-2-products", "sen-1-asc-products", "sen-1-des-products"])
    side = found["sen-2-data"].shape[2:]
    for name, counts in ARRAYS.items():
        shape = found[name].shape
        if len(shape) != 4 or shape[1] not in counts or shape[2:] != side or found[name].dtype.kind not in "fiu":
            raise InputError(
                f"{path}: {name} has shape {shape}, expected numbers of [T, {counts[0]}, 6, 6]; fetch the file again"
            )
    clear: NDArray[np.bool_] = np.all(found["sen-2-masks"][:, :2] <= MAX_PROBABILITY, axis=1)
    passes = [_dated(path, sensor, found) for sensor in ("sen-1-asc", "sen-1-des")]
    return _sample(item, {"s2": _joined([_dated(path, "sen-2", found, clear)]), "s1": _joined(passes)})


def _dated(path: Path, sensor: str, found: dict[str, NDArray[Any]], clear: NDArray[np.bool_] | None = None) -> Series:
    """One sensor's series, its days from the names of its products."""
    values, products = found[f"{sensor}-data"], found[f"{sensor}-products"]
    seen = np.isfinite(values).all(1)
    names = [p.decode("ascii", "replace") if isinstance(p, bytes) else str(p) for p in products]
    days = np.array([product_day(n) for n in names], np.int32)
    if len(days) != len(values) or (days == DAY_UNKNOWN).any() or (clear is not None and clear.shape != seen.shape):
        raise InputError(
            f"{path}: {sensor} has {len(values)} dates, {len(days)} products and masks for "
            f"{len(values if clear is None else clear)}, expected as many of each and a date in every product's name; "
            "fetch the file again"
        )
    return series_of(values, days, seen if clear is None else seen & clear)


def _joined(passes: Sequence[Series]) -> Series:
    """Passes of one or both orbits in one series, in order of days."""
    values, valid, days = (np.concatenate([getattr(p, k) for p in passes]) for k in ("values", "valid", "day"))
    order = np.argsort(days, kind="stable")
    return series_of(values[order], days[order], valid[order])


def _raster(path: Path, names: Sequence[str]) -> NDArray[Any]:
    pixels = read_raster(path)
    if len(pixels) != len(names):
        raise InputError(
            f"{path}: {len(pixels)} bands, expected {len(names)} ({', '.join(names)}); fetch the file again"
        )
    return pixels


def _sample(item: Item, series: dict[str, Series]) -> Sample:
    series["rgb"] = series_of(_raster(item.files["rgb"], AERIAL_BANDS))
    classes = np.zeros(len(CLASSES), bool)
    classes[list(item.label)] = True
    return Sample(series, np.full(2, np.nan), -1, targets={"classes": classes})
