"""A recipe over values of its settings: a run of its own for every combination, all in one folder."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from skyframe.config import load_recipe
from skyframe.launch import begin, submit
from skyframe.launch.begin import Launched, shown
from skyframe.launch.cluster import Cluster, load_cluster
from skyframe.launch.status import SWEEP, launches, status
from skyframe.launch.submit import plan_launch
from skyframe.launch.sweep_status import Sweep, read_sweep, sweep_lives
from skyframe.spec import InputError

MOST_RUNS = 1000
OWN_KEYS = {"name": "--name", "train.run_dir": "the sweep's folder"}
"""Settings that a sweep gives to its runs itself, and by what."""

LOCAL = """\
#!/bin/bash
# the runs of {name} on this machine, {at_once} at a time; <run>/launch/<n>/code tells how each ended
cd {folder}
for script in {scripts}; do
    while [ "$(jobs -rp | wc -l)" -ge {at_once} ]; do wait -n; done
    {{
        bash "$script" >>"${{script%/launch/*}}/slurm/{id}_rank0.log" 2>&1 </dev/null
        echo $? >"${{script%/*}}/code"
    }} &
done
wait
"""


@dataclass(frozen=True)
class SweepPlan:
    """Runs that would be launched; nothing is written yet."""

    folder: Path
    sweep: Sweep
    cluster: Cluster
    plans: tuple[submit.Plan, ...]  # of the runs that are not finished


def plan_sweep(
    recipe: str,
    overrides: Sequence[str],
    sweeps: Sequence[str],
    cluster: str,
    num_nodes: int = 1,
    name: str = "",
    *,
    at_once: int = 0,
    after: str = "",
    here: Path | None = None,
) -> SweepPlan:
    """Check every combination as a launch of its own.

    Args:
        recipe: name in recipes/ or path.
        overrides: `key=value` settings of all runs.
        sweeps: `key=a,b,c` settings that differ; a run for each combination. Commas in brackets belong to a value.
        cluster: name in launch/ or path.
        num_nodes: of each run.
        name: of the sweep's folder in train.run_dir; the recipe's name and `_sweep` by default.
        at_once: runs at a time; 0 = SLURM decides, one on this machine.
        after: id of a job that must end well before.
        here: where relative paths begin; the working folder by default.

    Raises:
        InputError: a wrong sweep, a folder that is there, or the first combination that is wrong, which it names.
    """
    here = (here or Path.cwd()).absolute()
    axes = _axes(sweeps)
    for key in OWN_KEYS:
        if key in axes:
            raise InputError(f"launch: --sweep {key} is set by {OWN_KEYS[key]}; leave it out")
    if at_once < 0:
        raise InputError(f"launch: --jobs {at_once}, expected 0 or more; give a larger one")
    first = load_recipe(recipe, overrides)
    name = name or f"{first.name}_sweep"
    if not re.fullmatch(r"[\w.+=-]+", name) or name.strip(".") == "":
        raise InputError(f"launch: --name {name!r}, expected letters, digits and . _ + = -; choose another")
    folder = (here / first.train.run_dir / name).absolute()
    if folder.exists():
        raise InputError(
            f"{folder}: is there already; `skyframe launch --again {folder}` goes on with a sweep, or give another "
            "--name"
        )
    runs = _named(first.name, axes)
    where = str(here / cluster) if (here / cluster).is_file() else cluster
    where_recipe = str(here / recipe) if (here / recipe).is_file() else recipe
    sweep = Sweep(where_recipe, tuple(overrides), where, num_nodes, at_once, str(here), tuple(axes), runs)
    return _planned(folder, sweep, after)


def plan_sweep_again(folder: Path, cluster: str = "", after: str = "") -> SweepPlan:
    """The runs of a sweep that are not finished, each from its last checkpoint.

    Raises:
        InputError: a sweep that is under way, or whose runs are all finished.
    """
    named, folder = folder, folder.absolute()
    sweep = read_sweep(folder)
    if cluster:
        sweep = replace(sweep, cluster=str(Path(cluster).absolute()) if Path(cluster).is_file() else cluster)
    if sweep_lives(folder):
        raise InputError(f"{named}: is under way, see `skyframe jobs {named}`; wait, or `skyframe cancel {named}`")
    unfinished = {n: v for n, v in sweep.runs.items() if status(folder / n, []).state != "FINISHED"}
    if not unfinished:
        raise InputError(f"{named}: all {len(sweep.runs)} runs are finished, so there is nothing to do again")
    return _planned(folder, sweep, after, unfinished)


def launch_sweep(plan: SweepPlan) -> list[Launched]:
    """Start every run of a sweep: a job each on SLURM, one after another in the background of this machine.

    Raises:
        InputError: the first run cannot be started, and nothing is left; or a later one, which it says.
    """
    if plan.cluster.executor == "local":
        return [_start(plan)]
    begun: list[Launched] = []
    new = not plan.folder.exists()
    for number, run in enumerate(plan.plans):
        at_once = plan.sweep.at_once
        waits = [f"afterok:{run.job.after}"] if run.job.after else []
        waits += [f"afterany:{begun[number - at_once].id}"] if at_once and number >= at_once else []
        try:
            begun.append(submit.launch(run, *([f"--dependency={','.join(waits)}"] if waits else [])))
        except InputError as error:
            if not begun:
                if new and plan.folder.exists():
                    plan.folder.rmdir()  # the run in it is gone already
                raise
            raise InputError(
                f"{error}; {number} of {len(plan.plans)} runs are submitted, `skyframe launch --again {plan.folder}` "
                "submits the others"
            ) from error
        finally:
            if begun:
                _describe(plan)
    return begun


def described(plan: SweepPlan, done: list[Launched]) -> str:
    """What the launch of a sweep tells: jobs, folder, and how to follow it."""
    folder = shown(plan.folder)
    where = f"process {done[0].pid}" if done[0].pid else f"{plan.sweep.num_nodes} nodes each"
    names = "\n".join(f"run      {folder / run.job.name}" for run in plan.plans)
    return (
        f"jobs     {', '.join(job.id for job in done)}: {len(plan.plans)} runs, {where}\n{names}\n"
        f"follow   skyframe jobs {folder}\nlog      skyframe logs RUN -f\nend it   skyframe cancel {folder}"
    )


def _axes(sweeps: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Values by key, in the order given."""
    axes: dict[str, tuple[str, ...]] = {}
    for text in sweeps:
        key, sign, rest = text.partition("=")
        values = tuple(value.strip() for value in re.split(r",(?![^\[{(]*[\]})])", rest))
        if not key or not sign or "" in values:
            raise InputError(
                f"launch: --sweep {text!r}, expected key=value,value such as optim.lr=1e-4,3e-4; correct it"
            )
        if len(set(values)) < len(values) or key in axes:
            raise InputError(f"launch: --sweep {text!r} has a key or a value twice, expected each once; take one out")
        axes[key] = values
    total = 1
    for values in axes.values():
        total *= len(values)
    if total > MOST_RUNS:
        raise InputError(f"launch: --sweep makes {total} runs, expected at most {MOST_RUNS}; take fewer values")
    return axes


