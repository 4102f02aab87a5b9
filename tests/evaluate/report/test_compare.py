"""The page that compares encoders: from results files with logs, predictions and maps beside them."""

import json
import shutil

import numpy as np
import pytest

from skyframe.evaluate.measures.metrics import cluster_confusion
from skyframe.evaluate.protocol import append_rows, digest
from skyframe.evaluate.report.compare import build_comparison
from skyframe.evaluate.report.compare_html import class_bars, confusion_picture
from skyframe.evaluate.report.log_view import (
    PredictedMap,
    find_log,
    maps_of,
    per_class_of,
    predictions_of,
    write_map,
)
from skyframe.evaluate.report.published import MARKS, load_published
from skyframe.evaluate.report.ranks import mean_ranks, near_best
from skyframe.evaluate.report.table import Cell, Line, pivot, shown
from skyframe.spec import InputError
from tests.evaluate.report.test_run_page import Page
from tests.evaluate.test_protocol import make_row

CLASSES = ["river", "forest", "town"]
TRUTH = np.arange(300) % 3


def answers(share, seed):
    """Right in a share of 300 units, wrong elsewhere."""
    wrong = np.random.default_rng(seed).permutation(300)[: round(300 * (1 - share))]
    return np.where(np.isin(np.arange(300), wrong), (TRUTH + 1) % 3, TRUTH)


def scored(folder, encoder, share, seed=1, task="resisc45", with_maps=False, role="encoder", **changes):
    """Rows, log and predictions of one encoder, as `skyframe evaluate` leaves them."""
    predicted, cluster = answers(share, seed), np.arange(300) // 3
    log = folder / "logs" / f"{task}-knn-{encoder}.json"
    log.parent.mkdir(parents=True, exist_ok=True)
    tree = {"classes": CLASSES, "maps": []}
    confusion = cluster_confusion(TRUTH, predicted, np.zeros(300, int), 3)[0]
    tree["protocols"] = [{"protocol": "knn", "confusion_true_by_predicted": confusion.tolist()}]
    if with_maps:
        shape, picture = (12, 25), np.full((12, 25, 3), 99, np.uint8)
        drawn = PredictedMap("a <tile>", "knn", TRUTH.reshape(shape), predicted.reshape(shape), tuple(CLASSES), picture)
        tree["maps"] = [write_map(log.with_name(f"{encoder}-0.npz"), drawn)]
    log.write_text(json.dumps(tree))
    np.savez(log.with_suffix(".npz"), truth=TRUTH, cluster=cluster, knn=predicted, unit=np.arange(300))
    fields = {
        "task": task, "encoder": encoder, "role": role, "value": share, "lo": share - 0.05, "hi": share + 0.05,
        "metric": "accuracy", "weights_sha256": encoder, "log": f"/elsewhere/logs/{log.name}", "num_clusters": 100,
        "predictions_sha256": digest(predicted), "source": f"{task} rgb", **changes,
    }  # fmt: skip
    append_rows(folder / "results.csv", [make_row(**fields)])
    return folder


@pytest.fixture
def two(tmp_path):
    """Two runs: `good` and `fair` cannot be told apart, `poor` can."""
    scored(tmp_path / "one", "raw_pixels", 0.3, 5, role="raw", weights_sha256="")
    scored(tmp_path / "one", "good", 0.80, 1, with_maps=True)
    scored(tmp_path / "two", "raw_pixels", 0.3, 5, role="raw", weights_sha256="")
    scored(tmp_path / "two", "fair", 0.78, 2, with_maps=True)
    scored(tmp_path / "two", "poor", 0.5, 3)
    scored(tmp_path / "two", "poor", 0.9, 3, task="aid", metric="rmse", lo=0.8, hi=1.0)
    return tmp_path


def page_of(*results, out):
    text = build_comparison(results, out).read_text()
    return Page(text), " ".join(" ".join(Page(text).text).split())


def test_page_is_whole_and_asks_for_nothing_outside_itself(two, tmp_path):
    page, text = page_of(two / "one", two / "two" / "results.csv", out=tmp_path / "new" / "c.html")
    assert not page.open and not {"script", "link", "iframe"} & set(page.tags)
    assert page.addresses and all(a.startswith("data:image/png;base64,") for a in page.addresses)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["c.html"]
    order = [
        text.index(f" {heading} ")
        for heading in ("Alarms", "Mean rank", "Scores", "Published numbers", "Classes", "Maps")
    ]
    assert order == sorted(order)


