"""The command line. Heavy imports happen inside commands, so that `--help` and errors are instant."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, cast

import click

from skyframe import __version__
from skyframe.commands.data_check import data_check
from skyframe.commands.evaluate import evaluate
from skyframe.commands.follow import follow
from skyframe.commands.jobs import cancel, jobs, logs
from skyframe.commands.launch import launch
from skyframe.commands.plan import plan
from skyframe.commands.preflight import preflight
from skyframe.commands.pretrain import pretrain
from skyframe.commands.report import report
from skyframe.spec import InputError
from skyframe.train.verdict import leave_verdict


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="skyframe")
def cli() -> None:
    """Pretrain Earth-observation foundation models on multi-modal time series, and score their encoders."""


@cli.command()
@click.argument("cube", type=click.Path(path_type=Path))
@click.option("--extent", default="2.56x2.56", show_default=True, help="height x width in kilometres")
@click.option("--seed", default=0, show_default=True, help="which landscape")
@click.option("--climate", default="oceanic", show_default=True, help="oceanic or continental")
@click.option("--origin", default="0,0", show_default=True, help="metres south,east of the landscape's origin")
@click.option("--year", default=2021, show_default=True)
@click.option("--hr-share", default=0.1, show_default=True, help="share of the area with 0.3 m imagery")
def simulate(cube: Path, extent: str, seed: int, climate: str, origin: str, year: int, hr_share: float) -> None:
    """Write a cube of the simulated Earth with its truth layers."""
    from skyframe.data.synthetic.simulate import simulate as run

    height, width = _pair("--extent", extent, "x")
    south, east = _pair("--origin", origin, ",")
    with _progress("simulate") as bar:
        path = run(
            cube,
            width_m=width * 1000,
            height_m=height * 1000,
            seed=seed,
            climate=cast("Any", climate),  # checked by simulate
            origin_m=(south, east),
            year=year,
            hr_share=hr_share,
            progress=bar,
        )
    click.echo(f"wrote {path}")


@cli.command()
@click.argument("kind")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("cube", type=click.Path(path_type=Path))
@click.option("--spec", default=None, help="name in data_specs/ or a YAML file; the kind's own by default")
@click.option(
    "--part",
    default=None,
    metavar="K/N",
    help="write the K-th of N parts of the blocks; afterwards run once without it to finish",
)
def ingest(kind: str, sources: tuple[Path, ...], cube: Path, spec: str | None, part: str | None) -> None:
    """Turn real files into a cube; started again after an interruption, it continues.

    \b
    KIND         SOURCES
    worldcereal  one openEO netCDF: monthly Sentinel-2, Sentinel-1, weather, terrain
    gfmap        a Sentinel-2 and a Sentinel-1 netCDF of openEO-GFMAP
    treesatai    an HDF5 of series and a TIFF of the same name
    eolearn      an EOPatch folder, and a .npy of scenes with all bands
    cf           any Zarr v2/v3 or netCDF cube in CF form; --spec says what to take
    earthnet     an EarthNet2021x or GreenEarthNet netCDF mini-cube
    presto       a folder of Presto's point series: one row of pixels a site
    stac         a YAML that says what to search on which STAC server
    geotiff      a YAML that describes a folder of dated GeoTIFF scenes
    """
    from skyframe.data.ingest import ingest as run

    with _progress("ingest") as bar:
        path = run(kind, sources, cube, spec, bar, part)
    click.echo(f"wrote {'part ' + part + ' of ' if part else ''}{path}")


@cli.command()
@click.argument("cube", metavar="CUBE")
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    default=None,
    help="PNG to draw; beside the cube by default, here where the cube is remote",
)
@click.option("--window", default=64, show_default=True, help="side in pixels of the samples whose cost is stated")
@click.option("--dates", default=20, show_default=True, help="dates of those samples")
def inspect(cube: str, picture: Path | None, window: int, dates: int) -> None:
    """Print what a cube holds and what a sample of it costs to read, and draw a quick-look.

    CUBE is a folder, an address, or the YAML description of an archive that is read in place. A catalogue (.parquet)
    is shown as tables and a map.
    """
    from rich.console import Console

    if cube.endswith(".parquet"):
        from skyframe.data.catalogue_view import show_catalogue

        click.echo(f"drew {show_catalogue(Path(cube), picture)}")
        return
    if min(window, dates) < 1:
        raise InputError(f"inspect {cube}: --window {window} and --dates {dates}, expected 1 or more; give larger ones")
    from skyframe.data.amplification import gains, gains_table
    from skyframe.data.cube import open_cube
    from skyframe.data.quicklook import describe, draw
    from skyframe.data.store import is_address

    opened = open_cube(cube)
    Console().print(describe(opened), gains_table(gains(opened, window, dates)))
    target = picture or Path(opened.name + ".png" if is_address(cube) else cube.rstrip("/") + ".png")
    draw(opened, target)
    click.echo(f"drew {target}")


@cli.command()
@click.argument("source", metavar="SOURCE")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--codec",
    type=click.Choice(["lz4", "zstd"]),
    default="lz4",
    show_default=True,
    help="zstd is a tenth smaller and decodes at less than half the speed",
)
def rechunk(source: str, out: Path, codec: str) -> None:
    """Copy a cube, or an archive (YAML) that is read in place, into a cube whose chunks suit random windows.

    Values, flags, dates, labels and tables stay the same bit for bit; started again, it goes on.
    """
    from skyframe.data.cube import open_cube
    from skyframe.data.rechunk import rechunk as run

    opened = open_cube(source)
    with _progress("rechunk") as bar:
        path = run(opened, out, cast("Any", codec), bar)
    click.echo(f"wrote {path}")


@cli.command()
@click.argument("cube", metavar="CUBE")
def verify(cube: str) -> None:
    """Read every chunk of a cube and name those that are lost or altered; exit code 2 where one is."""
    from skyframe.data.cube import open_cube
    from skyframe.data.integrity import check_cube

    opened = open_cube(cube)
    if opened.in_place:
        raise InputError(f"{cube}: an archive, expected a cube with checksums; rechunk it into one to verify it")
    with _progress("verify") as bar:
        found = check_cube(opened, lambda _, done, total: bar(done, total))
    for finding in found:
        click.echo(finding)
    if found:
        raise InputError(f"{cube}: {len(found)} damages, named above, expected none; restore it or write it again")
    chunks = sum(sum(record.shards.values()) for record in opened.manifest.arrays.values())
    click.echo(f"{cube}: {chunks:,} chunks in {len(opened.manifest.arrays)} arrays are whole")


@cli.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("cubes", nargs=-1, required=True)
@click.option("--period", type=click.Choice(["year", "whole"]), default=None, help="a row per year (default), or one")
@click.option("--source", default=None, help="name of where these cubes come from; their spec's name by default")
@click.option("--weight", type=float, default=None, help="visits of each of their windows per epoch; 1 by default")
@click.option(
    "--split", default=None, help="shares by place, such as train=0.8,val=0.1,test=0.1; the specs' by default"
)
@click.option("--cell-km2", default=2500.0, show_default=True, help="area of the cells that --split draws")
@click.option("--buffer-m", default=5000.0, show_default=True, help="distance that --split keeps between parts")
@click.option("--seed", default=0, show_default=True, help="of --split")
def catalogue(
    out: Path,
    cubes: tuple[str, ...],
    period: str | None,
    source: str | None,
    weight: float | None,
    split: str | None,
    cell_km2: float,
    buffer_m: float,
    seed: int,
) -> None:
    """List CUBES (paths or globs) in the Parquet file OUT; cubes that it lists unchanged are not read again."""
    from skyframe.data.catalogue import Catalogue
    from skyframe.data.listing import list_cubes, settings_for
    from skyframe.data.split import read_rule

    rule = None if split is None else read_rule(split, cell_km2, buffer_m, seed)
    with _progress("catalogue") as bar:
        done = list_cubes(out, cubes, settings_for(out, period, rule), source, weight, bar)
    click.echo(
        f"wrote {out}: {done.num_rows:,} rows of {done.num_cubes:,} cubes; {done.num_read:,} cubes read, "
        f"{done.num_kept:,} known and unchanged"
    )
    for group in Catalogue(out).duplicates():
        click.echo(f"listed twice (same rectangle, same dates): {', '.join(group)}")


for command in (plan, launch, jobs, logs, cancel, evaluate, follow, data_check, report, preflight, pretrain):
    cli.add_command(command)


@cli.command()
@click.argument("cubes", nargs=-1, required=True, metavar="CUBE...")
@click.option("--spec", default=None, help="spec to compare with; --write's, or the first cube's own by default")
@click.option("--write", type=click.Path(path_type=Path), default=None, help="spec file that gets mean and std")
@click.option("--samples", default=512, show_default=True, help="chunks read per modality, at most")
@click.option("--seed", default=0, show_default=True, help="which chunks")
@click.option("--picture", type=click.Path(path_type=Path), default=None, help="PNG to draw; CUBE.stats.png by default")
def stats(
    cubes: tuple[str, ...], spec: str | None, write: Path | None, samples: int, seed: int, picture: Path | None
) -> None:
    """Measure mean, std and quantiles per band over clear pixels, and say where the spec contradicts them."""
    from rich.console import Console

    from skyframe.data.contradictions import contradictions
    from skyframe.data.cube import find_cubes
    from skyframe.data.spec_edit import write_statistics
    from skyframe.data.statistics import measure
    from skyframe.data.statistics_report import draw_statistics, picture_path, statistics_table
    from skyframe.spec import CubeSpec

    if write is not None and not write.is_file():
        raise InputError(f"{write}: no such file, expected a spec to write mean and std into; give its path")
    opened = find_cubes(cubes, "stats")
    named = write or spec
    declared = CubeSpec.load(named) if named else opened[0].spec
    target = picture_path(opened[0], picture)
    with _progress("stats") as bar:
        found = measure(opened, declared, samples, seed, bar)
    names = write_statistics(write, found) if write is not None else []
    draw_statistics(declared, found, target)
    console = Console()
    console.print(statistics_table(declared, found))
    for sentence in contradictions(declared, found):
        console.print(f"warning: {sentence}", markup=False, soft_wrap=True)
    click.echo(f"drew {target}")
    if names:
        click.echo(f"wrote mean and std of {', '.join(names)} to {write}")


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def export(run: Path, out: Path) -> None:
    """Write the run's newest encoders, one folder per module."""
    from skyframe.export import export_run
    from skyframe.train.checkpoint import read_checkpoint
    from skyframe.train.run import load_run

    recipe, checkpoint = load_run(run)
    for folder in export_run(read_checkpoint(checkpoint), recipe, out):
        click.echo(f"wrote {folder}")


