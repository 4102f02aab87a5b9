import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from torchmetrics.functional.regression import r2_score as torch_r2

from skyframe.evaluate.measures.measure import value_of
from skyframe.evaluate.measures.regression import regression
from skyframe.spec import InputError


def test_values_by_hand():
    made = regression(np.array([[1.0], [2.0], [6.0], [np.nan]]), np.array([[2.0], [2.0], [4.0], [9.0]]), np.arange(4))
    assert made.num_units == 3
    assert value_of(made, "rmse") == pytest.approx(np.sqrt(5 / 3))
    assert value_of(made, "mae") == pytest.approx(1.0)
    assert value_of(made, "bias") == pytest.approx(-1 / 3)
    assert value_of(made, "nse") == value_of(made, "r2") == pytest.approx(1 - 5 / 14)
    assert value_of(made, "nnse") == pytest.approx(1 / (1 + 5 / 14))


def test_agrees_with_scikit_learn_and_torchmetrics():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(200, 3)) * [1, 20, 300] + [5, 1000, -7000]
    answer = truth + rng.normal(size=truth.shape) * [0.5, 5, 900]
    made = regression(truth, answer, np.arange(200) % 17)
    assert value_of(made, "rmse") == pytest.approx(root_mean_squared_error(truth, answer), rel=1e-9)
    assert value_of(made, "mae") == pytest.approx(mean_absolute_error(truth, answer), rel=1e-9)
    assert value_of(made, "r2") == pytest.approx(r2_score(truth, answer), abs=1e-9)
    assert value_of(made, "r2") == pytest.approx(float(torch_r2(*map(torch.from_numpy, (answer, truth)))), abs=1e-6)
    twice = made.scores("r2", np.array([[2, 0, 1] + [0] * 14]))[0]
    rows = np.concatenate([np.flatnonzero(np.arange(200) % 17 == k) for k in (0, 0, 2)])
    assert twice == pytest.approx(r2_score(truth[rows], answer[rows]), abs=1e-9)


def test_truth_that_never_varies_explains_nothing():
    made = regression(np.full((4, 1), 3.0), np.ones((4, 1)), np.zeros(4, int))
    assert np.isnan(value_of(made, "nse")) and value_of(made, "rmse") == pytest.approx(2.0)


def test_what_is_no_number_or_no_metric_is_refused():
    with pytest.raises(InputError, match="not finite"):
        regression(np.ones((1, 1)), np.full((1, 1), np.nan), np.zeros(1, int))
    with pytest.raises(InputError, match="expected rmse"):
        value_of(regression(np.ones((2, 1)), np.ones((2, 1)), np.arange(2)), "miou")
