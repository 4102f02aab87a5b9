"""Mean ranks of encoders over tasks, and which scores of a line cannot be told from its best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyframe.config.heads import LOWER_IS_BETTER
from skyframe.evaluate.measures.confusion import paired_interval
from skyframe.evaluate.measures.metrics import cluster_confusion
from skyframe.evaluate.protocol import ResultRow
from skyframe.evaluate.report.log_view import predictions_of
from skyframe.evaluate.report.table import Cell, Line, is_main
from skyframe.randomness import generator
from skyframe.spec import InputError

RESAMPLES = 1000
SEED = 0


@dataclass(frozen=True)
class Rank:
    """Where an encoder stands on average, 1 = first everywhere."""

    encoder: str
    value: float  # mean over tasks of the mean over the task's protocols and metrics
    lo: float  # 2.5 % over tasks drawn with replacement
    hi: float  # 97.5 %


def mean_ranks(lines: Sequence[Line], names: Sequence[str]) -> tuple[list[Rank], int]:
    """Mean rank of each encoder over the tasks that all of them have, best first, and the number of those tasks.

    Within a line equal scores share the mean of their ranks. A task with many metrics counts as much as one with one.

    Args:
        lines: of `pivot`; further k of the nearest neighbours do not count.
        names: encoders to rank.

    Returns:
        No ranks where no task has them all.
    """
    by_task: dict[str, list[NDArray[np.float64]]] = {}
    for line in lines:
        if is_main(line) and set(names) <= set(line.cells):
            values = np.array([line.cells[n].value for n in names])
            by_task.setdefault(line.task, []).append(_ranks(values if line.metric in LOWER_IS_BETTER else -values))
    if not by_task:
        return [], 0
    tasks = np.array([np.mean(ranks, axis=0) for ranks in by_task.values()])
    drawn = generator(SEED, "ranks", len(tasks)).integers(0, len(tasks), (RESAMPLES, len(tasks)))
    lo, hi = np.percentile(tasks[drawn].mean(1), [2.5, 97.5], axis=0)
    found = [Rank(n, float(v), float(a), float(b)) for n, v, a, b in zip(names, tasks.mean(0), lo, hi, strict=True)]
    return sorted(found, key=lambda r: r.value), len(tasks)


def _ranks(costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 for the least; equal ones share."""
    less = (costs[None] < costs[:, None]).sum(1)
    equal = (costs[None] == costs[:, None]).sum(1)
    return less + (equal + 1) / 2


def near_best(line: Line, rows: Sequence[ResultRow]) -> dict[str, str]:
    """Which encoders of a line cannot be told from its best one.

    Args:
        line: of `pivot`.
        rows: those of the line, `log` an existing file or empty.

    Returns:
        By encoder: `paired` where the 95 % interval of the difference, by the same draws of test clusters, holds 0;
        `overlap` where predictions are not at hand and the two intervals overlap.
    """
    best = line.best[0]
    found = {}
    for name in line.cells:
        if name in line.best:
            continue
        told = [_paired(a, b) for a in rows for b in rows if (a.encoder, b.encoder, a.seed) == (best, name, b.seed)]
        known = [t for t in told if t is not None]
        if known and any(lo <= 0 <= hi for lo, hi in known):
            found[name] = "paired"
        elif not known and _overlap(line.cells[best], line.cells[name]):
            found[name] = "overlap"
    return found


def _paired(first: ResultRow, second: ResultRow) -> tuple[float, float] | None:
    """Interval of the difference of two rows of one seed, None where their predictions cannot be compared."""
    a, b = predictions_of(first), predictions_of(second)
    if a is None or b is None or a.truth.shape != b.truth.shape:
        return None
    if (a.truth != b.truth).any() or (a.cluster != b.cluster).any():
        return None
    num = 1 + int(max(a.truth.max(), a.predicted.max(), b.predicted.max()))
    counts = [cluster_confusion(p.truth, p.predicted, p.cluster, num) for p in (a, b)]
    try:
        return paired_interval(counts[0], counts[1], first.metric, RESAMPLES, first.seed)[1:]
    except InputError:  # a metric that confusion counts do not give
        return None


def _overlap(first: Cell, second: Cell) -> bool:
    return first.lo <= second.hi and second.lo <= first.hi
