"""What training a recipe costs on a cluster: memory, traffic and time for every strategy, and which one to take."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from skyframe.config.skysense import SkySenseRecipe
from skyframe.spec import InputError
from skyframe.train.estimate.memory import STAGES, Memory, Part, Stage, memory_of, parts_of
from skyframe.train.estimate.model import loss_of, system_on_meta, windows_on_meta
from skyframe.train.estimate.network import (
    Network,
    Traffic,
    exposed_seconds,
    strategy_traffic,
    system_traffic,
)
from skyframe.train.estimate.rehearsal import Rehearsal, Sent, rehearse

SCALES = (8, 32, 128)
"""Numbers of GPUs whose scaling efficiency is told."""

PREFERENCE: tuple[tuple[Stage, ...], ...] = (("ddp", 1, 2), (3,))
"""Simplest first; ZeRO-3 only where no number of micro-steps fits otherwise."""


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU and the nodes that it usually stands in."""

    bf16_tflops: float  # dense peak
    fp32_tflops: float  # without TF32, which PyTorch leaves off
    intra_gbps: float  # NVLink of one GPU in one direction, Gbit/s
    inter_gbps: float  # network of a node in one direction, Gbit/s: an adapter per GPU in a node of 8


GPUS = {
    "a100": Gpu(312, 19.5, 2400, 1600),
    "h100": Gpu(989, 67, 3600, 3200),
    "h200": Gpu(989, 67, 3600, 3200),
}
"""By name, SXM form, from NVIDIA's data sheets (A100, H100, H200; DGX A100 and H100 for the network)."""

MFU = 0.2
"""Share of the peak that counted operations reach: 24,600 A100-hours of the SkySense paper (arXiv 2312.10115, appendix)
for what `skyframe plan` counts for its 875,000 steps of 240 samples come to 20 % of 312 TFLOP/s."""


@dataclass(frozen=True)
class Cluster:
    """Where the recipe would run."""

    num_gpus: int
    gpu_bytes: int
    peak_flops: float  # per second and GPU, in the recipe's precision
    mfu: float  # share of the peak that the counted operations reach
    network: Network


@dataclass(frozen=True)
class Estimate:
    """One strategy at one micro batch."""

    stage: Stage
    micro_steps: int
    micro_batch: int  # samples per GPU and pass
    memory: Memory
    traffic: list[Traffic]
    compute_s: float
    exposed_s: float

    @property
    def step_s(self) -> float:
        """Seconds of an optimizer step."""
        return self.compute_s + self.exposed_s

    @property
    def efficiency(self) -> float:
        """Share of the step that computes: 1 = as one GPU alone."""
        return self.compute_s / self.step_s


@dataclass(frozen=True)
class Plan:
    """What `skyframe plan --gpus` tells."""

    recipe: SkySenseRecipe
    cluster: Cluster
    parts: list[Part]
    step: Rehearsal  # of one micro-step at the micro batch that is shown
    estimates: dict[Stage, Estimate]  # by strategy, at that micro batch
    chosen: Estimate | None  # None = nothing fits
    scaling: dict[int, Estimate]  # the shown strategy by number of GPUs, the batch per GPU unchanged

    @property
    def shown(self) -> Estimate:
        """What is chosen, or ZeRO-3 with the smallest micro batch where nothing fits."""
        return self.chosen or self.estimates[3]

    @property
    def gpu_hours(self) -> float:
        """Of all steps of the recipe."""
        return self.shown.step_s * self.recipe.train.max_steps * self.cluster.num_gpus / 3600


Look = Callable[[int], tuple[Rehearsal, dict[Stage, Estimate]]]
"""Micro-steps per optimizer step -> one of them rehearsed, and every strategy with it."""


def plan_training(recipe: SkySenseRecipe, cluster: Cluster) -> Plan:
    """Estimate every strategy for a recipe on a cluster, without a GPU and without data.

    The largest micro batch that fits is taken, as terms that couple samples see micro batch x GPUs of them; of the
    strategies that fit with it the simplest (DDP, ZeRO-1, ZeRO-2), and ZeRO-3 where none of these fits with any.

    Raises:
        InputError: the global batch cannot be shared among so many GPUs.
    """
    per_gpu = batch_per_gpu(recipe, cluster.num_gpus)
    parts, look = rehearsed(recipe, cluster)
    splits = [k for k in range(1, per_gpu + 1) if per_gpu % k == 0]
    chosen = first_fit(splits, look, cluster.gpu_bytes)
    step, estimates = look(chosen.micro_steps if chosen else splits[-1])
    shown = chosen or estimates[3]
    scaling = {n: _at_scale(recipe, parts, step, shown, cluster, n) for n in SCALES}
    return Plan(recipe, cluster, parts, step, estimates, chosen, scaling)


