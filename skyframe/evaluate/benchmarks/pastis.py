"""Crops in series of Sentinel-2 and Sentinel-1: PASTIS-R, and PASTIS-HD with a SPOT image of 1 m.

`DATA_S2/S2_<id>.npy` `[T, 10, 128, 128]`, `DATA_S1A` and `DATA_S1D` `[T, 3, 128, 128]` (VV, VH in dB, and their ratio,
which is left out), `ANNOTATIONS/TARGET_<id>.npy` (layer 0: classes 0 to 18, 19 = not scored), `metadata.geojson` with
fold and dates of each patch, and for HD `DATA_SPOT/PASTIS_SPOT6_RVB_1M00_2019/SPOT6_RVB_1M00_2019_<id>.tif`.
Ascending and descending Sentinel-1 passes become one series, sorted by day.

Source: Sainte Fare Garnot et al., ISPRS Journal 2022 (PASTIS-R); Astruc et al., OmniSat, ECCV 2024 (PASTIS-HD).
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from skyframe.calendar import DAY_UNKNOWN, day_of
from skyframe.evaluate.datasets.dataset import Dataset, Item, leads_out, missing_files, read_or_tell
from skyframe.evaluate.datasets.files import read_json, read_npy, read_raster
from skyframe.evaluate.datasets.imagery import DISPLAY, bands, finite, sentinel1, sentinel2, series_of
from skyframe.evaluate.datasets.masks import classes_of_numbers, need_size
from skyframe.sample import Sample, Series
from skyframe.spec import InputError, Modality

CLASSES = (
    "background", "meadow", "soft winter wheat", "corn", "winter barley", "winter rapeseed", "spring barley",
    "sunflower", "grapevine", "beet", "winter triticale", "winter durum wheat", "fruits vegetables flowers",
    "potatoes", "leguminous fodder", "soybeans", "orchard", "mixed cereal", "sorghum",
)  # fmt: skip
VOID = 19
S2 = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
SERIES = ("S2", "S1A", "S1D")
PARTS_OF_FOLDS = {1: "train", 2: "train", 3: "train", 4: "val", 5: "test"}
FOLDERS = {"pastis-r": ("PASTIS-R", "PASTIS"), "pastis-hd": ("PASTIS-HD",)}
SPOT = "DATA_SPOT/PASTIS_SPOT6_RVB_1M00_2019/SPOT6_RVB_1M00_2019_{}.tif"


def open_dataset(name: str, root: Path) -> Dataset:
    """PASTIS-R or PASTIS-HD below `root`, or in its usual folder there."""
    folder = next((root / sub for sub in FOLDERS[name] if (root / sub).is_dir()), root)
    if not (folder / "metadata.geojson").is_file():
        raise InputError(
            f"{name}: no metadata.geojson in {folder}, expected it beside DATA_S2 and ANNOTATIONS; give that folder"
        )
    patches, problems = _features(name, folder)
    items, undated, num_unknown = [], [], 0
    for about in patches:
        key, files = about["ID_PATCH"], _files(name, folder, about["ID_PATCH"])
        days = {s: _days(about.get(f"dates-{s}")) for s in SERIES if s in files}
        undated += [f"{key} {s}" for s, found in days.items() if found is None and about.get(f"dates-{s}") is not None]
        num_unknown += sum(found is None for found in days.values())
        part = PARTS_OF_FOLDS[about["Fold"]]
        items.append(Item(key, part, files, about={"days": days, "place": about["place"]}))
    if undated:
        problems.append(
            f"{name}: {len(undated)} series have no readable dates in {folder / 'metadata.geojson'}, such as dates "
            f"of patch {undated[0]}, expected one for each image; their days are unknown to the encoder"
        )
    modalities = {"s2": sentinel2(S2, dtype="int16", many=True), "s1": sentinel1(many=True)}
    if name == "pastis-hd":
        modalities["spot"] = Modality("spot", "image", bands(("red", "green", "blue")), 1.0, DISPLAY, "uint8", 1 / 255)
    return Dataset(
        name=name,
        kind="pixel",
        classes=CLASSES,
        modalities=modalities,
        items=tuple(items),
        read=_read,
        split="folds of metadata.geojson: 1 to 3 train, 4 validates, 5 tests",
        source="Sainte Fare Garnot et al., PASTIS-R, ISPRS Journal 2022; 19 classes with background, void left out; "
        "papers that turn the five folds report other numbers"
        + (
            f"; this copy: {num_unknown} series without dates, whose days the encoder does not know"
            if num_unknown
            else ""
        ),
        problems=(*problems, *missing_files(name, items)),
    )


def _features(name: str, folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Properties of patches with an id, a known fold and the place of their centre, and what is wrong with others."""
    from pyproj import CRS, Transformer
    from pyproj.exceptions import CRSError
    from shapely.errors import ShapelyError
    from shapely.geometry import shape

    told: list[str] = []
    tree = read_or_tell(name, lambda: read_json(folder / "metadata.geojson"), None, told)
    if told:
        return [], told
    try:
        crs = CRS.from_user_input((tree.get("crs") or {}).get("properties", {}).get("name", "OGC:CRS84"))
        entries = list(tree["features"])
    except (AttributeError, KeyError, TypeError, CRSError) as error:
        return [], [f"{name}: {folder / 'metadata.geojson'} is not GeoJSON of features ({error!r}), expected patches"]
    to_degrees = Transformer.from_crs(crs, "OGC:CRS84", always_xy=True)
    good, bad = [], []
    for number, entry in enumerate(entries):
        try:
            about = {**entry["properties"], "Fold": int(entry["properties"]["Fold"])}
            lon, lat = to_degrees.transform(*shape(entry["geometry"]).centroid.coords[0])
            about |= {"ID_PATCH": str(about["ID_PATCH"]), "place": (lat, lon)}
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, ShapelyError):
            bad.append(f"{name}: entry {number} of metadata.geojson lacks ID_PATCH, Fold or a shape, expected all")
            continue
        if leads_out(about["ID_PATCH"]):
            bad.append(f"{name}: patch {about['ID_PATCH']!r} leads out of {folder}, expected a number")
        elif about["Fold"] in PARTS_OF_FOLDS:
            good.append(about)
        else:
            bad.append(f"{name}: patch {about['ID_PATCH']} is of fold {about['Fold']}, expected 1 to 5")
    return good, bad


