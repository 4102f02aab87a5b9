import numpy as np
import pytest

from skyframe.evaluate.measures.measure import value_of
from skyframe.evaluate.measures.semantic_change import change_counts, semantic_change
from skyframe.spec import InputError


def naive(truth, answer, num_classes):
    """Pixel by pixel, as the paper says it."""
    both = either = 0
    hit, union, occurs = np.zeros(num_classes), np.zeros(num_classes), np.zeros(num_classes, bool)
    for t in range(len(truth) - 1):
        for y, x in np.ndindex(truth.shape[1:]):
            a, b, p, q = truth[t, y, x], truth[t + 1, y, x], answer[t, y, x], answer[t + 1, y, x]
            both += a != b and p != q
            either += a != b or p != q
            if a != b and b >= 0:
                occurs[b] = True
                for k in range(num_classes):
                    hit[k] += b == k and q == k
                    union[k] += b == k or q == k
    bc = both / either
    sc = np.mean([hit[k] / union[k] for k in range(num_classes) if occurs[k]])
    return bc, sc


def test_values_by_hand():
    """Of four pixels two change, 0 -> 1 and 0 -> 2; the answer says the first rightly, misses the second, and sees a
    change 1 -> 0 where there is none."""
    truth = np.array([[[0, 0, 1, 2]], [[1, 2, 1, 2]]])
    answer = np.array([[[0, 1, 1, 2]], [[1, 1, 0, 2]]])
    made = semantic_change(change_counts(truth, answer, 3)[None], 3)
    assert value_of(made, "bc") == pytest.approx(1 / 3)
    assert value_of(made, "sc") == pytest.approx((1 / 2 + 0) / 2)  # class 1: hit once, also said for class 2
    assert value_of(made, "scs") == pytest.approx((1 / 3 + 1 / 4) / 2)
    # 0 -> {0: 1, 1: 1}, 1 -> {1: 2, 0: 1}, 2 -> {1: 1, 2: 2}
    assert value_of(made, "miou") == pytest.approx((1 / 3 + 2 / 5 + 2 / 3) / 3)
    assert (made.num_clusters, made.num_units) == (1, 4)


def test_agrees_with_the_naive_form_over_clusters():
    rng = np.random.default_rng(0)
    truth = rng.integers(-1, 4, (3, 4, 5, 6))
    answer = np.where(rng.random(truth.shape) < 0.5, truth.clip(0), rng.integers(0, 4, truth.shape))
    made = semantic_change(np.stack([change_counts(t, a, 4) for t, a in zip(truth, answer, strict=True)]), 4)
    joined = [np.concatenate([x[0], x[2], x[2]], axis=1) for x in (truth, answer)]
    bc, sc = naive(*joined, 4)
    counts = np.array([[1, 0, 2]])
    assert made.scores("bc", counts)[0] == pytest.approx(bc, abs=1e-12)
    assert made.scores("sc", counts)[0] == pytest.approx(sc, abs=1e-12)
    assert made.scores("scs", counts)[0] == pytest.approx((bc + sc) / 2, abs=1e-12)


def test_the_right_answer_scores_one_and_none_at_all_scores_nan():
    truth = np.random.default_rng(1).integers(0, 3, (3, 4, 4))
    assert value_of(semantic_change(change_counts(truth, truth, 3)[None], 3), "scs") == 1
    still = np.zeros((2, 4, 4), int)
    assert np.isnan(value_of(semantic_change(change_counts(still, still, 3)[None], 3), "scs"))


def test_another_metric_is_refused():
    still = semantic_change(change_counts(np.zeros((2, 1, 1), int), np.zeros((2, 1, 1), int), 2)[None], 2)
    with pytest.raises(InputError, match="expected scs, bc, sc or miou"):
        value_of(still, "f1")
