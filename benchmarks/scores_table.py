"""Result rows as a dated Markdown table.

python -m benchmarks.scores_table TITLE RESULTS.csv ... > benchmarks/results/DATE_NAME.md
"""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path

import click

from skyframe.config.evaluate import VALUE_METRICS
from skyframe.evaluate.protocol import ResultRow, read_rows

ROLES = {"majority": "majority or mean", "raw": "raw pixels", "random": "random weights", "encoder": "encoder"}


@click.command()
@click.argument("title")
@click.argument("results", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
def main(title: str, results: tuple[Path, ...]) -> None:
    """Print the table; shares in per cent, errors in units of the label."""
    rows = [r for path in results for r in read_rows(path) if not r.protocol.startswith("knn_")]
    click.echo(f"# {title}\n")
    click.echo(
        f"{datetime.date.today()}; {rows[0].versions}, {os.cpu_count()}-core {platform.machine()} CPU, one thread, "
        f"seeds {', '.join(map(str, sorted({r.seed for r in rows})))}. Value and 95 % interval over test clusters; "
        "rmse and mae are the better the lower, all else in per cent.\n"
    )
    click.echo(f"| task | protocol | metric | test units, clusters | {' | '.join(ROLES.values())} |")
    click.echo("|" + "---|" * (4 + len(ROLES)))
    majority = {(r.task, r.metric): r for r in rows if r.role == "majority"}
    for key in dict.fromkeys((r.task, r.protocol, r.metric) for r in rows if r.role != "majority"):
        found = {r.role: r for r in rows if (r.task, r.protocol, r.metric) == key}
        if (key[0], key[2]) in majority:
            found["majority"] = majority[key[0], key[2]]
        one = next(iter(found.values()))
        cells = [_cell(found[role]) if role in found else "-" for role in ROLES]
        click.echo(f"| {' | '.join(key)} | {one.num_test:,}, {one.num_clusters} | {' | '.join(cells)} |")
    encoders = sorted(
        {f"{r.task}: {r.encoder} ({r.weights_sha256[:8]}), {r.source}" for r in rows if r.role == "encoder"}
    )
    click.echo("\nWhat was fed:\n")
    for line in encoders:
        click.echo(f"* {line}")


def _cell(row: ResultRow) -> str:
    if row.metric in VALUE_METRICS:
        return f"{row.value:.3f} [{row.lo:.3f}, {row.hi:.3f}]"
    return f"{100 * row.value:.1f} [{100 * row.lo:.1f}, {100 * row.hi:.1f}]"


if __name__ == "__main__":
    main()