def main() -> None:
    """Entry point: bad input is one sentence and exit code 2."""
    # Threads that spin while they wait slow a shared machine down many times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        cli(prog_name="skyframe", standalone_mode=False)
    except InputError as error:
        leave_verdict(2, error)
        _refuse(str(error))
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "skyframe"
        _refuse(f"{error.format_message().rstrip('.')}; see `{command} --help`")
    except click.ClickException as error:
        _refuse(error.format_message())
    except OSError as error:
        if error.filename is None:
            raise
        _refuse(f"{error.filename}: {error.strerror}; check the path, its permissions and the space left")
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)


def _refuse(sentence: str) -> NoReturn:
    leave_verdict(2)
    click.echo(f"error: {' '.join(sentence.split())}", err=True)
    sys.exit(2)


def _pair(option: str, text: str, separator: str) -> tuple[float, float]:
    try:
        first, second = (float(v) for v in text.split(separator))
        if not (math.isfinite(first) and math.isfinite(second)):
            raise ValueError
    except ValueError:
        raise InputError(
            f"{option}: got {text!r}, expected two numbers such as {'10x10' if separator == 'x' else '0,25600'}"
        ) from None
    return first, second


@contextmanager
def _progress(what: str) -> Iterator[Callable[..., None]]:
    """A progress line as a function of jobs done and jobs in all."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns) as bar:
        task = bar.add_task(what)
        yield lambda done, total, *_: bar.update(task, completed=done, total=total)


if __name__ == "__main__":
    main()
