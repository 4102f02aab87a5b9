import math
import re

import pytest

from skyframe.evaluate.report.charts import (
    HEIGHT,
    MAX_POINTS,
    WIDTH,
    Interval,
    interval_plot,
    line_chart,
    nice_ticks,
)


@pytest.mark.parametrize(
    ("lo", "hi", "ticks"),
    [
        (0, 10, [0, 2.5, 5, 7.5, 10]),
        (0.61, 0.89, [0.6, 0.7, 0.8, 0.9]),
        (3, 3, [2.7, 2.8, 3.0, 3.2, 3.4]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round_and_cover_the_range(lo, hi, ticks):
    found = nice_ticks(lo, hi)
    assert found[0] <= lo and found[-1] >= hi
    if lo != hi:
        assert found == pytest.approx(ticks)


def test_lines_stay_inside_the_figure_and_long_runs_are_binned():
    points = [(float(i), math.sin(i / 50)) for i in range(5000)]
    chart = line_chart("Loss <a>", {"one & two": points, "flat": [(0, 0.5), (4999, 0.5)]}, "units")
    paths = re.findall(r'points="([^"]+)"', chart)
    assert len(paths) == 2
    drawn = [tuple(map(float, p.split(","))) for path in paths for p in path.split()]
    assert len(drawn) <= MAX_POINTS + 2
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in drawn)
    assert "Loss &lt;a&gt; <em>units</em>" in chart and "one &amp; two" in chart


def test_values_that_are_not_finite_are_left_out_and_nothing_gives_no_figure():
    chart = line_chart("t", {"a": [(0, 1.0), (1, float("nan")), (2, 3.0)]})
    assert len(re.findall(r'points="([^"]+)"', chart)[0].split()) == 2
    assert line_chart("t", {"a": [(0, float("inf"))], "b": []}) == ""


def test_whiskers_span_the_interval():
    plot = interval_plot([Interval("a", 0.5, 0.0, 1.0, "#000")], 0.0, 1.0, width=112)
    assert 'x1="6.0" x2="106.0"' in plot and 'cx="56.0"' in plot
    assert "a 0.500 [0.000, 1.000]" in plot
