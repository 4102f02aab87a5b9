"""The hash of arrays is the hash of their elements; a permutation visits everything once."""

import numpy as np
import pytest

from skyframe.hashing import hash64, hash_many, permute_index, permute_many


def test_hash_of_arrays_is_that_of_their_elements():
    first, second = np.array([0, 1, 2**40 + 3, -1]), np.array([7, 7, 8, 9], np.int32)
    got = hash_many(5, first, "window", second)
    assert got.dtype == np.uint64
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    assert got.tolist() == [hash64(5, a, "window", b) for a, b in pairs]
    assert hash_many(0).tolist() == [0xE220A8397B1DCDAF]


def test_permutation_of_arrays_is_that_of_their_elements():
    sizes = np.repeat([1, 2, 5, 16, 17, 1000], [1, 2, 5, 16, 17, 1000])
    index = np.concatenate([np.arange(n) for n in (1, 2, 5, 16, 17, 1000)])
    keys = hash_many(3, sizes)
    got = permute_many(index, sizes, keys)
    assert got.tolist() == [
        permute_index(*item) for item in zip(index.tolist(), sizes.tolist(), keys.tolist(), strict=True)
    ]
    assert sorted(got[sizes == 1000].tolist()) == list(range(1000))
    with pytest.raises(ValueError, match="outside range"):
        permute_many(np.array([3]), np.array([3]), np.array([0], np.uint64))
