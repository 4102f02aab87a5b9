"""What a cluster is: one strict YAML per cluster in launch/, checked before anything is submitted."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from skyframe.config import overlay, read_tree
from skyframe.spec import InputError, build


@dataclass(frozen=True)
class Container:
    """An image in which the training processes run. It brings python, torch and SkyFrame."""

    kind: Literal["apptainer", "pyxis"]  # `apptainer exec`, or the --container options that enroot/pyxis give to srun
    image: str  # a .sif or .sqsh file, or a registry's address
    mounts: tuple[str, ...] = ()  # folders or from:to; the working folder and the run's folder are always there
    options: tuple[str, ...] = ()  # further words for `apptainer exec`, or for srun with pyxis


@dataclass(frozen=True)
class Cluster:
    """One partition of one cluster, and what a process needs there. Texts may hold $VARIABLES of the job."""

    executor: Literal["slurm", "local"] = "slurm"  # local: processes of this machine in the background, no SLURM
    time_limit: str = ""  # of a job: [days-]hours:minutes:seconds; slurm needs one
    partition: str = ""  # this and the next three: empty = the site's default
    account: str = ""
    qos: str = ""
    constraint: str = ""  # features that the nodes must have, such as "a100&nvme"
    gpus_per_node: int = 0  # 0 = train on CPUs
    gpu_type: str = ""  # asked for by name where a partition mixes kinds, such as a100
    gpu_request: Literal["gpus-per-node", "gres", "none"] = "gpus-per-node"  # how the site is asked; none = not at all
    tasks_per_node: int = 0  # processes; 0 = one per GPU, or one on a node without
    cpus_per_task: int = 1  # for a process and its data.workers
    memory: str = ""  # per node: 480G, 0 = all of it, empty = the site's default
    exclusive: bool = False  # whole nodes, shared with nobody
    modules: tuple[str, ...] = ()  # for `module load`
    setup: tuple[str, ...] = ()  # shell lines of the job's script, after the modules
    venv: str = ""  # a virtual environment that all nodes see
    container: Container | None = None  # or an image instead
    python: str = ""  # the interpreter; empty = that of venv or container, else the one that launches
    env: dict[str, str] = field(default_factory=dict)  # variables of the training processes, such as NCCL_DEBUG: WARN
    interface: str = ""  # network between nodes, for NCCL and gloo, such as ib0; empty = they choose
    scratch: str = ""  # a folder on the node's own disk, made by the job, for temporary files; empty = the site's
    signal_lead_s: int = 120  # seconds before the time limit at which the run is told to save
    max_restarts: int = 3  # times that a job is queued again from the same checkpoint; 0 = it ends where it is ended
    exclude_bad_nodes: bool = False  # nodes that the preflight names are left out by a new job in this one's place
    sbatch: tuple[str, ...] = ()  # further lines, such as "--reservation=eo"

    @property
    def tasks(self) -> int:
        """Processes per node."""
        return self.tasks_per_node or self.gpus_per_node or 1


def load_cluster(name_or_path: str | Path, overrides: tuple[str, ...] = ()) -> Cluster:
    """Read a cluster file by path, or by name from launch/.

    Raises:
        InputError: file, key, type or rule; one sentence that names the place.
    """
    where = Path(str(name_or_path)).name
    tree = overlay(read_tree("launch", name_or_path), overrides, where)
    limit = tree.get("time_limit")
    if isinstance(limit, int | float):  # 24:00:00 without quotes is a number to the base of 60 in YAML
        raise InputError(f"{where}: time_limit is the number {limit}, expected a text; write it in quotes")
    cluster: Cluster = build(Cluster, tree, where)
    _check(cluster, where)
    return cluster


OWN_OPTIONS = {
    "job-name": "the recipe's name",
    "nodes": "--nodes",
    "ntasks": "tasks_per_node",
    "ntasks-per-node": "tasks_per_node",
    "cpus-per-task": "cpus_per_task",
    "gpus": "gpus_per_node",
    "gpus-per-node": "gpus_per_node",
    "gres": "gpus_per_node with gpu_request: gres",
    "mem": "memory",
    "time": "time_limit",
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "exclusive": "exclusive",
    "signal": "signal_lead_s",
    "requeue": "max_restarts",
    "no-requeue": "max_restarts",
    "open-mode": "nothing, as logs are always continued",
    "output": "nothing, as logs lie in the run's folder",
    "error": "nothing, as logs lie in the run's folder",
    "comment": "nothing, as it names the run for `skyframe jobs`",
    "dependency": "--after",
    "chdir": "nothing, as jobs start where they are launched",
}
"""sbatch's options that a cluster file sets by keys of its own, and by which."""


