"""`skyframe launch`: a recipe as a job of a cluster, or in the background of this machine."""

from __future__ import annotations

import click

from skyframe.commands import OVERRIDES


@click.command()
@click.argument("recipe")
@OVERRIDES
@click.option("--cluster", required=True, metavar="FILE", help="a YAML of launch/ by name, or by path; local: no SLURM")
@click.option("--nodes", default=1, show_default=True, help="how many nodes; the cluster file says how many processes")
@click.option("--after", default="", metavar="JOB", help="start when this job has ended well")
@click.option("--dry-run", is_flag=True, help="print the script; write and submit nothing")
def launch(recipe: str, overrides: tuple[str, ...], cluster: str, nodes: int, after: str, dry_run: bool) -> None:
    """Submit a recipe as a job that goes on by itself until it is trained to its end.

    Script, resolved recipe and git state are kept in RUN/launch/<n>, logs in RUN/slurm. A job that reaches its time
    limit, is preempted or loses a node is queued again and resumes exactly. Given again, a run goes on from its last
    checkpoint, on as many nodes as you like. The script may also be submitted by hand: `sbatch RUN/launch/1/script.sh`.
    """
    from skyframe.launch.submit import described, plan_launch
    from skyframe.launch.submit import launch as run

    made = plan_launch(recipe, overrides, cluster, nodes, after)
    click.echo(made.script if dry_run else described(made, run(made)), nl=not dry_run)
