"""Scores against steps on the report's page."""

import dataclasses
import re

from skyframe.evaluate.report.charts import line_chart
from skyframe.evaluate.report.scores_chart import score_charts
from skyframe.evaluate.scores import BASELINES, FOLDER, RESULTS, keep_scores, step_folder, write_rows
from tests.evaluate.test_protocol import make_row


def row(value: float, **more):
    about = {"task": "crops", "protocol": "knn", "metric": "accuracy", "seed": 0, "lo": value - 0.1, "hi": value + 0.1}
    return dataclasses.replace(make_row(), value=value, **(about | more))


def test_each_task_has_a_chart_with_its_interval_and_the_baselines_as_levels(tmp_path):
    assert score_charts(tmp_path) == []
    folder = tmp_path / FOLDER
    for step, value in ((100, 0.4), (200, 0.6)):
        step_folder(folder, step).mkdir(parents=True)
        keep_scores(folder, step, [row(value), row(value, protocol="knn_k5"), row(2.5, task="height", metric="rmse")])
    (folder / BASELINES).mkdir()
    write_rows(folder / BASELINES / RESULTS, [row(0.3, encoder="raw_pixels"), row(0.2, encoder="random_init")])
    (section,) = score_charts(tmp_path)
    charts = section.split("<figure")[1:]
    assert len(charts) == 2 and "crops: knn <em>accuracy, %</em>" in charts[0] and "<em>rmse</em>" in charts[1]
    legend = re.findall(r"</i>([a-z ]+) <b>([\d.]+)</b>", charts[0])
    assert legend == [("teacher", "60"), ("raw pixels", "30"), ("random weights", "20")]
    assert re.findall(r"</i>([a-z ]+) <b>([\d.]+)</b>", charts[1]) == [("teacher", "2.5")]
    assert all(chart.count("<polygon") == 1 for chart in charts)


def test_a_band_goes_along_the_lower_end_and_back_along_the_upper():
    chart = line_chart("t", {"a": [(0, 5), (10, 5)]}, band=[(0, 0, 10), (10, 4, 6)])
    (points,) = re.findall(r'<polygon[^>]* points="([^"]+)"', chart)
    (x0, lo0), (x1, lo1), (x2, hi1), (x3, hi0) = (tuple(map(float, p.split(","))) for p in points.split())
    assert x0 == x3 < x1 == x2 and lo0 > lo1 > hi1 > hi0  # y grows downwards
    assert "<polygon" not in line_chart("t", {"a": [(0, 5), (10, 5)]})
