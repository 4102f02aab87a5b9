"""SkyFrame's reader beside the decode limit and beside other readers and formats, in one interleaved run.

    python -m benchmarks.reader            three runs on 10.24 x 10.24 km, a dated table under benchmarks/results/
    python -m benchmarks.reader --quick    one short run on 5.12 x 5.12 km, printed

A sample is 20 random dates x 10 bands x 64 x 64 of the simulated Earth. The first start builds about 6 GB under
`.bench/` (a quarter of it for `--quick`). Rivals: `pip install -e '.[bench]'`; litdata asks for a torchvision that it
does not need here: `pip install --no-deps litdata`, then `pip install boto3 obstore tifffile requests`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.material import CODECS, Material, simulated
from benchmarks.measure import Contestant, Turn, interleave
from benchmarks.ours import (
    BATCH,
    array_reader,
    fastest_decoder,
    limit,
    series_reader,
    training_loader,
    training_reads,
)
from benchmarks.reader_table import Run, page
from benchmarks.rivals import FILE_RIVALS, STORE_RIVALS, tensorstore_oindex, zarr_slice

ROOT = Path(__file__).resolve().parent.parent
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLOSC_NTHREADS", "GDAL_NUM_THREADS"), "1")
CHECKED = 4
"""Samples of every contestant that are compared with the source before it is timed."""

PREFETCH = 2
"""Batches that torch lets a worker make ahead."""


def checked(make: Callable[[], Contestant], expected: Callable[[int], np.ndarray]) -> Contestant:
    """The contestant, after its first samples were found equal to the source.

    Raises:
        AssertionError: they are not.
        ModuleNotFoundError: it needs a package that is not installed.
    """
    read = make()
    for number in range(CHECKED):
        if not np.array_equal(read(number), expected(number)):
            raise AssertionError(f"sample {number} differs from the source")
    return read


def readers(found: Material) -> tuple[dict[str, Contestant], dict[str, str], dict[str, dict[str, float]]]:
    """Every contestant by `<codec or files>/<name>`, checked; what cannot run and why; decoders tried."""

    def whole(number: int) -> np.ndarray:
        return found.expected(found.aligned[number % len(found.aligned)])

    def across(number: int) -> np.ndarray:
        return found.expected(found.straddling[number % len(found.straddling)])

    ready: dict[str, Contestant] = {}
    absent: dict[str, str] = {}
    decoding: dict[str, dict[str, float]] = {}

    def enter(name: str, make: Callable[[], Contestant], expected: Callable[[int], np.ndarray]) -> None:
        try:
            ready[name] = checked(make, expected)
        except ModuleNotFoundError as missing:
            absent[name] = f"{missing.name} is not installed"

    for codec in CODECS:
        decode, decoding[codec] = fastest_decoder(found, codec)
        for place, picks, expected in (("", found.aligned, whole), (", straddling", found.straddling, across)):
            bound = partial(limit, found, picks, codec, decode)
            if place:
                ready[f"{codec}/limit of the array{place}"] = bound(with_flags=False)
            else:
                enter(f"{codec}/limit of the array", partial(bound, with_flags=False), expected)
            enter(f"{codec}/SkyFrame, array{place}", partial(array_reader, found, picks, codec), expected)
            ready[f"{codec}/limit of the series{place}"] = bound(with_flags=True)
            enter(f"{codec}/SkyFrame, series{place}", partial(series_reader, found, picks, codec), expected)
        for name, make in STORE_RIVALS.items():
            enter(f"{codec}/{name}", partial(make, found, found.aligned, codec), whole)
        for name, make in (("tensorstore, 1 thread", tensorstore_oindex), ("zarr-python, slice then pick", zarr_slice)):
            enter(f"{codec}/{name}, straddling", partial(make, found, found.straddling, codec), across)
    for name, rival in FILE_RIVALS.items():
        enter(f"files/{name}", partial(rival, found, found.aligned), whole)
    return ready, absent, decoding


def loaders(found: Material, rounds: int, seconds: float) -> dict[str, list[Turn]]:
    """`read_series` and the training loader around it; before the rivals, as some of those forbid a fork."""
    contestants: dict[str, Contestant] = {}
    before: dict[str, Callable[[], None]] = {}
    for codec in CODECS:
        contestants[f"{codec}/read_series alone"] = training_reads(found, codec)
        for workers in (0, 1, 2):
            name = f"{codec}/training loader, {workers} workers"
            contestants[name] = read = training_loader(found, codec, workers)
            alone = contestants[f"{codec}/read_series alone"]
            if not np.array_equal(read(0), np.stack([alone(number) for number in range(BATCH)])):
                raise AssertionError(f"{name}: the first batch differs from what read_series gives")
            before[name] = partial(_drain, read, PREFETCH * workers)
    turns = interleave(contestants, rounds, seconds, before=before)
    for name in before:
        turns[name] = [Turn(turn.per_s * BATCH, turn.cpu_ms / BATCH) for turn in turns[name]]
    return turns


def _drain(read: Contestant, batches: int) -> None:
    """Take what workers made ready while it was not their turn."""
    for number in range(batches):
        read(number)


def run_once(target: Path, rounds: int, seconds: float, **what: Any) -> None:
    """One run in this process, its turns as JSON."""
    found = simulated(**what)
    started = os.getloadavg()[0]
    loading = loaders(found, rounds, seconds)
    ready, absent, decoding = readers(found)
    turns = interleave(ready, rounds, seconds, start=CHECKED)
    run = Run(turns, loading, absent, decoding, (started, os.getloadavg()[0]))
    target.write_text(json.dumps(asdict(run)), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Build what is missing, run in fresh processes, print the page, and keep it unless it was a quick one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short run on a smaller cube; nothing is kept")
    parser.add_argument("--runs", type=int, default=3, help="runs, each in a fresh process")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every contestant in a run")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    runs, rounds, seconds = (1, 2, 0.3) if chosen.quick else (chosen.runs, chosen.rounds, 0.6)
    extent_km = 5.12 if chosen.quick else 10.24
    what: dict[str, Any] = {"extent_km": extent_km, "num_dates": 60, "num_samples": 64, "dates_each": 20}
    what["folder"] = ROOT / ".bench" / f"{extent_km}km"
    if chosen.one:
        run_once(chosen.one, rounds, seconds, **what)
        return
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(runs):
            target = Path(folder) / f"{number}.json"
            command = [sys.executable, "-m", "benchmarks.reader", "--one", str(target), "--rounds", str(rounds)]
            command += ["--quick"] if chosen.quick else []
            subprocess.run(command, check=True, cwd=ROOT, env=os.environ | ONE_THREAD)
            found.append(Run.from_json(target.read_text(encoding="utf-8")))
            print(f"run {number + 1} of {runs} done", file=sys.stderr)
    given = sys.argv[1:] if arguments is None else arguments
    text = page(
        found,
        " ".join(["python -m benchmarks.reader", *given]),
        f"{rounds} rounds of {seconds} s, {extent_km} x {extent_km} km",
    )
    print(text)
    if not chosen.quick:
        (ROOT / "benchmarks" / "results" / f"{date.today()}_reader.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
