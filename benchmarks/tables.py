"""Dated Markdown tables of scores and of paired differences."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from skyframe.evaluate.measures.confusion import paired_interval
from skyframe.evaluate.measures.metrics import cluster_confusion

Scores = dict[tuple[str, str], dict[str, list[tuple[float, float, float]]]]
"""(task, probe) -> encoder -> value and bounds in % of every seed."""

Predictions = Mapping[str, NDArray[np.int64]]
"""`truth`, `cluster` and `predicted` of the test units."""


def header(title: str, commits: set[str]) -> list[str]:
    """Date, hardware and versions of a table, and the commits its cells were made at."""
    import torch

    import skyframe as package

    return [
        f"# {title}",
        "",
        f"{datetime.date.today()}, `make prove`, commit {' and '.join(sorted(commits))}; "
        f"skyframe-eo {package.__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{os.cpu_count()}-core {platform.machine()} CPU, one thread per cell, two cells side by side.",
        "",
    ]


def collect(found: Scores, row: dict[str, str], line: tuple[str, str], encoder: str) -> None:
    """Add a result row to its table cell; further k, other metrics and the majority class are left out."""
    if row["protocol"] in ("knn", "linear") and row["metric"] == "accuracy":
        who = encoder if row["role"] == "encoder" else row["encoder"]
        value, lo, hi = (100 * float(row[k]) for k in ("value", "lo", "hi"))
        found.setdefault(line, {}).setdefault(who, []).append((value, lo, hi))


def table(title: str, about: str, commits: set[str], found: Scores, columns: list[str]) -> str:
    """Markdown: mean over seeds with the widest interval of any seed."""
    lines = header(title, commits)
    lines += [f"{about} Accuracy in %, mean over seeds [lowest 2.5 %, highest 97.5 % bound of any seed].", ""]
    lines += ["| " + " | ".join(("task", "probe", *columns)) + " |", "|---" * (len(columns) + 2) + "|"]
    for line, cells in sorted(found.items()):
        shown = [_mean_with_bounds(cells[c]) if c in cells else "-" for c in columns]
        lines.append("| " + " | ".join((*line, *shown)) + " |")
    if any(c not in cells for cells in found.values() for c in columns):
        lines += ["", "A dash: not run yet, or not possible (raw pixels have no region context)."]
    return "\n".join(lines) + "\n"


def differences(columns: list[str], rows: list[list[str]]) -> str:
    """Markdown of paired differences; an interval without zero on every seed is a difference."""
    about = (
        "Differences in points on the same test places, mean over seeds [lowest 2.5 %, highest 97.5 % bound of any "
        "seed's paired bootstrap over clusters]."
    )
    lines = ["", about, "", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def paired(sides: Mapping[int, tuple[Predictions, Predictions]]) -> str:
    """Score of the first minus the second in points: mean over seeds, widest paired interval of any seed."""
    found = []
    for seed, pair in sides.items():
        num = 1 + max(int(side[k].max()) for side in pair for k in ("truth", "predicted"))
        counts = [cluster_confusion(x["truth"], x["predicted"], x["cluster"], num) for x in pair]
        value, lo, hi = paired_interval(counts[0], counts[1], "accuracy", 1000, seed)
        found.append((100 * value, 100 * lo, 100 * hi))
    return _mean_with_bounds(found) if found else "-"


def _mean_with_bounds(found: list[tuple[float, float, float]]) -> str:
    mean = sum(value for value, _, _ in found) / len(found)
    return f"{mean:.1f} [{min(lo for _, lo, _ in found):.1f}, {max(hi for _, _, hi in found):.1f}]"
