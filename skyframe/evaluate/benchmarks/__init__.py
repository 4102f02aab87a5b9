"""Benchmarks: one file per data set or layout, each with `open_dataset(name, root) -> Dataset`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from skyframe.evaluate.datasets.dataset import Dataset
from skyframe.spec import InputError, did_you_mean

DATASETS = {
    "aid": "class_folders",
    "aid-20": "class_folders",
    "aid-50": "class_folders",
    "bigearthnet-v1": "bigearthnet",
    "bigearthnet-v1-43": "bigearthnet",
    "bigearthnet-v2": "bigearthnet",
    "biomassters": "pangaea_series",
    "cloud-masks-l5": "cloud_masks",
    "cloud-masks-s2": "cloud_masks",
    "dior": "dior",
    "dior-r": "dior",
    "dynamicearthnet": "dynamicearthnet",
    "dynamicearthnet-change": "dynamicearthnet",
    "eopatch-land-cover": "eopatch",
    "eurosat-ms": "eurosat_ms",
    "eurosat-rgb": "class_folders",
    "fair1m": "fair1m",
    "fmow-sentinel": "fmow_sentinel",
    "gb2-benv2": "geobench2",
    "gb2-burn-scars": "geobench2",
    "gb2-caffe": "geobench2",
    "gb2-cloudsen12": "geobench2",
    "gb2-flair2": "geobench2",
    "gb2-pastis": "geobench2",
    "gb2-spacenet7": "geobench2",
    "gb2-treesatai": "geobench2",
    "hit-uav": "hit_uav",
    "hls-burn-scars": "pangaea",
    "isaid": "isaid",
    "levir-cd": "levir_cd",
    "levir-cd-plus": "levir_cd",
    "m-bigearthnet": "geobench1",
    "m-brick-kiln": "geobench1",
    "m-cashew-plant": "geobench1",
    "m-chesapeake": "geobench1",
    "m-eurosat": "geobench1",
    "m-forestnet": "geobench1",
    "m-neontree": "geobench1",
    "m-nz-cattle": "geobench1",
    "m-pv4ger": "geobench1",
    "m-pv4ger-seg": "geobench1",
    "m-sa-crop-type": "geobench1",
    "m-so2sat": "geobench1",
    "mados": "pangaea",
    "mmflood": "mmflood",
    "neon-trees": "neon_trees",
    "oscd": "oscd",
    "pastis-hd": "pastis",
    "pastis-r": "pastis",
    "potsdam": "potsdam",
    "presto-algae": "presto_algae",
    "resisc45": "class_folders",
    "resisc45-10": "class_folders",
    "resisc45-20": "class_folders",
    "sen1floods11": "sen1floods11",
    "so2sat": "so2sat",
    "spacenet7": "pangaea_series",
    "treesatai": "treesatai",
    "treesatai-ts": "treesatai",
    "xview2": "pangaea",
}
"""Module of each data set by the name that suites and `skyframe data-check` use."""


def open_dataset(name: str, root: Path) -> Dataset:
    """List what is there of a data set; pixels are read later.

    Args:
        name: a key of `DATASETS`, or a YAML file of one's own labelled data (it ends in .yaml).
        root: its folder, or the folder above it; where the relative paths of a YAML start.

    Raises:
        InputError: unknown name, or a folder that is not one of that data set. What is missing or damaged inside is no
            error here but stands in `Dataset.problems`.
    """
    if name.endswith((".yaml", ".yml")):
        from skyframe.evaluate.benchmarks.own import open_own

        return open_own(Path(name), root)
    if name not in DATASETS:
        raise InputError(
            f"data set {name!r} is not known, expected one of "
            f"{', '.join(sorted(DATASETS))}{did_you_mean(name, DATASETS)}"
        )
    if not root.is_dir():
        raise InputError(f"{name}: no folder {root}, expected the one that holds the data set")
    module = import_module(f"{__name__}.{DATASETS[name]}")
    dataset: Dataset = module.open_dataset(name, root)
    return dataset
