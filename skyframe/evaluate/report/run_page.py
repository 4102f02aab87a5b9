"""One self-contained HTML page about a run: curves, health, a mapped scene, scores beside baselines, alarms."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from skyframe.evaluate.alarms import find_alarms
from skyframe.evaluate.protocol import Encoder, read_rows, weights_sha256
from skyframe.evaluate.report.charts import line_chart
from skyframe.evaluate.report.html import (
    alarm_list,
    facts,
    fed_and_chosen,
    grid,
    picture_figure,
    score_table,
    section,
    write_page,
)
from skyframe.evaluate.report.scene import scene_pictures
from skyframe.evaluate.report.scores_chart import score_charts
from skyframe.evaluate.report.table import encoders_of, pivot
from skyframe.spec import InputError

MetricRows = Sequence[Mapping[str, float]]


def build_report(
    run_dir: Path, out_html: Path, encoder: Encoder | None, scene: str | Path | None, results_csv: Path | None
) -> Path:
    """Write the page.

    Args:
        run_dir: a run folder with metrics.jsonl, recipe.yaml and environment.json.
        out_html: file to write; replaced whole.
        encoder: what to map the scene with; None leaves the pictures out.
        scene: a cube; None leaves the pictures out.
        results_csv: rows of `skyframe evaluate`; None leaves the scores out.

    Returns:
        `out_html`.

    Raises:
        InputError: no metrics in the run folder, a results file without rows, or a scene that contradicts the encoder.
    """
    run_dir, out_html = Path(run_dir), Path(out_html)
    rows = _metrics(run_dir)
    recipe = _text(run_dir / "recipe.yaml")
    scores = [] if results_csv is None else _scores(Path(results_csv))  # before the slow pictures, as it may be refused
    body = [_header(run_dir, rows, recipe, encoder)]
    if encoder is not None and scene is not None:
        pictures = [picture_figure(p) for p in scene_pictures(encoder, scene)]
        body.append(
            section(
                "A scene",
                "Neighbouring colours in the embedding mean similar features; fields, forest and water should come "
                "out as areas.",
                grid(4, pictures),
            )
        )
    body += scores + score_charts(run_dir) + _curves(rows)
    body.append(
        "<details><summary>Resolved recipe</summary>"
        f"<pre>{escape(recipe or 'no recipe.yaml in the run folder')}</pre></details>"
    )
    body.append(
        "<footer>One file, no network: pictures and curves are inside. Intervals are 95 % by bootstrap over test "
        "clusters.</footer>"
    )
    write_page(out_html, f"{run_dir.name}: SkyFrame report", body)
    return out_html


def _metrics(run_dir: Path) -> list[dict[str, float]]:
    """Rows of metrics.jsonl; a last line cut off by a kill is left out."""
    path = run_dir / "metrics.jsonl"
    if not path.is_file():
        raise InputError(
            f"{run_dir}: no metrics.jsonl, expected a run folder written by `skyframe pretrain`; check the path"
        )
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    if not rows:
        raise InputError(f"{path}: no row yet, expected at least one; let the run reach train.log_every steps")
    return rows


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _header(run_dir: Path, rows: MetricRows, recipe: str, encoder: Encoder | None) -> str:
    tree: dict[str, Any] = yaml.safe_load(recipe) if recipe else {}
    last = rows[-1]
    entries = {
        "system": str(tree.get("system", "unknown")),
        "recipe": str(tree.get("name", run_dir.name)),
        "seed": str(tree.get("seed", "unknown")),
    }
    entries |= {"steps": f"{int(last['step']):,}", "time": _minutes(last.get("time_s", 0.0))}
    if "samples_per_s" in last:
        entries["speed"] = f"{last['samples_per_s']:.1f} samples/s"
    if encoder is not None:
        entries |= {
            "modalities": " ".join(encoder.contract.modalities),
            "features": str(encoder.contract.num_features),
            "weights": weights_sha256(encoder)[:12],
        }
    environment = json.loads(_text(run_dir / "environment.json") or "{}")
    versions = "  ".join(f"{k} {str(v)[:12]}" for k, v in environment.items())
    heading = escape(str(tree.get("name", run_dir.name)))
    return f'<header><h1>{heading}</h1><p class="note">{escape(versions)}</p>{facts(entries)}</header>'


def _minutes(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60} min {whole % 60:02d} s"


def _scores(path: Path) -> list[str]:
    rows = read_rows(path)
    if not rows:
        raise InputError(f"{path}: no result rows, expected those of `skyframe evaluate`; evaluate first")
    clusters = (
        "Values in per cent with their 95 % interval, test clusters resampled whole; the best of a line is bold. "
        "Probes see frozen features."
    )
    return [
        section("Scores", clusters, score_table(pivot(rows), encoders_of(rows)), fed_and_chosen(rows)),
        section(
            "Alarms", "Reasons to doubt a score, or to say that nothing was learnt.", alarm_list(find_alarms(rows))
        ),
    ]


def _curves(rows: MetricRows) -> list[str]:
    groups: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name in [k for k in _keys(rows) if k.startswith("loss/")]:
        short = name.removeprefix("loss/")
        groups.setdefault(short.split("/")[0], {})[short.split("/")[-1]] = _points(rows, name)
    losses = [line_chart("Weighted sum", {"total": _points(rows, "total")})]
    losses += [line_chart(_source_name(source), lines) for source, lines in groups.items()]
    health = [
        line_chart("Teacher/student agreement", _family(rows, "teacher_agreement"), "cosine"),
        line_chart("Effective rank of features", _family(rows, "effective_rank"), "dimensions"),
        line_chart("Feature spread", _family(rows, "feature_std")),
    ]
    pace = [
        line_chart("Throughput", {"samples/s": _points(rows, "samples_per_s")}),
        line_chart("Waiting for data", {"wait": _points(rows, "data_wait_pct")}, "% of the time"),
        line_chart("Learning rate", {"lr": _points(rows, "lr")}),
        line_chart("Teacher momentum", {"momentum": _points(rows, "ema_momentum")}),
    ]
    return [
        section(
            "Losses",
            "Unweighted terms by source: pix, obj and img are the levels, align pairs modalities.",
            grid(3, losses),
        ),
        section(
            "Health", "A rank or spread that falls to nothing while the loss falls means collapse.", grid(3, health)
        ),
        section("Pace and schedules", "Samples over all processes; schedules by step.", grid(3, pace)),
    ]


def _keys(rows: MetricRows) -> list[str]:
    return list(dict.fromkeys(k for row in rows for k in row))


def _points(rows: MetricRows, key: str) -> list[tuple[float, float]]:
    return [(float(r["step"]), float(r[key])) for r in rows if key in r]


def _family(rows: MetricRows, family: str) -> dict[str, list[tuple[float, float]]]:
    """`family` itself and every `family/<name>`."""
    names = [k for k in _keys(rows) if k == family or k.startswith(family + "/")]
    return {k.removeprefix(family + "/") if k != family else "all": _points(rows, k) for k in names}


def _source_name(source: str) -> str:
    known = {"hr": "High resolution", "s2": "Sentinel-2", "s1": "Sentinel-1", "fused": "Fused", "align": "Alignment"}
    return known.get(source, source)
