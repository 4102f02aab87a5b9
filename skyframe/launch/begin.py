"""Starting a script by sbatch or here, in folders that vanish again where it fails, and a record of it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import skyframe
from skyframe.launch.cluster import Cluster
from skyframe.launch.status import RECORD, started
from skyframe.spec import InputError


@dataclass(frozen=True)
class Launched:
    """A job that SLURM has taken, or processes that run here."""

    id: str  # job id, or local<n>
    pid: int  # of the processes' group here; 0 = SLURM's
    folder: Path  # <run>/launch/<n>: script.sh, recipe.yaml, record.json, changes.diff


def check_program(site: Cluster, name: str) -> None:
    """That this machine has what starts jobs."""
    program = "sbatch" if site.executor == "slurm" else "bash"
    if shutil.which(program) is None:
        raise InputError(
            f"{name}: {program} is not found on this machine, expected a login node of the cluster; launch there, or "
            "take `--cluster local`"
        )


def check_places(site: Cluster) -> None:
    """That environment and image are there, where their place can be known here."""
    box = site.container
    wanted = [(f"venv {site.venv}", Path(site.venv).expanduser() / "bin/activate")] if site.venv else []
    wanted += [(f"container.image {box.image}", Path(box.image))] if box and box.image.startswith("/") else []
    for name, path in wanted:
        if "$" not in str(path) and not path.exists():
            raise InputError(f"{name}: {path} is not there, expected on a file system of all nodes; correct the path")


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


def shown(path: Path) -> Path:
    """A path as one types it here: relative where it lies below the working folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


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


def write_record(done: Launched, **more: Any) -> None:
    """Keep beside the script what was started, when, where and from which code."""
    record = {
        "id": done.id, "pid": done.pid, "started": started(done.pid) if done.pid else "", "host": socket.gethostname(),
        "when": time.strftime("%Y-%m-%d %H:%M:%S"), **more, "skyframe": skyframe.__version__,
        **_git_state(done.folder),
    }  # fmt: skip
    (done.folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")


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
