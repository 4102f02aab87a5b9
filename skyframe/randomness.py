"""Counter-based randomness: a draw is a hash of (seed, epoch, sample index, purpose), equal on CPU, GPU and any rank.

Nothing here has state, so a resumed run repeats the very draws of the run that was interrupted. The hash itself is in
`hashing.py`, for those who need no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skyframe.hashing import GOLDEN, MASK, MIX1, MIX2, hash64, permute_index

__all__ = ["Draw", "generator", "hash64", "permute_index", "uniform"]


def _signed(value: int) -> int:
    """The int64 with the same bits, as torch has no uint64 arithmetic."""
    return value - (1 << 64) if value >= 1 << 63 else value


def generator(*parts: int | str) -> np.random.Generator:
    """A NumPy generator keyed by `hash64(*parts)`: use it for the draws of one sample and purpose."""
    return np.random.Generator(np.random.Philox(key=hash64(*parts)))


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's `>>` copies the sign bit)."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix_tensor(z: Tensor) -> Tensor:
    z = (z ^ _shift_right(z, 30)) * _signed(MIX1)
    z = (z ^ _shift_right(z, 27)) * _signed(MIX2)
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
    state = _mix_tensor(counters.to(torch.int64)[:, None] + _signed((key + GOLDEN) & MASK))
    bits = _mix_tensor(state + (lanes[None] + 1) * _signed(GOLDEN))
    return _shift_right(bits, 40).to(torch.float32) * (1.0 / (1 << 24))


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
