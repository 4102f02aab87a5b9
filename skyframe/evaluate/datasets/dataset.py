"""A labelled data set as it lies on disk: items, their parts and targets, and how one of them is read.

A data set's module (`benchmarks/<name>.py`) lists what is there and reads one item in stored units and full size; what
an encoder is fed is made from that by its contract, so that no data set knows an encoder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from skyframe.evaluate.protocol import digest
from skyframe.randomness import hash64
from skyframe.sample import Sample
from skyframe.spec import InputError, Modality

T = TypeVar("T")
Kind = Literal[
    "scene", "multilabel", "pixel", "boxes", "oriented", "change", "semantic_change", "regression"
]  # fmt: skip
"""What is predicted. Each kind has one entry in `Sample.targets`:

| kind | key | shape and dtype |
|---|---|---|
| scene | `class` | int64 `[]`, class number |
| multilabel | `classes` | bool `[C]` |
| pixel | `mask` | int64 `[H, W]`, -1 = not scored |
| boxes | `boxes`, `box_class`, `difficult` | float32 `[n, 4]` x0 y0 x1 y1 in pixels, int64 `[n]`, bool `[n]` |
| oriented | `corners`, `box_class`, `difficult` | float32 `[n, 4, 2]` x y in pixels, clockwise as drawn; as above |
| change | `mask` | int64 `[H, W]` in {0, 1}, -1 = not scored; the modality holds two dates |
| semantic_change | `masks` | int64 `[T, H, W]` class at each date, -1 = not scored |
| regression | `value` | float32 `[K]`, or a map `[K, H, W]`; NaN = not scored |

An object of class -1 belongs to none: always difficult, and detections of any class there are neither right nor wrong.
Pixels are those of the first modality in `Dataset.modalities`; the centre of the first one lies at (0.5, 0.5).
"""

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Item:
    """One labelled unit, before any pixel of it is read."""

    key: str  # unique in its data set and the same on every machine, such as `airport/airport_001`
    part: str  # train | val | test
    files: dict[str, Path]  # what is opened to read it, by role
    label: Any = None  # where known without pixels: class number, tuple of class numbers, or number(s)
    cluster: str = ""  # items that share one are not independent (tiles of a scene); empty = the item alone
    about: dict[str, Any] = field(default_factory=dict)  # what else `read` needs: dates, place, offset in a large image


@dataclass(frozen=True)
class Dataset:
    """Everything known about one data set under one folder. Sizes and dates may differ from item to item."""

    name: str
    kind: Kind
    classes: tuple[str, ...]  # empty for regression
    modalities: dict[str, Modality]  # what the files hold, with mean and std where the field publishes them
    items: tuple[Item, ...]
    read: Callable[[Item], Sample]  # series in stored units and full size, and the targets of `kind`
    split: str  # where the parts come from, in words: the file that lists them, or the rule
    source: str  # citation, and what a reader must know before comparing a number
    problems: tuple[str, ...] = ()  # what is missing, damaged or contradictory, one sentence each

    def part(self, name: str) -> list[Item]:
        """Items of one part, in order."""
        return [item for item in self.items if item.part == name]

    @property
    def split_sha256(self) -> str:
        """Digest of which key lies in which part; sixteen hex digits."""
        return digest(sorted((item.key, item.part) for item in self.items))

    def class_counts(self, part: str) -> Counter[int]:
        """Items per class number that are known without opening pixels; empty where labels are masks or numbers."""
        counts: Counter[int] = Counter()
        if self.kind in ("scene", "multilabel"):
            for item in self.part(part):
                counts.update([item.label] if isinstance(item.label, int) else item.label or ())
        return counts


@contextmanager
def naming(dataset: Dataset, item: Item) -> Iterator[None]:
    """Whatever is wrong inside is told with the names of data set and item."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{dataset.name}: {item.part} item {item.key}: {error}") from error


def hashed_part(key: str, shares: Sequence[float] = (0.6, 0.2, 0.2), name: str = "split") -> str:
    """The part of an item where nobody publishes a split: by hash of its key, so that no list need travel.

    Args:
        key: of the item.
        shares: of train, val and test, summing to 1; a share of 0 leaves a part empty.
        name: of the rule, so that two data sets of equal keys are split differently.
    """
    at, edge = hash64(name, key) / 2**64, 0.0
    for part, share in zip(PARTS, shares, strict=True):
        edge += share
        if at < edge:
            return part
    return PARTS[-1]


def need_folder(name: str, root: Path, *parts: str) -> Path:
    """`root/parts...`, which must be a folder.

    Raises:
        InputError: it is not there; names the archives that lie beside, as an archive may not be unpacked yet.
    """
    folder = root.joinpath(*parts)
    if folder.is_dir():
        return folder
    near = folder.parent if folder.parent.is_dir() else root
    archives = sorted(p.name for p in near.glob("*") if p.suffix in (".zip", ".gz", ".tgz", ".tar", ".rar", ".7z"))
    zips = [a for a in archives if a.endswith(".zip")]
    remedy = f"unpack {', '.join((zips or archives)[:3])} there" if archives else ""
    if zips:
        remedy += f" (`skyframe data-check {name} {near} --unpack`)"
    raise InputError(f"{name}: no folder {folder}, {remedy or 'give the folder that holds the data set'}")


def missing_files(name: str, items: Sequence[Item], shown: int = 5) -> list[str]:
    """One sentence per file that an item names and that is not there or is empty; at most `shown`, and their number."""
    found = []
    for item in items:
        for path in item.files.values():
            if not path.is_file():
                found.append(f"{name}: {path} is missing, expected by {item.part} item {item.key}")
            elif path.stat().st_size == 0:
                found.append(f"{name}: {path} has 0 bytes, expected the file of {item.part} item {item.key}")
    if len(found) > shown:
        found[shown:] = [f"{name}: {len(found) - shown} further files are missing or empty"]
    return found


def read_or_tell(name: str, read: Callable[[], T], instead: T, problems: list[str]) -> T:
    """What `read` returns, or `instead` with the reason in `problems`: a damaged list is no reason not to open."""
    try:
        return read()
    except InputError as error:
        problems.append(f"{name}: {error}")
        return instead


def leads_out(text: str) -> bool:
    """Whether a path that a list names would leave the folder that it is joined to."""
    path = PurePosixPath(text.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts
