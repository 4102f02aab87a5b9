"""GEO-Bench v1: twelve small versions of known data sets, one HDF5 file per sample, metadata as pickles.

`$GEO_BENCH_DIR/{classification_v1.0,segmentation_v1.0}/<name>/` holds `<sample>.hdf5` (one array per band, and one
called `label` for maps), `task_specs.pkl`, `default_partition.json` and smaller training parts beside it, and
`label_map.json`. Pickles are read by `pickles.read_pickle`, which runs nothing. Bands that no encoder takes (raw phases
of Sentinel-1, cloud probability, the hyperspectral stack) are left out.

Source: Lacoste et al., GEO-Bench, NeurIPS 2023; names and classes as in the package `geobench` 1.0.0.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import DAY_UNKNOWN, day_of
from skyframe.evaluate.datasets.dataset import Dataset, Item, Kind, missing_files, need_folder
from skyframe.evaluate.datasets.files import MAX_TEXT, need_file, read_json
from skyframe.evaluate.datasets.imagery import DISPLAY, bands, series_of
from skyframe.evaluate.datasets.pickles import Record, read_pickle
from skyframe.sample import Sample
from skyframe.spec import InputError, Modality

FOLDERS = {"m-sa-crop-type": "m-SA-crop-type", "m-neontree": "m-NeonTree"}
"""Folder of a data set where its name there has capitals."""
_CLASSES = {
    "geobench.dataset": (
        *("BandInfo", "SpectralBand", "Sentinel1", "Sentinel2", "Landsat8", "Mask", "ElevationBand", "MultiBand"),
        *("HyperSpectralBands", "CloudProbability", "SegmentationClasses"),
    ),
    "geobench.label": ("Classification", "SemanticSegmentation", "MultiLabelClassification", "Detection"),
    "geobench.task": ("TaskSpecifications", "SegmentationAccuracy", "Accuracy", "MultilabelAccuracy"),
    "affine": ("Affine",),
    "rasterio.crs": ("CRS",),
}
ALLOWED = frozenset((module, name) for module, names in _CLASSES.items() for name in names)
"""Classes that the published files name."""

S2 = {
    "01 - Coastal aerosol": "B01", "02 - Blue": "B02", "03 - Green": "B03", "04 - Red": "B04",
    "05 - Vegetation Red Edge": "B05", "06 - Vegetation Red Edge": "B06", "07 - Vegetation Red Edge": "B07",
    "08 - NIR": "B08", "08A - Vegetation Red Edge": "B8A", "09 - Water vapour": "B09", "10 - SWIR - Cirrus": "B10",
    "11 - SWIR": "B11", "12 - SWIR": "B12",
}  # fmt: skip
S1 = {"06 - VV.LEE Filtered": "VV", "05 - VH.LEE Filtered": "VH"}
L8 = {
    "02 - Blue": "blue", "03 - Green": "green", "04 - Red": "red", "05 - NIR": "nir", "06 - SWIR1": "swir1",
    "07 - SWIR2": "swir2",
}  # fmt: skip
RGB = {"Red": "red", "Green": "green", "Blue": "blue", "NearInfrared": "nir"}


@dataclass(frozen=True)
class _Sensor:
    """One modality of a data set: which arrays it takes, and their units."""

    name: str
    given: Mapping[str, str]  # name of an array -> our band
    gsd_m: float
    units: str
    scale: float = 1.0


@dataclass(frozen=True)
class _About:
    """What is known of a data set beyond its files."""

    kind: Kind
    sensors: tuple[_Sensor, ...]
    num_classes: int
    note: str = ""


_TOA, _BOA = "top-of-atmosphere reflectance", "reflectance"
_ODD = "sentinel-2 counts as published: B10 to B12 are 8-bit, no rule turns them into reflectance"


def _colours(gsd_m: float) -> tuple[_Sensor, ...]:
    return (_Sensor("rgb", RGB, gsd_m, DISPLAY, 1 / 255),)


def _sentinel2(units: str, scale: float = 1e-4) -> _Sensor:
    return _Sensor("s2", S2, 10.0, units, scale)


ABOUT = {
    "m-bigearthnet": _About("multilabel", (_sentinel2(_BOA),), 43),
    "m-so2sat": _About("scene", (_sentinel2(_BOA, 1.0), _Sensor("s1", S1, 10.0, "linear power")), 17),
    "m-brick-kiln": _About("scene", (_sentinel2("count", 1.0),), 2, _ODD),
    "m-forestnet": _About("scene", (_Sensor("l8", L8, 15.0, DISPLAY, 1 / 255),), 12, "Landsat-8 as 8-bit pictures"),
    "m-eurosat": _About("scene", (_sentinel2(_TOA),), 10),
    "m-pv4ger": _About("scene", _colours(0.1), 2),
    "m-pv4ger-seg": _About("pixel", _colours(0.1), 2),
    "m-chesapeake": _About("pixel", _colours(1.0), 7),
    "m-cashew-plant": _About("pixel", (_sentinel2(_BOA),), 7),
    "m-sa-crop-type": _About("pixel", (_sentinel2("count", 1.0),), 10, "Sentinel-2 as published by the crop-type set"),
    "m-nz-cattle": _About("pixel", _colours(0.1), 2),
    "m-neontree": _About("pixel", _colours(0.1), 2),
}
"""By name; numbers of classes and units as in the band statistics that travel with the data."""
PARTITION = {"train": "train", "val": "valid", "test": "test"}


def open_dataset(name: str, root: Path) -> Dataset:
    """One data set below the benchmark's folder, one of its two halves, or given itself."""
    folder = _folder(name, root)
    about = ABOUT[name]
    need_file(folder / "task_specs.pkl")
    specs = read_pickle(_small(folder / "task_specs.pkl"), folder / "task_specs.pkl", ALLOWED)
    if not isinstance(specs, Record) or specs.name != "TaskSpecifications":
        raise InputError(
            f"{name}: {folder / 'task_specs.pkl'} describes no task, expected GEO-Bench's; it is not the file that its "
            "name says"
        )
    listed = [b.get("name") for b in specs.get("bands_info") or () if isinstance(b, Record)]
    modalities = {s.name: _modality(s, listed) for s in about.sensors if set(s.given) & set(listed)}
    if not modalities:
        raise InputError(
            f"{name}: {folder} lists bands {', '.join(map(str, listed)) or '(none)'}, expected some of "
            f"{', '.join(about.sensors[0].given)}; it is another data set"
        )
    classes, problems = _classes(name, about, specs)
    items, split, more = _items(name, about, folder)
    return Dataset(
        name=name,
        kind=about.kind,
        classes=classes,
        modalities=modalities,
        items=tuple(items),
        read=lambda item: _read(item, about, modalities, len(classes)),
        split=split,
        source="; ".join(["Lacoste et al., GEO-Bench, NeurIPS 2023", *([about.note] if about.note else [])]),
        problems=(*problems, *more, *missing_files(name, items)),
    )


