"""Window layouts: every token once, orders invert each other, masks by hand."""

import pytest
import torch

from skyframe.model.windows import PAD_MASK, SHIFT_MASK, reorder, window_layout

CPU = torch.device("cpu")


def test_order_of_a_small_map_by_hand():
    layout = window_layout(4, 4, 2, 0, True, CPU)
    assert layout.order.tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    assert layout.num_windows == 4 and layout.filled is None and layout.mask is None


def test_shift_brings_the_first_rows_to_the_end():
    layout = window_layout(4, 4, 2, 1, True, CPU)
    assert layout.order[:4].tolist() == [5, 6, 9, 10]
    assert layout.order[-4:].tolist() == [15, 12, 3, 0]  # the four corners meet and must not see each other
    assert torch.equal(layout.mask[0], torch.zeros(4, 4))
    assert torch.equal(layout.mask[-1], SHIFT_MASK * (1 - torch.eye(4)))


@pytest.mark.parametrize("size", [(5, 3), (8, 8), (20, 9), (1, 1)])
@pytest.mark.parametrize("shift", [0, 2])
def test_every_token_stands_once(size, shift):
    layout = window_layout(*size, 4, shift, True, CPU)
    count = size[0] * size[1]
    assert layout.order.sort().values.tolist() == list(range(count))
    assert torch.equal(layout.order[layout.inverse], torch.arange(count))
    slots = layout.num_windows * 16
    assert (layout.filled is None) == (slots == count)


def test_padding_is_hidden_only_on_request():
    hidden = window_layout(3, 4, 4, 0, True, CPU)
    assert hidden.filled.tolist() == list(range(12))
    assert torch.equal(hidden.mask[0, 0], torch.tensor([0.0] * 12 + [PAD_MASK] * 4))
    assert window_layout(3, 4, 4, 0, False, CPU).mask is None


def test_reorder_goes_there_and_back_with_its_gradient():
    plain, shifted = (window_layout(8, 12, 4, s, True, CPU) for s in (0, 2))
    x = torch.arange(2.0 * 96).reshape(2, 96, 1).requires_grad_()
    y = reorder(reorder(x, None, plain), plain, shifted)
    assert torch.equal(y[:, :, 0], x[:, shifted.order, 0])
    assert torch.equal(reorder(y, shifted, None), x)
    weight = torch.arange(96.0)[None, :, None]
    (y * weight).sum().backward()
    assert torch.equal(x.grad[0, shifted.order, 0], weight[0, :, 0])


def test_layouts_built_in_inference_mode_train():
    window_layout.cache_clear()
    with torch.inference_mode():
        window_layout(8, 8, 4, 2, True, CPU)
    layout = window_layout(8, 8, 4, 2, True, CPU)
    assert not layout.mask.is_inference() and not layout.order.is_inference()
