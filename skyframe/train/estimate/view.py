"""A plan of training as tables, one closing line and plain values for a file."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from rich.table import Table

from skyframe.config.batch_rule import BatchRule
from skyframe.train.estimate.cost import Plan, gib, name_of
from skyframe.train.estimate.memory import Memory, Part, usable
from skyframe.train.estimate.model import system_on_meta, tokens_of
from skyframe.train.estimate.rehearsal import Sent, wire_bytes

OWN = ("losses", "centres and bank", "stop signal")
"""Traffic of the system itself and of the trainer, the same under every strategy."""


def describe_training(plan: Plan, rule: BatchRule | None = None) -> list[Table]:
    """Parameters, one step, memory, traffic and time; and what another global batch calls for where one was asked."""
    tables = [_parameters(plan), _step(plan), _memory(plan), _traffic(plan), _time(plan), _scaling(plan)]
    return tables if rule is None else [*tables, _batch(plan, rule)]


def closing_line(plan: Plan) -> str:
    """What to take, in one sentence."""
    e, n = plan.shown, plan.cluster.num_gpus
    batch = f"a micro batch of {e.micro_batch} per GPU, train.micro_steps={e.micro_steps}"
    if plan.chosen is None:
        return (
            f"nothing fits: {name_of(e.stage)} with {batch} needs {gib(e.memory.total)}, and "
            f"{gib(usable(plan.cluster.gpu_bytes))} of a GPU can be filled; recompute activations, cut smaller views, "
            "or take larger or more GPUs"
        )
    days = plan.gpu_hours / n / 24
    return (
        f"take {name_of(e.stage)} with {batch}: {gib(e.memory.total)} of {gib(plan.cluster.gpu_bytes)}, "
        f"{e.step_s:.3g} s per step, {plan.gpu_hours:,.0f} GPU-hours ({days:.1f} days on {n} GPUs) for "
        f"{plan.recipe.train.max_steps:,} steps at {plan.cluster.mfu:.0%} of the peak"
    )


def as_values(plan: Plan) -> dict[str, Any]:
    """The plan as plain values: bytes, seconds, floating-point operations."""
    step = dataclasses.replace(plan.step, uses=(), sizes=())  # thousands of runs of modules
    return {
        "recipe": plan.recipe.name,
        "gpus": plan.cluster.num_gpus,
        "cluster": dataclasses.asdict(plan.cluster),
        "parameters": [dataclasses.asdict(part) for part in plan.parts],
        "micro_step": {name: v for name, v in dataclasses.asdict(step).items() if name not in ("uses", "sizes")},
        "estimates": {
            name_of(stage): dataclasses.asdict(e) | {"step_s": e.step_s, "total_bytes": e.memory.total}
            for stage, e in plan.estimates.items()
        },
        "chosen": name_of(plan.chosen.stage) if plan.chosen else None,
        "gpu_hours": plan.gpu_hours,
        "scaling": {str(n): e.efficiency for n, e in plan.scaling.items()},
    }


def _table(title: str, left: str, *right: str) -> Table:
    table = Table(left, title=title, title_justify="left")
    for heading in right:
        table.add_column(heading, justify="right")
    return table


def _parameters(plan: Plan) -> Table:
    """Student and heads module by module; the teacher's towers as wholes."""
    table = _table(f"parameters of {plan.recipe.name}", "module", "trained, M", "frozen, M", "buffers, MiB")
    rows: dict[str, list[Part]] = {}
    for part in plan.parts:
        tower = part.name.partition(".")[0]
        rows.setdefault(tower if tower.startswith("teacher") else part.name, []).append(part)
    rows["all"] = plan.parts
    for name, parts in rows.items():
        if name == "all":
            table.add_section()
        sums = [sum(getattr(p, key) for p in parts) for key in ("trainable", "frozen", "buffer_bytes")]
        table.add_row(
            name, *(f"{x / unit:,.2f}" if x else "-" for x, unit in zip(sums, (1e6, 1e6, 2**20), strict=True))
        )
    return table


