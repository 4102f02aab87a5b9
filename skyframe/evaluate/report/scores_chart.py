"""The scores of a run's teacher against its steps, as charts of the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from skyframe.config.evaluate import VALUE_METRICS
from skyframe.config.heads import LOWER_IS_BETTER
from skyframe.evaluate.protocol import ResultRow, read_rows
from skyframe.evaluate.report.charts import line_chart
from skyframe.evaluate.report.html import grid, section
from skyframe.evaluate.scores import BASELINES, FOLDER, RESULTS, Score, read_scores

LEVELS = {"raw_pixels": "raw pixels", "random_init": "random weights"}
"""Baselines that are drawn as horizontal lines, by the encoder of their rows."""


def score_charts(run_dir: Path) -> list[str]:
    """A section with a chart per task, protocol and metric; nothing where no step was scored.

    Args:
        run_dir: a run folder.

    Raises:
        InputError: scores.jsonl or the baselines' results.csv were edited.
    """
    folder = run_dir / FOLDER
    scores = [s for s in read_scores(folder) if not s.protocol.startswith("knn_")]
    if not scores:
        return []
    baselines = read_rows(folder / BASELINES / RESULTS)
    groups = dict.fromkeys((s.task, s.protocol, s.metric) for s in scores)
    charts = [_chart([s for s in scores if (s.task, s.protocol, s.metric) == g], baselines) for g in groups]
    return [
        section(
            "Scores during training",
            "The teacher on frozen features after each scored step, with its 95 % interval (test clusters resampled "
            "whole); raw pixels and the same architecture with random weights as levels.",
            grid(3, charts),
        )
    ]


def _chart(scores: Sequence[Score], baselines: Sequence[ResultRow]) -> str:
    first = scores[0]
    unit = first.metric if first.metric in (*VALUE_METRICS, *LOWER_IS_BETTER) else f"{first.metric}, %"
    scale = 100.0 if unit.endswith("%") else 1.0
    steps = sorted({s.step for s in scores})
    by_step = {x: [s for s in scores if s.step == x] for x in steps}  # one per seed
    lines = {"teacher": [(float(x), scale * _mean([s.value for s in found])) for x, found in by_step.items()]}
    band = [
        (float(x), scale * _mean([s.lo for s in found]), scale * _mean([s.hi for s in found]))
        for x, found in by_step.items()
    ]
    for encoder, name in LEVELS.items():
        same = [
            scale * r.value
            for r in baselines
            if (r.task, r.protocol, r.metric, r.encoder) == (first.task, first.protocol, first.metric, encoder)
        ]
        if same:
            lines[name] = [(float(x), _mean(same)) for x in (steps[0], max(steps[-1], steps[0] + 1))]
    return line_chart(f"{first.task}: {first.protocol}", lines, unit, band=band)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