def _days(dates: Any) -> list[int] | None:
    """Days from `{"0": 20180916, ...}`, in the order of its numbers; None where that is not there."""
    try:
        table = json.loads(dates.replace("'", '"')) if isinstance(dates, str) else dates
        ordered = [str(table[k]) for k in sorted(table, key=int)]
        return [day_of(datetime.strptime(text, "%Y%m%d").date()) for text in ordered] or None
    except (TypeError, ValueError, AttributeError):
        return None


def _files(name: str, folder: Path, key: str) -> dict[str, Path]:
    files = {s: folder / f"DATA_{s}" / f"{s}_{key}.npy" for s in SERIES}
    files["mask"] = folder / "ANNOTATIONS" / f"TARGET_{key}.npy"
    if name == "pastis-hd":
        files["spot"] = folder / SPOT.format(key)
        if not (folder / "DATA_S1D").is_dir():  # copies without descending passes are as common as those with them
            del files["S1D"]
    return files


def _read(item: Item) -> Sample:
    optical = _series(item, "S2", len(S2))
    side = optical.values.shape[-2:]
    radar = [_series(item, s, 3) for s in ("S1A", "S1D") if s in item.files]
    for s in radar:
        need_size(item.files["S1A"], s.values, *side)
    mask = read_npy(item.files["mask"])
    table = {n: n for n in range(len(CLASSES))} | {VOID: -1}
    target = classes_of_numbers(item.files["mask"], mask[0] if mask.ndim == 3 else mask, table)
    need_size(item.files["mask"], target, *side)
    series = {"s2": optical, "s1": _joined(radar)}
    if "spot" in item.files:
        series["spot"] = series_of(read_raster(item.files["spot"], bands=(1, 2, 3)))
    return Sample(series, np.array(item.about["place"]), -1, targets={"mask": target})


def _series(item: Item, role: str, num_bands: int) -> Series:
    values, path, days = read_npy(item.files[role]), item.files[role], item.about["days"][role]
    if values.ndim != 4 or values.shape[1] != num_bands:
        raise InputError(
            f"{path}: an array {list(values.shape)}, expected [T, {num_bands}, H, W]; fetch the file again"
        )
    if days is not None and len(days) != len(values):
        raise InputError(
            f"{path}: {len(values)} images but {len(days)} dates-{role} in metadata.geojson, expected one for each; "
            "fetch both again"
        )
    known = np.full(len(values), DAY_UNKNOWN, np.int32) if days is None else np.array(days, np.int32)
    if role == "S2":
        return series_of(values, known)
    radar = values[:, :2].astype(np.float32)  # stored as float16
    return series_of(radar, known, finite(radar))


def _joined(passes: list[Series]) -> Series:
    """Both kinds of passes as one series by day; those of unknown day keep their order."""
    values, valid, day = (np.concatenate([getattr(s, f) for s in passes]) for f in ("values", "valid", "day"))
    order = np.argsort(day, kind="stable")
    return Series(values[order], valid[order], day[order], passes[0].bands)
