"""Counter-based randomness: a draw is a hash of (seed, epoch, sample index, purpose), equal on CPU, GPU and any rank.

The mixer is SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014). Nothing here has state, so a resumed run repeats
the very draws of the run that was interrupted.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX1 = 0xBF58476D1CE4E5B9
_MIX2 = 0x94D049BB133111EB


def _signed(value: int) -> int:
    """The int64 with the same bits, as torch has no uint64 arithmetic."""
    return value - (1 << 64) if value >= 1 << 63 else value


def hash64(*parts: int | str) -> int:
    """One 64-bit hash (0 <= h < 2**64) of integers and purpose names, in order."""
    state = 0
    for part in parts:
        number = zlib.crc32(part.encode()) if isinstance(part, str) else int(part)
        state = _mix((state + _GOLDEN + (number & _MASK)) & _MASK)
    return state


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * _MIX1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX2) & _MASK
    return z ^ (z >> 31)


def generator(*parts: int | str) -> np.random.Generator:
    """A NumPy generator keyed by `hash64(*parts)`: use it for the draws of one sample and purpose."""
    return np.random.Generator(np.random.Philox(key=hash64(*parts)))


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's `>>` copies the sign bit)."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix_tensor(z: Tensor) -> Tensor:
    z = (z ^ _shift_right(z, 30)) * _signed(_MIX1)
    z = (z ^ _shift_right(z, 27)) * _signed(_MIX2)
    return z ^ _shift_right(z, 31)


def uniform(key: int, counters: Tensor, num: int = 1) -> Tensor:
    """Uniform numbers in [0, 1), the same on every device.

    Args:
        key: `hash64(...)` of seed, epoch and purpose.
        counters: int64 `[B]`, one per sample (its global index), so that a draw never depends on its batch.
        num: numbers per sample.

    Returns:
        float32 `[B, num]` with 24 random bits each.
    """
    lanes = torch.arange(num, device=counters.device, dtype=torch.int64)
    state = _mix_tensor(counters.to(torch.int64)[:, None] + _signed((key + _GOLDEN) & _MASK))
    bits = _mix_tensor(state + (lanes[None] + 1) * _signed(_GOLDEN))
    return _shift_right(bits, 40).to(torch.float32) * (1.0 / (1 << 24))


def uniform_array(key: int, num: int) -> NDArray[np.float64]:
    """`uniform(key, arange(num))` in NumPy, `[num]`: the few draws of one sample, ten times as fast as a generator."""
    state = np.arange(num, dtype=np.uint64) + np.uint64((key + _GOLDEN) & _MASK)
    for step in (np.uint64(_GOLDEN), np.uint64(0)):
        state = (state ^ (state >> np.uint64(30))) * np.uint64(_MIX1)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(_MIX2)
        state = (state ^ (state >> np.uint64(31))) + step
    return (state >> np.uint64(40)).astype(np.float64) / (1 << 24)


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
            left, right = right, left ^ (_mix((key + turn * _GOLDEN + right * _MIX1) & _MASK) & mask)
        value = (left << half) | right
        if value < size:
            return value


@dataclass(frozen=True)
class Draw:
    """A named stream of per-sample random numbers: pass it down to drop path, masks and photometric changes.

    `counters`: int64 `[B]`, global sample indices. `None` in place of a Draw means "no randomness" (evaluation).
    """

    key: int
    counters: Tensor

    def named(self, *parts: int | str) -> Draw:
        """The stream of a layer or purpose: its numbers are independent of every other name's."""
        return Draw(hash64(self.key, *parts), self.counters)

    def repeat(self, times: int) -> Draw:
        """One stream per row after `B -> B * times` (frames or positions folded into the batch, sample-major).

        Rows of one sample share their sample's numbers, as drop path per sample wants.
        """
        return Draw(self.key, self.counters.repeat_interleave(times))

    def uniform(self, num: int = 1) -> Tensor:
        """float32 `[B, num]` in [0, 1)."""
        return uniform(self.key, self.counters, num)
