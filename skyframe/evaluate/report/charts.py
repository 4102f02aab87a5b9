"""Line charts and interval plots as inline SVG, without any script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#97266d", "#b7791f", "#4a5568", "#0987a0", "#9b2c2c")
"""Line colours, told apart in grey as well."""

WIDTH, HEIGHT = 350, 208
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 30
MAX_POINTS = 240

Points = Sequence[tuple[float, float]]  # step, value


@dataclass(frozen=True)
class Interval:
    """One mark of an interval plot."""

    label: str
    value: float
    lo: float
    hi: float
    colour: str


def line_chart(
    title: str,
    lines: Mapping[str, Points],
    unit: str = "",
    x_name: str = "step",
    band: Sequence[tuple[float, float, float]] = (),
) -> str:
    """A figure with one line per name; long runs are averaged into bins.

    Args:
        title: heading.
        lines: name -> points in rising x; values that are not finite are left out.
        unit: of the y axis, shown beside the title.
        x_name: of the x axis.
        band: x, lower and upper end of the interval around the first line, in rising x.
    """
    thinned = {name: _thin([(x, y) for x, y in points if math.isfinite(y)]) for name, points in lines.items()}
    thinned = {name: points for name, points in thinned.items() if points}
    if not thinned:
        return ""
    xs = [x for points in thinned.values() for x, _ in points]
    band = [p for p in band if all(map(math.isfinite, p))]
    ys = [y for points in thinned.values() for _, y in points] + [y for _, *ends in band for y in ends]
    x_lo, x_hi = min(xs), max(max(xs), min(xs) + 1)
    ticks = nice_ticks(min(ys), max(ys))
    y_lo, y_hi = min(ticks[0], min(ys)), max(ticks[-1], max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x_lo) / (x_hi - x_lo) * (WIDTH - LEFT - RIGHT)
        return across, TOP + (1 - (y - y_lo) / (y_hi - y_lo)) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{place(x_lo, t)[1]:.1f}" '
        f'y2="{place(x_lo, t)[1]:.1f}"/>'
        for t in ticks
    ]
    parts += [
        f'<text class="tick" x="{LEFT - 6}" y="{place(x_lo, t)[1] + 3.5:.1f}" text-anchor="end">{_number(t)}</text>'
        for t in ticks
    ]
    for t, anchor in ((x_lo, "start"), (x_hi, "end")):
        parts.append(
            f'<text class="tick" x="{place(t, y_lo)[0]:.1f}" y="{HEIGHT - 10}" '
            f'text-anchor="{anchor}">{_number(t)}</text>'
        )
    parts.append(
        f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" '
        f'text-anchor="middle">{escape(x_name)}</text>'
    )
    around = [place(x, lo) for x, lo, _ in band] + [place(x, hi) for x, _, hi in reversed(band)]
    parts += [f'<polygon fill="{COLOURS[0]}" opacity="0.18" points="{_path(around)}"/>'] if around else []
    for number, (name, points) in enumerate(thinned.items()):
        parts += _line(name, [place(*p) for p in points], COLOURS[number % len(COLOURS)])
    heading = escape(title) + (f" <em>{escape(unit)}</em>" if unit else "")
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    legend = f'<div class="legend">{_legend(thinned)}</div>'
    return f'<figure class="chart"><figcaption>{heading}</figcaption>{svg}{legend}</figure>'


def _path(places: Points) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _line(name: str, places: Points, colour: str) -> list[str]:
    """A line with its name, and a dot at its end."""
    end_x, end_y = places[-1]
    return [
        f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" stroke-linejoin="round" points="{_path(places)}">'
        f"<title>{escape(name)}</title></polyline>",
        f'<circle cx="{end_x:.1f}" cy="{end_y:.1f}" r="2.4" fill="{colour}"/>',
    ]


def _legend(lines: Mapping[str, Points]) -> str:
    """Each line's colour, name and last value."""
    return "".join(
        f'<span><i style="background:{COLOURS[n % len(COLOURS)]}"></i>{escape(name)} <b>{_number(points[-1][1])}</b>'
        "</span>"
        for n, (name, points) in enumerate(lines.items())
    )


def interval_plot(marks: Sequence[Interval], lo: float, hi: float, width: int = 210) -> str:
    """Dots with whiskers on one axis from `lo` to `hi`, one line per mark."""
    step, pad = 9, 6
    height = step * len(marks) + 2

    def place(value: float) -> float:
        return pad + (value - lo) / max(hi - lo, 1e-9) * (width - 2 * pad)

    parts = []
    for number, mark in enumerate(marks):
        y = step * number + step / 2 + 1
        note = f"<title>{escape(mark.label)} {mark.value:.3f} [{mark.lo:.3f}, {mark.hi:.3f}]</title>"
        parts.append(
            f'<line x1="{place(mark.lo):.1f}" x2="{place(mark.hi):.1f}" y1="{y}" y2="{y}" stroke="{mark.colour}" '
            'stroke-width="2" opacity="0.45"/>'
        )
        parts.append(f'<circle cx="{place(mark.value):.1f}" cy="{y}" r="3" fill="{mark.colour}">{note}</circle>')
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg class="whisker" {size} role="img">{"".join(parts)}</svg>'


def nice_ticks(lo: float, hi: float, wanted: int = 4) -> list[float]:
    """Round numbers that cover `lo` to `hi`."""
    if hi - lo < 1e-12 * max(1.0, abs(hi)):
        lo, hi = (lo - 0.5, hi + 0.5) if lo == 0 else (lo - abs(lo) * 0.1, hi + abs(hi) * 0.1)
    rough = (hi - lo) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(lo / step + 1e-9), math.ceil(hi / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MAX_POINTS points, each the mean of a bin."""
    if len(points) <= MAX_POINTS:
        return list(points)
    size = math.ceil(len(points) / MAX_POINTS)
    bins = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in b) / len(b), sum(y for _, y in b) / len(b)) for b in bins]


def _number(value: float) -> str:
    """Three significant digits, plain for everyday sizes."""
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.1e}"
