"""What a recipe would read, told before anything is read: windows, shards, steps, sources, and what planning costs."""

from __future__ import annotations

import os
import time
from pathlib import Path

from rich.table import Table

from skyframe.calendar import date_of
from skyframe.config.recipe import Recipe
from skyframe.data.plan import WindowPlan
from skyframe.data.selection import plan_windows, select_cubes
from skyframe.data.table import ALL_DAYS


def describe_plan(recipe: Recipe, num_first: int = 5) -> list[Table]:
    """Counts of an epoch, samples by source, and the first windows of the order."""
    began, held = time.perf_counter(), resident_mb()
    selection = select_cubes(recipe)
    plan = plan_windows(recipe, selection.table)
    plan.at(0, 0)  # the first order of shards is part of the start
    seconds, megabytes = time.perf_counter() - began, resident_mb() - held
    train = recipe.train
    total = Table("", "", title=f"plan of {recipe.name}", show_header=False)
    rows = [
        ("rows", f"{len(plan.table):,} of {len(selection.cubes):,} cubes"),
        *((f"left out by {reason}", f"{count:,} rows") for reason, count in selection.left_out.items()),
        ("windows", f"{plan.num_windows:,} of {plan.size_m:g} m, {plan.grids.stride_m:g} m apart"),
        ("shards", f"{plan.num_shards:,}"),
        ("passes per epoch", f"{plan.num_passes}"),
        ("steps per epoch", f"{plan.num_steps:,}"),
        ("global batch", f"{plan.slots:,}"),
        ("samples per epoch", f"{len(plan):,}"),
        ("epochs of this run", f"{train.max_steps / plan.num_steps:.2f} ({train.max_steps:,} steps)"),
        ("start-up", f"{seconds:.2f} s, {megabytes:.0f} MB"),
    ]
    for name, value in rows:
        total.add_row(name, value)
    return [total, _by_source(plan), _first(plan, num_first)]


def resident_mb() -> float:
    """Memory that this process holds now, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _by_source(plan: WindowPlan) -> Table:
    table = Table("source", title="samples by source")
    for heading in ("samples per epoch", "share"):
        table.add_column(heading, justify="right")
    samples = plan.samples_by_source()
    for name, count in samples.items():
        if count:
            table.add_row(name, f"{count:,}", f"{count / sum(samples.values()):.1%}")
    return table


def _first(plan: WindowPlan, count: int) -> Table:
    table = Table(title="first windows of epoch 0")
    for heading in ("position", "cube", "south m", "east m", "days", "sample index"):
        table.add_column(heading, justify="left" if heading in ("cube", "days") else "right")
    for position in range(min(count, len(plan))):
        window, index = plan.at(0, position)
        days = "all"
        if (window.start_day, window.end_day) != ALL_DAYS:
            days = f"{date_of(window.start_day)} .. {date_of(window.end_day - 1)}"
        table.add_row(str(position), window.cube, f"{window.y_m:g}", f"{window.x_m:g}", days, f"{index:,}")
    return table