def _folder(name: str, root: Path) -> Path:
    own = FOLDERS.get(name, name)
    halves = ("classification_v1.0", "segmentation_v1.0")
    around = [root / half / n for half in halves for n in (own, name)] + [root / own, root / name]
    found = [p for p in (*around, root) if (p / "task_specs.pkl").is_file()]
    return found[0] if found else need_folder(name, root, halves[ABOUT[name].kind == "pixel"], own)


def _small(path: Path) -> bytes:
    if path.stat().st_size > MAX_TEXT:
        raise InputError(f"{path}: {path.stat().st_size:,} bytes, expected metadata of at most {MAX_TEXT:,}")
    return path.read_bytes()


def _modality(sensor: _Sensor, listed: list[Any]) -> Modality:
    held = [ours for theirs, ours in sensor.given.items() if theirs in listed]
    return Modality(sensor.name, "image", bands(held), sensor.gsd_m, sensor.units, "float32", scale=sensor.scale)


def _classes(name: str, about: _About, specs: Record) -> tuple[tuple[str, ...], list[str]]:
    """Names where the file gives them, numbers otherwise."""
    label = specs.get("label_type")
    held = label if isinstance(label, Record) else Record("", "")
    count, names = held.get("n_classes"), held.get("_class_names", "class_name")
    problems = []
    if count != about.num_classes:
        problems.append(f"{name}: task_specs.pkl tells of {count} classes, expected {about.num_classes}")
    if isinstance(names, list | tuple) and len(names) == about.num_classes:
        return tuple(map(str, names)), problems
    return tuple(f"class {i}" for i in range(about.num_classes)), problems


