"""The long proofs: learning against baselines, ablations and mechanisms. Resumable cell by cell, dated tables.

    make prove                                   everything that is not done yet
    python -m benchmarks.prove learning/full     only cells whose name contains the word

Every cell runs the public command line, keeps its answer under .prove/ and is skipped when it is there.
The tables under benchmarks/results/ hold command, versions, hardware and seeds.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tables import Predictions, Scores, collect, differences, paired, table
from skyframe.config import dump_recipe, load_recipe
from skyframe.config.evaluate import load_suite
from skyframe.spec import load_yaml

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".prove"
SEEDS = (0, 1, 2)
STEPS = 230
VARIANTS = {
    "full": [],
    "no_mgcl": ["loss.alpha=0"],
    "no_alignment": ["loss.beta=0"],
    "no_geo_context": ["model.geo.enabled=false"],
    "no_sar": ["data.modalities=[s2]"],
    "same_dates": ["views.split_dates=false"],
    "dino": ["loss.cl=dino"],
    "all_sources": ["loss.sources=[]"],
}
"""Ablations: one override each. The last three undo what the small recipes do otherwise than the paper."""


def settings() -> str:
    """Eight hex digits of what every cell rests on; comments do not count."""
    recipe = dump_recipe(load_recipe("skysense_s2s1", [f"train.max_steps={STEPS}"]))
    suites = [repr(load_suite(name)) for name in ("prove", "mechanisms", "regions")]
    spec = repr(load_yaml(ROOT / "data_specs" / "simulated_earth.yaml"))
    return hashlib.sha256("\n".join((recipe, *suites, spec)).encode()).hexdigest()[:8]


CELLS_OF = WORK / settings()
"""Runs and answers lie apart by their settings: with changed ones the proof starts anew."""

CLIMATES = ("oceanic", "continental")


@dataclass(frozen=True)
class Scored:
    """One encoder's predictions under one task, of any seed."""

    suite: str
    task: str
    variant: str = "full"
    encoder: str = "model"


@dataclass(frozen=True)
class Cell:
    """One unit of proof: `run` returns plain values for JSON."""

    name: str
    run: Callable[[], dict[str, Any]]


def skyframe(*words: str) -> None:
    """Run the command line with one thread, so that two cells share two cores fairly."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    log = CELLS_OF / "logs"
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
    folder, run = cubes(), CELLS_OF / "runs" / name
    begun = time.perf_counter()
    skyframe(
        "pretrain", "skysense_s2s1", f"data.cubes=[{folder}/train_*]", f"name={name}",
        f"train.run_dir={CELLS_OF / 'runs'}", f"seed={seed}", f"train.max_steps={STEPS}", "resume=auto",
        *VARIANTS[variant],
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    out = CELLS_OF / "encoders" / name
    if not out.is_dir():
        skyframe("export", str(run), str(out))
    return {"variant": variant, "seed": seed, "pretrain_s": round(seconds), "rows": scores("prove", name, seed)}


def scores(suite: str, name: str, seed: int, climate: str = "*") -> list[dict[str, str]]:
    """Rows of a suite for an exported encoder and its baselines, on the cubes of one climate or of both."""
    folder = evaluation_of(suite if climate == "*" else f"{suite}_{climate}", name)
    skyframe(
        "evaluate", suite, str(CELLS_OF / "encoders" / name / "model"), f"seeds=[{seed}]", "--out", str(folder),
        f"data.simulated.train=[{cubes()}/train_{climate}]", f"data.simulated.test=[{cubes()}/test_{climate}]",
    )  # fmt: skip
    with (folder / "results.csv").open(newline="") as file:
        keep = ("task", "protocol", "metric", "value", "lo", "hi", "encoder", "role", "num_test", "num_clusters")
        return [{k: row[k] for k in keep} for row in csv.DictReader(file)]


def mechanisms(seed: int) -> dict[str, Any]:
    """What one seed's encoder does under cloud, without SAR and, climate by climate, with a wrong region."""
    if stored(next(c for c in CELLS if c.name == f"learning/full/seed{seed}")) is None:
        raise RuntimeError(f"learning/full/seed{seed} comes first")
    rows = scores("mechanisms", f"full_seed{seed}", seed)
    for climate in CLIMATES:
        found = scores("regions", f"full_seed{seed}", seed, climate)
        rows += [row | {"task": f"{climate}_{row['task']}"} for row in found]
    return {"seed": seed, "rows": rows}


def evaluation_of(suite: str, name: str) -> Path:
    """Where the rows, logs and predictions of one encoder under one suite lie."""
    return CELLS_OF / "evaluation" / f"{suite}_{name}"


def predictions(suite: str, name: str, task: str, protocol: str, encoder: str) -> Predictions | None:
    """What evaluation kept of one encoder's test predictions; None if it was not run."""
    for path in (evaluation_of(suite, name) / "logs").glob(f"{task}-{protocol}-{encoder}-seed*.npz"):
        with np.load(path) as kept:
            return {"truth": kept["truth"], "cluster": kept["cluster"], "predicted": kept[protocol]}
    return None


