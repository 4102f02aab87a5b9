import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from skyframe.evaluate.probes.knn import knn_predict
from skyframe.spec import InputError


def clouds(num, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, num)
    centres = np.random.default_rng(9).normal(size=(3, 8))
    return (centres[labels] + rng.normal(0, 1.2, (num, 8))).astype(np.float32), labels


def test_agrees_with_scikit_learn_for_every_k():
    (bank, labels), (queries, _) = clouds(300, 0), clouds(120, 1)
    found = knn_predict(bank, labels, queries, 3, [20, 5, 100], chunk=50)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries)]
    for k in (5, 20, 100):
        reference = KNeighborsClassifier(
            k, weights=lambda d: np.exp((1 - d) / 0.07), metric="cosine", algorithm="brute"
        )
        assert (found[k] == reference.fit(unit[0], labels).predict(unit[1])).all()


def test_votes_by_hand():
    bank = np.array([[1, 0], [0, 1], [0, 2]], np.float32)  # length does not count
    query = np.array([[1, 0.9]], np.float32)  # nearer to the first, whose single vote the other two outweigh
    assert knn_predict(bank, np.array([0, 1, 1]), query, 2, [1, 3])[1].tolist() == [0]
    warm = knn_predict(bank, np.array([0, 1, 1]), query, 2, [3], temperature=10.0)
    cold = knn_predict(bank, np.array([0, 1, 1]), query, 2, [3], temperature=0.01)
    assert (warm[3].tolist(), cold[3].tolist()) == ([1], [0])


def test_too_few_rows_for_k_is_an_error():
    bank, labels = clouds(10, 0)
    with pytest.raises(InputError, match=r"knn: 10 training rows for k = 20, expected at least k; draw more windows"):
        knn_predict(bank, labels, bank, 3, [20])
