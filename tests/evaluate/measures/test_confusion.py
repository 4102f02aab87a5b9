import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torchmetrics.functional.classification import multiclass_f1_score, multiclass_jaccard_index

from skyframe.evaluate.measures.confusion import ConfusionMeasure, by_cluster, confusion_of
from skyframe.evaluate.measures.measure import interval_of, paired_difference, value_of
from skyframe.spec import InputError


def measure(truth, answer, clusters=8, classes=("a", "b", "c"), ignored=()):
    parts = [(str(k), confusion_of(truth[k::clusters], answer[k::clusters], len(classes))) for k in range(clusters)]
    return ConfusionMeasure(by_cluster(parts), classes, ignored)


def random_pair(num_classes=3, seed=0, num=400):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, num_classes, num)
    return truth, np.where(rng.random(num) < 0.6, truth, rng.integers(0, num_classes, num))


def test_values_by_hand():
    made = ConfusionMeasure(np.array([[[5, 1], [0, 0]], [[2, 0], [1, 1]]]), ("same", "changed"))
    assert (made.num_clusters, made.num_units) == (2, 10)
    # together [[7, 1], [1, 1]]
    assert value_of(made, "accuracy") == pytest.approx(8 / 10)
    assert value_of(made, "f1") == value_of(made, "f1:changed") == pytest.approx(2 / 4)
    assert value_of(made, "iou") == pytest.approx(1 / 3)
    assert value_of(made, "iou:same") == pytest.approx(7 / 9)
    assert value_of(made, "miou") == pytest.approx((7 / 9 + 1 / 3) / 2)
    assert value_of(made, "balanced_accuracy") == pytest.approx((7 / 8 + 1 / 2) / 2)
    second_twice = made.scores("f1", np.array([[0, 2], [1, 0]]))
    assert second_twice[0] == pytest.approx(2 * 2 / (2 + 4)) and second_twice[1] == 0


def test_a_class_that_never_occurs_has_no_score_of_its_own_and_enters_no_mean():
    made = ConfusionMeasure(np.array([[[3, 1, 0], [0, 4, 0], [0, 0, 0]]]), ("a", "b", "c"))
    assert np.isnan(value_of(made, "iou:c"))
    assert value_of(made, "mf1") == value_of(made, "macro_f1") == pytest.approx((6 / 7 + 8 / 9) / 2)


def test_ignored_classes_leave_the_mean_but_their_pixels_still_count_as_errors():
    truth, answer = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 2, 1, 2])
    made = measure(truth, answer, clusters=1, ignored=("c",))
    assert value_of(made, "mf1") == pytest.approx((1 + 2 * 1 / (2 + 2)) / 2)
    assert value_of(made, "macro_f1") == pytest.approx((1 + 0.5 + 0.5) / 3)


def test_agrees_with_torchmetrics_and_scikit_learn():
    truth, answer = random_pair()
    made, t, a = measure(truth, answer), torch.from_numpy(truth), torch.from_numpy(answer)
    assert value_of(made, "miou") == pytest.approx(float(multiclass_jaccard_index(a, t, 3)), abs=1e-6)
    assert value_of(made, "macro_f1") == pytest.approx(float(multiclass_f1_score(a, t, 3, "macro")), abs=1e-6)
    for i, name in enumerate("abc"):
        assert value_of(made, f"f1:{name}") == pytest.approx(f1_score(truth == i, answer == i), abs=1e-6)


def test_resampled_clusters_are_the_metric_of_the_joined_units():
    truth, answer = random_pair(seed=2)
    found = measure(truth, answer).scores("miou", np.array([[2, 0, 0, 1, 0, 0, 0, 0]]))
    joined = [0, 0, 3]
    plain = measure(*(np.concatenate([x[k::8] for k in joined]) for x in (truth, answer)), clusters=1)
    assert found[0] == pytest.approx(value_of(plain, "miou"), abs=1e-12)
    lo, hi = interval_of(measure(truth, answer), "miou", 200, seed=1)
    assert lo < value_of(measure(truth, answer), "miou") < hi
    better = measure(truth, truth)
    assert paired_difference(better, measure(truth, answer), "f1:a", 100, seed=0)[1] > 0


def test_unlabelled_units_are_not_counted():
    counts = confusion_of(np.array([[-1, 1], [0, 1]]), np.array([[1, 1], [1, 0]]), 2)
    assert counts.tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize(
    ("metric", "said"), [("f1", "need two classes"), ("iou:d", "expected one of a, b, c"), ("map", "miou")]
)
def test_a_metric_of_something_else_is_refused(metric, said):
    with pytest.raises(InputError, match=said):
        value_of(measure(*random_pair()), metric)
