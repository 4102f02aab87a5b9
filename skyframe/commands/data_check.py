"""`skyframe data-check`: whether a benchmark's files are whole, before an encoder is scored on them."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command("data-check")
@click.argument("name")
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--quick", is_flag=True, help="look at names and sizes only; by default every file is decoded")
@click.option("--unpack", is_flag=True, help="unpack the zip archives that lie in ROOT first")
@click.option("--picture", type=click.Path(path_type=Path), default=None, help="PNG of samples; NAME.png by default")
def data_check(name: str, root: Path, quick: bool, unpack: bool, picture: Path | None) -> None:
    """Say what is there of a benchmark and what is missing; exit code 0 only where it can be scored.

    NAME is a data set such as resisc45, bigearthnet-v1, fair1m or oscd; an unknown one lists them all. ROOT is its
    folder.
    """
    from rich.console import Console

    from skyframe.evaluate.benchmarks import open_dataset
    from skyframe.evaluate.check import check_dataset, summary, unpack_all
    from skyframe.evaluate.samples_picture import draw_samples

    console = Console()
    if unpack:
        for archive in unpack_all(root):
            click.echo(f"unpacked {archive}")
    dataset = open_dataset(name, root)
    report = check_dataset(dataset, decode=not quick, show_progress=True)
    console.print(summary(dataset, report), highlight=False)
    if report.readable:
        click.echo(f"drew {draw_samples(dataset, report.readable, picture or Path(f'{name}.png'))}")
    for problem in report.problems:
        click.echo(f"problem: {problem}", err=True)
    if report.problems:
        sys.exit(1)
