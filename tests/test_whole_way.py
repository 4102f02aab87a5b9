"""What a user types, from nothing to a report, in process: every command once, on the smallest things that it takes."""

import csv
import sys
from pathlib import Path

import pytest

from skyframe.cli import main
from skyframe.data.cube import open_cube
from tests.system.batches import NANO

SIZES = ["train_windows=60", "val_windows=24", "test_windows=40", "block_px=16"]
SUITE = [
    "data.simulated.train=[a]",
    "data.simulated.test=[b]",
    *(f"data.simulated.{size}" for size in SIZES),
    "linear.epochs=3",
    "knn.also=[5]",
    "bootstrap=50",
    "select=[land_cover_scene, crop_type_pixel]",
]


@pytest.fixture
def say(tmp_path, monkeypatch, capsys):
    """Type a command; gives what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["skyframe", *words])
        main()
        return capsys.readouterr().out

    return run


def test_the_whole_way_by_commands(say):
    assert "wrote a" in say("simulate", "a", "--extent", "0.64x0.64", "--hr-share", "0", "--seed", "5")
    say("simulate", "b", "--extent", "0.64x0.64", "--hr-share", "0", "--seed", "5", "--origin", "1000,0")
    assert open_cube("a").has("s1")
    assert "drew a.png" in say("inspect", "a") and Path("a.png").stat().st_size > 1000
    assert "arrays are whole" in say("verify", "a")
    assert "1 rows of 1 cubes" in say("catalogue", "c.parquet", "a")
    assert "drew c.png" in say("inspect", "c.parquet") and Path("c.png").stat().st_size > 1000
    listed = ["data.cubes=[]", "data.catalogue=c.parquet", "data.where=s2.dates > 0"]
    assert "steps per epoch" in say("plan", "skysense_s2s1", *NANO, *listed)
    assert "run in runs/c" in say(
        "pretrain", "skysense_s2s1", *NANO, *listed, "train.run_dir=runs", "name=c", "train.max_steps=1"
    )
    run = ["data.cubes=[a]", "train.run_dir=runs", "name=r", "train.max_steps=1"]
    assert "run in runs/r" in say("pretrain", "skysense_s2s1", *NANO, *run)
    assert "wrote out/model" in say("export", "runs/r", "out")
    modules = ["encoder_s1", "encoder_s2", "fusion", "geo_context", "model"]
    assert sorted(p.name for p in Path("out").iterdir()) == modules
    said = say("evaluate", "quick", "out/model", *SUITE)
    with Path("out/evaluation/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {r["encoder"] for r in rows} == {"model", "random_init", "raw_pixels", "majority"}
    assert {r["protocol"] for r in rows} == {"knn", "knn_k5", "linear", "majority"}
    assert all(0 <= float(r["lo"]) <= float(r["value"]) <= float(r["hi"]) <= 1 for r in rows)
    assert f"{len(rows)} new scores" in said
    assert "0 new scores" in say("evaluate", "quick", "out/model", *SUITE)
    results = "out/evaluation/results.csv"
    say("report", "runs/r", "--encoder", "out/model", "--scene", "b", "--results", results, "--out", "r.html")
    page = Path("r.html").read_text()
    assert "random_init" in page and "data:image/png;base64" in page
    say("report", "runs/r")
    curves = Path("runs/r/report.html").read_text()
    assert "random_init" not in curves and len(curves) < len(page)
