"""Normaliser and validity on the position grid."""

import pytest
import torch

from skyframe.model.stem import normalise, position_valid
from skyframe.spec import InputError


def test_normalise_by_hand():
    values = torch.tensor([2000, 4000], dtype=torch.int32).reshape(1, 1, 2, 1, 1).expand(1, 1, 2, 1, 2)
    valid = torch.tensor([[[[True, False]]]])
    out = normalise(values, valid, torch.tensor([[True, True]]), (0.1, 0.2), (0.1, 0.5), scale=1e-4, offset=0.0)
    assert out.dtype == torch.float32
    assert torch.allclose(out[0, 0, :, 0], torch.tensor([[1.0, 0.0], [0.4, 0.0]]))
    shifted = normalise(values, valid, torch.tensor([[True, True]]), (0.1, 0.2), (0.1, 0.5), scale=1e-4, offset=-0.1)
    assert shifted[0, 0, 0, 0, 0].item() == pytest.approx(0.0, abs=1e-6)


def test_what_is_stored_at_invalid_pixels_and_absent_bands_is_never_read():
    values = torch.full((1, 2, 3, 4, 4), torch.nan)
    values[:, 0, :2] = 5.0
    valid = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    valid[:, 0] = True
    out = normalise(values, valid, torch.tensor([[True, True, False]]), [1.0] * 3, [2.0] * 3)
    assert torch.equal(out[:, 0, :2], torch.full((1, 2, 4, 4), 2.0))
    assert not out[:, 1].any() and not out[:, 0, 2].any()


def test_statistics_must_fit_the_bands():
    with pytest.raises(InputError, match="3 bands with 2 means and 2 standard deviations"):
        normalise(
            torch.zeros(1, 1, 3, 2, 2), torch.ones(1, 1, 2, 2, dtype=torch.bool), torch.ones(1, 3), (0, 0), (1, 1)
        )


def test_position_valid_pools_shares():
    valid = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    valid[0, 0, :2, :2] = True
    valid[0, 0, 0, 2] = True
    assert position_valid(valid, 2).tolist() == [[[True, True, False, False]]]
    assert position_valid(valid, 2, threshold=0.25).tolist() == [[[True, True, False, False]]]
    assert position_valid(valid, 2, threshold=0.5).tolist() == [[[True, False, False, False]]]
    assert torch.equal(position_valid(valid, 4)[0, 0], valid.flatten())


def test_position_valid_of_a_ragged_size_counts_real_pixels():
    valid = torch.zeros(2, 3, 5, 5, dtype=torch.bool)
    valid[..., 4, 4] = True
    assert position_valid(valid, 3, threshold=1.0)[1, 2].tolist() == [False] * 8 + [True]
    with pytest.raises(InputError, match="5 x 5 pixels cannot be cut into 4 x 4 equal cells"):
        position_valid(valid, 4)
    with pytest.raises(InputError, match="2 x 2 pixels cannot be cut into 4 x 4"):
        position_valid(valid[..., :2, :2], 4)
