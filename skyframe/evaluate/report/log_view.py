"""What stands beside result rows: per-class counts, predictions and predicted maps.

A row's log is a JSON object. Read here: `classes` (names); `protocols`, a list of `{protocol,
confusion_true_by_predicted: [C][C] counts}` or, where answers are no classes of units, `{protocol, per_class: {metric:
[C] values in 0..1}}`; `maps`, file names beside the log. Beside it, `<log>.npz` holds `truth`, `cluster` and one array
of predictions per protocol, all int `[n]`. A map is an `.npz` with

| array | shape and dtype | what |
|---|---|---|
| `truth`, `predicted` | int `[H, W]` | class numbers, -1 = not scored |
| `classes` | str `[C]` | their names |
| `item` | str `[]` | which item, so that several encoders' maps of it stand side by side |
| `protocol` | str `[]` | whose answer |
| `picture` | uint8 `[H, W, 3]`, optional | what the item looks like |
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.evaluate.datasets.colours import Rgb
from skyframe.evaluate.datasets.files import read_json, short
from skyframe.evaluate.protocol import ResultRow
from skyframe.spec import InputError

Ints = NDArray[np.int64]
DAMAGED = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Predictions:
    """Answers of one protocol to the test units."""

    truth: Ints  # [n]
    predicted: Ints  # [n]
    cluster: Ints  # [n]


@dataclass(frozen=True)
class PredictedMap:
    """One item's truth and prediction."""

    item: str
    protocol: str
    truth: Ints  # [H, W]
    predicted: Ints  # [H, W]
    classes: tuple[str, ...]
    picture: Rgb | None


@dataclass(frozen=True)
class PerClass:
    """What a log says of one protocol class by class."""

    classes: tuple[str, ...]
    confusion: Ints | None  # [C, C] true by predicted
    values: dict[str, list[float]]  # metric -> one per class, in 0..1


def find_log(row: ResultRow, folder: Path) -> Path | None:
    """The log of a row of `folder/results.csv`: beside it, as folders are moved; or where the row says."""
    for path in (folder / "logs" / Path(row.log).name, Path(row.log)):
        if row.log and path.is_file():
            return path
    return None


def per_class_of(log: Path, protocol: str) -> PerClass | None:
    """Per-class numbers of a protocol, None where the log holds none.

    Raises:
        InputError: no log of this form.
    """
    tree = _tree(log)
    classes = tuple(map(str, tree.get("classes", ())))
    for entry in tree.get("protocols", ()):
        if entry.get("protocol") != protocol:
            continue
        counts = entry.get("confusion_true_by_predicted")
        values = {str(k): [float(x) for x in v] for k, v in (entry.get("per_class") or {}).items()}
        confusion = None if counts is None else np.array(counts, np.int64)
        if confusion is not None and confusion.shape != (len(classes),) * 2:
            raise InputError(f"{log}: confusion of shape {list(confusion.shape)} for {len(classes)} classes")
        if confusion is not None:
            both = confusion.sum(0) + confusion.sum(1)
            f1 = np.where(both > 0, 2 * np.diagonal(confusion) / np.maximum(both, 1), np.nan)
            values = {"F1": f1.tolist(), **values}
        return PerClass(classes, confusion, values) if values else None
    return None


def predictions_of(row: ResultRow) -> Predictions | None:
    """Predictions of a row whose `log` is an existing file, None where they are not kept or are no classes of units."""
    path = Path(row.log).with_suffix(".npz") if row.log else None
    if path is None or not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if not {"truth", "cluster", row.protocol} <= set(arrays.files):
                return None
            truth, predicted, cluster = (arrays[k] for k in ("truth", row.protocol, "cluster"))
    except DAMAGED as error:
        raise InputError(f"{path}: not the predictions of a score ({short(error)}); evaluate again") from error
    whole = all(np.issubdtype(a.dtype, np.integer) and a.shape == truth.shape for a in (truth, predicted, cluster))
    if not whole or truth.ndim != 1 or not len(truth) or min(truth.min(), predicted.min()) < 0:
        return None
    return Predictions(truth.astype(np.int64), predicted.astype(np.int64), cluster.astype(np.int64))


def write_map(path: Path, found: PredictedMap) -> str:
    """Write one predicted map beside a log; returns the name that the log's `maps` lists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {"truth": found.truth.astype(np.int16), "predicted": found.predicted.astype(np.int16)}
    arrays |= {"classes": np.array(found.classes, str)}
    arrays |= {"item": np.array(found.item), "protocol": np.array(found.protocol)}
    arrays |= {} if found.picture is None else {"picture": found.picture}
    np.savez_compressed(path, **arrays)
    return path.name


def maps_of(log: Path, protocol: str, most: int = 4) -> list[PredictedMap]:
    """Maps that a log lists for a protocol, at most `most`.

    Raises:
        InputError: a map that is listed and missing, damaged or of another form.
    """
    found: list[PredictedMap] = []
    for name in _tree(log).get("maps", ()):
        path = log.parent / Path(str(name)).name
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as a:
                if str(a["protocol"]) != protocol:
                    continue
                picture = a["picture"].astype(np.uint8) if "picture" in a.files else None
                truth, predicted = a["truth"].astype(np.int64), a["predicted"].astype(np.int64)
                made = PredictedMap(str(a["item"]), protocol, truth, predicted, tuple(a["classes"].tolist()), picture)
        except DAMAGED as error:
            raise InputError(f"{path}: not a map with truth and predicted ({short(error)}); evaluate again") from error
        if truth.ndim != 2 or truth.shape != predicted.shape:
            raise InputError(f"{path}: truth {list(truth.shape)} and predicted {list(predicted.shape)}; evaluate again")
        found.append(made)
        if len(found) == most:
            break
    return found


def _tree(log: Path) -> dict[str, Any]:
    tree = read_json(log)
    if not isinstance(tree, dict):
        raise InputError(f"{log}: a {type(tree).__name__}, expected the log of a score; evaluate again")
    return tree
