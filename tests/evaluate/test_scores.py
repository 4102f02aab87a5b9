"""The file of a run's scores by step."""

import pytest

from skyframe.evaluate.protocol import read_rows
from skyframe.evaluate.scores import curves_of, forget_scores, keep_scores, read_scores, step_folder
from skyframe.spec import InputError
from tests.evaluate.test_protocol import make_row


def rows(value: float):
    """One score with two seeds."""
    about = {"task": "a", "metric": "accuracy", "lo": 0.0, "hi": 1.0}
    return [make_row(seed=seed, value=v, **about) for seed, v in enumerate((value, value + 0.2))]


def test_a_step_replaces_itself_and_stands_in_order(tmp_path):
    assert read_scores(tmp_path) == []
    for step, value in ((20, 0.5), (10, 0.1), (20, 0.6)):
        step_folder(tmp_path, step).mkdir(exist_ok=True)
        keep_scores(tmp_path, step, rows(value))
    found = read_scores(tmp_path)
    assert [(s.step, s.seed, s.value) for s in found] == [(10, 0, 0.1), (10, 1, 0.1 + 0.2), (20, 0, 0.6), (20, 1, 0.8)]
    assert [r.value for r in read_rows(tmp_path / "step_00000020/results.csv")] == [0.6, 0.8]
    assert curves_of(found, 20) == {"eval/a/knn/accuracy": pytest.approx(0.7)}
    forget_scores(tmp_path, 10)
    assert {s.step for s in read_scores(tmp_path)} == {10} and not step_folder(tmp_path, 20).exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scores.jsonl", "step_00000010"]


def test_an_edited_line_is_named(tmp_path):
    step_folder(tmp_path, 1).mkdir()
    keep_scores(tmp_path, 1, rows(0.5))
    with (tmp_path / "scores.jsonl").open("a") as file:
        file.write('{"step": 2}\n')
    with pytest.raises(InputError, match=r"scores.jsonl: line 3 is no score"):
        read_scores(tmp_path)
