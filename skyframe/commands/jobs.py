"""`skyframe jobs`, `logs` and `cancel`: how launched runs stand, what they say, and ending them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skyframe.spec import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from skyframe.launch.status import Queued, Status

POLL_S = 0.5
LOOK_S = 5.0


@click.command()
@click.argument("folders", nargs=-1, metavar="[FOLDER...]", type=click.Path(path_type=Path))
def jobs(folders: tuple[Path, ...]) -> None:
    """List the runs in FOLDERs (runs/ by default) and those in the queue: state, step, loss, speed, restarts, news.

    An array is one row, its elements are its steps; of an array that is named itself, the elements that failed follow,
    and the command that does them again. Of a sweep that is named itself, a table of its runs follows: values, losses,
    the least health figures over sources, and scores; every figure is in SWEEP/sweep.csv.

    States are SLURM's while a job is in the queue. Without: RUNNING (processes of this machine), FINISHED (at its last
    step), ENDED (before it; where SLURM keeps accounts how: TIMEOUT, NODE_FAIL, ...), NEW (nothing logged yet).
    """
    from rich.console import Console

    from skyframe.launch.array_status import is_array
    from skyframe.launch.overview import statuses
    from skyframe.launch.status import queued
    from skyframe.launch.sweep_status import is_sweep

    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"jobs {folder}: no such folder, expected one with runs, or a run; correct the path")
    try:
        queue = queued()
    except InputError as error:
        click.echo(f"warning: {error}; what follows is from the runs' folders alone", err=True)
        queue = []
    rows = statuses(folders or (Path("runs"),), queue)
    if not rows:
        click.echo("no runs here and none in the queue; name their folder: skyframe jobs FOLDER")
        return
    Console().print(_table(rows))
    for folder in folders:
        if is_array(folder):
            _show_failed(folder, queue)
        elif is_sweep(folder):
            _show_sweep(folder, queue)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--rank", default=0, show_default=True, help="whose log")
@click.option("--item", default="", metavar="K", help="of an array: whose log, an element's number or finish")
@click.option("--script", is_flag=True, help="the log of the job's script: starts, nodes, restarts")
@click.option("-n", "--lines", default=40, show_default=True, help="lines at its end; 0 = all")
@click.option("-f", "--follow", is_flag=True, help="go on until the job has ended")
def logs(run: Path, rank: int, item: str, script: bool, lines: int, follow: bool) -> None:
    """Show the log of a run's newest job; restarts of a job go on in the same file."""
    if lines < 0 or rank < 0:
        raise InputError(f"logs {run}: --lines {lines} and --rank {rank}, expected 0 or more; give larger ones")
    find = _finder(run, rank, item, script)
    path = _wait_for(run, find) if follow else find()
    text = path.read_text(errors="replace")
    click.echo("".join(text.splitlines(keepends=True)[-lines:]), nl=False)
    if follow:
        _follow(run, path, len(text.encode()))


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def cancel(run: Path) -> None:
    """End a run's job or processes, for good: it is not queued again. `skyframe launch` goes on from its checkpoint.

    An array or a sweep is ended as a whole; `skyframe launch --again` goes on with it.
    """
    from skyframe.launch.status import cancel as end
    from skyframe.launch.sweep_status import cancel_sweep, is_sweep

    click.echo(f"ended {', '.join(cancel_sweep(run) if is_sweep(run) else end(run))} of {run}")


def _finder(run: Path, rank: int, item: str, script: bool) -> Callable[[], Path]:
    """What finds the log that is meant.

    Raises:
        InputError: an array without --item, or --item of something else.
    """
    from skyframe.launch.array_status import is_array, item_log
    from skyframe.launch.status import log_of

    if is_array(run) != bool(item):
        what = "is an array, expected --item K" if is_array(run) else f"is no array, so it has no --item {item}"
        raise InputError(f"logs {run}: {what}; see `skyframe jobs {run}`")
    return (lambda: item_log(run, item)) if item else (lambda: log_of(run, None if script else rank))


def _wait_for(run: Path, find: Callable[[], Path]) -> Path:
    """A log that is to come, of a job that is still to start."""
    from skyframe.launch.status import launches, living

    while True:
        try:
            return find()
        except InputError:
            if not launches(run) or not living(run.absolute()):
                raise
        time.sleep(LOOK_S / 2)


def _follow(run: Path, path: Path, done: int) -> None:
    from skyframe.launch.status import living

    looked, goes_on = time.monotonic(), True
    with path.open("rb") as file:
        file.seek(done)
        while True:
            chunk = file.read()
            if chunk:
                click.echo(chunk.decode(errors="replace"), nl=False)
            elif not goes_on:
                return
            elif time.monotonic() - looked > LOOK_S:
                goes_on, looked = living(run.absolute()), time.monotonic()
            else:
                time.sleep(POLL_S)


def _show_failed(folder: Path, queue: list[Queued]) -> None:
    """The elements of an array that failed, and the command that does them again."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from skyframe.launch.array_status import summarise

    found = summarise(folder.absolute(), [entry for entry in queue if entry.run == folder.absolute()])
    if found.failed:
        table = Table("failed", "item", "exit code")
        table.add_column("error", ratio=1, overflow="fold")
        for element in found.failed:
            table.add_row(element.key, Text(element.item), element.code, Text(element.sentence))
        Console().print(table)
    if found.state == "ENDED":
        click.echo(f"do what is not done: skyframe launch --again {folder}")


def _show_sweep(folder: Path, queue: list[Queued]) -> None:
    """The runs of a sweep side by side, as a table and as a file."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from skyframe.launch.sweep_status import lowest, sweep_lines, write_csv

    lines = sweep_lines(folder.absolute(), queue)
    figures: list[dict[str, float | None]] = [
        {"loss": line.loss, "best loss": line.best, **lowest(line.health), **line.scores} for line in lines
    ]
    names = list(dict.fromkeys(name for row in figures for name in row))
    table = Table(*lines[0].values, "state", "step")
    for name in names:
        table.add_column(name, justify="right")
    for line, row in zip(lines, figures, strict=True):
        numbers = ["" if (value := row.get(name)) is None else f"{value:.4g}" for name in names]
        step = f"{line.step}/{line.max_steps}"
        table.add_row(*(Text(value) for value in line.values.values()), line.state, step, *numbers)
    Console().print(table)
    for line in lines:
        if line.state == "ENDED" and line.message:
            click.echo(f"{line.name}: {line.message}")
    write_csv(folder / "sweep.csv", lines)
    click.echo(f"wrote {folder / 'sweep.csv'}")
    if all(line.state in ("ENDED", "NEW", "FINISHED") for line in lines) and any(x.state != "FINISHED" for x in lines):
        click.echo(f"do what is not done: skyframe launch --again {folder}")


def _table(rows: list[Status]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table()
    table.add_column("run", overflow="fold")
    for name in ("job", "state"):
        table.add_column(name)
    for name in ("step", "loss", "samples/s", "restarts", "time left"):
        table.add_column(name, justify="right")
    table.add_column("last message", ratio=1, no_wrap=True, overflow="ellipsis")
    here = Path.cwd()
    for row in rows:
        run = row.run.relative_to(here) if row.run.is_relative_to(here) else row.run
        table.add_row(
            Text(str(run)),
            row.job,
            row.state,
            f"{row.step}/{row.max_steps}",
            "" if row.loss is None else f"{row.loss:.4g}",
            "" if row.samples_per_s is None else f"{row.samples_per_s:.4g}",
            str(row.restarts),
            row.left,
            Text(row.message),
        )
    return table