def _at_scale(
    recipe: SkySenseRecipe, parts: list[Part], step: Rehearsal, shown: Estimate, cluster: Cluster, num_gpus: int
) -> Estimate:
    """The same strategy and batch per GPU on another number of GPUs; rows that the losses gather grow with it."""
    grown = tuple(Sent(s.kind, s.bytes * num_gpus // _rehearsed_ranks(cluster.num_gpus)) for s in step.sent)
    wider = with_batch(recipe, shown.micro_batch * shown.micro_steps * num_gpus)
    again = dataclasses.replace(step, sent=grown)
    return estimate(wider, parts, again, shown.stage, shown.micro_batch, shown.micro_steps, cluster, num_gpus)


def _rehearsed_ranks(num_gpus: int) -> int:
    """At least two, so that a plan for one GPU knows what more of them would send."""
    return max(2, num_gpus)


def with_batch(recipe: SkySenseRecipe, global_batch: int, max_steps: int | None = None) -> SkySenseRecipe:
    """The recipe with another global batch and, where given, number of steps; nothing else follows it."""
    steps = recipe.train.max_steps if max_steps is None else max_steps
    return dataclasses.replace(
        recipe, train=dataclasses.replace(recipe.train, global_batch=global_batch, max_steps=steps)
    )


def batch_per_gpu(recipe: SkySenseRecipe, num_gpus: int) -> int:
    """Samples of an optimizer step on each GPU.

    Raises:
        InputError: it is no whole number.
    """
    batch = recipe.train.global_batch
    if batch % num_gpus:
        shares = [n for n in range(1, batch + 1) if batch % n == 0]
        near = min(shares, key=lambda n: abs(n - num_gpus))
        raise InputError(
            f"plan {recipe.name}: train.global_batch {batch} cannot be shared by {num_gpus} GPUs, expected a multiple "
            f"of {num_gpus}; use --global-batch {math.ceil(batch / num_gpus) * num_gpus} or --gpus {near}"
        )
    return batch // num_gpus


def rehearsed(recipe: SkySenseRecipe, cluster: Cluster) -> tuple[list[Part], Look]:
    """The recipe's modules, and a function that estimates every strategy at a number of micro-steps, once for each."""
    system = system_on_meta(recipe)
    parts, per_gpu = parts_of(system), batch_per_gpu(recipe, cluster.num_gpus)
    seen: dict[int, tuple[Rehearsal, dict[Stage, Estimate]]] = {}

    def look(micro_steps: int) -> tuple[Rehearsal, dict[Stage, Estimate]]:
        if micro_steps not in seen:
            size, n = per_gpu // micro_steps, cluster.num_gpus
            step = rehearse(
                system,
                lambda: loss_of(recipe, system, windows_on_meta(recipe, size)),  # the windows are on the device too
                in_bf16(recipe),
                _rehearsed_ranks(n),
            )
            seen[micro_steps] = (
                step,
                {s: estimate(recipe, parts, step, s, size, micro_steps, cluster, n) for s in STAGES},
            )
        return seen[micro_steps]

    return parts, look


def first_fit(splits: Sequence[int], look: Look, gpu_bytes: int) -> Estimate | None:
    """The simplest strategy at the fewest micro-steps that fits; None where nothing does."""
    for stages in PREFERENCE:
        for micro_steps in splits:
            made = look(micro_steps)[1]
            for stage in stages:
                if made[stage].memory.fits(gpu_bytes):
                    return made[stage]
    return None


def in_bf16(recipe: SkySenseRecipe) -> bool:
    """Whether the recipe trains in bfloat16."""
    return recipe.train.precision == "bf16-mixed"


def estimate(
    recipe: SkySenseRecipe,
    parts: list[Part],
    step: Rehearsal,
    stage: Stage,
    micro_batch: int,
    micro_steps: int,
    cluster: Cluster,
    num_gpus: int,
) -> Estimate:
    """Memory, traffic and time of one strategy on `num_gpus` GPUs of a cluster, from one rehearsed micro-step.

    Time is operations (recomputed ones too) over the share `mfu` of the peak, plus what waits for the network. Reading
    is taken to keep up.
    """
    trained = sum(p.trainable for p in parts)
    speed = cluster.peak_flops * cluster.mfu
    backward_s = step.backward_flops / speed
    compute_s = micro_steps * (step.forward_flops / speed + backward_s)
    traffic = strategy_traffic(stage, trained, step, micro_steps, num_gpus)
    traffic += system_traffic(recipe, step, micro_steps, num_gpus)
    every = stage in (2, 3)  # gradients go out in every micro-step
    waits = exposed_seconds(traffic, cluster.network, num_gpus, compute_s, backward_s * (micro_steps if every else 1))
    memory = memory_of(parts, step, stage, num_gpus, micro_steps)
    return Estimate(stage, micro_steps, micro_batch, memory, traffic, compute_s, waits)


def out_of_memory(recipe: SkySenseRecipe, stage: Stage, cluster: Cluster) -> str:
    """One sentence for a run that ends for want of GPU memory at its start: the estimate, and what to change.

    Args:
        recipe: as it ran.
        stage: its strategy.
        cluster: its GPUs and their memory; speeds do not matter.
    """
    _, look = rehearsed(recipe, cluster)
    now, size = recipe.train.micro_steps, cluster.gpu_bytes
    had = look(now)[1][stage]
    per_gpu = batch_per_gpu(recipe, cluster.num_gpus)
    more = [k for k in range(now + 1, per_gpu + 1) if per_gpu % k == 0]
    advice = []
    split = next((k for k in more if look(k)[1][stage].memory.fits(size)), None)
    if split:
        advice.append(f"train.micro_steps={split} ({gib(look(split)[1][stage].memory.total)})")
    for e in look(now)[1].values():
        if partition(e.stage) > partition(stage) and e.memory.fits(size):
            advice.append(f"{name_of(e.stage)} ({gib(e.memory.total)})")
            break
    advice.append("recomputed activations, smaller views or more GPUs")
    return (
        f"{recipe.name}: out of GPU memory at the start; {name_of(stage)} with a micro batch of {had.micro_batch} per "
        f"GPU needs about {gib(had.memory.total)} ({gib(had.memory.activations)} of it activations) of "
        f"{gib(size)}; use {', or '.join(advice)}"
    )


def name_of(stage: Stage) -> str:
    """How a strategy is called in text."""
    return "DDP" if stage == "ddp" else f"ZeRO-{stage}"


def partition(stage: Stage) -> int:
    """How much a strategy splits up: DDP and ZeRO-0 nothing."""
    return 0 if stage == "ddp" else stage


def gib(num_bytes: float) -> str:
    """Bytes as GiB."""
    return f"{num_bytes / 2**30:,.1f} GiB"
