"""What one node says about itself before a run, and which node does not fit the others."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import skyframe
from skyframe.config.skysense import SkySenseRecipe
from skyframe.spec import InputError

LEAST_FREE_GB = 2.0
"""On a disk that a run writes to, in 10^9 bytes: less would not hold its first log and checkpoint."""

LEAST_FREE_SHARE = 0.8
"""Of a GPU's memory: less means that somebody else's process lives there."""

MOST_SKEW_S = 5.0
"""Of a node's clock from rank 0's: more mixes up times of files, logs and what a cache threw away."""


@dataclass(frozen=True)
class Facts:
    """Of the node that a rank runs on."""

    node: str
    rank: int
    versions: dict[str, str] = field(default_factory=dict)
    gpus: list[str] = field(default_factory=list)  # name and memory of each that the rank sees
    free_gb: dict[str, float] = field(default_factory=dict)  # by folder, 10^9 bytes
    problem: str = ""  # what this rank itself found wrong


def facts_of(recipe: SkySenseRecipe | None, rank: int, local: int, limit_s: float) -> Facts:
    """Look at this node.

    Args:
        recipe: what will run; None looks at versions and GPUs alone.
        rank: this process's.
        local: among those of the node; the first also looks at its disks and reads from a cube.
        limit_s: for the disks and the cube, either of which may be a file system that never answers.
    """
    versions = {"skyframe": skyframe.__version__, "commit": commit(), "torch": torch.__version__}
    versions["python"] = platform.python_version()
    gpus, problem = _gpus(local)
    free: dict[str, float] = {}
    if recipe is not None and local == 0:
        chosen = recipe
        said = within(lambda: free.update(_free_gb(chosen)), limit_s / 2)
        problem = problem or (f"its disks: {said}" if said else "")
        if not problem:
            said = within(lambda: _read_one(chosen, rank), limit_s / 2)
            problem = f"its cubes: {said}" if said else ""
    return Facts(node_name(), rank, versions, gpus, dict(free), problem)


def within(work: Callable[[], Any], limit_s: float) -> str:
    """Do some work that may never end; why it failed, empty where it did not."""
    said = [f"no answer within {limit_s:.0f} s"]

    def run() -> None:
        try:
            work()
            said[0] = ""
        except (InputError, OSError, RuntimeError) as error:
            said[0] = " ".join(str(error).split()) or type(error).__name__

    thread = threading.Thread(target=run, name="skyframe-preflight", daemon=True)
    thread.start()
    thread.join(limit_s)
    return said[0]


def node_name() -> str:
    """This machine, as SLURM calls it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def commit() -> str:
    """The commit that this package was checked out at, read without git; `none` where it was installed."""
    folder = Path(__file__).parents[2] / ".git"
    if folder.is_file():  # a work tree's pointer
        folder = Path(folder.read_text().partition("gitdir: ")[2].strip())
    head = folder / "HEAD"
    if not head.is_file():
        return "none"
    text = head.read_text().strip()
    if not text.startswith("ref: "):
        return text[:12]
    name = text.removeprefix("ref: ")
    shared = folder / "commondir"
    roots = [folder, (folder / shared.read_text().strip()).resolve()] if shared.is_file() else [folder]
    for root in roots:
        if (root / name).is_file():
            return (root / name).read_text().strip()[:12]
        packed = root / "packed-refs"
        for line in packed.read_text().splitlines() if packed.is_file() else []:
            if line.endswith(f" {name}"):
                return line[:12]
    return "none"


def _gpus(local: int) -> tuple[list[str], str]:
    """All that this rank sees, and what is wrong with its own; a look at another's memory would take some of it."""
    count = torch.cuda.device_count()
    found = [torch.cuda.get_device_properties(i) for i in range(count)]
    listed = [f"{p.name} {p.total_memory / 2**30:.0f} GiB" for p in found]
    if not count:
        return listed, ""
    mine = local % count
    free, total = (v / 2**30 for v in torch.cuda.mem_get_info(mine))
    if free >= LEAST_FREE_SHARE * total:
        return listed, ""
    return listed, (
        f"GPU {mine} has {free:.1f} of {total:.1f} GiB free, expected {LEAST_FREE_SHARE:.0%}; end what holds it"
    )


def _free_gb(recipe: SkySenseRecipe) -> dict[str, float]:
    """Space left where the run writes: at the folder, or at the nearest one above it that is there."""
    cache = recipe.data.cache
    folders = [Path(recipe.train.run_dir), *([cache.folder] if cache is not None else [])]
    found = {}
    for folder in folders:
        at = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
        found[str(folder)] = shutil.disk_usage(at).free / 1e9
    return found


def _read_one(recipe: SkySenseRecipe, rank: int) -> None:
    from skyframe.data.datamodule import CubeDataModule

    dataset = CubeDataModule(recipe).dataset()
    dataset[rank % len(dataset)]


def misfits(found: Iterable[Facts], skews_s: dict[int, float]) -> list[tuple[str, str]]:
    """Nodes that cannot take part, each with a sentence; expected is what most ranks have, rank 0's where it is a tie.

    Args:
        found: a node's ranks may all be among them.
        skews_s: clock minus rank 0's by rank.
    """
    ranks = list(found)
    names = {name: None for f in ranks for name in f.versions}
    usual = {name: Counter(f.versions.get(name, "none") for f in ranks).most_common(1)[0][0] for name in names}
    gpus = Counter(tuple(f.gpus) for f in ranks).most_common(1)[0][0]
    wrong: dict[str, str] = {}
    for f in ranks:
        for name, value in usual.items():
            if f.versions.get(name, "none") != value:
                got = f.versions.get(name, "none")
                wrong.setdefault(f.node, f"{name} is {got}, expected {value} as on the others; install the same there")
        if tuple(f.gpus) != gpus:
            wrong.setdefault(f.node, f"its GPUs are {_listed(f.gpus)}, expected {_listed(gpus)} as on the others")
        for folder, free in f.free_gb.items():
            if free < LEAST_FREE_GB:
                few = f"{folder} has {free:.2f} GB free, expected at least {LEAST_FREE_GB:.0f} GB; make room there"
                wrong.setdefault(f.node, few)
        skew = skews_s.get(f.rank, 0.0)
        if abs(skew) > MOST_SKEW_S:
            off = f"its clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"
            wrong.setdefault(f.node, f"{off}, expected at most {MOST_SKEW_S:.0f} s from rank 0's; set it by NTP")
        if f.problem:
            wrong.setdefault(f.node, f.problem)
    return list(wrong.items())


def _listed(gpus: Iterable[str]) -> str:
    counted = Counter(gpus)
    return " and ".join(f"{n} x {name}" for name, n in counted.items()) or "none"
