"""Monthly land cover of 75 areas over two years: DynamicEarthNet, and its change from one month to the next.

| what | where |
|---|---|
| Planet, 4 bands, 3 m, daily | `planet*/.../<area>[/PF-SR]/YYYY-MM-DD.tif`, or `.npy` as PANGAEA converts them |
| Sentinel-2 composite of a month, 12 bands | `s2_path` of the list, or `sentinel2/.../<area>/...YYYY_MM.tif` |
| Sentinel-1 composite of a month | likewise in `sentinel1`; used where it has two bands, VV and VH in dB |
| label of a month, a layer of 0 or 255 per class | `labels/<area>_<zone>/Labels/Raster/.../...YYYY_MM_DD.tif` |
| parts | `[split_info/]splits.csv` (GEO-Bench-2), `dynnet_training_splits/{train,val,test}.txt` (PANGAEA) |

`dynamicearthnet` holds six Planet images of a month (days 1, 5, 10, 15, 20, 25) with its composites and label;
`dynamicearthnet-change` holds the first Planet image, the composites and the labels of two successive months.

Source: Toker et al., DynamicEarthNet, CVPR 2022; aysim/dynnet for days, layers and statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import day_of
from skyframe.evaluate.benchmarks.dynamicearthnet_lists import Row, image_folders, labelled_months
from skyframe.evaluate.datasets.dataset import Dataset, Item, missing_files
from skyframe.evaluate.datasets.files import raster_shape, read_npy, read_raster
from skyframe.evaluate.datasets.imagery import bands, finite, place_of_raster, sentinel1, sentinel2, series_of
from skyframe.evaluate.datasets.masks import need_size
from skyframe.sample import Sample
from skyframe.spec import InputError, Modality

CLASSES = ("impervious surface", "agriculture", "forest and other vegetation", "wetlands", "soil", "water")
NUM_LAYERS = 7
"""Of a label; the seventh, snow and ice, is not scored."""
PLANET = ("blue", "green", "red", "nir")
PLANET_MEAN = (0.067126, 0.091562, 0.104259, 0.260521)
PLANET_STD = (0.059689, 0.071555, 0.095796, 0.105990)
S2 = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09")
"""No publication gives the order. This one fits the means of the twelve channels that GEO-Bench-2 measured; its own
names (B01 ... B8A, B10, B11, B12) would make the cirrus band reflect 0.17."""
DAYS = (1, 5, 10, 15, 20, 25)
NEVER_PUBLISHED = "1417_3281_13"
"""The area whose Planet images the archive lacks."""


def open_dataset(name: str, root: Path) -> Dataset:
    """DynamicEarthNet below `root`, in any of the layouts above."""
    folders = [p for p in root.glob("*") if p.is_dir() and p.name.startswith(("planet", "reprocess-cropped"))]
    if not folders:
        raise InputError(
            f"{name}: no folder planet in {root}, expected it beside labels; unpack the archives of the data set there"
        )
    rows, split, problems = labelled_months(name, root)
    planet = dict(sorted(image_folders(folders)))
    lost = sorted({row.area for row in rows} - set(planet))
    if NEVER_PUBLISHED in lost:
        lost.remove(NEVER_PUBLISHED)
        split += f"; without area {NEVER_PUBLISHED}, whose Planet images were never published"
    if lost:
        problems.append(f"{name}: no Planet images of {len(lost)} areas, such as {lost[0]}, expected a folder of each")
    kept = [row for row in rows if row.area in planet]
    radar = next((row.composites["s1"] for row in kept if "s1" in row.composites), None)
    roles = ["s2"] if any("s2" in row.composites for row in kept) else []
    roles += ["s1"] if radar is not None and _num_bands(radar) == 2 else []
    change = name == "dynamicearthnet-change"
    items = _pairs(kept, planet, roles) if change else [_month(row, planet, roles) for row in kept]
    known = {"planet": _planet(), "s2": sentinel2(S2, many=True), "s1": sentinel1(many=True)}
    return Dataset(
        name=name,
        kind="semantic_change" if change else "pixel",
        classes=CLASSES,
        modalities={n: known[n] for n in ("planet", *roles)},
        items=tuple(items),
        read=_read,
        split=split,
        source="Toker et al., DynamicEarthNet, CVPR 2022; six classes, snow left out; the meaning of the eight "
        "channels of its Sentinel-1 files is not published, so that they are left out, and the order of its "
        "Sentinel-2 bands is inferred from their means",
        problems=(*problems, *missing_files(name, items)),
    )


def _planet() -> Modality:
    return Modality(
        "planet", "series", bands(PLANET), 3.0, "reflectance", "uint16", 1e-4, mean=PLANET_MEAN, std=PLANET_STD
    )


def _num_bands(path: Path) -> int:
    try:
        return raster_shape(path)[0]
    except InputError:
        return 2  # the file is told as damaged where it is read


def _frame(folder: Path, month: str, day: int) -> Path:
    path = folder / f"{month}-{day:02d}.npy"
    return path if path.is_file() else path.with_suffix(".tif")


def _month(row: Row, planet: dict[str, Path], roles: Sequence[str]) -> Item:
    files = {f"planet/{k}": _frame(planet[row.area], row.month, day) for k, day in enumerate(DAYS)}
    files |= {f"{r}/0": row.composites[r] for r in roles if r in row.composites} | {"mask/0": row.label}
    first = _first_day(row.month)
    days = {"planet": [first + day - 1 for day in DAYS], "s2": [first], "s1": [first]}
    return Item(f"{row.area}/{row.month}", row.part, files, cluster=row.area, about={"days": days})


def _pairs(rows: Sequence[Row], planet: dict[str, Path], roles: Sequence[str]) -> list[Item]:
    """Successive months of an area that lie in one part."""
    items = []
    for a, b in pairwise(sorted(rows, key=lambda r: (r.area, r.month))):
        if (a.area, a.part) != (b.area, b.part) or not 28 <= _first_day(b.month) - _first_day(a.month) <= 31:
            continue
        files = {f"planet/{k}": _frame(planet[r.area], r.month, 1) for k, r in enumerate((a, b))}
        for role in roles:
            if role in a.composites and role in b.composites:
                files |= {f"{role}/{k}": r.composites[role] for k, r in enumerate((a, b))}
        files |= {f"mask/{k}": r.label for k, r in enumerate((a, b))}
        days = [_first_day(r.month) for r in (a, b)]
        about = {"days": dict.fromkeys(("planet", "s2", "s1"), days)}
        items.append(Item(f"{a.area}/{a.month}_{b.month}", a.part, files, cluster=a.area, about=about))
    return items


def _first_day(month: str) -> int:
    return day_of(date(int(month[:4]), int(month[5:7]), 1))


def _read(item: Item) -> Sample:
    wanted = {"planet": len(PLANET), "s2": len(S2), "s1": 2}
    series = {}
    for role, num_bands in wanted.items():
        paths = _paths(item, role)
        if paths:
            stack = [_image(path, num_bands) for path in paths]
            for path, image in zip(paths, stack, strict=True):
                need_size(path, image, *stack[0].shape[1:])
            values = np.stack(stack)
            seen = (values != 0).any(1) & finite(values)
            series[role] = series_of(values, np.array(item.about["days"][role], np.int32), seen)
    masks: list[NDArray[np.generic]] = []
    for path in _paths(item, "mask"):
        masks.append(_mask(path))
        need_size(path, masks[-1], *series["planet"].values.shape[-2:])
    target = {"mask": masks[0]} if len(masks) == 1 else {"masks": np.stack(masks)}
    return Sample(series, place_of_raster(_paths(item, "mask")[0]), -1, targets=target)


def _paths(item: Item, role: str) -> list[Path]:
    return [path for key, path in item.files.items() if key.startswith(f"{role}/")]


def _image(path: Path, num_bands: int) -> NDArray[np.generic]:
    """An image `[C, H, W]`; arrays may be `[H, W, C]` as well."""
    image = read_npy(path) if path.suffix == ".npy" else read_raster(path)
    if image.ndim == 3 and image.shape[0] != num_bands == image.shape[2]:
        image = np.ascontiguousarray(np.moveaxis(image, -1, 0))
    if image.ndim != 3 or image.shape[0] != num_bands:
        raise InputError(f"{path}: an image {list(image.shape)}, expected {num_bands} bands; fetch the file again")
    return image


def _mask(path: Path) -> NDArray[np.int64]:
    """Class of each pixel, -1 for snow and where no layer is set; of several layers the last one counts."""
    layers = read_raster(path)
    if len(layers) != NUM_LAYERS or not np.isin(layers, (0, 255)).all():
        raise InputError(
            f"{path}: {len(layers)} layers of {layers.min()} to {layers.max()}, expected {NUM_LAYERS} of 0 or 255, one "
            "per class; fetch the label again"
        )
    mask = np.full(layers.shape[1:], -1, np.int64)
    for number, layer in enumerate(layers):
        mask[layer == 255] = number if number < len(CLASSES) else -1
    return mask
