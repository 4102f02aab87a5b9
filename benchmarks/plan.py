"""A plan of 21.5 million windows: what it costs to start, and proof that any number of readers sees the same order.

    python -m benchmarks.plan            # writes benchmarks/results/<date>_plan.md; some minutes on one core

The catalogue is synthetic: 104 000 cubes of 9.6 km x 9.6 km from five sources in all UTM zones, some too cloudy or held
out, no pixels behind them. Everything after it is the code that training runs.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CUBES, SIDE_M, SLOTS = 104_000, 9600.0, 448
WHERE = "cloud < 0.97 and year >= 2017 and has('s2')"
WORLDS = ((1, 1), (2, 3), (7, 2), (64, 8))
"""Ranks, and workers of each."""

ROUNDS = 5
RESULTS = Path(__file__).parent / "results"


def write_catalogue(path: Path) -> None:
    """Rows as `skyframe catalogue` writes them."""
    import pyarrow as pa

    from skyframe.data import catalogue
    from skyframe.hashing import hash_many

    number = np.arange(CUBES)
    draw = {key: hash_many(0, key, number) / 2.0**64 for key in ("zone", "cloud", "part", "year", "place", "source")}
    zone = (draw["zone"] * 60).astype(int)
    text = {
        "cube": [f"cube_{n:06d}" for n in number],
        "path": [f"cubes/{n // 1000:03d}/cube_{n:06d}.zarr" for n in number],
        "spec": ["simulated_earth"] * CUBES,
        "source": [f"archive_{int(5 * d)}" for d in draw["source"]],
        "crs": [f"EPSG:{32601 + z}" for z in zone],
        "split": np.where(draw["part"] < 0.02, "test", "train").tolist(),
    }
    year = 2017 + (draw["year"] * 7).astype(int)
    east, north = 200_000 + 9600.0 * (number % 60), 9600.0 * (1 + (draw["place"] * 700).astype(int))
    lon, lat = -177 + 6.0 * zone, north / 111_000
    numbers: dict[str, Any] = {
        "weight": 1.0, "x0_m": east, "y0_m": north, "width_m": SIDE_M, "height_m": SIDE_M, "lat": lat, "lon": lon,
        "south": lat - 0.04, "north": lat + 0.04, "west": lon - 0.06, "east": lon + 0.06, "cloud": draw["cloud"] ** 0.5,
        "clear": 1 - draw["cloud"] ** 0.5, "first_day": 365 * (year - 2000), "last_day": 365 * (year - 1999),
        "start_day": 365 * (year - 2000), "end_day": 365 * (year - 1999), "year": year, "region": number // 7,
        "manifest": number, "dates_id": number, "pinned": -1,
    }  # fmt: skip
    held: dict[str, tuple[str, float, float, int]] = {
        "hr": ("image", 0.3125, 640.0, 1), "s1": ("series", 10.0, 2560.0, 60), "s2": ("series", 10.0, 2560.0, 70),
    }  # fmt: skip
    some = [np.packbits(row).tobytes() for row in np.random.default_rng(0).random((64, 15 * 15)) < 0.3]
    for name, (kind, gsd_m, shard_m, dates) in held.items():
        text[f"{name}.kind"] = [kind] * CUBES
        numbers |= {f"{name}.gsd_m": gsd_m, f"{name}.shard_m": shard_m, f"{name}.dates": dates}
        numbers |= {f"{name}.cloud": numbers["cloud"], f"{name}.clear": numbers["clear"]}
    schema = catalogue.arrow_schema(list(held), catalogue.Settings())
    columns = {}
    for field in schema:
        if field.name.endswith(".written"):
            values: Any = [some[n % 64] if field.name == "hr.written" else b"" for n in number]
        elif field.name in ("modalities", "labels"):
            values = [list(held) if field.name == "modalities" else []] * CUBES
        else:
            values = text.get(field.name, np.broadcast_to(numbers.get(field.name, 0), CUBES))
        columns[field.name] = pa.array(values, field.type)
    catalogue.write_catalogue(path, pa.table(columns, schema=schema), catalogue.Settings())


def recipe_of(path: Path) -> Any:
    """The paper's recipe on the catalogue, on one process."""
    from skyframe.config import load_recipe

    data = ["data.cubes=[]", f"data.catalogue={path}", f"data.where={WHERE}"]
    return load_recipe("skysense_paper", [*data, f"train.global_batch={SLOTS}", "train.devices=1", "train.num_nodes=1"])


