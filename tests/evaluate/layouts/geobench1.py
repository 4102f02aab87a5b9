"""Tiny GEO-Bench v1 data sets in the true layout, their pickles made from classes of the true names."""

from __future__ import annotations

import json
import pickle
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from affine import Affine
from rasterio.crs import CRS

from skyframe.evaluate.benchmarks.geobench1 import ABOUT, ALLOWED, FOLDERS, PARTITION

SIDE_PX = 8


@contextmanager
def authors_classes() -> Iterator[dict[str, Any]]:
    """Classes under the names that the published pickles use, importable only inside; places are rasterio's own."""
    ours = [(module, name) for module, name in ALLOWED if module.startswith("geobench.")]
    modules = {name: types.ModuleType(name) for name in ("geobench", *(module for module, _ in ours))}
    made: dict[str, Any] = {}
    for module, name in ours:
        made[name] = type(name, (), {"__module__": module})
        setattr(modules[module], name, made[name])
    sys.modules.update(modules)
    try:
        yield made
    finally:
        for name in modules:
            del sys.modules[name]


def filled(kind: Any, **attributes: Any) -> Any:
    """An object of a class with some attributes."""
    made = kind()
    made.__dict__.update(attributes)
    return made


def write_geobench1(root: Path, name: str, per_part: int = 2, day: date | None = None) -> Path:
    """Some samples per part; band k of sample n holds n * 10 + k, its label is n modulo the classes."""
    about = ABOUT[name]
    half = "segmentation_v1.0" if about.kind == "pixel" else "classification_v1.0"
    folder = root / half / FOLDERS.get(name, name)
    folder.mkdir(parents=True)
    bands = [b for s in about.sensors for b in s.given]
    parts = {theirs: [f"{ours}_{i}" for i in range(per_part)] for ours, theirs in PARTITION.items()}
    (folder / "default_partition.json").write_text(json.dumps(parts))
    keys = [key for part in parts.values() for key in part]
    with authors_classes() as classes:
        infos = {b: filled(classes["Sentinel2"], name=b, alt_names=("1",), spatial_resolution=10) for b in bands}
        label = {"multilabel": "MultiLabelClassification", "pixel": "SegmentationClasses"}.get(
            about.kind, "Classification"
        )
        key = "class_name" if about.kind == "multilabel" else "_class_names"
        names = [f"kind {i}" for i in range(about.num_classes)]
        specs = filled(
            classes["TaskSpecifications"],
            dataset_name=name,
            bands_info=list(infos.values()),
            label_type=filled(classes[label], n_classes=about.num_classes, **{key: names}),
            spatial_resolution=np.int64(10),
            eval_loss=classes["Accuracy"],
        )
        (folder / "task_specs.pkl").write_bytes(pickle.dumps(specs, protocol=4))
        for n, sample in enumerate(keys):
            _write_sample(folder / f"{sample}.hdf5", n, infos, about.kind, about.num_classes, classes, day)
    if about.kind == "scene":
        by_class: dict[str, list[str]] = {}
        for n, sample in enumerate(keys):
            by_class.setdefault(str(n % about.num_classes), []).append(sample)
        (folder / "label_map.json").write_text(json.dumps(by_class))
    return folder


def _write_sample(
    path: Path, n: int, infos: dict[str, Any], kind: str, num: int, classes: dict[str, Any], day: date | None
) -> None:
    meta: dict[str, Any] = {}
    suffix = f"_{day.isoformat()}" if day else ""
    with h5py.File(path, "w") as file:
        for k, (band, info) in enumerate(infos.items()):
            file[f"{band}{suffix}"] = np.full((SIDE_PX, SIDE_PX), n * 10 + k, np.int16)
            where = {"transform": Affine(10.0, 0.0, 500000.0, 0.0, -10.0, 0.0), "crs": CRS.from_epsg(32635)}
            meta[f"{band}{suffix}"] = {"date": day, "date_id": day, "band_info": info, "meta_info": None, **where}
        if kind == "pixel":
            file["label"] = np.full((SIDE_PX, SIDE_PX), n % num, np.uint8)
            meta["label"] = {"band_info": filled(classes["SegmentationClasses"], name="label")}
        elif kind == "multilabel":
            meta["label"] = np.eye(num, dtype=np.int64)[n % num]
        else:
            meta["label"] = n % num
        meta["bands_order"] = [f"{b}{suffix}" for b in infos]
        file.attrs["pickle"] = str(pickle.dumps(meta))
