"""One task's probes over one table of features: predictions on the test part, and how they were chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyframe.config.evaluate import KnnConfig, LinearConfig, TaskConfig
from skyframe.evaluate.features import TEST, TRAIN, VAL, FeatureTable, Floats, Inputs, Ints
from skyframe.evaluate.metrics import cluster_confusion, score
from skyframe.evaluate.probes.knn import knn_predict
from skyframe.evaluate.probes.linear import train_heads
from skyframe.randomness import hash64
from skyframe.spec import InputError

PIXEL_BATCH = 8
"""A pixel task has many more rows than a scene task: its linear batches are this many times larger."""


@dataclass(frozen=True)
class Target:
    """Scored units of one task: windows, images or positions."""

    index: Ints  # [m] unit numbers: row, or sample * P + position
    label: Ints  # [m] class in 0..C-1
    part: Ints  # [m] TRAIN, VAL, TEST
    cluster: Ints  # [m]
    classes: tuple[str, ...]

    def of(self, part: int) -> Ints:
        """Numbers (into this target's arrays) of the units of one part."""
        return np.flatnonzero(self.part == part)


@dataclass(frozen=True)
class Prediction:
    """Classes of the test units under one protocol."""

    protocol: str
    predicted: Ints  # [m_test]
    chosen: str
    grid: str
    validation: dict[str, float]  # every choice's score on the validation part


def make_target(task_name: str, task: TaskConfig, inputs: Inputs, labels: Ints) -> Target:
    """Drop the units without a class.

    Args:
        task_name: for messages.
        task: level and label.
        inputs: parts and clusters of the rows.
        labels: `[R]` at scene level, `[R, P]` at pixel level, -1 = not scored.

    Raises:
        InputError: fewer than two classes among the training units, or an empty part.
    """
    per_row = labels.shape[1] if labels.ndim == 2 else 1
    index = np.flatnonzero(labels.ravel() >= 0)
    row = index // per_row
    part = _with_few_labels(inputs.part, task.label_share)
    target = Target(index, labels.ravel()[index], part[row], inputs.cluster[row], inputs.classes[task.label])
    counts = {name: len(target.of(part)) for name, part in (("train", TRAIN), ("validation", VAL), ("test", TEST))}
    kinds = len(np.unique(target.label[target.of(TRAIN)]))
    if min(counts.values()) == 0 or kinds < 2:
        shown = ", ".join(f"{n} {name}" for name, n in counts.items())
        raise InputError(
            f"task {task_name}: {shown} units and {kinds} training classes carry a label, expected some of each and "
            "at least two classes; "
            "draw more windows, lower min_share, or use larger cubes"
        )
    return target


def _with_few_labels(part: Ints, share: float) -> Ints:
    """The parts with all but a share of the training and of the validation rows left out (-1), the same ones always."""
    kept = part.copy()
    for which in (TRAIN, VAL):
        rows = np.flatnonzero(part == which)
        order = sorted(rows.tolist(), key=lambda row: hash64("label_share", row))
        kept[order[math.ceil(share * len(rows)) :]] = -1
    return kept


def rows_of(task: TaskConfig, table: FeatureTable, target: Target) -> dict[str, Floats]:
    """Features of the scored units by pooling, float32 `[m, D]`.

    Raises:
        InputError: the task scores the region context and the encoder has none.
    """
    if task.part == "context" and not table.context_dims:
        raise InputError(
            "part: context: the encoder's features hold no region context, expected a whole model trained with "
            "geo-context; export `model` of a run with model.geo.enabled=true, or select other tasks"
        )
    columns = slice(-table.context_dims if task.part == "context" else None, None)
    if task.level == "pixel":
        return {"none": table.pixel.reshape(-1, table.pixel.shape[-1])[target.index, columns]}
    return {"mean": table.mean[target.index, columns], "max": table.max[target.index, columns]}


def predict_knn(rows: dict[str, Floats], target: Target, config: KnnConfig) -> list[Prediction]:
    """Under the names `knn_k<k>` the further k that the training rows allow, and last `config.k` itself: a run that was
    cut off between rows is then not taken for finished."""
    features = next(iter(rows.values()))
    train, test = target.of(TRAIN), target.of(TEST)
    ks = [*(k for k in config.also if k <= len(train) and k != config.k), config.k]
    found = knn_predict(
        features[train], target.label[train], features[test], len(target.classes), ks, config.temperature
    )
    pooling = next(iter(rows))
    setting = f"T={config.temperature:g} L2-normalised pooling={pooling}"
    return [
        Prediction("knn" if k == config.k else f"knn_k{k}", p, f"k={k} {setting}", "fixed", {})
        for k, p in found.items()
    ]


def predict_linear(
    rows: dict[str, Floats], target: Target, task: TaskConfig, config: LinearConfig, seed: int
) -> Prediction:
    """The head that scores best on the validation part by the task's first metric; ties go to the first of the grid."""
    train, val, test = target.of(TRAIN), target.of(VAL), target.of(TEST)
    num = len(target.classes)
    batch = config.batch * (PIXEL_BATCH if task.level == "pixel" else 1)
    heads = train_heads({k: v[train] for k, v in rows.items()}, target.label[train], num, config, batch, seed)
    guesses = heads.predict({k: v[val] for k, v in rows.items()})
    scores = np.array(
        [[_plain_score(target.label[val], g, num, task.metrics[0]) for g in variant] for variant in guesses]
    )
    variant, lr = np.unravel_index(int(scores.argmax()), scores.shape)
    predicted: NDArray[np.int64] = heads.predict({k: v[test] for k, v in rows.items()})[variant, lr]
    validation = {
        str(heads.head(v, i)): float(scores[v, i]) for v in range(scores.shape[0]) for i in range(scores.shape[1])
    }
    grid = f"lr={{{','.join(f'{x:g}' for x in config.lrs)}}} x standardise={{no,yes}} x pooling={{{','.join(rows)}}}"
    return Prediction("linear", predicted, str(heads.head(int(variant), int(lr))), grid, validation)


def predict_majority(target: Target) -> Prediction:
    """The most frequent training class, everywhere."""
    counts = np.bincount(target.label[target.of(TRAIN)], minlength=len(target.classes))
    best = int(counts.argmax())
    predicted = np.full(len(target.of(TEST)), best, np.int64)
    return Prediction("majority", predicted, f"class={target.classes[best]}", "fixed", {})


def _plain_score(truth: Ints, predicted: Ints, num_classes: int, metric: str) -> float:
    return float(score(cluster_confusion(truth, predicted, np.zeros_like(truth), num_classes)[0], metric))