def test_page_tells_best_near_and_published(two, tmp_path):
    page, text = page_of(two / "one", two / "two", out=tmp_path / "c.html")
    assert page.bold[:2] == ["80.0", "0.9"]
    assert "78.0 ≈" in text and "50.0 ≈" not in text and "50.0 ~" not in text
    assert "raw_pixels (" not in text and "river" in text and "a <tile>" in text
    assert "SkySense" in text and "94.85" in text and "second-hand" in text and "Not the same protocol" in text
    assert "97.68" in text, "the published numbers of the second task"
    assert "0.8 to 1" in text, "an error in its unit, not in per cent"
    # confusion of four encoders for one task, one for the other; picture, truth, and two answers
    assert len(page.addresses) == 5 + 4
    assert "Mean over 1 task," in text and "Of 2 tasks the others lack an encoder" in text


def test_without_predictions_intervals_decide(two, tmp_path):
    shutil.rmtree(two / "two" / "logs")
    _, text = page_of(two / "one", two / "two", out=tmp_path / "c.html")
    assert "78.0 ~" in text and "50.0 ~" not in text
    assert "3 scores have no log beside them and are left out here" in text


def test_encoders_of_one_name_and_other_splits_are_told_apart(tmp_path):
    scored(tmp_path / "a" / "evaluation", "model", 0.7)
    scored(tmp_path / "b" / "evaluation", "model", 0.8, weights_sha256="other")
    _, text = page_of(tmp_path / "a" / "evaluation", tmp_path / "b" / "evaluation", out=tmp_path / "c.html")
    assert "model (a/evaluation)" in text and "model (b/evaluation)" in text
    assert "Mean over 1 task," in text
    scored(tmp_path / "d", "third", 0.9, split_sha256="0123456789", config_sha256="y")
    _, text = page_of(tmp_path / "a" / "evaluation", tmp_path / "d", out=tmp_path / "c.html")
    assert "resisc45: scored on 2 different splits, which stand in lines of their own" in text
    assert "resisc45 [split 012345]" in text
    scored(tmp_path / "e", "fourth", 0.9, config_sha256="yyyyyyyy")
    _, text = page_of(tmp_path / "a" / "evaluation", tmp_path / "e", out=tmp_path / "c.html")
    assert "resisc45 knn: scored by different settings (model x, fourth yyyyyy)" in text


def test_an_encoder_that_was_trained_on_is_shown_as_it_is_now(tmp_path):
    scored(tmp_path, "model", 0.7, weights_sha256="old")
    scored(tmp_path, "model", 0.8, weights_sha256="new")
    page, text = page_of(tmp_path, out=tmp_path / "c.html")
    assert page.bold == ["80.0"] and "70.0" not in text


