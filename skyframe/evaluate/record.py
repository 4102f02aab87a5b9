"""From predictions to result rows, the log beside them, and the fingerprint of the data behind them."""

from __future__ import annotations

import dataclasses
import glob
import json
import platform
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from skyframe import __version__
from skyframe.config.evaluate import SimulatedData
from skyframe.evaluate.datasets.dataset import Dataset, Kind
from skyframe.evaluate.feed.features import TEST, TRAIN, VAL
from skyframe.evaluate.measures.measure import Measure, interval_of, value_of
from skyframe.evaluate.measures.metrics import cluster_confusion
from skyframe.evaluate.measures.rows import measure_of
from skyframe.evaluate.protocol import ResultRow, Subject, digest
from skyframe.evaluate.scoring import Prediction, Target
from skyframe.spec import InputError


@dataclass(frozen=True)
class Shown:
    """What one encoder was shown under one task and seed."""

    suite: str
    task: str
    kind: str
    metrics: tuple[str, ...]
    seed: int
    weights_sha256: str
    source: str
    normaliser: str
    split: str
    start: float  # clock when the work began, seconds
    spread: float = 0.0  # of its features over the test units
    received: Mapping[str, Sequence[Sequence[float]]] = dataclasses.field(default_factory=dict)


def make_rows(
    subject: Subject, prediction: Prediction, shown: Shown, resamples: int, config: Mapping[str, Any], log: Path
) -> list[ResultRow]:
    """One row per metric of one prediction; `config` is what bears on it."""
    measure = prediction.measure
    rows = []
    for metric in shown.metrics:
        lo, hi = interval_of(measure, metric, resamples, shown.seed)
        rows.append(
            ResultRow(
                suite=shown.suite,
                task=shown.task,
                level=shown.kind,
                protocol=prediction.protocol,
                metric=metric,
                value=value_of(measure, metric),
                lo=lo,
                hi=hi,
                num_test=measure.num_units,
                num_clusters=measure.num_clusters,
                seed=shown.seed,
                encoder=subject.name,
                role=subject.role,
                weights_sha256=shown.weights_sha256,
                source=shown.source,
                normaliser=shown.normaliser,
                split_sha256=shown.split,
                chosen=prediction.chosen,
                grid=prediction.grid,
                config=json.dumps(config, sort_keys=True, default=str),
                config_sha256=config_digest(config),
                predictions_sha256=digest(_answers(prediction)),
                feature_std=shown.spread,
                versions=versions(),
                seconds=time.perf_counter() - shown.start,
                peak_memory_mb=_peak_memory_mb(),
                log=str(log),
            )
        )
    return rows


def config_digest(config: Mapping[str, Any]) -> str:
    """Digest of what bears on a score."""
    return digest(json.loads(json.dumps(config, default=str)))


def _answers(prediction: Prediction) -> np.ndarray[Any, Any]:
    """What is compared between encoders: the class of every unit where there is one, all outputs otherwise."""
    outputs = prediction.outputs
    return outputs.argmax(-1) if prediction.is_class else np.ascontiguousarray(outputs)


def write_log(path: Path, subject: Subject, found: Sequence[Prediction], shown: Shown, target: Target) -> None:
    """JSON beside the row: classes, units per part, every choice's validation score, what the network received, and the
    confusion counts of the test.

    The predictions stand beside it as `.npz`: `truth`, `cluster` and `unit` (row, or row x positions + position) of
    the test units, and one array per protocol: classes, or scores by label, or numbers.
    """
    test, num = target.of(TEST), len(target.classes)
    parts = {"train": TRAIN, "validation": VAL, "test": TEST}
    tree = _head(subject, shown) | {
        "classes": list(target.classes),
        "units": {k: target.counts(p) for k, p in parts.items()},
        "protocols": [_protocol(p) for p in found],
    }
    for entry, prediction in zip(tree["protocols"], found, strict=True):
        if prediction.is_class:
            truth, one = target.label[test].astype(np.int64), np.zeros(len(test), np.int64)
            counts = cluster_confusion(truth, _answers(prediction), one, num)[0]
            entry["confusion_true_by_predicted"] = counts.tolist()
    arrays = {"truth": target.label[test], "cluster": target.cluster[test], "unit": target.index[test]}
    write_tree(path, tree, arrays | {p.protocol: _answers(p) for p in found})


def _head(subject: Subject, shown: Shown) -> dict[str, Any]:
    return {
        "task": shown.task,
        "kind": shown.kind,
        "seed": shown.seed,
        "encoder": subject.name,
        "weights_sha256": shown.weights_sha256,
        "contract_weights_sha256": subject.encoder.contract.weights_sha256,
        "source": shown.source,
        "received_mean_std_share": dict(shown.received),
    }


def _protocol(prediction: Prediction) -> dict[str, Any]:
    return {
        "protocol": prediction.protocol,
        "chosen": prediction.chosen,
        "grid": prediction.grid,
        "validation": prediction.validation,
    }


def write_head_log(
    path: Path,
    subject: Subject,
    prediction: Prediction,
    shown: Shown,
    about: Mapping[str, Any],
    arrays: Mapping[str, Any],
) -> None:
    """The log of a trained head: how training went, and the arrays that its measure is made of."""
    tree = _head(subject, shown) | {"protocols": [_protocol(prediction)]} | dict(about)
    write_tree(path, tree, arrays)


def write_tree(path: Path, tree: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """A JSON file and the `.npz` of the same name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, indent=1) + "\n")
    np.savez_compressed(path.with_suffix(".npz"), **arrays)


def measure_of_row(row: ResultRow) -> Measure:
    """The measure behind a row of a probe, from the arrays beside its log.

    Raises:
        InputError: the log's arrays are not there.
    """
    path = Path(row.log).with_suffix(".npz")
    if not path.is_file():
        raise InputError(
            f"{path}: no such file, expected the predictions beside the log; evaluate again into a new folder"
        )
    with np.load(path) as kept:
        truth, cluster, outputs = kept["truth"], kept["cluster"], kept[row.protocol]
    if outputs.ndim == 1:
        outputs = np.eye(int(max(outputs.max(), truth.max())) + 1, dtype=np.float32)[outputs]
    return measure_of(cast(Kind, row.level), truth, outputs, cluster)


def dataset_fingerprint(dataset: Dataset) -> list[Any]:
    """Keys, parts and file sizes of a data set's items: what a score on it depends on, without reading pixels."""
    return [
        [i.key, i.part, str(i.label), [p.stat().st_size if p.is_file() else -1 for p in i.files.values()]]
        for i in dataset.items
    ]


def simulated_fingerprint(data: SimulatedData) -> list[Any]:
    """Counts and sizes, and name and manifest digest of each cube."""
    kept = {k: v for k, v in dataclasses.asdict(data).items() if k not in ("train", "test")}
    return [kept, [_manifests(patterns) for patterns in (data.train, data.test)]]


def _manifests(patterns: Sequence[str]) -> list[list[str]]:
    """Name and manifest digest of each cube; what is missing is reported when the cubes are opened."""
    found = [Path(p) for pattern in patterns for p in sorted(glob.glob(pattern))]
    files = {cube: cube / "manifest.json" for cube in found}
    return [[cube.name, digest(file.read_text()) if file.is_file() else ""] for cube, file in files.items()]


def versions() -> str:
    """Versions that a score may depend on."""
    return f"skyframe {__version__} torch {torch.__version__} numpy {np.__version__} python {platform.python_version()}"


def _peak_memory_mb() -> float:
    """Largest resident size of this process so far (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
