"""Result rows side by side: one line per task, protocol and metric, one column per encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from skyframe.config.heads import LOWER_IS_BETTER
from skyframe.evaluate.protocol import ResultRow

ROLE_ORDER = ("majority", "raw", "random", "encoder")
IN_UNITS = frozenset({"rmse", "mae", "bias"})
"""Metrics in the unit of what is predicted; all others are shares, shown in per cent."""


@dataclass(frozen=True)
class Cell:
    """One encoder's score, over seeds where there are several."""

    value: float  # mean over seeds
    lo: float  # lowest lower bound of the seeds' 95 % intervals
    hi: float  # highest upper bound
    num_seeds: int


@dataclass(frozen=True)
class Line:
    """One task under one protocol and metric."""

    task: str
    protocol: str
    metric: str
    num_test: int
    num_clusters: int
    cells: dict[str, Cell]  # by encoder

    @property
    def best(self) -> tuple[str, ...]:
        """Encoders with the best score."""
        choose = min if self.metric in LOWER_IS_BETTER else max
        top = choose(c.value for c in self.cells.values())
        return tuple(n for n, c in self.cells.items() if c.value == top)


def encoders_of(rows: Sequence[ResultRow]) -> list[str]:
    """Encoder names, baselines first."""
    roles = {r.encoder: r.role for r in rows}
    return sorted(roles, key=lambda n: ROLE_ORDER.index(roles[n]))


def pivot(rows: Sequence[ResultRow]) -> list[Line]:
    """Group rows; where a score was computed twice (new weights, another configuration), the last row counts.

    The majority class, which belongs to no protocol, stands in every line of its task.
    """
    newest = {(r.task, r.protocol, r.metric, r.encoder, r.seed): r for r in rows}
    lines: dict[tuple[str, str, str], dict[str, list[ResultRow]]] = {}
    for row in newest.values():
        if row.role != "majority":
            lines.setdefault((row.task, row.protocol, row.metric), {}).setdefault(row.encoder, []).append(row)
    for row in newest.values():
        for (task, _, metric), cells in lines.items():
            if row.role == "majority" and (task, metric) == (row.task, row.metric):
                cells.setdefault(row.encoder, []).append(row)
    names = encoders_of(rows)
    made = []
    for (task, protocol, metric), cells in lines.items():
        first = next(iter(cells.values()))[0]
        ordered = {n: _cell(cells[n]) for n in names if n in cells}
        made.append(Line(task, protocol, metric, first.num_test, first.num_clusters, ordered))
    return made


def _cell(rows: Sequence[ResultRow]) -> Cell:
    return Cell(float(np.mean([r.value for r in rows])), min(r.lo for r in rows), max(r.hi for r in rows), len(rows))


def is_main(line: Line) -> bool:
    """Whether a line is a headline rather than a further k of the nearest neighbours."""
    return not line.protocol.startswith("knn_")


def shown(metric: str, value: float) -> str:
    """A score as text: per cent with one digit, or three significant digits in its unit."""
    return f"{value:.3g}" if metric in IN_UNITS else f"{100 * value:.1f}"


def results_table(rows: Sequence[ResultRow]) -> Table:
    """A table for the terminal: value and 95 % interval in per cent, the best bold; further k of the nearest neighbours
    follow dimmed."""
    names = encoders_of(rows)
    table = Table("task", "protocol", "metric", *names, title="test scores, % [95 % interval]")
    for line in sorted(pivot(rows), key=lambda line: not is_main(line)):
        cells = []
        for name in names:
            if name not in line.cells:
                cells.append("-")
                continue
            c = line.cells[name]
            value, lo, hi = (shown(line.metric, v) for v in (c.value, c.lo, c.hi))
            text = rf"{value} \[{lo}, {hi}]"
            cells.append(f"[bold]{text}[/bold]" if name in line.best else text)
        table.add_row(line.task, line.protocol, line.metric, *cells, style=None if is_main(line) else "dim")
    return table
