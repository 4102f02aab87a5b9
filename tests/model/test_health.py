"""Health figures against values by hand."""

import math

import pytest
import torch

from skyframe.model.health import effective_rank, feature_std


def test_effective_rank_counts_directions_used_alike():
    cross = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
    assert float(effective_rank(cross)) == pytest.approx(2.0)
    assert float(effective_rank(cross[:2])) == pytest.approx(1.0)
    assert float(effective_rank(torch.ones(4, 3))) == 1.0
    uneven = cross * torch.tensor([3.0, 1.0, 1.0])  # shares 0.9 and 0.1
    assert float(effective_rank(uneven)) == pytest.approx(math.exp(-0.9 * math.log(0.9) - 0.1 * math.log(0.1)))


def test_features_that_are_not_finite_have_no_rank_and_raise_nothing():
    for value in (math.nan, math.inf):
        assert math.isnan(float(effective_rank(torch.tensor([[1.0, 0.0], [value, 1.0]]))))


def test_spread_is_1_over_all_directions_and_0_for_one():
    assert float(feature_std(torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]))) == pytest.approx(1.0)
    assert float(feature_std(torch.ones(4, 2))) == pytest.approx(0.0, abs=1e-6)
