"""Proofs of learning: ablations, mechanisms and real input, scored beside random weights and raw pixels."""

from __future__ import annotations

import csv
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tables import Predictions, Scores, collect, differences, paired, table
from benchmarks.workplace import CELLS_OF, ROOT, STEPS, WORK, skyframe

SEEDS = (0, 1, 2)
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

CLIMATES = ("oceanic", "continental")


@dataclass(frozen=True)
class Scored:
    """One encoder's predictions under one task, of any seed."""

    suite: str
    task: str
    variant: str = "full"
    encoder: str = "model"


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
    """One variant under one seed."""
    return scored(variant, seed, VARIANTS[variant])


def scored(variant: str, seed: int, overrides: list[str]) -> dict[str, Any]:
    """Pretrain, export and score `skysense_s2s1` with other values."""
    name = f"{variant}_seed{seed}"
    folder, run = cubes(), CELLS_OF / "runs" / name
    begun = time.perf_counter()
    skyframe(
        "pretrain", "skysense_s2s1", f"data.cubes=[{folder}/train_*]", f"name={name}",
        f"train.run_dir={CELLS_OF / 'runs'}", f"seed={seed}", f"train.max_steps={STEPS}", "resume=auto", *overrides,
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    out = CELLS_OF / "encoders" / name
    if not out.is_dir():
        skyframe("export", str(run), str(out))
    return {"variant": variant, "seed": seed, "pretrain_s": round(seconds), "rows": scores("prove", name, seed)}


def scores(suite: str, name: str, seed: int, climate: str = "*") -> list[dict[str, str]]:
    """Rows of a suite for an exported encoder and its baselines, on the cubes of one climate or of both."""
    folder = evaluation_of(suite if climate == "*" else f"{suite}_{climate}", name)
    data = [f"data.simulated.{part}=[{cubes()}/{part}_{climate}]" for part in ("train", "test")]
    if suite == "eurosat":
        data = ["--data", str(samples())]
    encoder = CELLS_OF / "encoders" / name / "model"
    skyframe("evaluate", suite, str(encoder), f"seeds=[{seed}]", "--out", str(folder), *data)
    with (folder / "results.csv").open(newline="") as file:
        keep = ("task", "protocol", "metric", "value", "lo", "hi", "encoder", "role", "num_test", "num_clusters")
        return [{k: row[k] for k in keep} for row in csv.DictReader(file)]


def mechanisms(seed: int) -> dict[str, Any]:
    """What one seed's encoder does under cloud, without SAR and, climate by climate, with a wrong region."""
    needs_full(seed)
    rows = scores("mechanisms", f"full_seed{seed}", seed)
    for climate in CLIMATES:
        found = scores("regions", f"full_seed{seed}", seed, climate)
        rows += [row | {"task": f"{climate}_{row['task']}"} for row in found]
    return {"seed": seed, "rows": rows}


def needs_full(seed: int) -> None:
    """What rests on the encoder of a seed comes after it."""
    if not (CELLS_OF / "encoders" / f"full_seed{seed}").is_dir():
        raise RuntimeError(f"learning/full/seed{seed} comes first")


def samples() -> Path:
    """The folder with real samples, where the tests look for it too."""
    folder = Path(os.environ.get("SKYFRAME_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        raise RuntimeError(f"real samples wanted under {folder} are absent; set SKYFRAME_SHARED to their folder")
    return folder


def mixed() -> dict[str, Any]:
    """Ingest one place of each real kind, pretrain on them beside simulated cubes, and map one of them."""
    real, runs = CELLS_OF / "real", CELLS_OF / "runs"
    sources = {
        "worldcereal": ["worldcereal-classification/worldcereal_preprocessed_inputs.nc"],
        "gfmap": ["openeo-gfmap/cdse_sentinel2_l2a.nc", "openeo-gfmap/cdse_sentinel1_grd.nc"],
        "treesatai": [f"AnySat/Abies_alba_1_1005_WEFL_NLF.{kind}" for kind in ("h5", "tif")],
    }
    for kind, files in sources.items():
        if not (real / kind).is_dir():
            skyframe("ingest", kind, *(str(samples() / file) for file in files), str(real / kind))
    begun = time.perf_counter()
    places = ",".join([f"{cubes()}/train_*", *(str(real / kind) for kind in sources)])
    where = [f"data.cubes=[{places}]", f"train.run_dir={runs}", "name=mixed"]
    skyframe("pretrain", "skysense_mixed", *where, "resume=auto")
    seconds = round(time.perf_counter() - begun)
    if not (CELLS_OF / "encoders" / "mixed").is_dir():
        skyframe("export", str(runs / "mixed"), str(CELLS_OF / "encoders" / "mixed"))
    model = str(CELLS_OF / "encoders" / "mixed" / "model")
    skyframe("report", str(runs / "mixed"), "--encoder", model, "--scene", str(real / "worldcereal"))
    rows = [json.loads(line) for line in (runs / "mixed" / "metrics.jsonl").read_text().splitlines()]
    terms = {name: [row[name] for row in rows] for name in rows[0] if name == "total" or name.startswith("loss/")}
    return {"pretrain_s": seconds, "step": rows[-1]["step"], "terms": terms}


def eurosat(seed: int) -> dict[str, Any]:
    """Score one seed's encoder of simulated Earth on real chips."""
    needs_full(seed)
    return {"seed": seed, "rows": scores("eurosat", f"full_seed{seed}", seed)}


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


def real_table(answers: list[dict[str, Any]]) -> str:
    """Loss terms of the mixed run at its beginning and end, and scores on real chips."""
    found: Scores = {}
    for a in answers:
        for row in a.get("rows", []):
            collect(found, row, (row["task"], row["protocol"]), "pretrained")
    about = "Encoders of skysense_s2s1 on EuroSAT RGB chips, one date with three of ten bands."
    commits = {a["commit"] for a in answers}
    text = table("Real input", about, commits, found, ["pretrained", "random_init", "raw_pixels"])
    for a in answers:
        if "terms" in a:
            quarter = max(1, len(a["terms"]["total"]) // 4)
            lines = [
                "",
                f"skysense_mixed on simulated cubes beside WorldCereal, openEO-GFMAP and TreeSatAI: {a['step']} steps "
                f"in {a['pretrain_s']} s; loss terms, mean of the first and of the last quarter of the logged steps.",
                "",
                "| term | first quarter | last quarter | all finite |",
                "|---|---|---|---|",
            ]
            for name, values in a["terms"].items():
                finite = "yes" if np.isfinite(values).all() else "no"
                lines.append(
                    f"| {name} | {np.mean(values[:quarter]):.3f} | {np.mean(values[-quarter:]):.3f} | {finite} |"
                )
            text += "\n".join(lines) + "\n"
    return text
