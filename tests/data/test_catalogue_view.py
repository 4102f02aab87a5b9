"""The tables and the map of a catalogue, and what `skyframe plan` says."""

import io
import subprocess
import sys

import numpy as np
from PIL import Image
from rich.console import Console

from skyframe.data.catalogue import Catalogue, Settings
from skyframe.data.catalogue_view import describe_catalogue, draw_catalogue
from skyframe.data.listing import list_cubes
from skyframe.data.plan_view import describe_plan
from skyframe.data.split import SplitRule
from tests.data.catalogues import tiny_at
from tests.data.cubes import tiny_cube
from tests.system.batches import NANO, nano_recipe


def printed(tables):
    console = Console(file=io.StringIO(), width=140)
    for table in tables:
        console.print(table)
    return console.file.getvalue()


def test_tables_tell_what_is_listed(tmp_path):
    tiny_cube(tmp_path / "full")
    tiny_at(tmp_path / "radar", 30_000.0, ("s1",))
    tiny_at(tmp_path / "twin", 30_000.0, ("s1",))
    out = tmp_path / "c.parquet"
    list_cubes(out, [str(tmp_path / "full")], Settings("year", SplitRule(1, 0, 0)))
    list_cubes(out, [str(tmp_path / "radar"), str(tmp_path / "twin")], source="esa", weight=0.5)
    text = printed(describe_catalogue(Catalogue(out)))
    lines = {
        line.split("│")[1].strip(): [c.strip() for c in line.split("│")[2:-1]]
        for line in text.splitlines()
        if "│" in line
    }
    assert lines["rows"] == ["6, one per cube and year"] and lines["cubes"] == ["3"]
    assert lines["area"] == ["1.3 km2"]  # 3 x 0.64 km x 0.7 km
    assert lines["windows of 640 m"] == ["6"]
    assert lines["dates of imagery"] == ["2021-11-26 .. 2022-03-06"]
    assert lines["esa"][:4] == ["4", "2", "1.8", "4"] and lines["esa"][-1] == "0.5"
    assert lines["2022"][:2] == ["3", "3"] and lines["train"][:2] == ["6", "3"]
    assert lines["s1"][:3] == ["6", "10 m", "2.0"] and lines["hr"][:3] == ["1", "1.25 m", "1.0"]
    histogram = {name: cells for name, cells in lines.items() if name.startswith("0.") and " to " in name}
    assert len(histogram) == 10 and sum(int(cells[0]) for cells in histogram.values()) == 6
    assert max(histogram.values(), key=lambda cells: int(cells[0]))[1] == "#" * 30
    assert "1 listed twice" in " ".join(text.split()) and lines["radar, twin"] == []


def test_the_map_shows_parts_in_their_colours(tmp_path):
    for n in range(6):
        tiny_at(tmp_path / f"c{n}", 60_000.0 * n)
    out = tmp_path / "c.parquet"
    list_cubes(out, [str(tmp_path / "c?")], Settings("year", SplitRule(0.5, 0.0, 0.5, cell_km2=100, seed=1)))
    parts = set(Catalogue(out).column("split").tolist())
    assert parts == {"train", "test"}
    path = draw_catalogue(Catalogue(out), tmp_path / "map.png")
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3).astype(int)
    blue = (pixels[:, 2] > pixels[:, 0] + 60).sum()
    red = (pixels[:, 0] > pixels[:, 2] + 60).sum()
    assert blue > 50 and red > 50


def test_a_plan_loads_neither_torch_nor_pandas(earth, tmp_path):
    list_cubes(tmp_path / "c.parquet", [f"{earth}/a"])
    words = [
        "plan",
        "skysense_demo",
        *NANO,
        "data.cubes=[]",
        f"data.catalogue={tmp_path}/c.parquet",
        "data.where=cloud < 2",
    ]
    heavy = ("torch", "pytorch_lightning", "xarray", "zarr", "matplotlib", "scipy", "pandas")
    code = (
        f"import sys; sys.argv=['skyframe', *{words!r}]\n"
        "from skyframe.cli import main\n"
        "main()\n"
        f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "steps per epoch" in done.stdout and "samples by source" in done.stdout


def test_a_plan_is_told_in_numbers(earth, tmp_path):
    out = tmp_path / "c.parquet"
    list_cubes(out, [f"{earth}/a"], source="sim")
    list_cubes(out, [f"{earth}/b"], source="far")
    where = ["data.cubes=[]", f"data.catalogue={out}", "data.sources={far: 0.5}", "data.where=year == 2021"]
    text = printed(describe_plan(nano_recipe(*where)))
    cells = {
        line.split("│")[1].strip(): [c.strip() for c in line.split("│")[2:-1]]
        for line in text.splitlines()
        if "│" in line
    }
    # 1280 m x 640 m in windows of 80 m: 16 x 8 per cube; half of b's in an epoch
    assert cells["windows"] == ["256 of 80 m, 80 m apart"] and cells["rows"] == ["2 of 2 cubes"]
    assert cells["sim"] == ["128", "66.7%"] and cells["far"] == ["64", "33.3%"]
    assert (
        cells["samples per epoch"] == ["192"] and cells["steps per epoch"] == ["48"] and cells["global batch"] == ["4"]
    )
    assert cells["left out by data.where"] == ["0 rows"]
    assert cells["0"][3] == "2021-01-01 .. 2021-12-31" and cells["start-up"][0].endswith(" MB")