def _named(recipe: str, axes: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Values of every combination by the run's name, such as tiny_lr=1e-4_seed=0."""
    short = [key.rpartition(".")[2] for key in axes]
    keys = short if len(set(short)) == len(short) else list(axes)
    runs = {}
    for values in itertools.product(*axes.values()):
        parts = [f"{key}={value}" for key, value in zip(keys, values, strict=True)]
        name = "_".join([recipe, *(re.sub(r"[^\w.+=-]+", "-", part).strip("-") for part in parts)])
        if name in runs:
            raise InputError(
                f"launch: --sweep: two runs would be called {name!r}, expected different names; shorten a value"
            )
        runs[name] = values
    return runs


def _planned(folder: Path, sweep: Sweep, after: str, wanted: Mapping[str, tuple[str, ...]] | None = None) -> SweepPlan:
    here = Path(sweep.here)
    plans = []
    for name, values in (sweep.runs if wanted is None else wanted).items():
        chosen = [f"{key}={value}" for key, value in zip(sweep.keys, values, strict=True)]
        own = [*sweep.overrides, *chosen, f"train.run_dir={folder}", f"name={name}"]
        try:
            plans.append(plan_launch(sweep.recipe, own, sweep.cluster, sweep.num_nodes, after, here))
        except InputError as error:
            raise InputError(f"launch --sweep {' '.join(chosen)}: {error}") from error
    return SweepPlan(folder, sweep, load_cluster(sweep.cluster), tuple(plans))


def _describe(plan: SweepPlan) -> None:
    (plan.folder / SWEEP).write_text(json.dumps(asdict(plan.sweep), indent=2) + "\n")


def _start(plan: SweepPlan) -> Launched:
    """One process for all runs; each has a record of it, so that nobody else works on the run."""
    number = plan.folder / "launch" / str(1 + max(launches(plan.folder), default=0))
    with ExitStack() as undone:
        undone.enter_context(begin.made(plan.folder, number.parent, number))
        scripts = [undone.enter_context(submit.kept(run)) for run in plan.plans]
        text = LOCAL.format(
            name=plan.folder.name, at_once=plan.sweep.at_once or 1, folder=shlex.quote(plan.sweep.here),
            scripts=" ".join(shlex.quote(str(script)) for script in scripts), id=f"local{number.name}",
        )  # fmt: skip
        (number / "script.sh").write_text(text)
        _describe(plan)
        done = begin.start(number / "script.sh", Path(plan.sweep.here), number / "script.log")
    begin.write_record(done)
    for run, script in zip(plan.plans, scripts, strict=True):
        begin.write_record(
            replace(done, folder=script.parent), nodes=run.job.num_nodes, tasks_per_node=plan.cluster.tasks
        )
    return done