def build(path: Path) -> Any:
    from skyframe.data.selection import plan_windows, select_cubes

    recipe = recipe_of(path)
    return plan_windows(recipe, select_cubes(recipe).table)


def start_up(path: Path) -> dict[str, float]:
    """Seconds and memory from a loaded recipe to the first window, imports and Parquet included."""
    recipe = recipe_of(path)
    held, began = status_mb("VmRSS"), time.perf_counter()
    from skyframe.data.selection import plan_windows, select_cubes

    plan = plan_windows(recipe, select_cubes(recipe).table)
    plan.at(0, 0)
    seconds = time.perf_counter() - began
    grown, peak = status_mb("VmRSS") - held, status_mb("VmHWM") - held
    began = time.perf_counter()
    plan.places(16 * 4096)
    places = time.perf_counter() - began
    began = time.perf_counter()
    for position in range(0, 200 * SLOTS, SLOTS):
        plan.at(0, position)
    each = (time.perf_counter() - began) / 200
    return {"seconds": seconds, "mb": grown, "peak_mb": peak, "places_s": places, "at_us": each * 1e6}


def status_mb(key: str) -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(key + ":"))
    return int(line.split()[1]) * 1024 / 1e6


def batches_of(plan: Any, rank: int, world: int) -> NDArray[np.int64]:
    """Positions of one epoch that a rank's sampler gives out, `[batches, samples]`."""
    from skyframe.data.datamodule import StepSampler

    return np.array(list(StepSampler(plan.num_steps, SLOTS // world, 1, rank, world)), np.int64)


def whole_epoch(plan: Any, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Sample index and shard at every position."""
    index, shard = np.empty(len(plan), np.int64), np.empty(len(plan), np.int32)
    for start in range(0, len(plan), 1 << 20):
        found = plan.at_many(epoch, np.arange(start, min(start + (1 << 20), len(plan))))
        index[start : start + len(found.index)], shard[start : start + len(found.index)] = found.index, found.shard
    return index, shard


def prove_readers(plan: Any, index: NDArray[np.int64]) -> list[str]:
    """Every reader of every world asks for its own positions: together they read the one order, each place once."""
    lines = []
    for world, workers in WORLDS:
        began = time.perf_counter()
        reads, different = np.zeros(len(plan), np.uint8), 0
        for rank in range(world):
            batches = batches_of(plan, rank, world)
            for worker in range(workers):  # a loader hands batch i to worker i modulo their number
                mine = batches[worker::workers].ravel()
                reads[mine] += 1
                for start in range(0, len(mine), 1 << 20):
                    part = mine[start : start + (1 << 20)]
                    different += int((plan.at_many(0, part).index != index[part]).sum())
        missing, twice = int((reads == 0).sum()), int((reads > 1).sum())
        assert missing == twice == different == 0, f"{world} x {workers}: the order was not read as it is"
        counts = f"{int(reads.sum()):,} | {missing} | {twice} | {different} | {time.perf_counter() - began:.0f}"
        lines.append(f"| {world} x {workers} | {world * workers} | {counts} |")
    return lines


def prove_order(plan: Any, epoch: int, index: NDArray[np.int64], shard: NDArray[np.int32]) -> str:
    """Nothing twice within an epoch, and no two slots of a step in one shard."""
    seen = np.zeros(int(index.max()) + 1, bool)
    seen[index] = True
    repeats = len(index) - int(seen.sum())
    steps = np.sort(shard.reshape(plan.num_steps, SLOTS), axis=1)
    shared = int((steps[:, 1:] == steps[:, :-1]).sum())
    stays = 1 + np.mean(shard[SLOTS:] == shard[:-SLOTS]) / (1 - np.mean(shard[SLOTS:] == shard[:-SLOTS]))
    assert not repeats and not shared
    left = plan.num_windows - len(index)
    return (
        f"| {epoch} | {len(index):,} | {repeats} | {left:,} ({left / plan.num_windows:.3%}) | {plan.num_steps:,} "
        f"| {shared} | {stays:.2f} |"
    )


def prove_resume(path: Path, index: NDArray[np.int64]) -> str:
    """A plan built anew gives the same tail: whole tails from a few places, the next 20 steps from 200 places."""
    plan, draw = build(path), np.random.default_rng(1)
    tails = [0, 1, len(plan) - 1, *draw.integers(0, len(plan), 3).tolist()]
    starts = [(start, len(plan)) for start in tails]
    starts += [(start, min(len(plan), start + 20 * SLOTS)) for start in draw.integers(0, len(plan), 200).tolist()]
    for start, stop in sorted(starts):
        for at in range(start, stop, 1 << 20):
            part = np.arange(at, min(stop, at + (1 << 20)))
            assert np.array_equal(plan.at_many(0, part).index, index[part]), start
    singles = draw.integers(0, len(plan), 300).tolist()
    assert [plan.at(0, p)[1] for p in sorted(singles)] == index[sorted(singles)].tolist()
    return (
        f"A plan built anew from the file gave the same tail of the epoch from {len(tails)} positions, the same next "
        f"20 steps from 200 random positions, and the same window by `at` at {len(singles)} random positions."
    )


def start_ups(path: Path) -> list[str]:
    """Rows of the table of start-up: median and worst of some fresh processes."""
    command = [sys.executable, "-m", "benchmarks.plan", "--start-up", str(path)]
    done = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(ROUNDS)]
    found = [json.loads(process.stdout) for process in done]
    names = {
        "seconds": ("seconds", 2), "mb": ("resident memory gained, MB", 200),
        "peak_mb": ("peak above the start, MB", ""),
        "places_s": ("then 65,536 places for regions, s", ""), "at_us": ("then one `at`, microseconds", ""),
    }  # fmt: skip
    lines = []
    for key, (name, bound) in names.items():
        values = [row[key] for row in found]
        shown = [f"{value:.2f}" if max(values) < 10 else f"{value:.0f}" for value in (np.median(values), max(values))]
        lines.append(f"| {name} | {' | '.join(shown)} | {bound} |")
    return lines


def main() -> None:
    """Measure, prove, and write the page."""
    import pyarrow

    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "catalogue.parquet"
        write_catalogue(path)
        size_mb = path.stat().st_size / 1e6
        starts = start_ups(path)
        plan = build(path)
        orders: list[str] = []
        for epoch in (1, 0):
            index, shard = whole_epoch(plan, epoch)
            orders.insert(0, prove_order(plan, epoch, index, shard))
        readers, resume = prove_readers(plan, index), prove_resume(path, index)
    lines = [
        "# A plan of 21.5 million windows", "",
        f"{datetime.date.today()}, `python -m benchmarks.plan`; numpy {np.__version__}, pyarrow {pyarrow.__version__}, "
        f"Python {platform.python_version()}, {os.cpu_count()}-core {platform.machine()} CPU shared with other work "
        f"(load {load:.1f} at the start).", "",
        f"Synthetic catalogue of {CUBES:,} cubes ({size_mb:.1f} MB); `{WHERE}` and split train leave "
        f"{len(plan.table):,} rows: {plan.num_windows:,} windows of 640 m in {plan.num_shards:,} shards, "
        f"{plan.num_passes} passes, {plan.num_steps:,} steps of {SLOTS}.", "",
        f"## Start-up, {ROUNDS} fresh processes", "",
        "From a loaded recipe to the first window: imports, Parquet, filter, counting, first order.", "",
        "| | median | worst | bound |", "|---|---|---|---|", *starts, "",
        "## The order, a whole epoch position by position", "",
        "| epoch | positions | repeats | windows left to other epochs | steps | slots of one step that share a shard | "
        "steps that a slot stays in a shard |", "|---|---|---|---|---|---|---|", *orders, "",
        "## Readers: ranks x workers, global batch 448", "",
        "Each reader computes the windows of its own positions, which are compared with the one order.", "",
        "| ranks x workers | readers | positions read | missing | read twice | different | s |",
        "|---|---|---|---|---|---|---|", *readers, "", "## Resume", "", resume,
    ]  # fmt: skip
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{datetime.date.today()}_plan.md").write_text(text)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--start-up"]:
        print(json.dumps(start_up(Path(sys.argv[2]))))
    else:
        main()
