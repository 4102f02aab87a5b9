"""The long proofs: learning against baselines, ablations and mechanisms. Resumable cell by cell, dated tables.

    make prove                                   everything that is not done yet
    python -m benchmarks.prove learning/full     only cells whose name contains the word

Every cell runs the public command line, keeps its answer in .prove/cells/<name>.json and is skipped when it is there.
The tables under benchmarks/results/ hold command, versions, hardware and seeds.
"""

from __future__ import annotations

import csv
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".prove"
SEEDS = (0, 1, 2)
STEPS = 250
VARIANTS = {
    "full": [],
    "no_mgcl": ["loss.alpha=0"],
    "no_alignment": ["loss.beta=0"],
    "no_geo_context": ["model.geo.enabled=false"],
    "no_sar": ["data.modalities=[hr,s2]"],
}
"""Ablations: one override each."""


@dataclass(frozen=True)
class Cell:
    """One unit of proof: `run` returns plain values for JSON."""

    name: str
    run: Callable[[], dict[str, Any]]


def skyframe(*words: str) -> None:
    """Run the command line with one thread, so that two cells share two cores fairly."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    log = WORK / "logs"
    log.mkdir(parents=True, exist_ok=True)
    with (log / f"{time.time_ns()}.txt").open("w") as file:
        file.write(" ".join(words) + "\n")
        file.flush()
        done = subprocess.run(
            [sys.executable, "-m", "skyframe", *words],
            cwd=ROOT,
            env=env,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"skyframe {' '.join(words[:3])} ended with {done.returncode}; see {file.name}")


def cubes() -> Path:
    """Training cubes in two climates, test cubes in other places and another year; simulated once."""
    folder = WORK / "cubes"
    wanted = {
        "train_oceanic": ["--extent", "5.12x5.12", "--climate", "oceanic", "--year", "2021"],
        "train_continental": [
            "--extent",
            "5.12x5.12",
            "--climate",
            "continental",
            "--year",
            "2021",
            "--origin",
            "0,80000",
        ],
        "test_oceanic": ["--extent", "5.12x5.12", "--climate", "oceanic", "--year", "2022", "--origin", "20000,0"],
        "test_continental": [
            "--extent",
            "2.56x2.56",
            "--climate",
            "continental",
            "--year",
            "2022",
            "--origin",
            "20000,80000",
        ],
    }
    for name, options in wanted.items():
        if not (folder / name).is_dir():
            skyframe("simulate", str(folder / name), *options, "--hr-share", "0.3")
    return folder


def learning(variant: str, seed: int) -> dict[str, Any]:
    """Pretrain, export and score one variant under one seed."""
    name = f"{variant}_seed{seed}"
    folder, run = cubes(), WORK / "runs" / name
    begun = time.perf_counter()
    skyframe(
        "pretrain", "skysense_demo", f"data.cubes=[{folder}/train_*]", f"name={name}",
        f"train.run_dir={WORK / 'runs'}", f"seed={seed}", f"train.max_steps={STEPS}", "resume=auto",
        *VARIANTS[variant],
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    out = WORK / "encoders" / name
    if not out.is_dir():
        skyframe("export", str(run), str(out))
    evaluation = WORK / "evaluation" / name
    skyframe("evaluate", "prove", str(out / "model"), f"seeds=[{seed}]", "--out", str(evaluation))
    with (evaluation / "results.csv").open(newline="") as file:
        keep = ("task", "protocol", "metric", "value", "lo", "hi", "encoder", "role", "num_test", "num_clusters")
        rows = [{k: row[k] for k in keep} for row in csv.DictReader(file)]
    return {"variant": variant, "seed": seed, "pretrain_s": round(seconds), "rows": rows}


CELLS = [Cell(f"learning/{v}/seed{s}", lambda v=v, s=s: learning(v, s)) for v in VARIANTS for s in SEEDS]  # type: ignore[misc]


def answer(cell: Cell) -> dict[str, Any] | None:
    """Run a cell, or read its answer; None where it failed (the reason is printed)."""
    path = WORK / "cells" / f"{cell.name.replace('/', '_')}.json"
    if path.is_file():
        return dict(json.loads(path.read_text()))
    begun = time.perf_counter()
    try:
        result = cell.run()
    except (RuntimeError, OSError) as error:
        print(f"{cell.name}: failed: {error}", flush=True)
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(result))
    aside.replace(path)
    print(f"{cell.name}: done in {time.perf_counter() - begun:.0f} s", flush=True)
    return result


def header(title: str) -> list[str]:
    """Date, hardware and versions of a table."""
    import torch

    import skyframe as package

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return [
        f"# {title}",
        "",
        f"{datetime.date.today()}, `make prove`, commit {commit}; skyframe-eo {package.__version__}, "
        f"torch {torch.__version__}, Python {platform.python_version()}, "
        f"{os.cpu_count()}-core {platform.machine()} CPU, one thread per cell, two cells side by side.",
        "",
    ]


def learning_table(answers: list[dict[str, Any]]) -> str:
    """Scores of every variant and baseline, mean over seeds, with the widest interval of any seed."""
    scores: dict[tuple[str, str, str], list[tuple[float, float, float]]] = {}
    for a in answers:
        for row in a["rows"]:
            if row["protocol"] not in ("knn", "linear") or row["metric"] != "accuracy":
                continue
            who = a["variant"] if row["role"] == "encoder" else row["encoder"]
            if row["role"] != "encoder" and a["variant"] != "full":
                continue
            scores.setdefault((row["task"], row["protocol"], who), []).append(
                tuple(100 * float(row[k]) for k in ("value", "lo", "hi"))
            )  # type: ignore[arg-type]
    lines = header("Learning and ablations on the simulated Earth (skysense_demo, tiny preset)")
    seconds = [a["pretrain_s"] for a in answers]
    lines += [
        f"{STEPS} steps; pretraining took {min(seconds)} to {max(seconds)} s per run. Accuracy in %, mean over seeds "
        "[lowest 2.5 %, highest 97.5 % bound of any seed].",
        "",
    ]
    columns = [*VARIANTS, "random_init", "raw_pixels"]
    lines += ["| task | probe | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for task, protocol in sorted({k[:2] for k in scores}):
        cells = []
        for who in columns:
            found = scores.get((task, protocol, who), [])
            cells.append(_mean_with_bounds(found) if found else "-")
        lines.append(f"| {task} | {protocol} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _mean_with_bounds(found: list[tuple[float, float, float]]) -> str:
    mean = sum(value for value, _, _ in found) / len(found)
    return f"{mean:.1f} [{min(lo for _, lo, _ in found):.1f}, {max(hi for _, _, hi in found):.1f}]"


def main() -> None:
    """Run what is missing, two cells at a time, then write the tables."""
    words = sys.argv[1:]
    chosen = [c for c in CELLS if not words or any(w in c.name for w in words)]
    cubes()
    with ThreadPoolExecutor(2) as pool:
        answers = [a for a in pool.map(answer, chosen) if a is not None]
    target = ROOT / "benchmarks" / "results" / f"{datetime.date.today()}_learning.md"
    if answers:
        target.write_text(learning_table(answers))
        print(f"wrote {target.relative_to(ROOT)}")
    if len(answers) < len(chosen):
        sys.exit(1)


if __name__ == "__main__":
    main()