def _check(cluster: Cluster, where: str) -> None:
    """Rules that types do not hold."""
    _check_numbers(cluster, where)
    if cluster.executor == "local":
        _check_local(cluster, where)
    else:
        _check_times(cluster, where)
    if not re.fullmatch(r"(\d+[KMGT]?)?", cluster.memory):
        raise InputError(f"{where}: memory is {cluster.memory!r}, expected a size per node such as 480G; correct it")
    if cluster.container is not None and cluster.venv:
        raise InputError(
            f"{where}: venv {cluster.venv!r} and container {cluster.container.image!r} are both given, expected one "
            "of them; leave out the other"
        )
    if cluster.gpu_type and not cluster.gpus_per_node:
        raise InputError(
            f"{where}: gpu_type is {cluster.gpu_type!r} but gpus_per_node is 0; set gpus_per_node or leave gpu_type out"
        )
    if cluster.gpus_per_node and cluster.tasks != cluster.gpus_per_node:
        raise InputError(
            f"{where}: tasks_per_node is {cluster.tasks_per_node} with gpus_per_node {cluster.gpus_per_node}, expected "
            "a process per GPU; leave tasks_per_node out"
        )
    if cluster.interface.startswith(("^", "=")):
        raise InputError(
            f"{where}: interface is {cluster.interface!r}, expected names such as ib0, as gloo knows no ^ or =; "
            "give a name, or set env.NCCL_SOCKET_IFNAME"
        )
    for key in cluster.env:
        if not re.fullmatch(r"[A-Za-z_]\w*", key):
            raise InputError(f"{where}: env.{key} is no name of a variable; use letters, digits and _")
    for key, text in _texts(cluster):
        if re.search(r'["`\n\\]', text):
            raise InputError(f'{where}: {key} is {text!r}, expected one line without ", ` or \\; write it without them')
    _check_options(cluster, where)


def _check_numbers(cluster: Cluster, where: str) -> None:
    least = {"gpus_per_node": 0, "tasks_per_node": 0, "cpus_per_task": 1, "signal_lead_s": 1, "max_restarts": 0}
    for key, low in least.items():
        if getattr(cluster, key) < low:
            raise InputError(f"{where}: {key} is {getattr(cluster, key)}, expected {low} or more; correct it")


def _check_times(cluster: Cluster, where: str) -> None:
    limit_s = seconds(cluster.time_limit)
    if not limit_s:
        raise InputError(
            f"{where}: time_limit is {cluster.time_limit!r}, expected [days-]hours:minutes:seconds such as 1-00:00:00 "
            "or 23:30:00, in quotes; add one"
        )
    if cluster.signal_lead_s >= limit_s:
        raise InputError(
            f"{where}: signal_lead_s {cluster.signal_lead_s} is not less than the {limit_s} s of time_limit "
            f"{cluster.time_limit}; shorten the one or lengthen the other"
        )


def _check_local(cluster: Cluster, where: str) -> None:
    """Keys that would decide nothing without SLURM."""
    about_slurm = (
        "time_limit", "partition", "account", "qos", "constraint", "gpu_type", "memory", "exclusive", "container",
        "sbatch", "cpus_per_task", "max_restarts", "signal_lead_s", "gpu_request", "exclude_bad_nodes",
    )  # fmt: skip
    plain = Cluster()
    for key in about_slurm:
        if getattr(cluster, key) != getattr(plain, key):
            raise InputError(f"{where}: {key} is for SLURM, but executor is 'local'; leave {key} out")


def _check_options(cluster: Cluster, where: str) -> None:
    for line in cluster.sbatch:
        found = re.match(r"--([a-z][a-z-]*)(=|$| )", line)
        if found is None:
            raise InputError(f"{where}: sbatch line {line!r}, expected an option in full such as --reservation=eo")
        if found[1] in OWN_OPTIONS:
            raise InputError(
                f"{where}: sbatch line {line!r} is set by {OWN_OPTIONS[found[1]]}; take the line out of sbatch:"
            )


def _texts(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """Every text that the script puts between double quotes, or into a line of sbatch, by its key."""
    for entry in dataclasses.fields(cluster):
        value = getattr(cluster, entry.name)
        if isinstance(value, str):
            yield entry.name, value
    yield from ((f"env.{key}", value) for key, value in cluster.env.items())
    lists = {"modules": cluster.modules, "sbatch": cluster.sbatch}
    if cluster.container is not None:
        yield "container.image", cluster.container.image
        lists |= {"container.mounts": cluster.container.mounts, "container.options": cluster.container.options}
    for key, values in lists.items():
        yield from ((f"{key}[{i}]", value) for i, value in enumerate(values))


def seconds(limit: str) -> int:
    """Seconds of a time limit as sbatch writes it, 0 where it is none."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", limit)
    if found is None:
        return 0
    days, hours, minutes, rest = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest
