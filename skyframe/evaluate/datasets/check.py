"""Whether a data set on disk can be scored: parts, classes, and every item decoded once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeVar

import numpy as np
from rich.console import Console, Group
from rich.progress import track
from rich.table import Table

from skyframe.evaluate.datasets.dataset import PARTS, Dataset, Item
from skyframe.evaluate.datasets.faults import find_fault
from skyframe.evaluate.datasets.files import short
from skyframe.sample import Sample
from skyframe.spec import InputError

T = TypeVar("T")

SHOWN = 20
"""Problems that are told one by one; the others are counted."""
QUICK = 4
"""Items of each part that are read when not all are."""
TARGETS = {
    "scene": "class", "multilabel": "classes", "pixel": "mask", "boxes": "boxes", "oriented": "corners",
    "change": "mask", "semantic_change": "masks", "regression": "value",
}  # fmt: skip
"""Entry of `Sample.targets` by kind of data set."""


@dataclass(frozen=True)
class Report:
    """What a check found."""

    problems: tuple[str, ...]  # what keeps the set from being scored as it is
    warnings: tuple[str, ...]  # what a reader of the scores must know
    units: dict[str, Counter[int]]  # by part: labelled units per class: images, pixels or objects
    readable: tuple[Item, ...]  # those whose files decode
    sizes: Counter[str]  # shapes of the first modality


@dataclass(frozen=True)
class _Seen:
    """What is kept of an item once its pixels are gone."""

    fault: str = ""
    units: Counter[int] | None = None  # None = not readable
    size: str = ""
    pixels: bytes = b""  # digest of all its pixels; empty where they are all alike


def check_dataset(dataset: Dataset, decode: bool = True, show_progress: bool = False) -> Report:
    """Look at a data set as scoring would.

    Args:
        dataset: from `open_dataset`.
        decode: read every item and check its targets; otherwise a few items of each part.
        show_progress: draw a bar.
    """
    units: dict[str, Counter[int]] = {part: Counter() for part in PARTS}
    sizes: Counter[str] = Counter()
    readable: list[Item] = []
    trained: dict[bytes, str] = {}
    tested: list[tuple[bytes, str]] = []
    bad = []
    chosen = list(dataset.items) if decode else [i for p in PARTS for i in spread(dataset.part(p), QUICK)]
    for item, seen in _watched(_read_all(dataset, chosen), len(chosen), show_progress):
        if seen.fault:
            bad.append(f"{dataset.name}: {item.part} item {item.key}: {seen.fault}")
        if seen.units is None:
            continue
        units[item.part].update(seen.units)
        sizes[seen.size] += 1
        readable.append(item)
        if seen.pixels and item.part == "test":
            tested.append((seen.pixels, item.key))
        elif seen.pixels and item.part == "train":
            trained.setdefault(seen.pixels, item.key)
    if len(bad) > SHOWN:
        bad[SHOWN:] = [f"{dataset.name}: {len(bad) - SHOWN} further items are damaged or contradictory"]
    problems = [*dataset.problems, *_part_problems(dataset), *_twice(dataset), *bad]
    leaks = [(trained[p], key) for p, key in tested if trained.get(p, key) != key]  # of one key: told above
    warnings = [*_leak_warnings(dataset, leaks), *(_unknown_classes(dataset, units) if decode else ())]
    return Report(tuple(problems), tuple(warnings), units, tuple(readable), sizes)


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` items at even distances, so that not all are of the first class."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(int))]


def _part_problems(dataset: Dataset) -> list[str]:
    """Parts without which nothing can be scored."""
    return [
        f"{dataset.name}: no item in part {part}, expected some ({dataset.split})"
        for part in ("train", "test")
        if not dataset.part(part)
    ]


def _twice(dataset: Dataset) -> list[str]:
    parts: dict[str, list[str]] = {}
    for item in dataset.items:
        parts.setdefault(item.key, []).append(item.part)
    found = [(key, where) for key, where in parts.items() if len(where) > 1]
    told = [f"{dataset.name}: item {k} is listed {len(w)} times ({', '.join(w)}), expected once" for k, w in found]
    return [
        *told[:SHOWN],
        *([f"{dataset.name}: {len(told) - SHOWN} further items are listed twice"] * (len(told) > SHOWN)),
    ]


def _leak_warnings(dataset: Dataset, leaks: Sequence[tuple[str, str]]) -> list[str]:
    if not leaks:
        return []
    pairs = ", ".join(f"{key} and train item {trained}" for trained, key in leaks[:3])
    return [
        f"{dataset.name}: {len(leaks)} of {len(dataset.part('test'))} test items have the very pixels of a training "
        f"item, such as {pairs}; scores are too high by what was learnt by heart"
    ]


def _unknown_classes(dataset: Dataset, units: dict[str, Counter[int]]) -> list[str]:
    missing = sorted(set(+units["test"]) - set(+units["train"]))
    if dataset.kind == "regression" or not missing or not units["train"]:
        return []
    names = ", ".join(dataset.classes[i] for i in missing[:5])
    return [
        f"{dataset.name}: {len(missing)} of {len(dataset.classes)} classes are in the test part and not in the "
        f"training part ({names}); no head can learn them"
    ]


def _read_all(dataset: Dataset, items: Sequence[Item]) -> Iterator[tuple[Item, _Seen]]:
    """Each item with what was seen in it, in order. Only as many as there are threads lie in memory."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for at in range(0, len(items), 64):  # in pieces, so that an interruption does not wait for all
            piece = items[at : at + 64]
            yield from zip(piece, pool.map(lambda item: _look(dataset, item), piece), strict=True)


def _look(dataset: Dataset, item: Item) -> _Seen:
    try:
        sample = dataset.read(item)
    except InputError as error:
        return _Seen(str(error))
    except Exception as error:  # a file that the reader did not think of must not hide what is wrong with the others
        return _Seen(f"cannot be read ({type(error).__name__}: {short(error)})")
    fault = find_fault(dataset, sample)
    if fault:
        return _Seen(fault)
    size = " x ".join(map(str, _shape(dataset, sample)))
    return _Seen("", units_of(dataset, sample), size, _digest(sample))


def _digest(sample: Sample) -> bytes:
    """Of all pixels of all modalities; nothing of a sample without content, as black margins are alike everywhere."""
    state, content = blake2b(digest_size=16), False
    for name, series in sorted(sample.series.items()):
        state.update(f"{name}{series.values.dtype}{series.values.shape}".encode())
        state.update(np.ascontiguousarray(series.values).tobytes())
        content = content or bool((series.values != series.values.flat[0]).any())
    return state.digest() if content else b""


def units_of(dataset: Dataset, sample: Sample) -> Counter[int]:
    """What is scored in a sample by class number: images, pixels or objects; one of class 0 for a regression."""
    target = np.asarray(sample.targets[TARGETS[dataset.kind]])
    if dataset.kind == "multilabel":
        return Counter(np.flatnonzero(target).tolist())
    if dataset.kind in ("boxes", "oriented"):
        return Counter(n for n in sample.targets["box_class"].tolist() if n >= 0)
    if dataset.kind == "regression":
        return Counter({0: 1})
    numbers, counts = np.unique(target[target >= 0], return_counts=True)
    return Counter(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))


def summary(dataset: Dataset, report: Report) -> Group:
    """What the terminal shows: the set in a few lines, then classes by part."""
    sizes = ", ".join(f"{n} of {size}" for size, n in report.sizes.most_common(3))
    more = f" and {len(report.sizes) - 3} further sizes" if len(report.sizes) > 3 else ""
    lines = [
        f"{dataset.name}: {dataset.kind}, {len(dataset.items)} items; {dataset.source}",
        *(f"  {n}: {', '.join(m.band_names)}, {m.gsd_m:g} m, {m.units}" for n, m in dataset.modalities.items()),
        f"  split {dataset.split_sha256}: {dataset.split}",
        f"  sizes, T x C x H x W: {sizes or 'none read'}{more}",
    ]
    read = "" if len(report.readable) == len(dataset.items) else f" in the {len(report.readable)} items that were read"
    table = Table(
        "class", *(f"{p} ({len(dataset.part(p))} items)" for p in PARTS), title=f"labelled {_unit(dataset)}{read}"
    )
    for number, name in enumerate(dataset.classes or ("value",)):
        table.add_row(name, *(f"{report.units[p][number]:,}" for p in PARTS))
    return Group(*(_plain(line) for line in lines), table)


def _plain(line: str) -> str:
    return line.replace("[", r"\[")


def _unit(dataset: Dataset) -> str:
    return {"pixel": "pixels", "change": "pixels", "semantic_change": "pixels"}.get(
        dataset.kind, "objects" if dataset.kind in ("boxes", "oriented") else "items"
    )


def _shape(dataset: Dataset, sample: Sample) -> tuple[int, ...]:
    return next((sample.series[n].values.shape for n in dataset.modalities if n in sample.series), ())


def _watched(items: Iterator[T], total: int, show: bool) -> Iterable[T]:
    return track(items, "reading", total, transient=True, disable=not (show and Console().is_terminal))