def difference(protocol: str, first: Scored, second: Scored) -> str:
    """Score of `first` minus `second` over the seeds that hold both."""
    pairs = {}
    for seed in SEEDS:
        sides = [predictions(s.suite, f"{s.variant}_seed{seed}", s.task, protocol, s.encoder) for s in (first, second)]
        if sides[0] is not None and sides[1] is not None:
            pairs[seed] = sides[0], sides[1]
    return paired(pairs)


CELLS = [
    *(Cell(f"learning/{v}/seed{s}", partial(learning, v, s)) for v in VARIANTS for s in SEEDS),
    *(Cell(f"mechanisms/seed{s}", partial(mechanisms, s)) for s in SEEDS),
]


def stored(cell: Cell) -> dict[str, Any] | None:
    """A cell's answer of an earlier call."""
    path = _answer_path(cell)
    return dict(json.loads(path.read_text())) if path.is_file() else None


def answer(cell: Cell) -> dict[str, Any] | None:
    """Run a cell, or read its answer; None where it failed (the reason is printed)."""
    if (known := stored(cell)) is not None:
        return known
    begun, made_at = time.perf_counter(), commit()
    try:
        result = cell.run() | {"commit": made_at}
    except (RuntimeError, OSError) as error:
        print(f"{cell.name}: failed: {error}", flush=True)
        return None
    path = _answer_path(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(result))
    aside.replace(path)
    print(f"{cell.name}: done in {time.perf_counter() - begun:.0f} s", flush=True)
    return result


def _answer_path(cell: Cell) -> Path:
    return CELLS_OF / "cells" / f"{cell.name.replace('/', '_')}.json"


def commit() -> str:
    """The short hash of the checked-out commit."""
    words = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def learning_table(answers: list[dict[str, Any]]) -> str:
    """Every variant beside random weights and raw pixels."""
    found: Scores = {}
    for a in answers:
        for row in a["rows"]:
            if row["role"] == "encoder" or a["variant"] == "full":
                collect(found, row, (row["task"], row["protocol"]), a["variant"])
    seconds = {f"{a['variant']}/seed{a['seed']}": a["pretrain_s"] for a in answers}
    shown = ", ".join(f"{name} {value}" for name, value in seconds.items())
    about = f"skysense_s2s1, tiny preset, {STEPS} steps; seconds of pretraining: {shown}."
    columns = [*VARIANTS, "random_init", "raw_pixels"]
    title = "Learning and ablations on the simulated Earth"
    scored = table(title, about, {a["commit"] for a in answers}, found, columns)
    others = [v for v in VARIANTS if v != "full"]
    rows = []
    for task, probe in sorted(found):
        full = Scored("prove", task)
        against = [Scored("prove", task, encoder=e) for e in ("raw_pixels", "random_init")]
        against += [Scored("prove", task, v) for v in others]
        rows.append([task, probe, *(difference(probe, full, other) for other in against)])
    minus = [f"full - {v}" for v in ("raw_pixels", "random_init", *others)]
    return scored + differences(["task", "probe", *minus], rows)


def mechanisms_table(answers: list[dict[str, Any]]) -> str:
    """What the pretrained encoder sees or is told, beside random weights and raw pixels."""
    found: Scores = {}
    for a in answers:
        for row in a["rows"]:
            collect(found, row, (row["task"], row["protocol"]), "pretrained")
    about = (
        "Crop type by position; cloudy = at most one clear optical date; context = the region context alone, whole = "
        "all features, both with a probe learned in one climate; swapped = test places are told a region of the other "
        "one."
    )
    columns = ["pretrained", "random_init", "raw_pixels"]
    title = "Mechanisms of SkySense on the simulated Earth"
    scored = table(title, about, {a["commit"] for a in answers}, found, columns)
    pairs = {"cloudy - cloudy_s2": (Scored("mechanisms", "cloudy"), Scored("mechanisms", "cloudy_s2"))}
    for climate in CLIMATES:
        for part in ("context", "whole"):
            suite = f"regions_{climate}"
            pairs[f"{climate}: {part} - {part}_swapped"] = Scored(suite, part), Scored(suite, f"{part}_swapped")
    rows = [[name, *(difference(probe, *pair) for probe in ("knn", "linear"))] for name, pair in pairs.items()]
    return scored + differences(["pretrained", "knn", "linear"], rows)


TABLES = {"learning": learning_table, "mechanisms": mechanisms_table}


def main() -> None:
    """Run what is missing, two cells at a time and family by family, then write the tables of all that is there."""
    words = sys.argv[1:]
    cubes()
    failed = False
    for family, write in TABLES.items():
        cells = [c for c in CELLS if c.name.startswith(f"{family}/")]
        with ThreadPoolExecutor(2) as pool:
            chosen = [c for c in cells if not words or any(w in c.name for w in words)]
            failed |= None in list(pool.map(answer, chosen))
        done = [a for a in map(stored, cells) if a is not None]
        if done:
            target = ROOT / "benchmarks" / "results" / f"{date.today()}_{family}.md"
            target.write_text(write(done))
            print(f"wrote {target.relative_to(ROOT)}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
