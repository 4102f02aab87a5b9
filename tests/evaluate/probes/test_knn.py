import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from skyframe.evaluate.probes.knn import knn_means
from skyframe.spec import InputError


def clouds(num, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, num)
    centres = np.random.default_rng(9).normal(size=(3, 8))
    return (centres[labels] + rng.normal(0, 1.2, (num, 8))).astype(np.float32), labels


def one_hot(labels, num=3):
    return np.eye(num, dtype=np.float32)[labels]


def similarity(distance):
    return np.exp((1 - distance) / 0.07)


def test_class_shares_agree_with_scikit_learn_for_every_k():
    (bank, labels), (queries, _) = clouds(300, 0), clouds(120, 1)
    found = knn_means(bank, one_hot(labels), queries, [20, 5, 100], chunk=50)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries)]
    for k in (5, 20, 100):
        reference = KNeighborsClassifier(k, weights=similarity, metric="cosine", algorithm="brute")
        shares = reference.fit(unit[0], labels).predict_proba(unit[1])
        assert np.abs(found[k] - shares).max() < 1e-5
        assert (found[k].argmax(1) == shares.argmax(1)).all()


def test_numbers_and_several_labels_agree_with_scikit_learn():
    (bank, labels), (queries, _) = clouds(200, 0), clouds(60, 1)
    numbers = np.random.default_rng(3).normal(size=(200, 2)).astype(np.float32) + labels[:, None]
    many = np.stack([labels > 0, labels == 2], 1).astype(np.float32)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries)]
    for targets in (numbers, many):
        reference = KNeighborsRegressor(7, weights=similarity, metric="cosine", algorithm="brute").fit(unit[0], targets)
        assert np.abs(knn_means(bank, targets, queries, [7])[7] - reference.predict(unit[1])).max() < 1e-4


def test_votes_by_hand():
    bank = np.array([[1, 0], [0, 1], [0, 2]], np.float32)  # length does not count
    votes = one_hot(np.array([0, 1, 1]), 2)
    query = np.array([[1, 0.9]], np.float32)  # nearer to the first, whose single vote the other two outweigh
    assert knn_means(bank, votes, query, [1, 3])[1].tolist() == [[1.0, 0.0]]
    warm = knn_means(bank, votes, query, [3], temperature=1e6)[3]
    assert warm[0] == pytest.approx([1 / 3, 2 / 3], abs=1e-5)
    cold = knn_means(bank, votes, query, [3], temperature=0.01)[3]
    assert cold[0, 0] > 0.5


def test_too_few_rows_for_k_is_an_error():
    bank, labels = clouds(10, 0)
    with pytest.raises(InputError, match=r"knn: 10 training rows for k = 20, expected at least k; draw more windows"):
        knn_means(bank, one_hot(labels), bank, [20])
