"""`skyframe launch`: recipes and other work as jobs of a cluster, or in the background of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from skyframe.spec import InputError, did_you_mean

if TYPE_CHECKING:
    from skyframe.launch.array import Plan as ArrayPlan
    from skyframe.launch.sweep import SweepPlan

NOT_IN_ARRAYS = {
    "pretrain": "launch RECIPE --sweep key=a,b",
    "preflight": "a launch of a recipe on several nodes",
    **dict.fromkeys(("launch", "jobs", "logs", "cancel"), "the shell"),
}
"""Commands that are no element of an array, and what does instead."""


WORDS = """\
An array runs any other skyframe COMMAND, written after --. With a number N it is one piece of work in N parts: {part}
in COMMAND is K/N; without it `--part K/N` is added to a command that has this option. When all parts of an ingestion
are done, the same command without --part follows by itself and finishes the cube. With a list the command runs once
per item, which stands where {item} is ({name}: its last part): items with commas, a text file of one item a line, a
catalogue (.parquet) whose cubes are the items, tasks:SUITE for the tasks of an evaluation suite, a folder, or a glob
in quotes. Each element is one process with cpus_per_task and memory of the
cluster file, and no GPU but those of --gpus. Logs and results lie in runs/arrays/NAME (COMMAND by default).

A sweep is a run of its own for every combination of values, in train.run_dir/NAME (RECIPE_sweep by default).
"""
"""What --array and --sweep mean, below the options."""


@click.command(epilog=WORDS)
@click.argument("words", nargs=-1, metavar="RECIPE [key=value ...] | -- COMMAND ...")
@click.option("--cluster", default="", metavar="FILE", help="a YAML of launch/ by name, or by path; local: no SLURM")
@click.option("--nodes", default=1, show_default=True, help="how many nodes; the cluster file says how many processes")
@click.option("--after", default="", metavar="JOB", help="start when this job has ended well")
@click.option("--dry-run", is_flag=True, help="print the script; write and submit nothing")
@click.option("--array", default="", metavar="N|LIST", help="COMMAND in N parts, or over a list of items")
@click.option("--name", default="", help="of the folder of an array or a sweep")
@click.option("--jobs", default=0, metavar="M", help="elements at once: as many as SLURM likes by default, one locally")
@click.option("--gpus", default=0, show_default=True, help="GPUs of each element of an array")
@click.option(
    "--sweep", "sweeps", multiple=True, metavar="KEY=A,B", help="a run of RECIPE for each value; may be repeated"
)
@click.option(
    "--again", metavar="FOLDER", type=click.Path(path_type=Path), help="do what an array or a sweep has not done"
)
def launch(
    words: tuple[str, ...],
    cluster: str,
    nodes: int,
    after: str,
    dry_run: bool,
    array: str,
    name: str,
    jobs: int,
    gpus: int,
    sweeps: tuple[str, ...],
    again: Path | None,
) -> None:
    """Submit a recipe as a job that goes on by itself until it is trained to its end, or other work as an array.

    \b
    skyframe launch RECIPE --cluster FILE [key=value ...]           a run
    skyframe launch --array 20 --cluster FILE -- ingest geotiff scenes.yaml cubes/x
    skyframe launch --array 'cubes/*' --cluster FILE -- verify {item}
    skyframe launch RECIPE --cluster FILE --sweep optim.lr=1e-4,3e-4 --sweep seed=0,1
    skyframe launch --again runs/arrays/verify                      what is not done

    Script, resolved recipe and git state of a run are kept in RUN/launch/<n>, logs in RUN/slurm. A job that reaches its
    time limit, is preempted or loses a node is queued again and resumes exactly. Given again, a run goes on from its
    last checkpoint, on as many nodes as you like. The script may also be submitted by hand: `sbatch
    RUN/launch/1/script.sh`.
    """
    if again is not None:
        _only(
            "--again",
            {"COMMAND": words, "--array": array, "--name": name, "--jobs": jobs, "--gpus": gpus, "--sweep": sweeps},
            nodes,
        )
        _again(again, cluster, after, dry_run)
        return
    if not cluster:
        raise InputError("launch: no --cluster, expected a YAML of launch/ by name or path; give one, such as local")
    if array:
        _only("--array", {"--sweep": sweeps}, nodes)
        _array(words, array, cluster, name, jobs, gpus, after, dry_run)
        return
    _only("RECIPE", {"--gpus": gpus} | ({} if sweeps else {"--name": name, "--jobs": jobs}), 1)
    if not words:
        raise click.UsageError("Missing argument 'RECIPE'.", click.get_current_context())
    if sweeps:
        from skyframe.launch.sweep import plan_sweep

        _begin(plan_sweep(words[0], words[1:], sweeps, cluster, nodes, name, at_once=jobs, after=after), dry_run)
        return
    from skyframe.launch.submit import described, plan_launch
    from skyframe.launch.submit import launch as run

    made = plan_launch(words[0], words[1:], cluster, nodes, after)
    click.echo(made.script if dry_run else described(made, run(made)), nl=not dry_run)


def _only(what: str, others: dict[str, object], nodes: int) -> None:
    """Refuse what would be given in vain."""
    vain = [name for name, value in others.items() if value] + (["--nodes"] if nodes != 1 else [])
    if vain:
        raise InputError(
            f"launch: {what} goes without {' and '.join(vain)}, expected no such words or options; leave them out"
        )


def _array(
    words: tuple[str, ...], array: str, cluster: str, name: str, jobs: int, gpus: int, after: str, dry_run: bool
) -> None:
    from skyframe.launch.array import plan_array

    known = _checked(words)
    _start(plan_array(words, array, cluster, name, knows_part=known, gpus=gpus, at_once=jobs, after=after), dry_run)


def _again(folder: Path, cluster: str, after: str, dry_run: bool) -> None:
    from skyframe.launch.array import plan_again
    from skyframe.launch.sweep_status import is_sweep

    if is_sweep(folder):
        from skyframe.launch.sweep import plan_sweep_again

        _begin(plan_sweep_again(folder, cluster, after), dry_run)
        return
    _start(plan_again(folder, cluster, after), dry_run)


def _start(plan: ArrayPlan, dry_run: bool) -> None:
    from skyframe.launch.array import described, launch_array

    click.echo("\n".join(plan.scripts.values()) if dry_run else described(plan, launch_array(plan)), nl=not dry_run)


def _begin(plan: SweepPlan, dry_run: bool) -> None:
    from skyframe.launch.sweep import described, launch_sweep

    scripts = "\n".join(run.script for run in plan.plans)
    click.echo(scripts if dry_run else described(plan, launch_sweep(plan)), nl=not dry_run)


def _checked(words: tuple[str, ...]) -> bool:
    """Read the words as the command line would, and say whether the command has an option --part.

    Raises:
        InputError: no such command, or one that is no work of an array.
        click.UsageError: words that the command does not take, as it says itself.
    """
    known = click.get_current_context().find_root().command
    assert isinstance(known, click.Group)
    if not words or words[0] not in known.commands:
        asked = words[0] if words else ""
        near = did_you_mean(asked, known.commands) or "; see `skyframe --help`"
        raise InputError(f"launch --array: no skyframe command {asked!r}, expected one after --{near}")
    if words[0] in NOT_IN_ARRAYS:
        instead = NOT_IN_ARRAYS[words[0]]
        raise InputError(f"launch --array: `{words[0]}` is no work of an array, expected another; use {instead}")
    command = known.commands[words[0]]
    command.make_context(f"skyframe {words[0]}", list(words[1:]))
    return any("--part" in option.opts for option in command.params)
