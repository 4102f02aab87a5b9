"""Other work than training through the same door: a skyframe command as an array of parts, or over a list of items."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyframe.launch.array_script import FINISH, Work, render_array, render_finish
from skyframe.launch.array_status import DESCRIPTION, ITEMS, read_items_of, read_results
from skyframe.launch.begin import Launched, check_places, check_program, made, sbatch, shown, start, write_record
from skyframe.launch.cluster import Cluster, load_cluster
from skyframe.launch.items import Items, read_items
from skyframe.launch.script import Job
from skyframe.launch.status import launches, living
from skyframe.launch.submit import check_after
from skyframe.spec import InputError, load_yaml

FOLDER = Path("runs") / "arrays"
"""Where the folders of arrays lie, below the folder in which they are launched."""

PART = ("--part", "{part}")


@dataclass(frozen=True)
class Command:
    """What every element does; kept in the array's folder, as `--again` renders the scripts anew."""

    words: tuple[str, ...]  # of the skyframe command, with {item}, {part}, {name}
    finish: tuple[str, ...]  # of the step that follows when all are done
    cluster: str  # name, or absolute path
    here: str  # where relative paths begin
    gpus: int
    at_once: int


@dataclass(frozen=True)
class Plan:
    """An array that would be launched; nothing is written yet."""

    command: Command
    items: tuple[str, ...]
    cluster: Cluster
    work: Work
    scripts: dict[str, str]  # script.sh of the elements, finish.sh of the last step; either may be missing


def plan_array(
    words: Sequence[str],
    array: str,
    cluster: str,
    name: str = "",
    *,
    knows_part: bool = False,
    gpus: int = 0,
    at_once: int = 0,
    after: str = "",
    here: Path | None = None,
) -> Plan:
    """Check command, items and cluster against each other, and render the scripts.

    Args:
        words: the skyframe command; it holds {item}, or is one that knows --part.
        array: see `items.read_items`.
        cluster: name in launch/ or path.
        name: of the array's folder; the command's by default.
        knows_part: whether the command has an option --part.
        gpus: of each element.
        at_once: elements that run at a time; 0 = SLURM decides, one on this machine.
        after: id of a job that must end well before.
        here: where relative paths begin; the working folder by default.

    Raises:
        InputError: one of them is wrong, they do not fit, or there is an array of that name.
    """
    here = (here or Path.cwd()).absolute()
    items = read_items(array, here)
    named, finish = _placed(tuple(words), items, knows_part)
    name = name or words[0]
    if not re.fullmatch(r"[\w.+=-]+", name) or name.strip(".") == "":
        raise InputError(f"launch: --name {name!r}, expected letters, digits and . _ + = -; choose another")
    if at_once < 0 or gpus < 0:
        raise InputError(f"launch: --jobs {at_once} and --gpus {gpus}, expected 0 or more; give larger ones")
    folder = here / FOLDER / name
    if folder.exists():
        raise InputError(
            f"{folder.relative_to(here)}: is there already; `skyframe launch --again {folder.relative_to(here)}` does "
            "what it has not done, or give another --name"
        )
    command = Command(named, finish, _lasting(cluster, here), str(here), gpus, at_once)
    return _plan(command, items.texts, folder, tuple(range(1, len(items.texts) + 1)), after)


def plan_again(folder: Path, cluster: str = "", after: str = "") -> Plan:
    """An array's elements that are not done, and its last step, on the same cluster or on another one.

    Raises:
        InputError: no array, one that is under way, or one with nothing left to do.
    """
    named, folder = folder, folder.absolute()
    if not (folder / DESCRIPTION).is_file():
        raise InputError(f"{named}: holds no {DESCRIPTION}, expected the folder of an array or a sweep; correct it")
    tree: dict[str, Any] = load_yaml(folder / DESCRIPTION)
    tree |= {key: tuple(tree[key]) for key in ("words", "finish")}
    command = Command(**(tree | ({"cluster": _lasting(cluster, Path.cwd())} if cluster else {})))
    if living(folder):
        raise InputError(f"{named}: is under way, see `skyframe jobs {named}`; wait, or `skyframe cancel {named}`")
    items = read_items_of(folder)
    done = {key for key, result in read_results(folder).items() if result.code == "0"}
    wanted = tuple(k for k in range(1, len(items) + 1) if str(k) not in done)
    if not wanted and (not command.finish or FINISH in done):
        raise InputError(f"{named}: all {len(items)} elements are done, so there is nothing to do again")
    return _plan(command, items, folder, wanted, after)


def launch_array(plan: Plan) -> Launched:
    """Keep command, items and scripts in the array's folder, and start them; where that fails nothing is left.

    Raises:
        InputError: sbatch is not there or refuses a script, in its own words.
    """
    work, job = plan.work, plan.work.job
    check_program(plan.cluster, job.name)
    check_places(plan.cluster)
    number = job.run / "launch" / str(work.number)
    last = ""
    with made(job.run, number.parent, number):
        (job.run / ITEMS).write_text("".join(f"{item}\n" for item in plan.items), encoding="utf-8")
        (job.run / DESCRIPTION).write_text(json.dumps(dataclasses.asdict(plan.command), indent=2) + "\n")
        for name, text in plan.scripts.items():
            (number / name).write_text(text)
        if plan.cluster.executor == "local":
            done = start(number / "script.sh", job.folder, number / "script.log")
        else:
            done, last = _submit(plan, number)
    write_record(done, elements=list(work.wanted), finish=last)
    return done


