"""What ZeRO-3 gathers in a pass: DeepSpeed's rules of fetching, prefetching and releasing, played through."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from skyframe.train.deepspeed_config import PERSISTENCE_ELEMENTS

FAR_ELEMENTS = 1_000_000_000
"""DeepSpeed's `stage3_max_live_parameters`, at which prefetching ends, and `stage3_max_reuse_distance`, within which a
parameter stays whole; both count elements."""


class Use(NamedTuple):
    """A module with parameters of its own begins or ends its forward pass, or begins its backward pass."""

    module: int
    when: Literal["forward", "after", "backward"]
    parameters: tuple[int, ...]  # their numbers in the system


@contextmanager
def uses_of(system: nn.Module) -> Iterator[list[Use]]:
    """Inside, every run of a system's modules is written down in order, recomputed ones too."""
    numbers = {id(p): i for i, p in enumerate(system.parameters())}
    uses: list[Use] = []

    def begin(number: int, own: tuple[int, ...], module: nn.Module, inputs: Any) -> None:
        uses.append(Use(number, "forward", own))

    def end(number: int, own: tuple[int, ...], module: nn.Module, inputs: Any, outputs: Any) -> None:
        uses.append(Use(number, "after", own))
        for x in tree_leaves(outputs):
            if isinstance(x, Tensor) and x.requires_grad:
                x.register_hook(lambda _: uses.append(Use(number, "backward", own)))

    handles = []
    for i, module in enumerate(system.modules()):
        own = tuple(numbers[id(p)] for p in module.parameters(recurse=False))
        if own:
            handles.append(module.register_forward_pre_hook(partial(begin, i, own)))
            handles.append(module.register_forward_hook(partial(end, i, own)))
    try:
        yield uses
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Rules:
    """DeepSpeed's settings of ZeRO-3, in elements."""

    prefetch: int  # stage3_prefetch_bucket_size: asked for ahead at a time
    persistent: int = PERSISTENCE_ELEMENTS  # stage3_param_persistence_threshold
    live: int = FAR_ELEMENTS  # stage3_max_live_parameters: where asking ahead ends
    reuse: int = FAR_ELEMENTS  # stage3_max_reuse_distance: what is wanted again within it stays whole


@dataclass(frozen=True)
class Gathered:
    """What ZeRO-3 makes whole, each parameter padded to a multiple of the ranks."""

    times: int  # collectives of one forward and backward pass
    elements: int  # of their results
    kept_times: int  # collectives after the optimizer step, of what is always whole
    kept_elements: int
    most_whole: int  # elements whole at a time


def gathered(uses: Iterable[Use], sizes: Sequence[int], num_ranks: int, rules: Rules) -> Gathered:
    """Play a pass through, from the third of a run on: DeepSpeed learns the order of modules in the second.

    Args:
        uses: of one micro-step, from `uses_of`.
        sizes: elements of every parameter of the system, by number.
        num_ranks: N.
        rules: when a parameter is gathered and released.

    Source: DeepSpeed 0.19, deepspeed/runtime/zero/partitioned_param_coordinator.py and stage3.py.
    """
    uses = list(uses)
    turn = _Pass(uses, [-(-size // num_ranks) * num_ranks for size in sizes], sizes, rules)
    released: set[int] = set()  # modules after a backward pass: DeepSpeed's counter misses those of earlier calls
    for use in uses:
        if use.when == "after":
            turn.release(use)
            continue
        turn.fetch(use)
        if use.when == "forward":
            released.discard(use.module)
        elif use.module not in released:
            released.add(use.module)
            turn.release(use)
    kept = [turn.padded[p] for p in turn.persistent]
    return Gathered(turn.times, turn.sent, len(kept), sum(kept), turn.most)


class _Pass:
    """Which parameters are whole, step by step; a step is a fetch."""

    def __init__(self, uses: list[Use], padded: list[int], sizes: Sequence[int], rules: Rules) -> None:
        self.padded, self.sizes, self.rules = padded, sizes, rules
        self.persistent = {p for p, size in enumerate(sizes) if size <= rules.persistent}
        self.whole = set(self.persistent)
        fetches = [u.parameters for u in uses if u.when != "after"]
        self.begins = [0, *accumulate(sum(sizes[p] for p in own) for own in fetches)]  # elements before each step
        self.steps: dict[int, list[int]] = {}
        for i, own in enumerate(fetches):
            for p in own:
                self.steps.setdefault(p, []).append(i)
        self.queue = deque((p, i) for i, own in enumerate(fetches) for p in sorted(own))
        self.covered: dict[int, int] = {}  # the last step for which a parameter was taken from the queue
        self.step = self.live = self.times = self.sent = 0
        self.most = self.always = sum(padded[p] for p in self.persistent)

    def fetch(self, use: Use) -> None:
        """Make a module's parameters whole, and those that the queue holds next."""
        own = set(use.parameters)
        self._gather(own - self.whole)
        pending = sum(self.covered.get(p, -1) < self.step for p in own)
        taken: set[int] = set()
        while self.queue and len(taken) < pending:
            p, self.covered[p] = self.queue.popleft()
            taken.add(p)
        room, ahead, asked = min(self.rules.live - self.live, self.rules.prefetch), set[int](), 0
        while self.queue and asked < room:
            p, step = self.queue.popleft()
            self.covered[p] = max(self.covered.get(p, -1), step)
            if p not in self.whole and p not in ahead:
                ahead.add(p)
                asked += self.sizes[p]
        self._gather(ahead)
        self.step += 1

    def _gather(self, parameters: set[int]) -> None:
        if parameters:
            self.times += 1
            self.sent += sum(self.padded[p] for p in parameters)
            self.whole |= parameters
            self.live += sum(self.sizes[p] for p in parameters)
            self.most = max(self.most, self.always + self.live)

    def release(self, use: Use) -> None:
        """Let go of what is not wanted again soon."""
        for p in set(use.parameters) & self.whole - self.persistent:
            later = bisect_left(self.steps[p], self.step)
            is_soon = later < len(self.steps[p]) and (
                self.begins[self.steps[p][later]] - self.begins[self.step] < self.rules.reuse
            )
            if not is_soon and self.covered.get(p, -1) <= self.step:
                self.whole.discard(p)
                self.live -= self.sizes[p]