def _items(name: str, about: _About, folder: Path) -> tuple[list[Item], str, list[str]]:
    files = sorted(p.name for p in folder.glob("*_partition.json"))
    if not files:
        raise InputError(f"{name}: no default_partition.json in {folder}, expected the lists of its parts")
    chosen, problems = "default_partition.json", []
    if chosen not in files:
        chosen = max(files)
        problems.append(f"{name}: {folder} lacks default_partition.json, read {chosen} in its place")
    tree = read_json(folder / chosen)
    lists = {p: tree.get(theirs) if isinstance(tree, dict) else None for p, theirs in PARTITION.items()}
    bad = [PARTITION[p] for p, names in lists.items() if not isinstance(names, list)]
    if bad:
        raise InputError(f"{name}: {folder / chosen} has no list {bad[0]}, expected train, valid and test")
    labels = _labels(name, folder) if about.kind == "scene" else {}
    items: list[Item] = []
    seen: dict[str, str] = {}
    for part, names in lists.items():
        for key in map(str, names or ()):
            if seen.setdefault(key, part) != part:
                problems.append(f"{name}: {key} stands in parts {seen[key]} and {part} of {chosen}")
                continue
            items.append(Item(key, part, {"sample": folder / f"{key}.hdf5"}, labels.get(key)))
    return items, chosen, problems


def _labels(name: str, folder: Path) -> dict[str, int]:
    """Class by sample, where `label_map.json` lies beside."""
    path = folder / "label_map.json"
    if not path.is_file():
        return {}
    tree = read_json(path)
    if not isinstance(tree, dict) or not all(str(k).isdigit() and isinstance(v, list) for k, v in tree.items()):
        raise InputError(f"{name}: {path} does not list samples by class number; fetch the file again")
    return {str(key): int(number) for number, keys in tree.items() for key in keys}


def _read(item: Item, about: _About, modalities: Mapping[str, Modality], num_classes: int) -> Sample:
    path = item.files["sample"]
    arrays, meta = _open(path)
    series = {}
    for sensor in about.sensors:
        if sensor.name not in modalities:
            continue
        theirs = {ours: t for t, ours in sensor.given.items()}
        wanted = [theirs[b] for b in modalities[sensor.name].band_names]
        by_date = _by_date(path, arrays, meta, wanted)
        stack = np.stack([[a.astype(np.float32) for a in planes] for _, planes in by_date])
        days = np.array(
            [DAY_UNKNOWN if d is None else day_of(date(d.year, d.month, d.day)) for d, _ in by_date], np.int32
        )
        series[sensor.name] = series_of(stack, days)
    shape = next(iter(series.values())).values.shape[-2:]
    return Sample(series, np.full(2, np.nan), -1, targets=_target(item, about, arrays, meta, num_classes, shape))


