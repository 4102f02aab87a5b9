import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, top_k_accuracy_score
from torchmetrics.functional.classification import multilabel_average_precision

from skyframe.evaluate.measures import ranking
from skyframe.evaluate.measures.measure import interval_of, value_of
from skyframe.evaluate.measures.ranking import MultilabelMeasure, TopMeasure, average_precision, rank_of
from skyframe.spec import InputError


def random_labels(num=300, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.random((num, classes)) < 0.3
    score = np.round(0.5 * truth + rng.random((num, classes)), 1) / 1.5  # many ties
    return MultilabelMeasure(truth, score.astype(np.float32), np.arange(num) % 11)


def test_average_precision_by_hand():
    truth, score = np.array([1, 0, 1, 0], bool), np.array([0.9, 0.8, 0.7, 0.1], np.float32)
    cluster = np.arange(4)
    plain, negative_twice, no_positive = average_precision(
        truth, score, cluster, np.array([[1, 1, 1, 1], [1, 2, 1, 1], [0, 1, 0, 1]])
    )
    assert plain == pytest.approx((1 + 2 / 3) / 2)
    assert negative_twice == pytest.approx((1 + 2 / 4) / 2)
    assert np.isnan(no_positive)


def test_multilabel_agrees_with_scikit_learn_and_torchmetrics():
    made = random_labels()
    truth, p = made.truth, made.probability
    assert value_of(made, "map") == pytest.approx(average_precision_score(truth, p, average="macro"), abs=1e-6)
    assert value_of(made, "map_micro") == pytest.approx(average_precision_score(truth, p, average="micro"), abs=1e-6)
    other = multilabel_average_precision(torch.from_numpy(p), torch.from_numpy(truth).long(), 4)
    assert value_of(made, "map") == pytest.approx(float(other), abs=1e-6)
    assert value_of(made, "macro_f1") == pytest.approx(f1_score(truth, p >= 0.5, average="macro"), abs=1e-6)
    assert value_of(made, "micro_f1") == pytest.approx(f1_score(truth, p >= 0.5, average="micro"), abs=1e-6)


def test_resampled_clusters_are_the_metric_of_the_joined_rows(monkeypatch):
    made = random_labels()
    counts = np.array([[1] * 11, [0, 3, 0, 0, 1, 0, 0, 0, 0, 0, 0]])
    rows = np.concatenate([np.flatnonzero(made.cluster == k) for k in (1, 1, 1, 4)])
    joined = average_precision_score(made.truth[rows], made.probability[rows], average="macro")
    assert made.scores("map", counts)[1] == pytest.approx(joined, abs=1e-6)
    whole = made.scores("map_micro", counts)
    monkeypatch.setattr(ranking, "ROWS_AT_ONCE", 1)
    np.testing.assert_allclose(made.scores("map_micro", counts), whole, rtol=1e-12)
    lo, hi = interval_of(made, "map", 50, seed=0)
    assert lo < value_of(made, "map") < hi


def test_a_class_without_a_positive_enters_no_mean():
    truth = np.array([[1, 0], [0, 0]], bool)
    made = MultilabelMeasure(truth, np.array([[0.2, 0.1], [0.9, 0.3]], np.float32), np.arange(2))
    assert value_of(made, "map") == pytest.approx(0.5)


def test_top_k_by_hand_and_by_scikit_learn():
    score = np.array([[0.1, 0.6, 0.3], [0.5, 0.4, 0.1], [0.2, 0.2, 0.6]])
    assert rank_of(score, np.array([2, 0, 1])).tolist() == [1, 0, 2], "of equals the lower number is first"
    made = TopMeasure(rank_of(score, np.array([2, 0, 1])), np.array([0, 0, 1]))
    assert value_of(made, "top1") == pytest.approx(1 / 3) and value_of(made, "top2") == pytest.approx(2 / 3)
    assert made.scores("top1", np.array([[2, 1], [0, 5]])).tolist() == [pytest.approx(2 / 5), 0]
    rng = np.random.default_rng(0)
    many, truth = rng.random((200, 12)), rng.integers(0, 12, 200)
    found = value_of(TopMeasure(rank_of(many, truth), np.arange(200)), "top5")
    assert found == pytest.approx(top_k_accuracy_score(truth, many, k=5), abs=1e-6)


def test_other_metrics_are_refused():
    with pytest.raises(InputError, match="expected top1 or top5"):
        value_of(TopMeasure(np.zeros(1, int), np.zeros(1, int)), "top0")
    with pytest.raises(InputError, match="expected map"):
        value_of(random_labels(), "miou")
