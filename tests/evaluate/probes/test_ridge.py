import numpy as np
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from skyframe.evaluate.probes.ridge import ridge_predictions


def test_every_penalty_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(80, 6)) * [1, 2, 3, 4, 5, 6] + 3).astype(np.float32)
    values = (rows[:, :2] @ [[1, 2], [3, 4]] + rng.normal(size=(80, 2))).astype(np.float32)
    queries = rng.normal(size=(9, 6)).astype(np.float32)
    penalties = (1e-2, 1.0, 1e3)
    found, again = ridge_predictions(rows, values, (queries, rows), penalties)
    scaler = StandardScaler().fit(rows.astype(np.float64))
    for k, alpha in enumerate(penalties):
        reference = Ridge(alpha=alpha).fit(scaler.transform(rows.astype(np.float64)), values)
        assert np.abs(found[k] - reference.predict(scaler.transform(queries.astype(np.float64)))).max() < 1e-5
        assert again.shape == (3, 80, 2)


def test_more_features_than_rows_and_constant_ones_stay_finite():
    rows = np.random.default_rng(1).normal(size=(5, 40)).astype(np.float32)
    rows[:, 3] = 7.0
    values = np.arange(5, dtype=np.float32)[:, None]
    (found,) = ridge_predictions(rows, values, (rows,), (1e-2, 1e6))
    assert np.abs(found[0] - values).max() < 0.1  # nearly interpolated
    assert np.abs(found[1] - 2.0).max() < 0.01  # the mean
