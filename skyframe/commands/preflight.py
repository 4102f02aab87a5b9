"""`skyframe preflight`: look at every node before a run does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from skyframe.commands import OVERRIDES

if TYPE_CHECKING:
    from rich.table import Table

    from skyframe.train.node_facts import Facts


@click.command()
@click.argument("recipe", required=False)
@OVERRIDES
@click.option("--limit", default=25.0, show_default=True, help="seconds for all of it; nothing waits longer")
def preflight(recipe: str | None, overrides: tuple[str, ...], limit: float) -> None:
    """Compare the nodes of a job, and name the one that would spoil it; exit code 2 where there is one.

    Run it as the run itself would be, by `srun skyframe preflight RECIPE` or under torchrun: versions, GPUs, clocks and
    a timed all-reduce; with a RECIPE also the disks it writes to and a window of its cubes. Runs of several nodes do it
    by themselves (`train.survival.preflight`).
    """
    from rich.console import Console

    from skyframe.config import load_recipe
    from skyframe.spec import InputError
    from skyframe.train.meeting import place_of
    from skyframe.train.preflight import check_nodes, summary

    if not 1.0 <= limit <= 600.0:
        raise InputError(f"preflight: --limit {limit:g}, expected 1 to 600 seconds; correct it")
    loaded = None if recipe is None else load_recipe(recipe, [o for o in overrides if not o.startswith("resume=")])
    place = place_of(1 if loaded is None else loaded.train.num_nodes)
    if place is None:
        return
    found = check_nodes(loaded, place, limit)
    if place.rank == 0:
        console = Console()
        console.print(_table(found.ranks, found.skews_s))
        console.print(summary(found), markup=False, soft_wrap=True, highlight=False)


def _table(ranks: list[Facts], skews_s: dict[int, float]) -> Table:
    """A row per node, as its first rank saw it."""
    from rich.table import Table

    table = Table("node", "skyframe", "torch", "python", "GPUs", "free, GB", "clock, s")
    first = {f.node: f for f in reversed(ranks)}
    for node, f in sorted(first.items(), key=lambda pair: pair[1].rank):
        free = ", ".join(f"{folder} {gb:.0f}" for folder, gb in f.free_gb.items())
        versions = f"{f.versions['skyframe']} ({f.versions['commit']})", f.versions["torch"], f.versions["python"]
        table.add_row(node, *versions, ", ".join(f.gpus) or "none", free, f"{skews_s.get(f.rank, 0.0):+.2f}")
    return table
