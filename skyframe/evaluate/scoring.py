"""One task's probes over one table of features: answers on the test part, and how they were chosen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyframe.config.evaluate import KnnConfig, LinearConfig, LogisticConfig, RidgeConfig, TaskConfig
from skyframe.config.heads import LOWER_IS_BETTER
from skyframe.evaluate.datasets.dataset import Kind
from skyframe.evaluate.feed.features import TEST, TRAIN, VAL, FeatureTable, Floats, Ints
from skyframe.evaluate.measures.measure import Measure, value_of
from skyframe.evaluate.measures.rows import measure_of
from skyframe.evaluate.probes.knn import knn_means
from skyframe.evaluate.probes.linear import train_heads
from skyframe.evaluate.probes.logistic import logistic_scores
from skyframe.evaluate.probes.ridge import ridge_predictions
from skyframe.randomness import hash64
from skyframe.spec import InputError

PIXEL_BATCH = 8
"""A pixel task has many more rows than a scene task: its linear batches are this many times larger."""

Rows = dict[str, Floats]


@dataclass(frozen=True)
class Target:
    """Scored units of one task: windows, images or positions."""

    kind: Kind
    index: Ints  # [m] unit numbers: row, or row * P + position
    label: NDArray[np.generic]  # int64 [m] in 0..C-1, bool [m, C] for several labels, float32 [m, K] for numbers
    part: Ints  # [m] TRAIN, VAL, TEST
    cluster: Ints  # [m]
    classes: tuple[str, ...]

    def of(self, part: int) -> Ints:
        """Numbers (into this target's arrays) of the units of one part."""
        return np.flatnonzero(self.part == part)

    @property
    def wanted(self) -> Floats:
        """What a nearest neighbour votes for: one-hot classes, labels as 0 and 1, or the numbers; float32 `[m, C]`."""
        if self.kind in ("multilabel", "regression"):
            return self.label.astype(np.float32)
        return np.eye(len(self.classes), dtype=np.float32)[self.label.astype(np.int64)]

    def measure(self, outputs: NDArray[np.generic], part: int = TEST) -> Measure:
        """Outputs `[m_part, C]` (scores by class or label) or `[m_part, K]` (numbers) beside the truth."""
        units = self.of(part)
        return measure_of(self.kind, self.label[units], outputs, self.cluster[units], self.classes)

    def answered(
        self, protocol: str, outputs: NDArray[np.generic], chosen: str, grid: str, validation: dict[str, float]
    ) -> Prediction:
        """The outputs on the test part, measured."""
        is_class = self.kind in ("scene", "pixel")
        return Prediction(protocol, outputs, self.measure(outputs), chosen, grid, validation, is_class)

    def counts(self, part: int) -> list[int]:
        """Units of each class or label in one part; of a regression their number."""
        label = self.label[self.of(part)]
        if self.kind == "regression":
            return [len(label)]
        if self.kind == "multilabel":
            return [int(n) for n in label.sum(0)]
        return np.bincount(label.astype(np.int64), minlength=len(self.classes)).tolist()


@dataclass(frozen=True)
class Prediction:
    """Answers on the test part under one protocol."""

    protocol: str
    outputs: NDArray[np.generic]  # [m_test, C] scores, or [m_test, K] numbers
    measure: Measure
    chosen: str
    grid: str
    validation: dict[str, float]  # every choice's score on the validation part
    is_class: bool = True  # the outputs are scores of classes of which one is right


def make_target(
    where: str,
    task: TaskConfig,
    kind: Kind,
    labels: NDArray[np.generic],
    part: Ints,
    cluster: Ints,
    classes: tuple[str, ...],
) -> Target:
    """Drop the units without a label.

    Args:
        where: task name, for messages.
        task: label share.
        kind: what is predicted.
        labels: int64 `[R]` or `[R, P]` (-1 = not scored), bool `[R, C]`, or float32 `[R, K]` (NaN = not scored).
        part: `[R]`.
        cluster: `[R]`.
        classes: C names.

    Raises:
        InputError: fewer than two classes among the training units, or an empty part.
    """
    per_row = labels.shape[1] if kind == "pixel" else 1
    if kind in ("multilabel", "regression"):
        index = np.flatnonzero(np.isfinite(labels.astype(np.float64)).all(1))
        label = labels[index]
    else:
        numbers = labels.ravel().astype(np.int64)
        index = np.flatnonzero(numbers >= 0)
        label = numbers[index]
    row = index // per_row
    target = Target(kind, index, label, _with_few_labels(part, task.label_share)[row], cluster[row], classes)
    counts = {name: len(target.of(p)) for name, p in (("train", TRAIN), ("validation", VAL), ("test", TEST))}
    kinds = len(np.unique(label[target.of(TRAIN)], axis=0 if label.ndim > 1 else None))
    if min(counts.values()) == 0 or kinds < 2:
        shown = ", ".join(f"{n} {name}" for name, n in counts.items())
        raise InputError(
            f"task {where}: {shown} units and {kinds} training classes carry a label, expected some of each and at "
            "least two classes; draw more windows, lower min_share, or use larger cubes"
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


def rows_of(task: TaskConfig, kind: Kind, tables: Mapping[str, FeatureTable], target: Target) -> Rows:
    """Features of the scored units by pooling (and normaliser, where there are several), float32 `[m, D]`.

    Args:
        task: which part of the features.
        kind: what is predicted.
        tables: by normaliser.
        target: the units.

    Raises:
        InputError: the task scores the region context and the encoder has none.
    """
    made: Rows = {}
    for normaliser, table in tables.items():
        if task.part == "context" and not table.context_dims:
            raise InputError(
                "part: context: the encoder's features hold no region context, expected a whole model trained with "
                "geo-context; export `model` of a run with model.geo.enabled=true, or select other tasks"
            )
        columns = slice(-table.context_dims if task.part == "context" else None, None)
        end = f" normaliser={normaliser}" if len(tables) > 1 else ""
        if kind == "pixel":
            made[f"none{end}"] = table.pixel.reshape(-1, table.pixel.shape[-1])[target.index, columns]
        else:
            made |= {f"{p}{end}": v[target.index, columns] for p, v in (("mean", table.mean), ("max", table.max))}
    return made


def predict_knn(rows: Rows, target: Target, config: KnnConfig) -> list[Prediction]:
    """Under the names `knn_k<k>` the further k that the training rows allow, and last `config.k` itself: a run that was
    cut off between rows is then not taken for finished."""
    pooling, features = next(iter(rows.items()))
    train, test = target.of(TRAIN), target.of(TEST)
    ks = [*(k for k in config.also if k <= len(train) and k != config.k), config.k]
    found = knn_means(features[train], target.wanted[train], features[test], ks, config.temperature)
    setting = f"T={config.temperature:g} L2-normalised pooling={pooling}"
    return [
        target.answered("knn" if k == config.k else f"knn_k{k}", v, f"k={k} {setting}", "fixed", {})
        for k, v in found.items()
    ]


def predict_linear(rows: Rows, target: Target, metric: str, config: LinearConfig, seed: int) -> Prediction:
    """The head that scores best on the validation part; ties go to the first of the grid."""
    train, val, test = target.of(TRAIN), target.of(VAL), target.of(TEST)
    batch = config.batch * (PIXEL_BATCH if target.kind == "pixel" else 1)
    heads = train_heads(
        {k: v[train] for k, v in rows.items()}, target.label[train], len(target.classes), config, batch, seed
    )
    many = target.kind == "multilabel"
    guesses = _shares(heads.scores({k: v[val] for k, v in rows.items()}), many)
    cells = [(v, i) for v in range(guesses.shape[0]) for i in range(guesses.shape[1])]
    names = [str(heads.head(v, i)) for v, i in cells]
    best, validation = _choose(names, (guesses[v, i] for v, i in cells), target, metric)
    outputs = _shares(heads.scores({k: v[test] for k, v in rows.items()}, only=cells[best])[0, 0], many)
    grid = f"lr={{{','.join(f'{x:g}' for x in config.lrs)}}} x standardise={{no,yes}} x pooling={{{','.join(rows)}}}"
    return target.answered("linear", outputs, names[best], grid, validation)


def _shares(logits: Floats, many: bool) -> Floats:
    """Logits as probabilities where a row may have several labels; one class is ranked by them as they are."""
    return (1 / (1 + np.exp(-logits))).astype(np.float32) if many else logits


def predict_logistic(rows: Rows, target: Target, metric: str, config: LogisticConfig) -> Prediction:
    """Converged logistic regression; inverse penalty and pooling chosen on validation."""
    train, val, test = target.of(TRAIN), target.of(VAL), target.of(TEST)
    names, guesses, outputs = [], [], []
    for pooling, table in rows.items():
        parts = [table[val], table[test]]
        for c, found in logistic_scores(table[train], target.label[train], len(target.classes), parts, config):
            names.append(f"C={c:g} pooling={pooling}")
            guesses.append(found[0])
            outputs.append(found[1])
    best, validation = _choose(names, guesses, target, metric)
    grid = f"C={{{','.join(f'{c:g}' for c in config.penalties)}}} x pooling={{{','.join(rows)}}}"
    return target.answered("logistic", outputs[best], names[best], grid, validation)


def predict_ridge(rows: Rows, target: Target, metric: str, config: RidgeConfig) -> Prediction:
    """Ridge regression; penalty and pooling chosen on validation."""
    train, val, test = target.of(TRAIN), target.of(VAL), target.of(TEST)
    values = target.label.astype(np.float32)
    found = {
        pooling: ridge_predictions(table[train], values[train], (table[val], table[test]), config.penalties)
        for pooling, table in rows.items()
    }
    cells = list(itertools.product(rows, range(len(config.penalties))))
    names = [f"alpha={config.penalties[i]:g} pooling={pooling}" for pooling, i in cells]
    best, validation = _choose(names, (found[pooling][0][i] for pooling, i in cells), target, metric)
    pooling, number = cells[best]
    outputs = found[pooling][1][number]
    grid = f"alpha={{{','.join(f'{a:g}' for a in config.penalties)}}} x pooling={{{','.join(rows)}}}"
    return target.answered("ridge", outputs, names[best], grid, validation)


def predict_constant(target: Target) -> Prediction:
    """What needs no pixels: the most frequent training class, each label's frequency, or the mean."""
    train, num = target.of(TRAIN), len(target.of(TEST))
    level = target.wanted[train].mean(0)
    outputs = np.tile(level, (num, 1))
    chosen = f"class={target.classes[int(level.argmax())]}" if target.kind in ("scene", "pixel") else "training mean"
    return target.answered("majority", outputs, chosen, "fixed", {})


def _choose(
    names: Sequence[str], guesses: Iterable[NDArray[np.generic]], target: Target, metric: str
) -> tuple[int, dict[str, float]]:
    """Number of the best candidate on the validation part, and the score of each."""
    scores = [value_of(target.measure(g, VAL), metric) for g in guesses]
    better: Callable[[float], float] = (lambda x: -x) if metric in LOWER_IS_BETTER else (lambda x: x)
    best = max(range(len(scores)), key=lambda i: (better(scores[i]) if scores[i] == scores[i] else -math.inf, -i))
    return best, dict(zip(names, scores, strict=True))
