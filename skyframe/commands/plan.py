"""`skyframe plan`: what a recipe would read, and what training it would cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from skyframe.commands import OVERRIDES
from skyframe.spec import InputError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    from skyframe.config.skysense import SkySenseRecipe
    from skyframe.train.estimate.cost import Cluster


@click.command()
@click.argument("recipe")
@OVERRIDES
@click.option("--gpus", type=int, default=None, help="tell what training costs on this many GPUs")
@click.option("--gpu", default="a100", show_default=True, help="a100, h100, h200, or the peak in TFLOP/s")
@click.option("--gpu-memory", default=80.0, show_default=True, help="GiB of one GPU")
@click.option("--gpus-per-node", default=8, show_default=True)
@click.option("--intra-gbps", type=float, default=None, help="Gbit/s of a GPU to its node [a100: 2400, h100: 3600]")
@click.option("--inter-gbps", type=float, default=None, help="Gbit/s of a node to the others [a100: 1600, h100: 3200]")
@click.option("--mfu", type=float, default=None, help="share of the peak that is reached [0.2, the paper's own run]")
@click.option("--global-batch", type=int, default=None, help="plan this global batch, and tell what it calls for")
@click.option("--json", "out", type=click.Path(path_type=Path), default=None, help="file for the figures")
def plan(
    recipe: str,
    overrides: tuple[str, ...],
    gpus: int | None,
    gpu: str,
    gpu_memory: float,
    gpus_per_node: int,
    intra_gbps: float | None,
    inter_gbps: float | None,
    mfu: float | None,
    global_batch: int | None,
    out: Path | None,
) -> None:
    """Say what a recipe would read; with --gpus also what training it would cost.

    The first part needs the cubes: windows, shards, steps per epoch, samples by source, the first windows. The second
    needs neither cubes nor a GPU: parameters, operations, memory of every strategy, traffic, time, GPU-hours, and which
    strategy and micro batch to take. How it counts: docs, "What training costs".
    """
    from rich.console import Console

    from skyframe.config import load_recipe
    from skyframe.data.plan_view import describe_plan

    loaded, console = load_recipe(recipe, overrides), Console()
    if gpus is None:
        _refuse_options_of_cost(loaded.name)
        console.print(*describe_plan(loaded))
        return
    cluster = _cluster(loaded, gpus, gpu, gpu_memory, gpus_per_node, intra_gbps, inter_gbps, mfu)
    if global_batch is not None and global_batch < 1:
        raise InputError(
            f"plan {loaded.name}: --global-batch {global_batch}, expected 1 sample or more; give a larger one"
        )
    try:
        console.print(*describe_plan(loaded))
    except InputError as error:
        console.print(f"what it would read is left out: {error}", markup=False, soft_wrap=True)
    _tell_cost(console, loaded, cluster, global_batch, out)


def _refuse_options_of_cost(name: str) -> None:
    """Options that would decide nothing without --gpus."""
    context = click.get_current_context()
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        if isinstance(parameter, click.Option) and given:
            raise InputError(f"plan {name}: {parameter.opts[0]} is about the cost of training; give --gpus with it")


def _tell_cost(
    console: Console, recipe: SkySenseRecipe, cluster: Cluster, global_batch: int | None, out: Path | None
) -> None:
    from skyframe.config.batch_rule import at_batch
    from skyframe.train.estimate.cost import plan_training, with_batch
    from skyframe.train.estimate.view import as_values, closing_line, describe_training

    rule = None if global_batch is None else at_batch(recipe, global_batch)
    if rule is not None:
        recipe = with_batch(recipe, rule.global_batch, rule.max_steps)
    with console.status("counting a step"):
        made = plan_training(recipe, cluster)
        tables = describe_training(made, rule)
    console.print(*tables)
    console.print(closing_line(made), markup=False, soft_wrap=True, highlight=False)
    if out is not None:
        out.write_text(json.dumps(as_values(made), indent=2) + "\n")
        click.echo(f"wrote {out}")


def _cluster(
    recipe: SkySenseRecipe,
    gpus: int,
    gpu: str,
    gpu_memory: float,
    gpus_per_node: int,
    intra_gbps: float | None,
    inter_gbps: float | None,
    mfu: float | None,
) -> Cluster:
    """The cluster that the options describe, each checked."""
    from skyframe.train.estimate.cost import GPUS, MFU, Cluster, in_bf16
    from skyframe.train.estimate.network import Network

    kind = GPUS.get(gpu.lower())
    try:
        tflops = float(gpu) if kind is None else kind.bf16_tflops if in_bf16(recipe) else kind.fp32_tflops
    except ValueError:
        raise InputError(
            f"plan {recipe.name}: --gpu {gpu!r} is not one of {', '.join(GPUS)} and no peak in TFLOP/s"
            f"{did_you_mean(gpu, GPUS)}; give one of them or a number"
        ) from None
    usual = kind or GPUS["a100"]
    intra = usual.intra_gbps if intra_gbps is None else intra_gbps
    inter = usual.inter_gbps if inter_gbps is None else inter_gbps
    share = MFU if mfu is None else mfu
    for option, value, least in (
        ("--gpus", gpus, 1), ("--gpus-per-node", gpus_per_node, 1), ("--gpu-memory", gpu_memory, 2.5),
        ("--gpu", tflops, 0.001), ("--intra-gbps", intra, 0.001), ("--inter-gbps", inter, 0.001),
        ("--mfu", share, 0.001),
    ):  # fmt: skip
        if not least <= value < (float("inf") if option != "--mfu" else 1.0001):
            raise InputError(
                f"plan {recipe.name}: {option} {value:g}, expected {least:g} or more"
                f"{' and at most 1' if option == '--mfu' else ''}; correct the option"
            )
    network = Network(intra, inter, gpus_per_node)
    return Cluster(gpus, int(gpu_memory * 2**30), tflops * 1e12, share, network)
