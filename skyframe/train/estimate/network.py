"""What a step sends between ranks, and how much of it the step has to wait for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from skyframe.config.skysense import SkySenseRecipe
from skyframe.train.deepspeed_config import bucket_elements, prefetch_elements
from skyframe.train.estimate.gathering import Rules, gathered
from skyframe.train.estimate.memory import PLAIN_BUCKET, Stage
from skyframe.train.estimate.rehearsal import Rehearsal, Sent, wire_bytes

LATENCY_S = 20e-6
"""Start of a collective per doubling of the ranks, seconds  # ours: the order of NCCL over InfiniBand"""

DDP_BUCKET_BYTES = 25 * 2**20
"""Gradients that DDP joins for one collective (its `bucket_cap_mb`)."""

DDP_FIRST_BYTES = 2**20
"""And for the first, so that sending begins early."""

GROUPS = 2
"""Parameter groups of the optimizer, with weight decay and without: ZeRO-1 to 3 treat them one by one."""


@dataclass(frozen=True)
class Network:
    """Bandwidths of a cluster, in one direction."""

    intra_gbps: float  # Gbit/s of one GPU to the others of its node
    inter_gbps: float  # Gbit/s of one node to the others
    gpus_per_node: int

    def seconds(self, sent: Sent, num_ranks: int, times: int = 1) -> float:
        """Time of `times` collectives of this size together, in rings: over nodes as fast as the node's own network.

        Args:
            sent: kind, and bytes of all `times` together.
        """
        if num_ranks == 1:
            return 0.0
        gbps = self.intra_gbps if num_ranks <= self.gpus_per_node else min(self.intra_gbps, self.inter_gbps)
        return wire_bytes(sent, num_ranks) * 8 / (gbps * 1e9) + times * LATENCY_S * math.ceil(math.log2(num_ranks))


@dataclass(frozen=True)
class Traffic:
    """Collectives of one purpose in one optimizer step."""

    what: str
    kind: str  # all_reduce, all_gather, reduce_scatter, broadcast
    times: int
    bytes: int  # of all `times` together: the whole result on a rank
    hides_behind: Literal["backward", "passes", "nothing"]  # what it can run beside


def strategy_traffic(
    stage: Stage, trainable: int, step: Rehearsal, micro_steps: int, num_ranks: int, rules: Rules | None = None
) -> list[Traffic]:
    """What the strategy itself sends in one optimizer step.

    DDP and ZeRO-0, 1 and 2 sum float32 gradients by all-reduce, in DeepSpeed too; ZeRO-2 does it in every micro-step.
    ZeRO-1 and 2 then gather the new parameters. ZeRO-3 gathers a module's parameters when it runs and they are not
    whole, scatters gradients in every micro-step, and after the step gathers the small parameters that stay whole. The
    norm is a number per group; DDP and ZeRO-0 ask all ranks whether their gradients are finite.

    Args:
        stage: strategy.
        trainable: parameters that want a gradient.
        step: of one micro-step, for what ZeRO-3 gathers.
        micro_steps: passes per optimizer step.
        num_ranks: N; one rank sends nothing.
        rules: of ZeRO-3; by default those of `deepspeed_config`.
    """
    if num_ranks == 1:
        return []
    size, buckets = 4 * trainable, math.ceil(trainable / bucket_elements(trainable))
    check = Traffic("gradient check", "all_reduce", 1, 4, "nothing")
    if stage == "ddp":
        times = 1 + math.ceil(max(0, size - DDP_FIRST_BYTES) / DDP_BUCKET_BYTES)
        return [Traffic("gradients", "all_reduce", times, size, "backward"), check]
    if stage == 0:
        times = math.ceil(trainable / PLAIN_BUCKET)
        norm = Traffic("gradient norm", "all_reduce", 1, 4, "nothing")
        return [Traffic("gradients", "all_reduce", times, size, "nothing"), norm, check]
    if stage < 3:
        turns = micro_steps if stage == 2 else 1
        return [
            Traffic("gradients", "all_reduce", buckets * turns, size * turns, "backward"),
            Traffic("new parameters", "all_gather", GROUPS, size, "nothing"),
            Traffic("gradient norm", "all_reduce", GROUPS, 4 * GROUPS, "nothing"),
        ]
    whole = gathered(step.uses, step.sizes, num_ranks, rules or Rules(prefetch_elements(trainable)))
    made = [
        Traffic("parameters", "all_gather", whole.times * micro_steps, 4 * whole.elements * micro_steps, "passes"),
        Traffic("small parameters", "all_gather", whole.kept_times, 4 * whole.kept_elements, "nothing"),
        Traffic("gradients", "reduce_scatter", buckets * micro_steps, size * micro_steps, "backward"),
        Traffic("gradient norm", "all_reduce", GROUPS, 8 * GROUPS, "nothing"),
    ]
    return [traffic for traffic in made if traffic.times]


