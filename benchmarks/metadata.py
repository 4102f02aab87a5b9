"""What training asks of a metadata server: calls counted by strace on small runs, and by arithmetic on many ranks.

    python -m benchmarks.metadata                  three small runs, a dated table under benchmarks/results/
    python -m benchmarks.metadata --ranks 1024     for another number of ranks (and --workers)

Cubes and run folder are treated as on a network file system, where shards are read and not mapped. strace must be
installed (`apt install strace`). A run of 1 rank x 1 worker, one of 2 x 1 and one of 1 x 2 give what the first rank,
each further rank and each further worker add.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS, SAVES, BATCH, CUBES = 6, 2, 8, 3
CALLS = {
    "open": ("open", "openat", "creat"),
    "stat": ("stat", "lstat", "statx", "newfstatat", "access", "faccessat", "faccessat2", "readlink", "readlinkat"),
    "readdir": ("getdents64",),
    "mkdir": ("mkdir", "mkdirat"),
    "rename": ("rename", "renameat", "renameat2", "link", "linkat"),
    "unlink": ("unlink", "unlinkat", "rmdir"),
    "fsync": ("fsync", "fdatasync"),
}
"""Kinds of operations, and the system calls of each; `fstat`, of a file that is open, is a kind of its own."""

KIND_OF = {call: kind for kind, calls in CALLS.items() for call in calls} | {"fstat": "fstat"}
Counts = Counter[tuple[str, str]]
"""Calls by phase and kind."""

PHASES = {
    "environment": "import of the Python environment, per start",
    "run": "run folder: recipe, log, earlier evidence, per start",
    "cubes": f"opening cubes by a glob, per start ({CUBES} cubes)",
    "shards": f"shards, per {STEPS * BATCH} samples",
    "log": f"TensorBoard, per {STEPS} rows of the log",
    "checkpoint": f"{SAVES} checkpoints",
}


def count(trace: Path, cubes: Path, runs: Path) -> Counts:
    """Calls in a trace of `strace -f -y` that name a path of the cubes, of the runs or of the environment."""
    found: Counts = Counter()
    for line in trace.read_text(errors="replace").splitlines():
        call = re.match(r"\d+ +(\w+)\(", line)
        if call is None or call[1] not in KIND_OF:
            continue
        kind, words = KIND_OF[call[1]], line[call.end() :]
        named = re.search(r'"([^"]*)"', words)
        opened = re.match(r"\w+<([^>]*)>", words)
        if not (named and named[1]) and kind == "stat":
            kind = "fstat"
        path = os.path.join(opened[1] if opened else "", named[1] if named else "")
        phase = _phase(os.path.normpath(path), kind, cubes, runs)
        if phase:
            found[phase, kind] += 1
    return found


def _phase(path: str, kind: str, cubes: Path, runs: Path) -> str:
    if path.startswith(f"{cubes}"):
        return "shards" if "/c/" in path.removeprefix(f"{cubes}") else "cubes"
    if path.startswith(f"{runs}"):
        if "/checkpoints" in path and not (kind == "stat" and path.endswith("LATEST")):
            return "checkpoint"
        return "log" if "/tensorboard" in path else "run"
    environment = (sys.prefix, sys.base_prefix, str(ROOT / "skyframe"))
    return "environment" if path.startswith(environment) else ""


def traced(ranks: int, workers: int, work: Path) -> Counts:
    """Calls of one small training run."""
    from tests.train.runs import overrides

    runs, trace = work / f"runs_{ranks}_{workers}", work / f"trace_{ranks}_{workers}"
    steps = (f"train.max_steps={STEPS}", f"train.checkpoint_every={STEPS // SAVES}", f"train.global_batch={BATCH}")
    many = (f"train.devices={ranks}", f"data.workers={workers}", f"data.cubes=[{work}/cubes/*]")
    calls = ",".join(dict.fromkeys([*KIND_OF, "execve"]))
    command = ["strace", "-f", "--seccomp-bpf", "-y", "-o", str(trace), "-e", f"trace={calls}"]
    command += [sys.executable, "-m", "benchmarks.metadata", "--train", str(work / "cubes")]
    command += ["pretrain", "skysense_demo", *overrides(work, runs, "traced", *steps, *many)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return count(trace, work / "cubes", runs)


def train(cubes: str, words: list[str]) -> None:
    """Train with the cubes' file system taken for one of a network; ranks that are started later come here too."""
    from skyframe.cli import cli
    from skyframe.data import store

    store.NETWORK_FILESYSTEMS |= {store.filesystem_of(Path(cubes))}
    cli(words, standalone_mode=False)


def page(found: dict[tuple[int, int], Counts], ranks: int, workers: int, tracer: str = "") -> str:
    """The table as Markdown; what was counted by ranks and workers of the run, and who counted."""
    import torch

    kinds = [*CALLS, "fstat"]
    lines = [
        "# Calls to the metadata server", "",
        f"{date.today()}, `python -m benchmarks.metadata --ranks {ranks} --workers {workers}`; "
        f"torch {torch.__version__}, "
        f"Python {platform.python_version()}, {os.cpu_count()}-core {platform.machine()} CPU, {tracer}.", "",
        f"Counted on runs of {STEPS} steps (batch {BATCH}, 3 modalities, a log row each step) of 1 rank x 1 worker, "
        "2 x 1 and 1 x 2, cubes read as on a network file system. Columns: by the first rank, more by each further "
        "rank (with one worker), more by each further worker of a rank; then all of "
        f"{ranks} x {workers} = first + {ranks - 1} x rank + {ranks * (workers - 1)} x worker. `fstat` is of files "
        "that are open already.", "",
        "| phase | calls | first rank | each rank | each worker | all |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for phase, about in PHASES.items():
        for kind in kinds:
            one, two, more = (found[key][phase, kind] for key in ((1, 1), (2, 1), (1, 2)))
            if phase == "shards":
                if one:
                    each = f"{one} of all ranks and workers together, {one / (STEPS * BATCH):.2f} a sample"
                    lines.append(f"| {about} | {kind} | {each} | | | |")
            elif one or two or more:
                whole = one + (ranks - 1) * (two - one) + ranks * (workers - 1) * (more - one)
                lines.append(f"| {about} | {kind} | {one} | {two - one} | {more - one} | {whole:,} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Simulate cubes, trace three runs, write the table."""
    if sys.argv[1:2] == ["--train"]:
        train(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, default=128)
    parser.add_argument("--workers", type=int, default=8)
    chosen = parser.parse_args()
    if shutil.which("strace") is None:
        sys.exit("strace is not installed, so no call can be counted; `apt install strace`")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        for number in range(CUBES):
            words = ["simulate", f"{work}/cubes/c{number}", "--extent", "1.28x1.28", "--hr-share", "0.5"]
            words += ["--origin", f"0,{10000 * number}"]
            subprocess.run([sys.executable, "-m", "skyframe", *words], check=True, capture_output=True, cwd=ROOT)
        found = {key: traced(*key, work) for key in ((1, 1), (2, 1), (1, 2))}
    version = subprocess.run(["strace", "-V"], capture_output=True, text=True).stdout.splitlines()[0]
    text = page(found, chosen.ranks, chosen.workers, version)
    out = ROOT / "benchmarks" / "results" / f"{date.today()}_metadata.md"
    out.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
