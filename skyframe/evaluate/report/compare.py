"""One self-contained HTML page that compares encoders: alarms, ranks, scores, classes, maps, and published numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from html import escape
from pathlib import Path

from skyframe.evaluate.alarms import Alarm, find_alarms
from skyframe.evaluate.protocol import ResultRow, read_rows
from skyframe.evaluate.report.compare_html import class_figures, map_figures, published_table, rank_table
from skyframe.evaluate.report.html import (
    alarm_list,
    colours_of,
    facts,
    fed_and_chosen,
    score_table,
    section,
    write_page,
)
from skyframe.evaluate.report.log_view import PerClass, PredictedMap, find_log, maps_of, per_class_of
from skyframe.evaluate.report.published import load_published
from skyframe.evaluate.report.ranks import mean_ranks, near_best
from skyframe.evaluate.report.table import Line, encoders_of, is_main, pivot
from skyframe.spec import InputError

RESULTS = "results.csv"


def build_comparison(results: Sequence[Path], out_html: Path) -> Path:
    """Write the page.

    Args:
        results: results.csv files of `skyframe evaluate`, or folders that hold one.
        out_html: file to write; replaced whole.

    Returns:
        `out_html`.

    Raises:
        InputError: no rows, or a log beside them that is damaged.
    """
    rows, alarms = _as_comparable(_read(results))
    lines, names = pivot(rows), encoders_of(rows)
    near = {}
    for line in (line for line in lines if is_main(line)):
        near[line.task, line.protocol, line.metric] = near_best(line, _rows_of(line, rows))
    ranked = [n for n in names if any(r.encoder == n and r.role != "majority" for r in rows)]
    body = [
        _header(rows, names),
        section(
            "Alarms",
            "Reasons to doubt a score, or to say that nothing was learnt.",
            alarm_list([*alarms, *find_alarms(rows)]),
        ),
        *_ranks(lines, ranked),
        section(
            "Scores",
            "Per cent with the 95 % interval, test clusters resampled whole (errors in units of what is predicted); "
            "the best of a line is bold. ≈ cannot be told from it: the interval of the paired difference holds 0. "
            "~ its own interval overlaps with that of the best, and no predictions are at hand to compare.",
            score_table(lines, names, near),
            fed_and_chosen(rows),
        ),
        *_published(rows),
        *_classes(lines, rows, names),
        *_maps(lines, rows),
        "<footer>One file, no network: pictures and charts are inside.</footer>",
    ]
    write_page(out_html, f"{', '.join(names)}: SkyFrame comparison", body)
    return out_html


def _read(results: Sequence[Path]) -> list[ResultRow]:
    """All rows, each with its log as a path that exists or as nothing; encoders of one name told apart by folder."""
    by_folder: dict[Path, list[ResultRow]] = {}
    for path in dict.fromkeys(p / RESULTS if p.is_dir() else p for p in results):
        rows = read_rows(path)
        if not rows:
            raise InputError(f"{path}: no result rows, expected those of `skyframe evaluate`; evaluate first")
        logs = {r.log: find_log(r, path.parent) for r in rows}
        by_folder[path] = [dataclasses.replace(r, log=str(logs[r.log] or "")) for r in rows]
    several = _of_several_kinds([r for rows in by_folder.values() for r in rows])
    found: dict[tuple[str, ...], ResultRow] = {}
    for path, rows in by_folder.items():
        newest = {r.encoder: r.weights_sha256 for r in rows}
        for row in rows:
            if row.weights_sha256 == newest[row.encoder]:  # an encoder that was trained on is shown as it is now
                where = f" ({_folder_name(path, by_folder)})" if row.encoder in several else ""
                named = dataclasses.replace(row, encoder=row.encoder + where)
                key = (row.task, row.split_sha256, row.protocol, row.metric, named.encoder, str(row.seed))
                before = found.pop(key, None)  # the same score in two files, or twice in one, counts once: the last
                if before is not None and before.predictions_sha256 == row.predictions_sha256:
                    named = dataclasses.replace(named, log=named.log or before.log)
                found[key] = named
    return list(found.values())


def _of_several_kinds(rows: Sequence[ResultRow]) -> set[str]:
    """Names under which different encoders go. Pixel statistics have no weights: they differ where their answers do."""
    kinds: dict[str, dict[tuple[str, ...], set[str]]] = {}
    for row in rows:
        same: tuple[str, ...] = ()
        if row.role in ("raw", "majority"):
            same = (row.task, row.split_sha256, row.protocol, row.metric, str(row.seed))
        told = row.predictions_sha256 if row.role in ("raw", "majority") else row.weights_sha256
        kinds.setdefault(row.encoder, {}).setdefault(same, set()).add(told)
    return {name for name, found in kinds.items() if any(len(answers) > 1 for answers in found.values())}


def _folder_name(path: Path, paths: Sequence[Path] | dict[Path, list[ResultRow]]) -> str:
    """As many of the last folders as tell the files apart."""
    parts = path.resolve().parent.parts
    others = [p.resolve().parent.parts for p in paths if p != path]
    count = next((k for k in range(1, len(parts)) if all(o[-k:] != parts[-k:] for o in others)), len(parts))
    stem = "" if path.name == RESULTS else f"/{path.stem}"
    return "/".join(parts[-count:]) + stem


def _as_comparable(rows: Sequence[ResultRow]) -> tuple[list[ResultRow], list[Alarm]]:
    """Rows whose tasks are named apart where they are not of one split, and what keeps lines from being compared."""
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row.task, set()).add(row.split_sha256)
    alarms = [
        Alarm("split", task, "", f"{task}: scored on {len(found)} different splits, which stand in lines of their own")
        for task, found in splits.items()
        if len(found) > 1
    ]
    named = [
        dataclasses.replace(r, task=f"{r.task} [split {r.split_sha256[:6]}]") if len(splits[r.task]) > 1 else r
        for r in rows
    ]
    configs: dict[tuple[str, str], dict[str, str]] = {}
    for row in (r for r in named if r.role != "majority"):
        configs.setdefault((row.task, row.protocol), {})[row.encoder] = row.config_sha256
    for (task, protocol), by_encoder in configs.items():
        if len(set(by_encoder.values())) > 1:
            told = ", ".join(f"{n} {c[:6]}" for n, c in by_encoder.items())
            sentence = f"{task} {protocol}: scored by different settings ({told}); compare with care, or score again"
            alarms.append(Alarm("settings", task, "", sentence))
    return named, alarms


def _header(rows: Sequence[ResultRow], names: Sequence[str]) -> str:
    entries = {
        "encoders": str(len(names)),
        "tasks": str(len({r.task for r in rows})),
        "suites": ", ".join(sorted({r.suite for r in rows})),
        "seeds": ", ".join(map(str, sorted({r.seed for r in rows}))),
        "time": f"{sum(r.seconds for r in rows) / 3600:.1f} h",
    }
    versions = "; ".join(sorted({r.versions for r in rows}))
    return f'<header><h1>Encoders compared</h1><p class="note">{escape(versions)}</p>{facts(entries)}</header>'


def _ranks(lines: Sequence[Line], names: Sequence[str]) -> list[str]:
    ranks, num_tasks = mean_ranks(lines, names)
    all_tasks = len({line.task for line in lines})
    if not ranks:
        return [section("Mean rank", "No task has a score of every encoder, so there is no rank.")]
    left = f" Of {all_tasks} tasks the others lack an encoder and do not count." if num_tasks < all_tasks else ""
    note = (
        f"1 is the best. Mean over {num_tasks} task{'s' * (num_tasks > 1)}, in each over its protocols and metrics; "
        f"95 % interval by resampling tasks, which says nothing of tasks unlike these.{left}"
    )
    return [section("Mean rank", note, rank_table(ranks, colours_of(names), len(names)))]


def _published(rows: Sequence[ResultRow]) -> list[str]:
    table = load_published()
    names = {r.task.split(" [")[0].replace("_", "-") for r in rows} | {r.source.split(" ")[0] for r in rows}
    found = table.of(names)
    if not found:
        return []
    return [
        section(
            "Published numbers",
            "Not the same protocol as the scores above, and not ranked with them: other training, often other input "
            "sizes and splits. In per cent as printed.",
            published_table(found, table.sources),
        )
    ]


def _classes(lines: Sequence[Line], rows: Sequence[ResultRow], names: Sequence[str]) -> list[str]:
    figures: list[str] = []
    for task, protocol in dict.fromkeys((x.task, x.protocol) for x in lines if is_main(x)):
        found: dict[str, PerClass] = {}
        for row in rows:
            if (row.task, row.protocol) == (task, protocol) and row.log and row.encoder not in found:
                told = per_class_of(Path(row.log), protocol)
                if told is not None:
                    found[row.encoder] = told
        if found:
            figures.append(class_figures(task, protocol, found, colours_of(names), is_open=not figures))
    lost = {(r.task, r.encoder) for r in rows if not r.log}
    note = f" {len(lost)} scores have no log beside them and are left out here." if lost else ""
    if not figures and not lost:
        return []
    return [
        section(
            "Classes", f"Where encoders differ, and what they take for what; the first seed of each.{note}", *figures
        )
    ]


def _maps(lines: Sequence[Line], rows: Sequence[ResultRow]) -> list[str]:
    figures = []
    for task, protocol in dict.fromkeys((x.task, x.protocol) for x in lines if is_main(x)):
        items: dict[str, dict[str, PredictedMap]] = {}
        for row in (r for r in rows if (r.task, r.protocol) == (task, protocol) and r.log):
            for found in maps_of(Path(row.log), protocol):
                items.setdefault(found.item, {}).setdefault(row.encoder, found)
        if items:
            figures.append(map_figures(task, protocol, items))
    if not figures:
        return []
    return [section("Maps", "Truth beside what each encoder's head answered; grey is not scored.", *figures)]


def _rows_of(line: Line, rows: Sequence[ResultRow]) -> list[ResultRow]:
    """The newest row of each encoder and seed behind a line."""
    key = (line.task, line.protocol, line.metric)
    return list({(r.encoder, r.seed): r for r in rows if (r.task, r.protocol, r.metric) == key}.values())
