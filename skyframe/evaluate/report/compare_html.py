"""Pieces of the page that compares encoders: ranks, per-class bars, confusion pictures, maps, published numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from skyframe.evaluate.datasets.colours import Rgb, class_colours, data_uri, mask_colours
from skyframe.evaluate.report.charts import Interval, interval_plot
from skyframe.evaluate.report.log_view import PerClass, PredictedMap
from skyframe.evaluate.report.published import MARKS, Published
from skyframe.evaluate.report.ranks import Rank

SIDE_PX = 256
"""Of a map or confusion picture; larger maps are thinned."""
BAR_PX = 6


def rank_table(ranks: Sequence[Rank], colours: Mapping[str, str], num_encoders: int) -> str:
    """Encoders by mean rank, with intervals on one axis."""
    marks = [Interval(r.encoder, r.value, r.lo, r.hi, colours[r.encoder]) for r in ranks]
    rows = "".join(
        f'<tr><td class="task"><i class="dot" style="background:{m.colour}"></i>{escape(m.label)}</td>'
        f"<td>{m.value:.2f}<small>{m.lo:.2f} to {m.hi:.2f}</small></td>"
        f"<td>{interval_plot([m], 1, num_encoders, 320)}</td></tr>"
        for m in marks
    )
    head = f"<thead><tr><th>encoder</th><th>mean rank</th><th>1 to {num_encoders}</th></tr></thead>"
    return f'<div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>'


def published_table(numbers: Sequence[Published], sources: Mapping[str, str]) -> str:
    """Reference rows, in another style than own scores, with their sources below."""
    rows = "".join(
        f"<tr><td>{escape(n.datasets[0])}<small>{escape(n.family)}</small></td><td>{escape(n.model)}</td>"
        f"<td>{n.percent:g}<small>{escape(n.metric)}</small></td><td>{escape(n.setting) or '-'}</td>"
        f"<td>{escape(n.protocol)}</td><td>{escape(n.source)}<small>{escape(n.mark)}</small></td></tr>"
        for n in numbers
    )
    head = "".join(f"<th>{h}</th>" for h in ("data set", "model", "published", "setting", "protocol", "source"))
    used = [f"<li>{escape(s)}: {escape(sources[s])}</li>" for s in dict.fromkeys(n.source for n in numbers)]
    used += [f"<li>{m}: {escape(MARKS[m])}</li>" for m in dict.fromkeys(n.mark for n in numbers)]
    table = f'<table class="foreign"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<div class="scroll">{table}</div><ul class="sources">{"".join(used)}</ul>'


def class_figures(
    task: str, protocol: str, found: Mapping[str, PerClass], colours: Mapping[str, str], is_open: bool
) -> str:
    """Bars per class and a confusion picture per encoder, under a heading that folds."""
    metrics = list(dict.fromkeys(m for f in found.values() for m in f.values))
    classes = next(iter(found.values())).classes
    bars = [
        class_bars(metric, classes, {n: f.values[metric] for n, f in found.items() if metric in f.values}, colours)
        for metric in metrics
    ]
    pictures = [
        f'<figure><figcaption>{escape(name)} <em>confusion</em></figcaption><img src="{data_uri(picture, scale)}" '
        f'alt="confusion of {escape(name)}"><div class="legend">rows: truth, columns: answer; classes as listed'
        "</div></figure>"
        for name, f in found.items()
        if f.confusion is not None
        for picture, scale in [confusion_picture(f.confusion)]
    ]
    state = " open" if is_open else ""
    heading = f"<summary>{escape(task.replace('_', ' '))}, {escape(protocol)}</summary>"
    confusions = f'<div class="maps">{"".join(pictures)}</div>' if pictures else ""
    return f'<details{state}>{heading}<div class="grid3">{"".join(bars)}</div>{confusions}</details>'


def class_bars(
    metric: str, classes: Sequence[str], values: Mapping[str, Sequence[float]], colours: Mapping[str, str]
) -> str:
    """One group of bars per class, one bar per encoder, 0 to 100 %; a class without any unit has none."""
    group = BAR_PX * len(values) + 6
    left, width, height = 130, 350, group * len(classes) + 18
    parts = []
    for number, name in enumerate(classes):
        top = number * group
        label = name if len(name) <= 20 else name[:19] + "…"
        parts.append(
            f'<text class="tick" x="{left - 6}" y="{top + group / 2 + 2:.1f}" text-anchor="end">{escape(label)}'
            f"<title>{escape(name)}</title></text>"
        )
        for k, (encoder, row) in enumerate(values.items()):
            value = row[number] if number < len(row) else math.nan
            if math.isfinite(value):
                long = max(0.0, min(value, 1.0)) * (width - left - 10)
                parts.append(
                    f'<rect x="{left}" y="{top + 3 + k * BAR_PX}" width="{long:.1f}" height="{BAR_PX - 1}" '
                    f'fill="{colours[encoder]}"><title>{escape(encoder)} {escape(name)} {100 * value:.1f}</title>'
                    "</rect>"
                )
    for share in (0.0, 0.5, 1.0):
        x = left + share * (width - left - 10)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{height - 16}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{height - 4}" text-anchor="middle">{100 * share:.0f}</text>')
    legend = "".join(f'<span><i style="background:{colours[n]}"></i>{escape(n)}</span>' for n in values)
    svg = (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(metric)} per class">{"".join(parts)}</svg>'
    )
    caption = f"<figcaption>{escape(metric)} per class <em>%</em></figcaption>"
    return f'<figure class="chart">{caption}{svg}<div class="legend">{legend}</div></figure>'


def confusion_picture(counts: NDArray[np.int64]) -> tuple[Rgb, int]:
    """Share of each true class by answer, white to blue, `[C, C, 3]`, and how much to enlarge it; classes without any
    unit are grey."""
    total = counts.sum(1, keepdims=True)
    share = np.sqrt(counts / np.maximum(total, 1))[..., None]  # the root, so that rare mistakes are seen
    blue = np.array([33, 76, 140])
    rgb: Rgb = np.where(total[..., None] > 0, 255 + share * (blue - 255), 228).round().astype(np.uint8)
    return rgb, max(1, SIDE_PX // len(counts))


def map_figures(task: str, protocol: str, items: Mapping[str, Mapping[str, PredictedMap]]) -> str:
    """For each item the picture where there is one, the truth, and every encoder's answer."""
    made, used, classes = [], set(), next(iter(next(iter(items.values())).values())).classes
    for item, by_encoder in items.items():
        first = next(iter(by_encoder.values()))
        panels = [] if first.picture is None else [("picture", _thin(first.picture))]
        panels += [("truth", _thin(mask_colours(first.truth, classes)))]
        panels += [(name, _thin(mask_colours(m.predicted, classes))) for name, m in by_encoder.items()]
        used |= {int(c) for m in by_encoder.values() for a in (m.truth, m.predicted) for c in np.unique(a[a >= 0])}
        figures = "".join(_map_figure(name, item, rgb) for name, rgb in panels)
        made.append(f'<p class="note">{escape(item)}</p><div class="maps">{figures}</div>')
    colours = class_colours(classes)
    legend = "".join(
        f'<span><i style="background:rgb{tuple(colours[i].tolist())}"></i>{escape(classes[i])}</span>'
        for i in sorted(used)
        if i < len(classes)
    )
    heading = f"<summary>{escape(task.replace('_', ' '))}, {escape(protocol)}</summary>"
    return f'<details open>{heading}{"".join(made)}<div class="legend">{legend}</div></details>'


def _map_figure(name: str, item: str, rgb: Rgb) -> str:
    image = f'<img src="{data_uri(rgb, max(1, 176 // max(rgb.shape[:2])))}" alt="{escape(name)} of {escape(item)}">'
    return f"<figure><figcaption>{escape(name)}</figcaption>{image}</figure>"


def _thin(rgb: Rgb) -> Rgb:
    step = -(-max(rgb.shape[:2]) // SIDE_PX)
    return np.ascontiguousarray(rgb[::step, ::step])
