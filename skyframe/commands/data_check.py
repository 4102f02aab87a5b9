"""`skyframe data-check`: whether a benchmark's files are whole, before an encoder is scored on them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from skyframe.spec import InputError


@click.command("data-check")
@click.argument("name")
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--quick", is_flag=True, help="read a few items of each part; by default every file is decoded")
@click.option("--unpack", is_flag=True, help="unpack the zip archives that lie in ROOT first")
@click.option("--picture", type=click.Path(path_type=Path), default=None, help="PNG of samples; NAME.png by default")
def data_check(name: str, root: Path, quick: bool, unpack: bool, picture: Path | None) -> None:
    """Say what is there of a benchmark and what is missing; exit code 0 only where it can be scored.

    NAME is a data set such as resisc45, bigearthnet-v1, fair1m or oscd; an unknown one lists them all. ROOT is its
    folder. Problems go to the error output, one a line, with exit code 1; warnings leave the exit code at 0.
    """
    from rich.console import Console

    from skyframe.evaluate.benchmarks import open_dataset
    from skyframe.evaluate.datasets.archive import unpack_all
    from skyframe.evaluate.datasets.check import check_dataset, summary
    from skyframe.evaluate.datasets.samples_picture import draw_samples

    if not root.is_dir():
        raise InputError(f"{name}: no folder {root}, expected the one that holds the data set; check the path")
    if unpack:
        for archive in unpack_all(root):
            click.echo(f"unpacked {_printable(str(archive))}")
    dataset = open_dataset(name, root)
    report = check_dataset(dataset, decode=not quick, show_progress=True)
    Console().print(summary(dataset, report), highlight=False)
    if report.readable:
        drawn = draw_samples(dataset, report.readable, picture or Path(f"{Path(name).stem}.png"))
        click.echo(f"drew {drawn}")
    for warning in report.warnings:
        click.echo(f"warning: {_printable(warning)}", err=True)
    for problem in report.problems:
        click.echo(f"problem: {_printable(problem)}", err=True)
    if report.problems:
        sys.exit(1)
    click.echo(f"{dataset.name} can be scored{'; the other files were not read' if quick else ''}")


def _printable(sentence: str) -> str:
    """On one line, and without what would steer the terminal: file names are strangers' words too."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(sentence.split()))