def _open(path: Path) -> tuple[dict[str, NDArray[np.generic]], dict[str, Any]]:
    """Arrays and metadata of one sample."""
    import h5py

    need_file(path)
    try:
        with h5py.File(path, "r") as file:
            held = file.attrs["pickle"]
            arrays = {
                k: np.asarray(v) for k, v in file.items() if isinstance(v, h5py.Dataset) and v.dtype.kind in "biuf"
            }
    except (OSError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: not a readable GEO-Bench sample ({reason}); fetch the file again") from error
    meta = read_pickle(_packed(held, path), path, ALLOWED)
    if not isinstance(meta, dict):
        raise InputError(f"{path}: its metadata are no mapping by band; fetch the file again")
    return arrays, meta


def _packed(held: Any, path: Path) -> bytes:
    """The pickle in an attribute: the text of a bytes literal, as the authors wrote it, or the bytes themselves."""
    if isinstance(held, np.void):
        return held.tobytes()
    if isinstance(held, bytes) and held[:1] == b"\x80":
        return held
    text = held.decode("ascii", "replace") if isinstance(held, bytes) else str(held)
    try:
        value = ast.literal_eval(text) if text[:2] in ("b'", 'b"') else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, bytes):
        raise InputError(f"{path}: its attribute `pickle` is no bytes literal; fetch the file again")
    return value


def _by_date(
    path: Path, arrays: Mapping[str, NDArray[np.generic]], meta: Mapping[str, Any], wanted: list[str]
) -> list[tuple[date | None, list[NDArray[np.generic]]]]:
    """Planes of the wanted bands by date, in order; an array is called by its band and, if it has one, its date."""
    dates: dict[str, tuple[date | None, dict[str, NDArray[np.generic]]]] = {}
    for key, plane in arrays.items():
        about = meta.get(key)
        info = about.get("band_info") if isinstance(about, dict) else None
        band = info.get("name") if isinstance(info, Record) else key
        when = about.get("date") if isinstance(about, dict) else None
        if band in wanted:
            dates.setdefault(str(when), (when if isinstance(when, date) else None, {}))[1][band] = plane
    lost = [b for b in wanted if not dates or any(b not in planes for _, planes in dates.values())]
    if lost:
        raise InputError(f"{path}: no band {lost[0]!r}, it has {', '.join(sorted(arrays)[:6])}; fetch the file again")
    sizes = {p.shape for _, planes in dates.values() for p in planes.values()}
    if len(sizes) > 1 or len(next(iter(sizes))) != 2:
        raise InputError(f"{path}: bands of {sorted(sizes)} pixels, expected one size; fetch the file again")
    return [(when, [planes[b] for b in wanted]) for _, (when, planes) in sorted(dates.items())]


def _target(
    item: Item,
    about: _About,
    arrays: Mapping[str, NDArray[np.generic]],
    meta: Mapping[str, Any],
    num_classes: int,
    shape: tuple[int, int],
) -> dict[str, NDArray[np.generic]]:
    path = item.files["sample"]
    if about.kind == "pixel":
        maps = [a for k, a in arrays.items() if k.startswith("label")]
        if len(maps) != 1 or maps[0].squeeze().shape != shape:
            found = [list(m.shape) for m in maps]
            raise InputError(f"{path}: label maps of {found} pixels, expected one of {list(shape)}; fetch it again")
        mask = maps[0].squeeze().astype(np.int64)
        if mask.min() < 0 or mask.max() >= num_classes:
            raise InputError(f"{path}: label {mask.min()} to {mask.max()}, expected 0 to {num_classes - 1}")
        return {"mask": mask}
    label = meta.get("label")
    if about.kind == "multilabel":
        flags = np.asarray(label if isinstance(label, list | tuple | np.ndarray) else [])
        if flags.shape != (num_classes,) or not np.isin(flags, (0, 1)).all():
            raise InputError(f"{path}: label of {list(flags.shape)} numbers, expected {num_classes} of 0 and 1")
        return {"classes": flags.astype(bool)}
    if not isinstance(label, int) or not 0 <= label < num_classes:
        raise InputError(f"{path}: label {str(label)[:40]}, expected a class from 0 to {num_classes - 1}")
    if item.label is not None and item.label != label:
        raise InputError(f"{path}: label {label}, but label_map.json says {item.label}; fetch both again")
    return {"class": np.asarray(np.int64(label))}