def system_traffic(recipe: SkySenseRecipe, step: Rehearsal, micro_steps: int, num_ranks: int) -> list[Traffic]:
    """The same under every strategy: collectives of the losses as rehearsed, of `after_step`, and Lightning's own.

    Of the prototypes it is the most that a step can need: every sample of the batch in a region of its own.
    """
    if num_ranks == 1:
        return []
    made = []
    for kind in ("all_reduce", "all_gather"):
        sizes = [s.bytes for s in step.sent if s.kind == kind]
        if sizes:
            made.append(Traffic("losses", kind, len(sizes) * micro_steps, sum(sizes) * micro_steps, "nothing"))
    after = after_step_sent(recipe, num_ranks)
    for kind in ("all_reduce", "all_gather"):
        sizes = [s.bytes for s in after if s.kind == kind]
        if sizes:
            made.append(Traffic("centres and bank", kind, len(sizes), sum(sizes), "nothing"))
    return [*made, Traffic("stop signal", "broadcast", micro_steps, 8 * micro_steps, "nothing")]


def after_step_sent(recipe: SkySenseRecipe, num_ranks: int, num_regions: int | None = None) -> list[Sent]:
    """Collectives of SkySense's `after_step`.

    Args:
        recipe: checked recipe.
        num_ranks: N.
        num_regions: distinct regions of the step's samples; by default as many as there are samples or regions.
    """
    loss, geo, sent = recipe.loss, recipe.model.geo, []
    sources = len(loss.sources) or len(recipe.data.modalities) + 1
    if loss.alpha > 0 and loss.cl == "dino" and loss.centering == "ema":
        one = [Sent("all_reduce", 4 * recipe.model.head.outputs), Sent("all_reduce", 4)]
        sent += one * (sources * len(loss.granularity))
    if geo.enabled:
        grid = recipe.data.regions
        most = recipe.train.global_batch if grid is None else min(recipe.train.global_batch, grid.num_regions)
        u = most if num_regions is None else num_regions
        local = min(u, math.ceil(recipe.train.global_batch / num_ranks))
        masses = Sent("all_reduce", 8 * u * geo.num_prototypes)
        sent += [Sent("all_reduce", 8), Sent("all_gather", 8 * local * num_ranks), Sent("all_reduce", 8 * u)]
        sent += [masses] * (geo.iterations + 1)
        sent.append(Sent("all_reduce", 8 * u * geo.num_prototypes * geo.dims))
    return [*sent, Sent("all_reduce", 4 * len(recipe.data.modalities))]


def exposed_seconds(
    traffic: Iterable[Traffic], network: Network, num_ranks: int, passes_s: float, backward_s: float
) -> float:
    """Time that a step waits for the network.

    What hides behind the backward pass shows where it is longer than that, and its last bucket always; what hides
    behind all passes shows where it is longer than they are.

    Args:
        passes_s: forward and backward passes of an optimizer step, seconds.
        backward_s: its last backward pass, seconds.
    """
    waits = 0.0
    for t in traffic:
        whole = network.seconds(Sent(t.kind, t.bytes), num_ranks, t.times)
        last = whole / t.times
        if t.hides_behind == "backward":
            waits += last + max(0.0, whole - last - backward_s)
        elif t.hides_behind == "passes":
            waits += last + max(0.0, whole - last - passes_s)
        else:
            waits += whole
    return waits
