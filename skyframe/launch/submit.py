"""From recipe and cluster to a submitted job: checks first, then the run's launch/ folder, then sbatch or bash."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from skyframe.config import dump_recipe, load_recipe, recipe_from_tree
from skyframe.config.recipe import Recipe, same_run
from skyframe.launch.begin import Launched, check_places, check_program, made, sbatch, shown, start, write_record
from skyframe.launch.cluster import Cluster, load_cluster
from skyframe.launch.script import SCRIPT, Job, logs, render
from skyframe.launch.status import alive, jobs_of, last_row, launches
from skyframe.spec import InputError, load_yaml


@dataclass(frozen=True)
class Plan:
    """What would be launched; nothing is written yet."""

    recipe: Recipe
    cluster: Cluster
    job: Job
    script: str


def plan_launch(
    recipe: str, overrides: Sequence[str], cluster: str, num_nodes: int = 1, after: str = "", here: Path | None = None
) -> Plan:
    """Check recipe, cluster and run folder against each other, and render the script.

    Args:
        recipe: name in recipes/ or path.
        overrides: `key=value` settings of the recipe.
        cluster: name in launch/ or path.
        num_nodes: how many nodes.
        after: id of a job that must end well before.
        here: where relative paths begin; the working folder by default.

    Raises:
        InputError: one of them is wrong, they do not fit, or the run is finished, under way, or another one's.
    """
    site = load_cluster(cluster)
    _check_options(site, cluster, num_nodes, after, overrides)
    loaded = load_recipe(recipe, [*overrides, f"train.num_nodes={num_nodes}", f"train.devices={site.tasks}"])
    device = loaded.train.accelerator
    if device == ("gpu" if not site.gpus_per_node else "cpu"):
        raise InputError(
            f"{loaded.name}: train.accelerator is {device!r} but {cluster} has gpus_per_node {site.gpus_per_node}; "
            "leave train.accelerator at auto, or take another cluster file"
        )
    here = (here or Path.cwd()).absolute()
    run = (here / loaded.train.run_dir / loaded.name).absolute()
    if re.search(r'["%`\n\\$]', f"{here}{run}"):
        raise InputError(f'{run}: holds one of " % ` $ \\, which logs of SLURM cannot; choose another train.run_dir=')
    _check_run(run, loaded)
    folder = run / "launch" / str(1 + max((int(p.name) for p in run.glob("launch/[0-9]*")), default=0))
    signal = loaded.train.survival.signal.removeprefix("SIG")
    job = Job(loaded.name, folder / "recipe.yaml", run, here, num_nodes, sys.executable, after, signal)
    return Plan(loaded, site, job, render(job, site))


def launch(plan: Plan, *options: str) -> Launched:
    """Keep script, recipe and git state in the run's folder, and start the job; where that fails nothing is left.

    Args:
        plan: from `plan_launch`.
        options: further ones for sbatch.

    Raises:
        InputError: sbatch is not there or refuses the script, in its own words.
    """
    with kept(plan) as script:
        if plan.cluster.executor == "slurm":
            done = sbatch(script, plan.job.folder, plan.job.name, *options)
        else:
            done = start(script, plan.job.folder, logs(plan.job.run) / f"local{script.parent.name}_rank0.log")
    write_record(done, nodes=plan.job.num_nodes, tasks_per_node=plan.cluster.tasks)
    return done


@contextmanager
def kept(plan: Plan) -> Iterator[Path]:
    """The script in the run's folder, beside the recipe; where what follows fails nothing of them is left.

    Raises:
        InputError: this machine cannot start it, another job works on the run, or the environment is not there.
    """
    check_program(plan.cluster, plan.job.name)
    _check_queue(plan.job)
    check_places(plan.cluster)
    folder = plan.job.recipe.parent
    with made(plan.job.run, logs(plan.job.run), folder.parent, folder):
        (folder / "recipe.yaml").write_text(dump_recipe(plan.recipe))
        (folder / SCRIPT).write_text(plan.script)
        yield folder / SCRIPT


OWN_KEYS = {"train.num_nodes": "--nodes", "train.devices": "the cluster file", "resume": "launch, which always resumes"}
"""Overrides that a launch sets itself, and by what."""


def _check_options(site: Cluster, cluster: str, num_nodes: int, after: str, overrides: Sequence[str]) -> None:
    if num_nodes < 1:
        raise InputError(f"launch: --nodes {num_nodes}, expected 1 or more; give a larger one")
    if site.executor == "local" and num_nodes > 1:
        raise InputError(f"launch: --nodes {num_nodes} with {cluster}, which is this machine alone; leave --nodes out")
    check_after(site, cluster, after)
    for item in overrides:
        key = item.partition("=")[0]
        if key in OWN_KEYS:
            raise InputError(f"launch: {item} is set by {OWN_KEYS[key]}; leave it out")


def check_after(site: Cluster, cluster: str, after: str) -> None:
    """That `--after` is the id of a job, on a cluster that has such."""
    if site.executor == "local" and after:
        raise InputError(f"launch: --after {after} with {cluster}, which has no queue; leave --after out")
    if after and not re.fullmatch(r"\d+(_\d+)?", after):
        raise InputError(f"launch: --after {after!r}, expected the id of a job such as 1234; see `skyframe jobs`")


def _check_run(run: Path, recipe: Recipe) -> None:
    """That the run's folder is free or this recipe's, and that nobody works on it."""
    saved = run / "recipe.yaml"
    if run.exists() and not saved.is_file() and not launches(run):
        raise InputError(f"{run}: is there but holds no run; choose another name= or train.run_dir=")
    if saved.is_file():
        if not same_run(recipe_from_tree(load_yaml(saved), str(saved)), recipe):
            raise InputError(
                f"{saved}: the run was started with another recipe, expected the same to go on with it (apart from how "
                "it is run: strategy, nodes, workers and how often is saved); choose another name="
            )
        step = int(last_row(run).get("step", 0))
        if step >= recipe.train.max_steps:
            raise InputError(f"{run}: finished at step {step}, so there is nothing to launch; choose another name=")
    for number, record in launches(run).items():
        if alive(record):
            raise InputError(
                f"{run}: launch {number} still runs here as process {record['pid']}; wait, or `skyframe cancel {run}`"
            )


def _check_queue(job: Job) -> None:
    """That no other job writes, or will write, into the run's folder."""
    others = [entry for entry in jobs_of(job.run) if entry.id != job.after]
    if others:
        raise InputError(
            f"{job.run}: job {others[0].id} of this run is {others[0].state}, and two would write into one folder; "
            f"give --after {others[0].id}, or `skyframe cancel {job.run}`"
        )


def described(plan: Plan, done: Launched) -> str:
    """What a launch tells: the job, its folders, and how to follow it."""
    where = f"{plan.job.num_nodes} nodes x {plan.cluster.tasks} processes" if not done.pid else f"process {done.pid}"
    run = shown(plan.job.run)
    script = run / "launch" / done.folder.name / SCRIPT
    return (
        f"job      {done.id}: {plan.job.name}, {where}\nrun      {run}\nscript   {script}\n"
        f"follow   skyframe logs {run} -f\nall      skyframe jobs\nend it   skyframe cancel {run}"
    )
