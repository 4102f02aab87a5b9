"""Counter-based randomness: hand values, independence of the batch, uniformity, a bijective order."""

import numpy as np
import pytest
import torch

from skyframe.hashing import uniform_array
from skyframe.randomness import Draw, generator, hash64, permute_index, uniform

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_hash_is_splitmix64() -> None:
    # first output of the published SplitMix64 generator seeded with 0 and with 1234567
    assert hash64(0) == 0xE220A8397B1DCDAF
    assert hash64(1234567) == 6457827717110365317


def test_hash_depends_on_every_part_and_their_order() -> None:
    seen = {hash64(1, 2), hash64(2, 1), hash64(1, 2, 0), hash64(1), hash64(1, "crop"), hash64(1, "dates"), hash64(-1)}
    assert len(seen) == 7 and all(0 <= h < 2**64 for h in seen)


def test_generator_repeats_itself_and_differs_by_key() -> None:
    first = generator(3, "dates", 17).random(4)
    assert np.array_equal(first, generator(3, "dates", 17).random(4))
    assert not np.array_equal(first, generator(3, "dates", 18).random(4))


def test_uniform_equals_integer_arithmetic() -> None:
    key, counters = hash64(5, "mask"), [0, 1, 2**40 + 3, -1]
    drawn = uniform(key, torch.tensor(counters), num=3)
    assert drawn.shape == (4, 3) and drawn.dtype == torch.float32
    for i, counter in enumerate(counters):
        state = _mix((counter + key + GOLDEN) & MASK)
        for lane in range(3):
            assert float(drawn[i, lane]) == (_mix((state + (lane + 1) * GOLDEN) & MASK) >> 40) / 2**24


def test_uniform_is_uniform_and_uncorrelated() -> None:
    drawn = uniform(hash64(0, "test"), torch.arange(20000), num=4).double()
    assert drawn.min() >= 0 and drawn.max() < 1
    assert (drawn.mean(0) - 0.5).abs().max() < 0.01 and (drawn.var(0) - 1 / 12).abs().max() < 0.002
    correlation = torch.corrcoef(torch.cat([drawn[:-1], drawn[1:]], 1).T) - torch.eye(8)
    assert correlation.abs().max() < 0.03
    counts = torch.histc(drawn[:, 0].float(), 20, 0, 1)
    assert counts.min() > 850 and counts.max() < 1150  # 1000 expected, standard deviation 31


def test_a_draw_does_not_depend_on_its_batch() -> None:
    draw = Draw(hash64(0, 3), torch.tensor([4, 9, 11]))
    assert torch.equal(draw.uniform(5)[1:2], Draw(draw.key, torch.tensor([9])).uniform(5))
    assert torch.equal(draw.uniform(2), draw.uniform(5)[:, :2])


def test_named_streams_differ_and_repeat_shares_numbers() -> None:
    draw = Draw(1, torch.tensor([4, 9]))
    assert not torch.equal(draw.named("a").uniform(), draw.named("b").uniform())
    assert not torch.equal(draw.named("layer", 0).uniform(), draw.named("layer", 1).uniform())
    assert draw.repeat(3).counters.tolist() == [4, 4, 4, 9, 9, 9]
    assert torch.equal(draw.repeat(3).uniform(), draw.uniform().repeat_interleave(3, 0))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1000])
def test_permute_index_is_a_bijection(size: int) -> None:
    assert sorted(permute_index(i, size, hash64(0, size)) for i in range(size)) == list(range(size))


def test_permute_index_differs_by_key_and_mixes_neighbours() -> None:
    order = [permute_index(i, 1000, hash64("epoch", 0)) for i in range(1000)]
    other = [permute_index(i, 1000, hash64("epoch", 1)) for i in range(1000)]
    assert sum(a == b for a, b in zip(order, other, strict=True)) < 10
    steps = np.abs(np.diff(order))
    assert 250 < steps.mean() < 420  # 333 for a random order
    assert abs(np.corrcoef(order, range(1000))[0, 1]) < 0.15


@pytest.mark.parametrize("index", [-1, 7])
def test_permute_index_refuses_what_is_outside(index: int) -> None:
    with pytest.raises(ValueError, match=rf"permute_index: index {index} is outside range\(7\)"):
        permute_index(index, 7, 0)


def test_millions_of_windows_need_no_list() -> None:
    size = 21_500_000
    assert len({permute_index(i, size, 1) for i in range(0, size, 100_003)}) == len(range(0, size, 100_003))


def test_uniform_array_is_uniform_over_its_counters() -> None:
    for key in (0, hash64(7, "dates"), 2**64 - 1):
        expected = uniform(key, torch.arange(50))[:, 0].double().numpy()
        assert np.array_equal(uniform_array(key, 50), expected)
