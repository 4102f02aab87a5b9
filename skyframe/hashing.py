"""The integer hash behind every random draw, for one counter or for an array of them. Torch-free: plans need no torch.

The mixer is SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014).
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
MIX1 = 0xBF58476D1CE4E5B9
MIX2 = 0x94D049BB133111EB

Hashes = NDArray[np.uint64]


def hash64(*parts: int | str) -> int:
    """One 64-bit hash (0 <= h < 2**64) of integers and purpose names, in order."""
    state = 0
    for part in parts:
        number = zlib.crc32(part.encode()) if isinstance(part, str) else int(part)
        state = _mix((state + GOLDEN + (number & MASK)) & MASK)
    return state


def hash_many(*parts: int | str | NDArray[np.integer[Any]]) -> Hashes:
    """`hash64` for each element of the parts that are arrays `[n]`, the others being the same for all: uint64 `[n]`."""
    state = np.zeros(1, np.uint64)
    for part in parts:
        if isinstance(part, str):
            part = zlib.crc32(part.encode())
        number = np.array([part & MASK], np.uint64) if isinstance(part, int) else part.astype(np.uint64)
        state = _mix_many(state + np.uint64(GOLDEN) + number)
    return state


def uniform_array(key: int, num: int) -> NDArray[np.float64]:
    """`randomness.uniform(key, arange(num))` in NumPy, `[num]` in [0, 1): the draws of one sample, far faster than by a
    generator."""
    counters: Hashes = np.arange(num, dtype=np.uint64)
    keyed: Hashes = np.add(counters, np.uint64((key + GOLDEN) & MASK), dtype=np.uint64)
    state = _mix_many(keyed)
    stepped: Hashes = np.add(state, np.uint64(GOLDEN), dtype=np.uint64)
    return (_mix_many(stepped) >> np.uint64(40)).astype(np.float64) / (1 << 24)


def permute_index(index: int, size: int, key: int) -> int:
    """Position of `index` under a seeded permutation of `range(size)`, in O(1) memory.

    A four-round Feistel network over the next even power of two, walked until the result falls inside: 21.5 million
    windows are shuffled without a list of them.
    """
    if not 0 <= index < size:
        raise ValueError(f"permute_index: index {index} is outside range({size})")
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    value = index
    while True:
        left, right = value >> half, value & mask
        for turn in range(4):
            left, right = right, left ^ (_mix((key + turn * GOLDEN + right * MIX1) & MASK) & mask)
        value = (left << half) | right
        if value < size:
            return value


def permute_many(index: NDArray[np.int64], size: NDArray[np.int64], key: Hashes) -> NDArray[np.int64]:
    """`permute_index` for arrays `[n]` of indices, sizes and keys."""
    if ((index < 0) | (index >= size)).any():
        raise ValueError("permute_many: an index is outside range(size)")
    bits = np.frexp((size - 1).astype(np.float64))[1]  # the exponent of an integer is its bit length
    half = np.maximum(1, (bits + 1) // 2).astype(np.uint64)
    value, bound = index.astype(np.uint64), size.astype(np.uint64)
    walking = np.arange(len(value))
    while len(walking):
        moved = _feistel(value[walking], half[walking], key[walking])
        value[walking] = moved
        walking = walking[moved >= bound[walking]]
    return value.astype(np.int64)


def _feistel(value: Hashes, half: Hashes, key: Hashes) -> Hashes:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = value >> half, value & mask
    for turn in range(4):
        salted: Hashes = np.add(key, np.uint64(turn * GOLDEN & MASK), dtype=np.uint64)
        mixed = _mix_many(np.add(salted, right * np.uint64(MIX1), dtype=np.uint64))
        left, right = right, left ^ (mixed & mask)
    return (left << half) | right


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * MIX1) & MASK
    z = ((z ^ (z >> 27)) * MIX2) & MASK
    return z ^ (z >> 31)


_SHIFT1, _SHIFT2, _SHIFT3, _MIX1, _MIX2 = (np.uint64(number) for number in (30, 27, 31, MIX1, MIX2))


def _mix_many(z: Hashes) -> Hashes:
    z = (z ^ (z >> _SHIFT1)) * _MIX1
    z = (z ^ (z >> _SHIFT2)) * _MIX2
    return z ^ (z >> _SHIFT3)
