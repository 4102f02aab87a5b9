"""The ledger by hand."""

import pytest
import torch
from torch.nn import functional

from skyframe.train.estimate.ledger import Ledger


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_linear_map_costs_two_operations_per_weight_and_row_and_twice_that_backward(device):
    x = torch.ones(5, 7, device=device, requires_grad=True)
    w = torch.ones(11, 7, device=device, requires_grad=True)
    with Ledger([x, w]) as ledger:
        y = functional.linear(x, w)
        assert ledger.flops == 2 * 5 * 7 * 11
        assert (ledger.held, ledger.peak) == (5 * 11 * 4, 5 * 11 * 4)
        y.sum().backward()
        assert ledger.flops == 3 * 2 * 5 * 7 * 11
        assert ledger.peak >= (5 * 11 + 5 * 7 + 11 * 7) * 4, "the result and both gradients"
    del y
    assert ledger.held == (5 * 7 + 11 * 7) * 4, "the gradients of x and w stay"


def test_operations_seen_before_are_counted_again_and_keep_their_shapes():
    x = torch.ones(5, 7, device="meta")
    with Ledger([x]) as ledger:
        made = [x @ x.mT for _ in range(3)]
    assert ledger.flops == 3 * 2 * 5 * 7 * 5 and ledger.held == 3 * 25 * 4
    assert {(m.shape, m.dtype, m.device.type) for m in made} == {(torch.Size([5, 5]), torch.float32, "meta")}
