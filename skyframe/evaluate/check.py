"""Whether a data set on disk can be scored: parts, classes, and every item decoded once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from rich.console import Console, Group
from rich.progress import track
from rich.table import Table

from skyframe.evaluate.dataset import PARTS, Dataset, Item
from skyframe.sample import Sample
from skyframe.spec import InputError

T = TypeVar("T")

SHOWN = 20
"""Problems that are told one by one; the others are counted."""
READABLE = 12
"""Items kept for the picture."""
TARGETS = {
    "scene": "class", "multilabel": "classes", "pixel": "mask", "boxes": "boxes", "oriented": "corners",
    "change": "mask", "semantic_change": "masks", "regression": "value",
}  # fmt: skip
"""Entry of `Sample.targets` by kind of data set."""


@dataclass(frozen=True)
class Report:
    """What a check found."""

    problems: tuple[str, ...]
    units: dict[str, Counter[int]]  # by part: labelled units per class: images, pixels or boxes
    readable: tuple[Item, ...]  # some whose files decode
    sizes: Counter[str]  # shapes of the first modality


def check_dataset(dataset: Dataset, decode: bool = True, show_progress: bool = False) -> Report:
    """Look at a data set as scoring would.

    Args:
        dataset: from `open_dataset`.
        decode: read every item and check its targets; otherwise names and sizes only, and the first item of each part.
        show_progress: draw a bar.
    """
    units: dict[str, Counter[int]] = {part: Counter() for part in PARTS}
    sizes: Counter[str] = Counter()
    readable: list[Item] = []
    chosen = list(dataset.items) if decode else [i for part in PARTS for i in dataset.part(part)[:1]]
    bad = []
    for item, found in _watched(_read_all(dataset, chosen), len(chosen), show_progress):
        if isinstance(found, str):
            bad.append(f"{dataset.name}: {item.part} item {item.key}: {found}")
            continue
        units[item.part].update(units_of(dataset, found))
        sizes[" x ".join(map(str, _shape(dataset, found)))] += 1
        if len(readable) < READABLE:
            readable.append(item)
    problems = [*dataset.problems, *_part_problems(dataset), *bad[:SHOWN]]
    if len(bad) > SHOWN:
        problems.append(f"{dataset.name}: {len(bad) - SHOWN} further items cannot be read")
    return Report(tuple(problems), units, tuple(readable), sizes)


def _part_problems(dataset: Dataset) -> list[str]:
    """Parts without which nothing can be scored."""
    return [
        f"{dataset.name}: no item in part {part}, expected some ({dataset.split})"
        for part in ("train", "test")
        if not dataset.part(part)
    ]


def _read_all(dataset: Dataset, items: Sequence[Item]) -> Iterator[tuple[Item, Sample | str]]:
    """Each item with what its files hold, or with why they cannot be read, in order."""

    def one(item: Item) -> Sample | str:
        try:
            return dataset.read(item)
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for at in range(0, len(items), 64):  # in pieces, as what is read ahead lies in memory
            yield from zip(items[at : at + 64], pool.map(one, items[at : at + 64]), strict=True)


def units_of(dataset: Dataset, sample: Sample) -> Counter[int]:
    """What is scored in a sample by class number: images, pixels or objects; one of class 0 for a regression."""
    target = np.asarray(sample.targets[TARGETS[dataset.kind]])
    if dataset.kind == "multilabel":
        return Counter(np.flatnonzero(target).tolist())
    if dataset.kind in ("boxes", "oriented"):
        return Counter(sample.targets["box_class"].tolist())
    if dataset.kind == "regression":
        return Counter({0: int(np.isfinite(target).all())})
    numbers, counts = np.unique(target[target >= 0], return_counts=True)
    return Counter(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))


def summary(dataset: Dataset, report: Report) -> Group:
    """What the terminal shows: the set in a few lines, then classes by part."""
    sizes = ", ".join(f"{n} of {size}" for size, n in report.sizes.most_common(3))
    lines = [
        f"{dataset.name}: {dataset.kind}, {len(dataset.items)} items; {dataset.source}",
        *(f"  {n}: {', '.join(m.band_names)}, {m.gsd_m:g} m, {m.units}" for n, m in dataset.modalities.items()),
        f"  split {dataset.split_sha256}: {dataset.split}",
        f"  sizes [T x C x H x W]: {sizes or 'none read'}",
    ]
    table = Table("class", *(f"{p} ({len(dataset.part(p))})" for p in PARTS), title=f"labelled {_unit(dataset)}")
    for number, name in enumerate(dataset.classes or ("value",)):
        table.add_row(name, *(f"{report.units[p][number]:,}" for p in PARTS))
    return Group(*lines, table)


def _unit(dataset: Dataset) -> str:
    return {"pixel": "pixels", "change": "pixels", "semantic_change": "pixels"}.get(
        dataset.kind, "objects" if dataset.kind in ("boxes", "oriented") else "items"
    )


def _shape(dataset: Dataset, sample: Sample) -> tuple[int, ...]:
    return next((sample.series[n].values.shape for n in dataset.modalities if n in sample.series), ())


def _watched(items: Iterator[T], total: int, show: bool) -> Iterable[T]:
    return track(items, "reading", total, transient=True, disable=not (show and Console().is_terminal))
