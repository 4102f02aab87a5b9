"""`skyframe report`: a page about one run, or one that compares the results of several encoders."""

from __future__ import annotations

from pathlib import Path

import click

from skyframe.spec import InputError

RESULTS = "results.csv"


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="RUN | RESULTS...", type=click.Path(path_type=Path))
@click.option("--encoder", type=click.Path(path_type=Path), default=None, help="of a RUN: its exported `model` folder")
@click.option("--scene", default=None, help="of a RUN: cube whose embeddings are mapped")
@click.option("--results", type=click.Path(path_type=Path), default=None, help="of a RUN: results.csv that is its own")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="HTML file; by default RUN/report.html, or comparison.html here",
)
def report(
    what: tuple[Path, ...], encoder: Path | None, scene: str | None, results: Path | None, out: Path | None
) -> None:
    """Write one self-contained HTML page.

    About a RUN (the folder of `skyframe pretrain`): its curves, a mapped scene and scores where they are given. Or
    about RESULTS, results.csv files of `skyframe evaluate` or folders that hold one: encoders side by side, with
    alarms, ranks, intervals, classes, maps, and published numbers.
    """
    compared = [path for path in what if path.suffix == ".csv" or (path / RESULTS).is_file()]
    is_run = len(what) == 1 and (what[0] not in compared or (what[0] / "metrics.jsonl").is_file())
    if is_run:
        click.echo(f"wrote {_about_run(what[0], encoder, scene, results, out)}")
        return
    given = {"--encoder": encoder, "--scene": scene, "--results": results}
    odd = [option for option, value in given.items() if value is not None]
    if odd:
        raise InputError(f"report {what[0]}: {odd[0]} is about one RUN, got RESULTS to compare; leave it out")
    wrong = next((path for path in what if path not in compared or not (path.is_file() or path.is_dir())), None)
    if wrong is not None:
        raise InputError(
            f"{wrong}: no results, expected a results.csv of `skyframe evaluate` or a folder with one; score first"
        )
    from skyframe.evaluate.report.compare import build_comparison

    click.echo(f"wrote {build_comparison(what, out or Path('comparison.html'))}")


def _about_run(run: Path, encoder: Path | None, scene: str | None, results: Path | None, out: Path | None) -> Path:
    from skyframe.evaluate.report.run_page import build_report
    from skyframe.export import load_module

    if results is not None and not results.is_file():
        raise InputError(f"{results}: no such file, expected results.csv of `skyframe evaluate`; score the run first")
    if (encoder is None) != (scene is None):
        raise InputError(f"report {run}: --encoder and --scene go together, got only one of them; give both or none")
    module = None if encoder is None else load_module(encoder)
    return build_report(run, out or run / "report.html", module, scene, results)
