"""Up-head: bit-equal to a 1x1 convolution with pixel shuffle on integers, and its crop."""

import pytest
import torch
from einops import rearrange
from torch.nn import functional

from skyframe.model.decoder import UpHead
from skyframe.spec import InputError


def whole_numbers(*shape, seed=0):
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(seed)).float()


def test_equals_convolution_and_pixel_shuffle_bit_for_bit():
    head = UpHead(5, 3, 2)
    head.weight.data, head.bias.data = whole_numbers(12, 5), whole_numbers(12, seed=1)
    x = whole_numbers(2, 5, 4, 7, seed=2)  # sums of small whole numbers are exact in any order
    kernel = rearrange(head.weight, "(k c) d -> (c k) d 1 1", c=3)
    bias = rearrange(head.bias, "(k c) -> (c k)", c=3)
    expected = functional.pixel_shuffle(functional.conv2d(x, kernel, bias), 2)
    ours = head(rearrange(x, "b d h w -> b (h w) d"), (4, 7))
    assert torch.equal(rearrange(ours, "b (h w) c -> b c h w", h=8), expected)
    cropped = head(rearrange(x, "b d h w -> b (h w) d"), (4, 7), (7, 13))
    assert torch.equal(rearrange(cropped, "b (h w) c -> b c h w", h=7), expected[:, :, :7, :13])


def test_one_token_by_hand():
    head = UpHead(1, 2, 2)
    head.weight.data = torch.arange(8.0)[:, None]
    tokens = head(torch.ones(1, 1, 1), (1, 1))
    assert tokens.tolist() == [[[0, 1], [2, 3], [4, 5], [6, 7]]]


def test_errors():
    head = UpHead(4, 2, 2)
    with pytest.raises(InputError, match="up-head: 6 tokens, expected 9 for a grid of 3 x 3"):
        head(torch.zeros(1, 6, 4), (3, 3))
    with pytest.raises(InputError, match="crop 5 x 4, expected at most 4 x 4"):
        head(torch.zeros(1, 4, 4), (2, 2), (5, 4))
