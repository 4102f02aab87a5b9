import numpy as np
import pytest
from sklearn import metrics as published

from skyframe.evaluate.measures.confusion import ConfusionMeasure, paired_interval
from skyframe.evaluate.measures.measure import interval_of, value_of
from skyframe.evaluate.measures.metrics import cluster_confusion, score
from skyframe.spec import InputError


def draw(seed=0, n=300, classes=4):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, n)
    return truth, np.where(rng.random(n) < 0.6, truth, rng.integers(0, classes, n))


def test_confusion_counts_per_cluster_in_ascending_order():
    counts = cluster_confusion(np.array([0, 1, 1]), np.array([0, 0, 1]), np.array([7, 3, 7]), 2)
    assert counts.tolist() == [[[0, 0], [1, 0]], [[1, 0], [0, 1]]]


def test_scores_by_hand():
    counts = np.array([[3, 1, 0], [2, 2, 0], [0, 0, 0]])  # the third class neither occurs nor is predicted
    assert score(counts, "accuracy") == pytest.approx(5 / 8)
    assert score(counts, "balanced_accuracy") == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert score(counts, "macro_f1") == pytest.approx((6 / 9 + 4 / 7) / 2)
    assert score(counts, "miou") == pytest.approx((3 / 6 + 2 / 5) / 2)


@pytest.mark.parametrize(
    ("metric", "reference"),
    [
        ("accuracy", published.accuracy_score),
        ("balanced_accuracy", published.balanced_accuracy_score),
        ("macro_f1", lambda t, p: published.f1_score(t, p, average="macro")),
        ("miou", lambda t, p: published.jaccard_score(t, p, average="macro")),
    ],
)
def test_scores_agree_with_scikit_learn(metric, reference):
    truth, predicted = draw()
    confusion = cluster_confusion(truth, predicted, np.zeros_like(truth), 4)[0]
    assert score(confusion, metric) == pytest.approx(reference(truth, predicted), abs=1e-12)


def test_unknown_metric_is_named():
    with pytest.raises(InputError, match=r"metric: 'auc' is not known, expected accuracy, balanced_accuracy"):
        score(np.eye(2), "auc")


def with_interval(counts, metric, resamples, seed):
    measure = ConfusionMeasure(counts, ())
    return value_of(measure, metric), *interval_of(measure, metric, resamples, seed)


def test_interval_matches_the_binomial_one_for_independent_rows():
    truth, predicted = draw(n=1000)
    value, lo, hi = with_interval(cluster_confusion(truth, predicted, np.arange(1000), 4), "accuracy", 2000, 0)
    half = 1.96 * np.sqrt(value * (1 - value) / 1000)
    assert value == pytest.approx((truth == predicted).mean())
    assert (value - lo, hi - value) == pytest.approx((half, half), rel=0.15)


def test_rows_that_repeat_inside_a_cluster_do_not_narrow_the_interval():
    truth, predicted = draw(n=100)
    single = with_interval(cluster_confusion(truth, predicted, np.arange(100), 4), "accuracy", 500, 0)
    copies = [np.repeat(x, 16) for x in (truth, predicted, np.arange(100))]
    repeated = with_interval(cluster_confusion(*copies, 4), "accuracy", 500, 0)
    assert repeated == pytest.approx(single)


def test_interval_is_the_same_for_the_same_seed_and_one_point_for_one_cluster():
    truth, predicted = draw()
    confusion = cluster_confusion(truth, predicted, np.arange(300) % 30, 4)
    assert with_interval(confusion, "miou", 100, 5) == with_interval(confusion, "miou", 100, 5)
    assert with_interval(confusion, "miou", 100, 5) != with_interval(confusion, "miou", 100, 6)
    value, lo, hi = with_interval(confusion[:1], "accuracy", 10, 0)
    assert value == lo == hi


def test_paired_difference_is_narrower_than_what_two_intervals_let_expect():
    rng = np.random.default_rng(0)
    truth, cluster = rng.integers(0, 4, 600), np.arange(600) % 30
    hard = np.isin(cluster, rng.permutation(30)[:15])  # both fail in the same clusters
    first = np.where(hard, (truth + 1) % 4, truth)
    second = np.where(rng.random(600) < 0.1, (truth + 1) % 4, first)
    both = [cluster_confusion(truth, predicted, cluster, 4) for predicted in (first, second)]
    value, lo, hi = paired_interval(*both, "accuracy", 1000, 0)
    assert value == pytest.approx((first == truth).mean() - (second == truth).mean())
    assert 0 < lo < value < hi
    single = [with_interval(c, "accuracy", 1000, 0) for c in both]
    assert single[0][1] < single[1][2]  # the single intervals overlap
    assert paired_interval(both[0], both[0], "miou", 100, 0) == (0.0, 0.0, 0.0)


def test_paired_difference_refuses_predictions_of_other_rows():
    truth, predicted = draw()
    counts = cluster_confusion(truth, predicted, np.arange(300) % 30, 4)
    with pytest.raises(InputError, match=r"paired difference: .* expected predictions for the same test rows"):
        paired_interval(counts, counts[::-1], "accuracy", 10, 0)
    with pytest.raises(InputError, match=r"paired difference: \(30, 4, 4\) and \(29, 4, 4\)"):
        paired_interval(counts, counts[1:], "accuracy", 10, 0)
