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

import numpy as np
import torch

from skyframe import __version__
from skyframe.config.evaluate import Suite, TaskConfig
from skyframe.evaluate.benchmarks.eurosat import list_chips
from skyframe.evaluate.features import TEST, TRAIN, VAL, Inputs
from skyframe.evaluate.metrics import bootstrap_interval, cluster_confusion
from skyframe.evaluate.protocol import ResultRow, Subject, digest
from skyframe.evaluate.scoring import Prediction, Target


@dataclass(frozen=True)
class Shown:
    """What one encoder was shown under one task and seed."""

    task: str
    seed: int
    target: Target
    inputs: Inputs
    spread: float  # of its features over the test units
    start: float  # clock when the work began, seconds


def make_rows(
    subject: Subject, task: TaskConfig, prediction: Prediction, shown: Shown, resamples: int, about: Mapping[str, str]
) -> list[ResultRow]:
    """One row per metric of one prediction; `about` gives suite, weights, configuration and log."""
    target, inputs = shown.target, shown.inputs
    test = target.of(TEST)
    confusion = cluster_confusion(target.label[test], prediction.predicted, target.cluster[test], len(target.classes))
    rows = []
    for metric in task.metrics:
        value, lo, hi = bootstrap_interval(confusion, metric, resamples, shown.seed)
        rows.append(
            ResultRow(
                suite=about["suite"],
                task=shown.task,
                level=task.level,
                protocol=prediction.protocol,
                metric=metric,
                value=value,
                lo=lo,
                hi=hi,
                num_test=len(test),
                num_clusters=len(confusion),
                seed=shown.seed,
                encoder=subject.name,
                role=subject.role,
                weights_sha256=about["weights_sha256"],
                source=inputs.source,
                normaliser=inputs.normaliser,
                split_sha256=inputs.split,
                chosen=prediction.chosen,
                grid=prediction.grid,
                config_sha256=about["config_sha256"],
                predictions_sha256=digest(prediction.predicted),
                feature_std=shown.spread,
                versions=versions(),
                seconds=time.perf_counter() - shown.start,
                peak_memory_mb=_peak_memory_mb(),
                log=about["log"],
            )
        )
    return rows


def write_log(path: Path, subject: Subject, weights: str, found: Sequence[Prediction], shown: Shown) -> None:
    """JSON beside the row: classes, units per part, every choice's validation score, confusion counts of the test.

    The predictions stand beside it as `.npz`: `truth`, `cluster` and `unit` (row, or sample x positions + position) of
    the test units, and one array per protocol.
    """
    target = shown.target
    test, num = target.of(TEST), len(target.classes)
    parts = {"train": TRAIN, "validation": VAL, "test": TEST}
    protocols = [
        {
            "protocol": p.protocol,
            "chosen": p.chosen,
            "grid": p.grid,
            "validation": p.validation,
            "confusion_true_by_predicted": cluster_confusion(
                target.label[test], p.predicted, np.zeros(len(test), np.int64), num
            )[0].tolist(),
        }
        for p in found
    ]
    tree = {
        "task": shown.task,
        "seed": shown.seed,
        "encoder": subject.name,
        "weights_sha256": weights,
        "contract_weights_sha256": subject.encoder.contract.weights_sha256,
        "classes": list(target.classes),
        "units": {k: np.bincount(target.label[target.of(p)], minlength=num).tolist() for k, p in parts.items()},
        "protocols": protocols,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, indent=1) + "\n")
    arrays = {p.protocol: p.predicted for p in found}
    np.savez_compressed(
        path.with_suffix(".npz"),
        truth=target.label[test],
        cluster=target.cluster[test],
        unit=target.index[test],
        **arrays,  # type: ignore[arg-type]  # numpy types its keyword `allow_pickle` too
    )


def data_fingerprint(suite: Suite, benchmark: str) -> str:
    """Digest of a benchmark's configuration and of the data it names: cube manifests, or names and sizes of images."""
    if benchmark == "eurosat":
        assert suite.data.eurosat is not None
        files, parts = list_chips(Path(suite.data.eurosat.root), suite.data.eurosat.images_per_class)
        kept = {k: v for k, v in dataclasses.asdict(suite.data.eurosat).items() if k != "root"}
        return digest(kept, [(f.parent.name, f.name, f.stat().st_size, p) for f, p in zip(files, parts, strict=True)])
    data = suite.data.simulated
    assert data is not None
    kept = {k: v for k, v in dataclasses.asdict(data).items() if k not in ("train", "test")}
    return digest(kept, [_manifests(patterns) for patterns in (data.train, data.test)])


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
