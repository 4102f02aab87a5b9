"""`skyframe evaluate`: score exported encoders on a suite."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from skyframe.commands import OVERRIDES

if TYPE_CHECKING:
    import torch

    from skyframe.evaluate.protocol import Subject
    from skyframe.evaluate.suite import Outcome


@click.command()
@click.argument("suite")
@click.argument("encoder", type=click.Path(path_type=Path))
@OVERRIDES
@click.option("--data", type=click.Path(path_type=Path), default=None, help="folder below which the data sets lie")
@click.option("--tasks", default="", help="names of the suite's tasks to run, with commas; all by default")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, ...; auto takes a GPU where there is one")
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
    device: str,
    modules: bool,
    out: Path | None,
    resume: bool,
) -> None:
    """Score an exported encoder beside raw pixels, its own random initialisation and the majority class.

    SUITE is a name in recipes/eval/ or a YAML file, ENCODER an exported folder such as OUT/model or OUT/encoder_s2, or
    the YAML of somebody else's encoder (see recipes/encoders/).
    Started again it continues: what stands in results.csv is not computed a second time.
    """
    from rich.console import Console

    from skyframe.config.evaluate import load_suite
    from skyframe.evaluate.report.table import results_table
    from skyframe.evaluate.suite import evaluate as run
    from skyframe.export import load_module
    from skyframe.spec import InputError

    chosen = [f"select=[{tasks}]"] if tasks else []
    loaded = load_suite(suite, [*overrides, *chosen])
    folder = out or encoder.parent / "evaluation"
    if not resume and (folder / "results.csv").exists():
        raise InputError(f"{folder}: holds results already, expected a new folder with --fresh; choose another --out")
    console = Console()
    if modules:
        module = load_module(encoder).to(_device(device))
        from skyframe.evaluate.modules import evaluate_modules, modules_table

        table = evaluate_modules(loaded, module, folder, data)
        console.print(modules_table(table))
        _tell(table.outcome, console)
        return
    outcome = run(loaded, _subjects(encoder, loaded.seeds[0], _device(device)), folder, data=data)
    console.print(results_table(outcome.rows))
    _tell(outcome, console)


def _device(name: str) -> torch.device:
    import torch

    from skyframe.spec import InputError

    try:
        return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    except RuntimeError as error:
        raise InputError(
            f"--device: {name!r} is none that torch knows, expected auto, cpu or cuda; correct it"
        ) from error


def _subjects(path: Path, seed: int, device: torch.device) -> list[Subject]:
    """The encoder and the same architecture with weights never trained."""
    from skyframe.evaluate.foreign import load_foreign
    from skyframe.evaluate.protocol import Subject
    from skyframe.export import load_module, random_copy

    if path.suffix in (".yaml", ".yml"):
        theirs = load_foreign(path).to(device), load_foreign(path, trained=False).to(device)
        return [Subject(path.stem, theirs[0]), Subject("random_init", theirs[1], "random")]
    module = load_module(path)
    random = random_copy(module, seed=seed)
    return [Subject(path.name, module.to(device)), Subject("random_init", random.to(device), "random")]


def _tell(outcome: Outcome, console: object) -> None:
    for alarm in outcome.alarms:
        click.echo(f"warning: {alarm}")
    click.echo(f"{outcome.num_new} new scores in {outcome.csv}")
