import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from skyframe.config.evaluate import LogisticConfig
from skyframe.evaluate.probes.logistic import logistic_scores


def rows(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 90)
    return (np.eye(3)[labels] + rng.normal(0, 0.6, (90, 3))).astype(np.float32), labels


def test_classes_are_scikit_learns_and_an_unseen_class_has_no_chance():
    (train, labels), (test, _) = rows(0), rows(1)
    found = dict(logistic_scores(train, labels, 5, [test], LogisticConfig(penalties=(0.1, 10.0))))
    scaler = StandardScaler().fit(train)
    for c in (0.1, 10.0):
        reference = LogisticRegression(C=c, max_iter=1000).fit(scaler.transform(train), labels)
        assert np.abs(found[c][0][:, :3] - reference.predict_proba(scaler.transform(test))).max() < 1e-9
        assert (found[c][0][:, 3:] == 0).all()


def test_several_labels_are_several_regressions_and_a_constant_one_is_its_value():
    train, labels = rows(0)
    many = np.stack([labels > 0, labels == 2, np.ones(90), np.zeros(90)], 1).astype(bool)
    ((_, (found,)),) = logistic_scores(train, many, 4, [train], LogisticConfig(penalties=(1.0,)))
    reference = LogisticRegression(max_iter=1000).fit(StandardScaler().fit_transform(train), many[:, 1])
    assert np.abs(found[:, 1] - reference.predict_proba(StandardScaler().fit_transform(train))[:, 1]).max() < 1e-9
    assert (found[:, 2] == 1).all() and (found[:, 3] == 0).all()
