"""The report's look: style sheet and small pieces of HTML. No script, no font, no address outside the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from skyframe.evaluate.alarms import Alarm
from skyframe.evaluate.datasets.colours import data_uri
from skyframe.evaluate.protocol import ResultRow
from skyframe.evaluate.report.charts import COLOURS, Interval, interval_plot
from skyframe.evaluate.report.scene import Picture
from skyframe.evaluate.report.table import IN_UNITS, Line, is_main, shown

Near = Mapping[tuple[str, str, str], Mapping[str, str]]
"""By task, protocol and metric: encoders whose score cannot be told from the best, and how that was found."""
NEAR = {
    "paired": ("≈", "the 95 % interval of the difference from the best, on the same draws of test clusters, holds 0"),
    "overlap": ("~", "its interval overlaps with that of the best; predictions to compare are not at hand"),
}

STYLE = """
:root{--ink:#1f2933;--soft:#5f6b7a;--line:#e3e8ee;--panel:#fff;--page:#f5f7f9;--accent:#2b6cb0;--warn:#9c4221;--warnbg:#fffaf3}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1160px;margin:0 auto;padding:34px 26px 60px}
h1{font-size:29px;line-height:1.2;margin:0 0 4px;letter-spacing:-.01em}
h2{font-size:19px;margin:38px 0 4px;letter-spacing:-.005em}
p.note{margin:0 0 12px;color:var(--soft);max-width:82ch}
.facts{display:flex;flex-wrap:wrap;gap:8px 26px;margin:14px 0 6px;padding:0}
.facts div{display:flex;flex-direction:column}
.facts dt{font-size:11.5px;text-transform:uppercase;letter-spacing:.06em;color:var(--soft)}
.facts dd{margin:0;font-variant-numeric:tabular-nums}
.grid3{display:grid;grid-template-columns:repeat(auto-fill,minmax(330px,1fr));gap:14px}
.grid4{display:grid;grid-template-columns:repeat(auto-fill,minmax(255px,1fr));gap:14px}
figure{margin:0;background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:12px 14px}
figcaption{font-weight:600;font-size:14px}
figcaption em{font-style:normal;font-weight:400;color:var(--soft)}
figure p{margin:2px 0 8px;font-size:12.5px;line-height:1.4;color:var(--soft);min-height:53px}
figure img{width:100%;display:block;border-radius:4px;image-rendering:pixelated}
figure.empty{border-style:dashed}
.chart svg{width:100%;height:auto;display:block}
.grid{stroke:var(--line);stroke-width:1}
.tick{font-size:10px;fill:var(--soft);font-variant-numeric:tabular-nums}
.legend{display:flex;flex-wrap:wrap;gap:2px 12px;font-size:12px;color:var(--soft);margin-top:4px}
.legend i{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:5px}
.legend b{color:var(--ink);font-weight:600;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto;background:var(--panel);border:1px solid var(--line);border-radius:8px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{font-weight:600;font-size:12.5px;color:var(--soft);text-align:left;
padding:9px 12px;border-bottom:1px solid var(--line);white-space:nowrap}
th i{display:inline-block;width:9px;height:9px;border-radius:50%;margin-right:6px}
td{padding:7px 12px;border-bottom:1px solid var(--line);white-space:nowrap;vertical-align:middle}
tr:last-child td{border-bottom:0}
td.task{font-weight:600}
td.same{color:transparent}
td small{display:block;color:var(--soft);font-size:11.5px;line-height:1.25}
td.best{font-weight:700}
td.best small{font-weight:400}
abbr{text-decoration:none;color:var(--soft);margin-left:3px;cursor:help}
i.dot{display:inline-block;width:9px;height:9px;border-radius:50%;margin-right:6px}
ul.sources{font-size:12.5px;color:var(--soft)}
table.foreign{color:var(--soft);font-style:italic}
table.foreign th{font-style:normal}
.maps{display:flex;flex-wrap:wrap;gap:10px}
.maps figure{padding:8px}
.maps figcaption{font-size:12px}
.maps img{width:176px}
.alarms{margin:0;padding:10px 16px 10px 34px;background:var(--warnbg);
border:1px solid #f0d9b8;border-radius:8px;color:var(--warn)}
.fine{padding:10px 16px;background:#f2f8f4;border:1px solid #cfe5d6;border-radius:8px;color:#276749}
details{margin-top:12px}
summary{cursor:pointer;color:var(--accent);font-size:14px}
pre{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:12px 14px;overflow-x:auto;
font-size:12.5px;line-height:1.45}
footer{margin-top:44px;color:var(--soft);font-size:12.5px;border-top:1px solid var(--line);padding-top:10px}
@media print{body{background:#fff}figure,.scroll{break-inside:avoid}}
"""


def page(title: str, body: Sequence[str]) -> str:
    """A whole document."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" '
        'content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def write_page(path: Path, title: str, body: Sequence[str]) -> None:
    """Write a whole document; a page that is there is replaced at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    aside.write_text(page(title, body), encoding="utf-8")
    aside.replace(path)


def facts(entries: Mapping[str, str]) -> str:
    """Short name-value pairs in a row."""
    return (
        '<dl class="facts">'
        + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in entries.items())
        + "</dl>"
    )


def section(heading: str, note: str, *content: str) -> str:
    """A heading, a sentence that says how to read what follows, and the content."""
    return f'<section><h2>{escape(heading)}</h2><p class="note">{escape(note)}</p>{"".join(content)}</section>'


def grid(columns: int, items: Sequence[str]) -> str:
    """Figures side by side, as many as fit."""
    return f'<div class="grid{columns}">{"".join(items)}</div>'


def picture_figure(picture: Picture) -> str:
    """A picture with caption and legend, or a dashed box that says why there is none."""
    head = f"<figcaption>{escape(picture.title)}</figcaption><p>{escape(picture.caption)}</p>"
    if picture.rgb is None:
        return f'<figure class="empty">{head}</figure>'
    scale = max(1, 512 // max(picture.rgb.shape[:2]))
    legend = "".join(
        f'<span><i style="background:{escape(colour)}"></i>{escape(name)}</span>' for name, colour in picture.legend
    )
    image = f'<img src="{data_uri(picture.rgb, scale)}" alt="{escape(picture.title)}">'
    return f'<figure>{head}{image}<div class="legend">{legend}</div></figure>'


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """A colour per encoder; the last one, which a page about one run is about, has the first colour."""
    rest = COLOURS[1:]
    return {n: COLOURS[0] if i == len(names) - 1 else rest[-1 - i % len(rest)] for i, n in enumerate(names)}


def score_table(lines: Sequence[Line], names: Sequence[str], near: Near | None = None) -> str:
    """Headline scores with intervals, the best bold; further k of the nearest neighbours folded away.

    Args:
        lines: of `pivot`.
        names: encoders, one column each.
        near: encoders that cannot be told from a line's best, by task, protocol and metric.
    """
    main = [line for line in lines if is_main(line)]
    rest = [line for line in lines if not is_main(line)]
    folded = (
        f"<details><summary>Other numbers of neighbours</summary>{_table(rest, names, {})}</details>" if rest else ""
    )
    return _table(main, names, near or {}) + folded


def _table(lines: Sequence[Line], names: Sequence[str], near: Near) -> str:
    colours = colours_of(names)
    head = "".join(f'<th><i style="background:{colours[n]}"></i>{escape(n)}</th>' for n in names)
    shares = [v for line in lines if line.metric not in IN_UNITS for c in line.cells.values() for v in (c.lo, c.hi)]
    rows, before = [], ""
    for line in lines:
        seen = "task" if line.task != before else "task same"
        marks = [Interval(n, c.value, c.lo, c.hi, colours[n]) for n, c in line.cells.items()]
        told = near.get((line.task, line.protocol, line.metric), {})
        cells = "".join(_cell(line, name, told.get(name, "")) for name in names)
        span = [v for c in line.cells.values() for v in (c.lo, c.hi)] if line.metric in IN_UNITS else shares
        size = f"<small>{line.num_test:,} rows, {line.num_clusters:,} clusters</small>"
        rows.append(
            f'<tr><td class="{seen}">{escape(line.task.replace("_", " "))}</td>'
            f"<td>{escape(line.protocol)}<small>{escape(line.metric)}</small></td>"
            f"{cells}<td>{interval_plot(marks, min(span), max(span))}{size}</td></tr>"
        )
        before = line.task
    axis = f"{100 * min(shares):.0f} % to {100 * max(shares):.0f} %" if shares else "in units"
    first = f"<thead><tr><th>task</th><th>protocol</th>{head}<th>{axis}</th></tr></thead>"
    return f'<div class="scroll"><table>{first}<tbody>{"".join(rows)}</tbody></table></div>'


def _cell(line: Line, name: str, near: str) -> str:
    if name not in line.cells:
        return "<td>-</td>"
    c = line.cells[name]
    value, lo, hi = (shown(line.metric, v) for v in (c.value, c.lo, c.hi))
    best = ' class="best"' if name in line.best else ""
    seeds = f", {c.num_seeds} seeds" if c.num_seeds > 1 else ""
    mark = f'<abbr title="{NEAR[near][1]}">{NEAR[near][0]}</abbr>' if near else ""
    return f"<td{best}>{value}{mark}<small>{lo} to {hi}{seeds}</small></td>"


def fed_and_chosen(rows: Sequence[ResultRow]) -> str:
    """What each encoder was fed, and what validation chose, folded away."""
    used = sorted({(r.encoder, r.source, r.normaliser) for r in rows if r.role == "encoder"})
    fed = "".join(
        f"<li>{escape(encoder)}: {escape(source)}; normaliser {escape(normaliser)}</li>"
        for encoder, source, normaliser in used
    )
    chosen = "".join(
        f"<tr><td>{escape(r.task)}</td><td>{escape(r.encoder)}</td><td>{escape(r.protocol)}</td><td>{r.seed}</td>"
        f"<td>{escape(r.chosen)}</td></tr>"
        for r in {(r.task, r.encoder, r.protocol, r.seed, r.chosen): r for r in rows if r.grid != "fixed"}.values()
    )
    head = "<tr><th>task</th><th>encoder</th><th>protocol</th><th>seed</th><th>chosen</th></tr>"
    return (
        f"<details><summary>What was fed, and what validation chose</summary><ul>{fed}</ul><div class='scroll'><table>"
        f"<thead>{head}</thead><tbody>{chosen}</tbody></table></div></details>"
    )


def alarm_list(alarms: Sequence[Alarm]) -> str:
    """What to look at before believing the scores."""
    if not alarms:
        return (
            '<div class="fine">No alarm: no two encoders agree on every prediction, every encoder is above pixel '
            "statistics and random weights, no collapse.</div>"
        )
    return '<ul class="alarms">' + "".join(f"<li>{escape(str(a))}</li>" for a in alarms) + "</ul>"