def _step(plan: Plan) -> Table:
    table = Table("", "", title="one optimizer step", title_justify="left", show_header=False)
    step, e, train = plan.step, plan.shown, plan.recipe.train
    patches, fused = tokens_of(plan.recipe, system_on_meta(plan.recipe))
    per_pass = step.forward_flops + step.backward_flops
    batch, gpus = train.global_batch, plan.cluster.num_gpus
    rows = [
        ("samples", f"{batch:,}: {gpus:,} GPUs x {e.micro_batch} a pass x {e.micro_steps} micro-steps"),
        ("tokens, student and teacher", f"{patches * batch:,} patches, {fused * batch:,} in the fusion"),
        ("operations of a pass and GPU", f"{step.forward_flops / 1e12:,.3g} TFLOP forward, "
                                         f"{step.backward_flops / 1e12:,.3g} backward"),
        ("operations of the step", f"{per_pass * e.micro_steps * gpus / 1e12:,.4g} TFLOP"),
        ("operations of a sample", f"{per_pass / e.micro_batch / 1e12:,.3g} TFLOP"),
        ("kept for the backward pass", f"{gib(step.saved_bytes)} per GPU; at most {gib(step.peak_bytes)} at a time"),
    ]  # fmt: skip
    for name, value in rows:
        table.add_row(name, value)
    return table


def _memory(plan: Plan) -> Table:
    short = {"parameters": "weights", "gradients": "grads", "optimizer": "optim.", "activations": "activ."}
    names = [f.name for f in dataclasses.fields(Memory)]
    heads = [short.get(name, name) for name in names]
    table = _table(f"memory per GPU, GiB, of {usable(plan.cluster.gpu_bytes) / 2**30:.1f}", "", *heads, "total", "fits")
    table.padding = 0  # ten columns in a terminal of 80
    for stage, e in plan.estimates.items():
        sizes = [*(getattr(e.memory, name) for name in names), e.memory.total]
        fits = "yes" if e.memory.fits(plan.cluster.gpu_bytes) else "no"
        table.add_row(name_of(stage), *(f"{size / 2**30:.2f}" for size in sizes), fits)
    return table


def _traffic(plan: Plan) -> Table:
    n, network = plan.cluster.num_gpus, plan.cluster.network
    table = _table("traffic of a step", "", "collectives", "sent per GPU, MiB", "alone, ms", "hides behind")
    table.columns[1].justify = "left"
    rows = [(name_of(s), t) for s, e in plan.estimates.items() for t in e.traffic if t.what not in OWN]
    for name, t in [*rows, *(("all", t) for t in plan.shown.traffic if t.what in OWN)]:
        whole = Sent(t.kind, t.bytes)
        sent, alone = wire_bytes(whole, n) / 2**20, network.seconds(whole, n, t.times) * 1000
        table.add_row(name, f"{t.times:,} x {t.kind}, {t.what}", f"{sent:,.2f}", f"{alone:,.1f}", t.hides_behind)
    return table


def _time(plan: Plan) -> Table:
    c, steps = plan.cluster, plan.recipe.train.max_steps
    title = f"time at {c.mfu:.0%} of {c.peak_flops / 1e12:g} TFLOP/s, {steps:,} steps"
    table = _table(title, "", "compute, s", "waits, s", "step, s", "samples/s", "busy", "GPU-hours")
    for stage, e in plan.estimates.items():
        table.add_row(
            name_of(stage), f"{e.compute_s:.3g}", f"{e.exposed_s:.3g}", f"{e.step_s:.3g}",
            f"{plan.recipe.train.global_batch / e.step_s:,.3g}", f"{e.efficiency:.1%}",
            f"{e.step_s * steps * c.num_gpus / 3600:,.0f}",
        )  # fmt: skip
    return table


def _scaling(plan: Plan) -> Table:
    table = _table(
        f"scaling of {name_of(plan.shown.stage)}, the batch per GPU unchanged", "GPUs", "global batch", "step, s",
        "efficiency", "memory, GiB",
    )  # fmt: skip
    for n, e in plan.scaling.items():
        batch = e.micro_batch * e.micro_steps * n
        table.add_row(f"{n}", f"{batch:,}", f"{e.step_s:.3g}", f"{e.efficiency:.1%}", f"{e.memory.total / 2**30:.1f}")
    return table


def _batch(plan: Plan, rule: BatchRule) -> Table:
    """The recipe's values beside those for the batch asked for; the recipe itself is not changed."""
    table = _table(f"a global batch of {rule.global_batch} calls for", "key", "value")
    keys = {
        "optim.lr": rule.lr, "optim.min_lr": rule.min_lr, "optim.warmup_steps": rule.warmup_steps,
        "train.max_steps": rule.max_steps, "loss.ema_start": rule.ema_start, "loss.ema_end": rule.ema_end,
        "loss.center_momentum": rule.center_momentum, "loss.teacher_temp": rule.teacher_temp,
    }  # fmt: skip
    for key, value in keys.items():
        table.add_row(key, f"{value:,}" if isinstance(value, int) else f"{value:.{_digits(value)}g}")
    return table


def _digits(value: float) -> int:
    """Enough digits that a momentum near 1 keeps three of its distance from 1."""
    return 4 if not 0.9 < value < 1 else 3 - math.floor(math.log10(1 - value))
