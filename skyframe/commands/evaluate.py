"""`skyframe evaluate`: score exported encoders on a suite."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from skyframe.commands import OVERRIDES

if TYPE_CHECKING:
    from skyframe.evaluate.suite import Outcome


@click.command()
@click.argument("suite")
@click.argument("encoder", type=click.Path(path_type=Path))
@OVERRIDES
@click.option("--data", type=click.Path(path_type=Path), default=None, help="folder below which the data sets lie")
@click.option("--tasks", default="", help="names of the suite's tasks to run, with commas; all by default")
@click.option("--modules", is_flag=True, help="ENCODER is a whole model: score every subset of its modules")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="folder for results.csv, results.parquet, features and logs; ENCODER/../evaluation by default",
)
@click.option("--resume/--fresh", default=True, show_default=True, help="keep the scores in --out, or refuse it")
def evaluate(
    suite: str,
    encoder: Path,
    overrides: tuple[str, ...],
    data: Path | None,
    tasks: str,
    modules: bool,
    out: Path | None,
    resume: bool,
) -> None:
    """Score an exported encoder beside raw pixels, its own random initialisation and the majority class.

    SUITE is a name in recipes/eval/ or a YAML file, ENCODER an exported folder such as OUT/model or OUT/encoder_s2.
    Started again it continues: what stands in results.csv is not computed a second time.
    """
    from rich.console import Console

    from skyframe.config.evaluate import load_suite
    from skyframe.evaluate.protocol import Subject
    from skyframe.evaluate.suite import evaluate as run
    from skyframe.evaluate.table import results_table
    from skyframe.export import load_module, random_copy
    from skyframe.spec import InputError

    chosen = [f"select=[{tasks}]"] if tasks else []
    loaded = load_suite(suite, [*overrides, *chosen])
    folder = out or encoder.parent / "evaluation"
    if not resume and (folder / "results.csv").exists():
        raise InputError(f"{folder}: holds results already, expected a new folder with --fresh; choose another --out")
    module = load_module(encoder)
    console = Console()
    if modules:
        from skyframe.evaluate.modules import evaluate_modules, modules_table

        table = evaluate_modules(loaded, module, folder, data)
        console.print(modules_table(table))
        _tell(table.outcome, console)
        return
    random = Subject("random_init", random_copy(module, seed=loaded.seeds[0]), "random")
    outcome = run(loaded, [Subject(encoder.name, module), random], folder, data=data)
    console.print(results_table(outcome.rows))
    _tell(outcome, console)


def _tell(outcome: Outcome, console: object) -> None:
    for alarm in outcome.alarms:
        click.echo(f"warning: {alarm}")
    click.echo(f"{outcome.num_new} new scores in {outcome.csv}")
