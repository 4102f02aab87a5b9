"""From recipe and cluster to a submitted job: checks first, then the run's launch/ folder, then sbatch or bash."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import skyframe
from skyframe.config import dump_recipe, load_recipe, recipe_from_tree
from skyframe.config.recipe import Recipe, same_run
from skyframe.launch.cluster import Cluster, load_cluster
from skyframe.launch.script import Job, logs, render
from skyframe.launch.status import RECORD, alive, jobs_of, last_row, launches, started
from skyframe.spec import InputError, load_yaml


@dataclass(frozen=True)
class Plan:
    """What would be launched; nothing is written yet."""

    recipe: Recipe
    cluster: Cluster
    job: Job
    script: str


@dataclass(frozen=True)
class Launched:
    """A job that SLURM has taken, or processes that run here."""

    id: str  # job id, or local<n>
    pid: int  # of the processes' group here; 0 = SLURM's
    folder: Path  # <run>/launch/<n>: script.sh, recipe.yaml, record.json, changes.diff


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
    job = Job(loaded.name, folder / "recipe.yaml", run, here, num_nodes, sys.executable, after)
    return Plan(loaded, site, job, render(job, site))


def launch(plan: Plan) -> Launched:
    """Keep script, recipe and git state in the run's folder, and start the job; where that fails nothing is left.

    Raises:
        InputError: sbatch is not there or refuses the script, in its own words.
    """
    check_program(plan.cluster, plan.job.name)
    _check_queue(plan.job)
    check_places(plan.cluster)
    folder = plan.job.recipe.parent
    script = folder / "script.sh"
    with made(plan.job.run, logs(plan.job.run), folder.parent, folder):
        (folder / "recipe.yaml").write_text(dump_recipe(plan.recipe))
        script.write_text(plan.script)
        if plan.cluster.executor == "slurm":
            done = sbatch(script, plan.job.folder, plan.job.name)
        else:
            done = start(script, plan.job.folder, logs(plan.job.run) / f"local{folder.name}_rank0.log")
    write_record(done, nodes=plan.job.num_nodes, tasks_per_node=plan.cluster.tasks)
    return done


def check_program(site: Cluster, name: str) -> None:
    """That this machine has what starts jobs."""
    program = "sbatch" if site.executor == "slurm" else "bash"
    if shutil.which(program) is None:
        raise InputError(
            f"{name}: {program} is not found on this machine, expected a login node of the cluster; launch there, or "
            "take `--cluster local`"
        )


@contextmanager
def made(*folders: Path) -> Iterator[None]:
    """Folders, the outer ones first; the last is new. Those that were not there vanish where what follows fails."""
    new = [folder for folder in folders[:-1] if not folder.exists()]
    for folder in (*new, folders[-1]):
        folder.mkdir(parents=True)
    try:
        yield
    except BaseException:
        for folder in (folders[-1], *reversed(new)):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def write_record(done: Launched, **more: Any) -> None:
    """Keep beside the script what was started, when, where and from which code."""
    record = {
        "id": done.id, "pid": done.pid, "started": started(done.pid) if done.pid else "", "host": socket.gethostname(),
        "when": time.strftime("%Y-%m-%d %H:%M:%S"), **more, "skyframe": skyframe.__version__,
        **_git_state(done.folder),
    }  # fmt: skip
    (done.folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")


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


def check_places(site: Cluster) -> None:
    """That environment and image are there, where their place can be known here."""
    box = site.container
    wanted = [(f"venv {site.venv}", Path(site.venv).expanduser() / "bin/activate")] if site.venv else []
    wanted += [(f"container.image {box.image}", Path(box.image))] if box and box.image.startswith("/") else []
    for name, path in wanted:
        if "$" not in str(path) and not path.exists():
            raise InputError(f"{name}: {path} is not there, expected on a file system of all nodes; correct the path")


def _git_state(folder: Path) -> dict[str, str]:
    """Commit of the code that is launched; what differs from it is kept in changes.diff."""
    code = Path(skyframe.__file__).parent

    def ask(*words: str) -> str:
        try:
            done = subprocess.run(("git", *words), cwd=code, capture_output=True, text=True, errors="replace")
        except FileNotFoundError:
            return ""
        return done.stdout if done.returncode == 0 else ""

    changes = ask("diff", "HEAD")
    if changes:
        (folder / "changes.diff").write_text(changes)
    return {"commit": ask("rev-parse", "HEAD").strip() or "unknown", "changed": "yes" if changes else "no"}


def sbatch(script: Path, here: Path, name: str, *options: str) -> Launched:
    """Hand a script to SLURM.

    Raises:
        InputError: sbatch refuses it, in its own words.
    """
    done = subprocess.run(("sbatch", "--parsable", *options, script), cwd=here, capture_output=True, text=True)
    if done.returncode:
        words = " ".join(line.removeprefix("sbatch: ") for line in done.stderr.splitlines()).strip()
        raise InputError(f"{name}: sbatch refuses the job ({words}); correct the cluster file or the options")
    return Launched(done.stdout.strip().partition(";")[0], 0, script.parent)


def start(script: Path, here: Path, log: Path) -> Launched:
    """Start a script as a group of processes of its own, which outlives this one."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            ("bash", script), cwd=here, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    return Launched(f"local{script.parent.name}", process.pid, script.parent)


def described(plan: Plan, done: Launched) -> str:
    """What a launch tells: the job, its folders, and how to follow it."""
    where = f"{plan.job.num_nodes} nodes x {plan.cluster.tasks} processes" if not done.pid else f"process {done.pid}"
    run = plan.job.run.relative_to(plan.job.folder) if plan.job.run.is_relative_to(plan.job.folder) else plan.job.run
    shown = replace(done, folder=run / "launch" / done.folder.name)
    return (
        f"job      {done.id}: {plan.job.name}, {where}\nrun      {run}\nscript   {shown.folder / 'script.sh'}\n"
        f"follow   skyframe logs {run} -f\nall      skyframe jobs\nend it   skyframe cancel {run}"
    )
