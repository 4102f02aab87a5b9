"""The report's look: style sheet and small pieces of HTML. No script, no font, no address outside the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from skyframe.evaluate.alarms import Alarm
from skyframe.evaluate.colours import data_uri
from skyframe.evaluate.report_charts import COLOURS, Interval, interval_plot
from skyframe.evaluate.report_scene import Picture
from skyframe.evaluate.table import Line, is_main

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


def score_table(lines: Sequence[Line], names: Sequence[str]) -> str:
    """Headline scores with intervals, the best bold; further k of the nearest neighbours folded away."""
    main = [line for line in lines if is_main(line)]
    rest = [line for line in lines if not is_main(line)]
    folded = f"<details><summary>Other numbers of neighbours</summary>{_table(rest, names)}</details>" if rest else ""
    return _table(main, names) + folded


def _table(lines: Sequence[Line], names: Sequence[str]) -> str:
    colours = {name: COLOURS[-1 - i] if i < len(names) - 1 else COLOURS[0] for i, name in enumerate(names)}
    head = "".join(f'<th><i style="background:{colours[n]}"></i>{escape(n)}</th>' for n in names)
    values = [v for line in lines for c in line.cells.values() for v in (c.lo, c.hi)]
    lo, hi = min(values), max(values)
    rows, before = [], ""
    for line in lines:
        shown = "task" if line.task != before else "task same"
        marks = [Interval(n, c.value, c.lo, c.hi, colours[n]) for n, c in line.cells.items()]
        cells = "".join(_cell(line, name) for name in names)
        size = f"<small>{line.num_test:,} rows, {line.num_clusters:,} clusters</small>"
        rows.append(
            f'<tr><td class="{shown}">{escape(line.task.replace("_", " "))}</td>'
            f"<td>{escape(line.protocol)}<small>{escape(line.metric)}</small></td>"
            f"{cells}<td>{interval_plot(marks, lo, hi)}{size}</td></tr>"
        )
        before = line.task
    axis = f"{100 * lo:.0f} % to {100 * hi:.0f} %"
    first = f"<thead><tr><th>task</th><th>protocol</th>{head}<th>{axis}</th></tr></thead>"
    return f'<div class="scroll"><table>{first}<tbody>{"".join(rows)}</tbody></table></div>'


def _cell(line: Line, name: str) -> str:
    if name not in line.cells:
        return "<td>-</td>"
    c = line.cells[name]
    best = ' class="best"' if name in line.best else ""
    seeds = f", {c.num_seeds} seeds" if c.num_seeds > 1 else ""
    return f"<td{best}>{100 * c.value:.1f}<small>{100 * c.lo:.1f} to {100 * c.hi:.1f}{seeds}</small></td>"


def alarm_list(alarms: Sequence[Alarm]) -> str:
    """What to look at before believing the scores."""
    if not alarms:
        return (
            '<div class="fine">No alarm: no two encoders agree on every prediction, every encoder is above pixel '
            "statistics and random weights, no collapse.</div>"
        )
    return '<ul class="alarms">' + "".join(f"<li>{escape(str(a))}</li>" for a in alarms) + "</ul>"
