"""Benchmarks: one file per data set or layout, each with `open_dataset(name, root) -> Dataset`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from skyframe.evaluate.dataset import Dataset
from skyframe.spec import InputError, did_you_mean

DATASETS = {
    "aid": "class_folders",
    "dior": "dior",
    "dior-r": "dior",
    "fair1m": "fair1m",
    "hit-uav": "hit_uav",
    "neon-trees": "neon_trees",
    "resisc45": "class_folders",
}
"""Module of each data set by the name that suites and `skyframe data-check` use."""


def open_dataset(name: str, root: Path) -> Dataset:
    """List what is there of a data set; pixels are read later.

    Args:
        name: a key of `DATASETS`.
        root: its folder, or the folder above it.

    Raises:
        InputError: unknown name, or a folder that is not one of that data set. What is missing or damaged inside is no
            error here but stands in `Dataset.problems`.
    """
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