def test_damaged_logs_are_one_sentence_and_write_nothing(two, tmp_path):
    log = two / "two" / "logs" / "resisc45-knn-fair.json"
    whole = log.read_bytes()
    log.write_bytes(whole[:40])
    with pytest.raises(InputError, match=r"fair.json: not valid JSON"):
        build_comparison([two / "one", two / "two"], tmp_path / "c.html")
    log.write_bytes(whole)
    log.with_name("fair-0.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match=r"fair-0.npz: not a map with truth and predicted"):
        build_comparison([two / "one", two / "two"], tmp_path / "c.html")
    log.with_suffix(".npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match=r"fair.npz: not the predictions of a score"):
        build_comparison([two / "one", two / "two"], tmp_path / "c.html")
    with pytest.raises(InputError, match=r"none/results.csv: no result rows"):
        build_comparison([two / "none" / "results.csv"], tmp_path / "c.html")
    assert not (tmp_path / "c.html").exists()


def test_logs_by_hand(tmp_path):
    scored(tmp_path, "good", 0.8, with_maps=True)
    row = make_row(protocol="knn", log="/elsewhere/logs/resisc45-knn-good.json")
    log = find_log(row, tmp_path)
    assert log == tmp_path / "logs" / "resisc45-knn-good.json"
    assert find_log(make_row(log="none.json"), tmp_path) is None
    told = per_class_of(log, "knn")
    tp, total = told.confusion[0, 0], told.confusion[0].sum() + told.confusion[:, 0].sum()
    assert told.values["F1"][0] == pytest.approx(2 * tp / total) and per_class_of(log, "linear") is None
    drawn = maps_of(log, "knn")
    assert (drawn[0].truth.ravel() == TRUTH).all() and drawn[0].classes == tuple(CLASSES) and maps_of(log, "x") == []
    log.write_text(
        json.dumps({"classes": ["car"], "protocols": [{"protocol": "detect", "per_class": {"ap50": [0.25]}}]})
    )
    assert per_class_of(log, "detect").values == {"ap50": [0.25]} and per_class_of(log, "detect").confusion is None
    log.write_text(
        json.dumps({"classes": ["a"], "protocols": [{"protocol": "knn", "confusion_true_by_predicted": [[1, 2]]}]})
    )
    with pytest.raises(InputError, match=r"confusion of shape \[1, 2\] for 1 classes"):
        per_class_of(log, "knn")
    np.savez(log.with_suffix(".npz"), truth=np.zeros(3), cluster=np.zeros(3, int), knn=np.zeros(3, int))
    assert predictions_of(make_row(log=str(log))) is None, "answers that are no classes"


def line(task, metric="accuracy", **values):
    return Line(task, "knn", metric, 9, 9, {n: Cell(v, v - 0.1, v + 0.1, 1) for n, v in values.items()})


def test_ranks_by_hand():
    lines = [line("t1", a=0.9, b=0.5, c=0.5), line("t2", a=0.1, b=0.2, c=0.3), line("t2", "rmse", a=3.0, b=2.0, c=9.0)]
    ranks, num = mean_ranks([*lines, line("t3", a=1.0)], ["a", "b", "c"])
    found = {r.encoder: r.value for r in ranks}
    # t1: 1, 2.5, 2.5; t2: mean of (3, 2, 1) and (2, 1, 3) = 2.5, 1.5, 2
    assert found == {"a": 1.75, "b": 2.0, "c": 2.25} and num == 2
    assert [r.encoder for r in ranks] == ["a", "b", "c"]
    assert all(r.lo <= r.value <= r.hi for r in ranks) and (ranks[0].lo, ranks[0].hi) == (1.0, 2.5)
    assert mean_ranks(lines, ["a", "z"]) == ([], 0)


def test_an_interval_of_one_task_is_its_rank():
    (first, second), _ = mean_ranks([line("t", a=0.2, b=0.4)], ["a", "b"])
    assert (first.encoder, first.value, first.lo, first.hi) == ("b", 1.0, 1.0, 1.0) and second.value == 2.0


def test_pairs_are_told_apart_where_single_intervals_overlap(tmp_path):
    """Two that err in the same units: the difference is certain although the intervals overlap."""
    scored(tmp_path, "a", 0.80, 1)
    scored(tmp_path, "b", 0.75, 1)  # wrong wherever `a` is, and in 15 units more
    rows = [
        make_row(
            encoder=n,
            value=v,
            lo=v - 0.05,
            hi=v + 0.05,
            metric="accuracy",
            log=str(tmp_path / "logs" / f"resisc45-knn-{n}.json"),
        )
        for n, v in (("a", 0.8), ("b", 0.75))
    ]
    (both,) = pivot(rows)
    assert near_best(both, rows) == {}
    assert near_best(both, [r.__class__(**{**r.__dict__, "log": ""}) for r in rows]) == {"b": "overlap"}


def test_scores_in_units_and_in_per_cent():
    assert shown("rmse", 0.8234) == "0.823" and shown("miou", 0.8234) == "82.3"
    assert line("t", "mae", a=0.3, b=0.2).best == ("b",)


def test_bars_and_confusion_by_hand():
    text = class_bars("F1", ["a & b", "c"], {"x": [0.5, float("nan")]}, {"x": "#123456"})
    assert text.count("<rect") == 1 and 'width="105.0"' in text and "a &amp; b" in text
    rgb, scale = confusion_picture(np.array([[4, 0], [0, 0]]))
    assert rgb[0, 0].tolist() == [33, 76, 140] and rgb[0, 1].tolist() == [255] * 3 and rgb[1, 0].tolist() == [228] * 3
    assert scale == 128


def test_published_numbers_are_whole_and_say_where_they_are_from():
    table = load_published()
    assert len(table.numbers) > 60 and {n.mark for n in table.numbers} == set(MARKS)
    (isaid,) = [n for n in table.of(["isaid"]) if n.model == "SkySense"]
    assert (isaid.percent, isaid.metric, isaid.mark) == (70.91, "miou", "confirmed")
    assert [n.percent for n in table.of(["dior-r"]) if n.model == "SkySense"] == [74.27]
    assert table.of(["dior"]) and not set(table.of(["dior"])) & set(table.of(["dior-r"]))
    assert all(0 < n.percent < 100 and n.protocol for n in table.numbers) and table.of(["nothing"]) == []
