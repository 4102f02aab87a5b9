"""Random windows for minutes: does memory or the number of open files grow?

    python -m benchmarks.soak CUBE [--minutes 10]

Windows of three sizes, on and off the chunk grid, all modalities, dates in any order. Prints resident memory and open
files every twentieth of the time, and writes benchmarks/results/<date>_soak.md.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
from pathlib import Path

import numpy as np

from skyframe.data.cube import Cube, open_cube
from skyframe.data.read import read_series
from skyframe.spec import Window

SIZES_M = (640.0, 450.0, 1280.0)
ROWS = 20


def resident_mb() -> float:
    """Memory of this process that belongs to it alone: pages of mapped files can be dropped at any time."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")) / 1024


def open_files() -> int:
    """Open file descriptors and mapped files."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").count("/c/")
    return len(os.listdir("/proc/self/fd")) + maps


def read_one(cube: Cube, rng: np.random.Generator) -> int:
    """One window at random; returns the bytes of its pixels."""
    size = float(rng.choice(SIZES_M))
    extents = cube.grid.height_m, cube.grid.width_m
    y, x = (10.0 * int(rng.integers(0, (extent - size) // 10 + 1)) for extent in extents)
    window = Window(cube.name, y, x, size)
    names = [name for name, m in cube.spec.modalities.items() if m.gsd_m in (10.0, 5000.0)]
    dates = {name: rng.permutation(len(cube.days(name)))[: int(rng.integers(1, 21))] for name in names}
    return sum(s.values.nbytes for s in read_series(cube, window, names=names, dates=dates).values())


def soak(cube: Cube, minutes: float) -> list[tuple[float, int, float, float, int]]:
    """Rows of (seconds, windows, GB of pixels, MB resident, open files)."""
    rng, begun, rows, windows, read = np.random.default_rng(0), time.monotonic(), [], 0, 0
    step = 60 * minutes / ROWS
    while len(rows) < ROWS:
        read += read_one(cube, rng)
        windows += 1
        passed = time.monotonic() - begun
        if passed >= step * (len(rows) + 1):
            rows.append((passed, windows, read / 1e9, resident_mb(), open_files()))
            print("{:7.0f} s {:8d} windows {:8.1f} GB {:8.1f} MB {:4d} files".format(*rows[-1]), flush=True)
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cube", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    args = parser.parse_args()
    rows = soak(open_cube(args.cube), args.minutes)
    lines = [
        "# Reading at random for a long time",
        "",
        f"{datetime.date.today()}, `python -m benchmarks.soak CUBE --minutes {args.minutes:g}`, "
        f"Python {platform.python_version()}, {os.cpu_count()}-core {platform.machine()} CPU; one process, one pool of "
        "256 shards. Memory is anonymous resident memory; files are descriptors and mapped files.",
        "",
        "| s | windows | GB of pixels | MB resident | open files |",
        "|---|---|---|---|---|",
        *("| {:.0f} | {} | {:.1f} | {:.1f} | {} |".format(*row) for row in rows),
        "",
        f"From a quarter of the time to its end memory changed by {rows[-1][3] - rows[ROWS // 4][3]:+.1f} MB and the "
        f"open files by {rows[-1][4] - rows[ROWS // 4][4]:+d}.",
    ]
    out = Path(__file__).parent / "results" / f"{datetime.date.today()}_soak.md"
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {out.relative_to(Path.cwd()) if out.is_relative_to(Path.cwd()) else out}")


if __name__ == "__main__":
    main()