def described(plan: Plan, done: Launched) -> str:
    """What the launch of an array tells: jobs, folder, and how to follow it."""
    job, wanted = plan.work.job, len(plan.work.wanted)
    run = shown(job.run)
    of = f"{wanted} elements" if wanted == plan.work.count else f"{wanted} of {plan.work.count} elements"
    then = f", then {' '.join(plan.command.finish)}" if plan.command.finish else ""
    where = f", process {done.pid}" if done.pid else ""
    return (
        f"job      {done.id}: {job.name}, {of}{then}{where}\nfolder   {run}\n"
        f"script   {run / 'launch' / done.folder.name / next(iter(plan.scripts))}\n"
        f"follow   skyframe jobs {run}\nlog      skyframe logs {run} --item K -f\nend it   skyframe cancel {run}"
    )


def _placed(words: tuple[str, ...], items: Items, knows_part: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words with a place for the item, and those of the last step: for parts of one piece of work the same
    command without --part."""
    text = " ".join(words)
    if not items.parts:
        if "{part}" in text or not re.search(r"\{(item|name)\}", text):
            raise InputError(
                f"launch: `{text}` over a list of items, expected {{item}} where an item stands and no {{part}}; put "
                "it in"
            )
        return words, ()
    if "{item}" in text or "{name}" in text:
        raise InputError(f"launch: `{text}` in parts, expected {{part}} in place of {{item}} and {{name}}; correct it")
    if "{part}" not in text:
        if not knows_part or any(word.startswith("--part") for word in words):
            raise InputError(
                f"launch: `{text}` in parts, expected {{part}} where K/N stands, or a command with an option --part "
                "that is left to the array; correct it, or give a list of items"
            )
        words = (*words, *PART)
    at = words.index("{part}") if "{part}" in words else 0
    rest = words[: at - 1] + words[at + 1 :] if words[at - 1 : at + 1] == PART else words
    rest = tuple(word for word in rest if word != "--part={part}")
    return words, rest if knows_part and "{part}" not in " ".join(rest) else ()


def _lasting(cluster: str, here: Path) -> str:
    """A cluster file so named that it is found again from elsewhere."""
    return str(here / cluster) if (here / cluster).is_file() else cluster


def _plan(command: Command, items: tuple[str, ...], folder: Path, wanted: tuple[int, ...], after: str) -> Plan:
    site = load_cluster(command.cluster)
    check_after(site, command.cluster, after)
    _check_site(site, command)
    here = Path(command.here)
    if re.search(r'["%`\n\\$]', f"{folder}"):
        raise InputError(f'{folder}: holds one of " % ` $ \\, which logs of SLURM cannot; launch from another folder')
    number = 1 + max(launches(folder), default=0)
    job = Job(folder.name, folder, folder, here, 1, sys.executable, after)
    work = Work(job, number, command.words, command.finish, len(items), wanted, command.at_once, command.gpus)
    scripts = {"script.sh": render_array(work, site)} if wanted or site.executor == "local" else {}
    if command.finish and site.executor == "slurm":
        scripts["finish.sh"] = render_finish(work, site)
    return Plan(command, items, site, work, scripts)


def _check_site(site: Cluster, command: Command) -> None:
    """That an element takes no more than it was given."""
    where, gpus = Path(command.cluster).name, command.gpus
    if site.executor == "local":
        if gpus:
            raise InputError(f"launch: --gpus {gpus} with {where}, which is this machine with all it has; leave it out")
        return
    if gpus > site.gpus_per_node:
        raise InputError(f"launch: --gpus {gpus} but {where} has gpus_per_node {site.gpus_per_node}; give fewer")
    whole = "exclusive" if site.exclusive else 'memory "0"' if site.memory == "0" else ""
    if whole and gpus < site.gpus_per_node:
        raise InputError(
            f"launch: {where} has {whole}, so that each element would take a node of {site.gpus_per_node} GPUs for "
            f"the {gpus} of --gpus; take a cluster file for such work, such as launch/example_cpu.yaml"
        )


def _submit(plan: Plan, number: Path) -> tuple[Launched, str]:
    """The array, and behind it the last step; both or none."""
    job = plan.work.job
    done = sbatch(number / "script.sh", job.folder, job.name) if plan.work.wanted else None
    if not plan.command.finish:
        assert done is not None
        return done, ""
    after = [f"--dependency=afterok:{done.id}", "--kill-on-invalid-dep=yes"] if done else []
    try:
        last = sbatch(number / "finish.sh", job.folder, job.name, *after)
    except InputError:
        if done:
            subprocess.run(("scancel", done.id), capture_output=True)
        raise
    return done or last, last.id
