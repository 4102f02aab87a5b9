"""The page that `reader.py` prints: medians of its runs, their spread, and what was asked for beside what was seen."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Turn, cpu_ratio, rate, ratio

PACKAGES = (
    *("numpy", "numcodecs", "google-crc32c", "zarr", "zarrs", "tensorstore", "xarray", "xbatcher", "rasterio"),
    *("webdataset", "litdata", "imagecodecs", "torch"),
)
GEOTIFF = "files/rasterio, GeoTIFF per date, tiles of 256"


@dataclass(frozen=True)
class Run:
    """What one process measured; names are `<lz4, zstd or files>/<contestant>`."""

    turns: dict[str, list[Turn]]
    loading: dict[str, list[Turn]]
    absent: dict[str, str]
    decoding: dict[str, dict[str, float]]
    load: tuple[float, float]
    """Load average of the machine before and after."""

    @classmethod
    def from_json(cls, text: str) -> Run:
        """Inverse of `dataclasses.asdict` and JSON."""
        tree = json.loads(text)
        for part in ("turns", "loading"):
            tree[part] = {name: [Turn(**turn) for turn in turns] for name, turns in tree[part].items()}
        return cls(**tree | {"load": tuple(tree["load"])})


def page(runs: Sequence[Run], command: str, protocol: str) -> str:
    """Markdown."""
    lines = header("Reading: SkyFrame, the decode limit, and others", command)
    loads = ", ".join(f"{before:.1f} to {after:.1f}" for before, after in (run.load for run in runs))
    lines += [
        "A sample: 20 random dates x 10 bands x 64 x 64, uint16 (1.64 MB), of the simulated Earth's Sentinel-2 series "
        "(60 dates); the stores hold one 64 x 64 chunk per date, blosc with bit-shuffle and crc32c, all dates of "
        f"256 x 256 in a shard. {protocol}; contestants interleaved, 64 samples in a cycle, files in the system's "
        "cache, every contestant's first samples compared with the source before it is timed. Median "
        f"of {len(runs)} runs [lowest, highest run]; a run's figure is the median of its rounds, and a ratio is taken "
        f"within each round. The machine was shared: load average {loads}.",
        "",
        "The limit is the fastest decoder found here by CPU time, one core, packed chunks in memory, crc32c checked "
        "on both sides: " + "; ".join(_decoders(runs, codec) for codec in runs[0].decoding) + ".",
        "",
    ]
    for codec in runs[0].decoding:
        lines += _store_table(runs, codec)
    return "\n".join([*lines, *_file_table(runs), *_loader_table(runs), *_targets(runs)]) + "\n"


def header(title: str, command: str) -> list[str]:
    """Date, command, commit, hardware and versions."""
    git = ["git", "-C", str(Path(__file__).parent)]
    commit = subprocess.run([*git, "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if platform.system() == "Linux" else None
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = [f"{name} {_version(name)}" for name in PACKAGES]
    return [
        f"# {title}",
        "",
        f"{datetime.date.today()}, `{command}`, commit {commit or 'unknown'}; {os.cpu_count()}-core "
        f"{cpu.group(1) if cpu else platform.processor()} {platform.machine()}, {memory_gb:.0f} GiB; Python "
        f"{platform.python_version()}, {', '.join(versions)}. OMP, BLAS, blosc and GDAL on one thread, zarr's own "
        "settings as they come (its thread pool and zarrs may use both cores: see the CPU time).",
        "",
    ]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _decoders(runs: Sequence[Run], codec: str) -> str:
    found = {name: statistics.median(run.decoding[codec][name] for run in runs) for name in runs[0].decoding[codec]}
    return f"{codec}: " + ", ".join(f"{name} {cpu_ms:.2f} CPU ms per sample" for name, cpu_ms in found.items())


def _over(runs: Sequence[Run], figure: Callable[[Run], float], form: str = "{:.2f}") -> str:
    found = [figure(run) for run in runs]
    middle = form.format(statistics.median(found))
    return middle if len(found) == 1 else f"{middle} [{form.format(min(found))}, {form.format(max(found))}]"


def _rate(runs: Sequence[Run], name: str) -> str:
    return _over(runs, lambda run: rate(run.turns[name]), "{:.0f}" if rate(runs[0].turns[name]) >= 20 else "{:.1f}")


def _times(runs: Sequence[Run], name: str, other: str) -> str:
    fast = statistics.median(ratio(run.turns[name], run.turns[other]) for run in runs) >= 10
    return _over(runs, lambda run: ratio(run.turns[name], run.turns[other]), "{:.0f}" if fast else "{:.2f}")


def _cpu(runs: Sequence[Run], name: str) -> str:
    return _over(runs, lambda run: statistics.median(turn.cpu_ms for turn in run.turns[name]), "{:.2f}").split()[0]


def _by_cpu(runs: Sequence[Run], name: str, other: str) -> str:
    return _over(runs, lambda run: cpu_ratio(run.turns[name], run.turns[other]))


def _of_limit(runs: Sequence[Run], name: str) -> tuple[str, str]:
    codec, reader = name.split("/")
    kind = "series" if "series" in reader else "array"
    other = f"{codec}/limit of the {kind}{', straddling' if 'straddling' in reader else ''}"
    return _times(runs, name, other), _by_cpu(runs, name, other)


def _store_table(runs: Sequence[Run], codec: str) -> list[str]:
    lines = [
        f"## {codec}",
        "",
        "Of the limit: of the same chunks' decoding (a Series has its flags chunk as well; where windows straddle, "
        "four chunks a date). The last column: how many times as fast SkyFrame's array read is on the same windows.",
        "",
        "| reader | samples/s | of the limit | of the limit, by CPU time | CPU ms per sample | SkyFrame is faster by |",
        "|---|---|---|---|---|---|",
    ]
    for name in runs[0].turns:
        if name.startswith(f"{codec}/"):
            ours = f"{codec}/SkyFrame, array{', straddling' if 'straddling' in name else ''}"
            limited = ("1", "1") if "/limit" in name else _of_limit(runs, name)
            by = "" if "/limit" in name or "SkyFrame" in name else _times(runs, ours, name)
            cells = name.split("/")[1], _rate(runs, name), *limited, _cpu(runs, name), by
            lines.append(f"| {' | '.join(cells)} |")
    return [*lines, *_absent(runs, codec, 6), ""]


def _absent(runs: Sequence[Run], group: str, columns: int) -> list[str]:
    rows = [(name.split("/")[1], why) for name, why in runs[0].absent.items() if name.startswith(f"{group}/")]
    return [f"| {name} | not run: {why} |{' |' * (columns - 2)}" for name, why in rows]


def _file_table(runs: Sequence[Run]) -> list[str]:
    lines = [
        "## The same samples from other formats",
        "",
        "Frozen: the windows and their dates were chosen when the files were written; the streams are read in their "
        "order. GDAL's block cache is held at 64 MB, files stay open.",
        "",
        "| format | samples/s | CPU ms per sample | SkyFrame lz4 is faster by | SkyFrame zstd is faster by |",
        "|---|---|---|---|---|",
    ]
    for name in runs[0].turns:
        if name.startswith("files/"):
            by = [_times(runs, f"{codec}/SkyFrame, array", name) for codec in ("lz4", "zstd")]
            lines.append(f"| {' | '.join((name.split('/')[1], _rate(runs, name), _cpu(runs, name), *by))} |")
    return [*lines, *_absent(runs, "files", 5), ""]


def _loader_table(runs: Sequence[Run]) -> list[str]:
    lines = [
        "## The training loader",
        "",
        "`CubeDataModule` as pretraining iterates it: windows in the global order, dates drawn, batches of 8 joined; "
        "beside `read_series` alone on the same windows in one process. Views are cut on the device, after this.",
        "",
        "| loader | samples/s | of read_series alone |",
        "|---|---|---|",
    ]
    for name in runs[0].loading:
        codec, reader = name.split("/")
        alone = f"{codec}/read_series alone"
        per_s = _over(runs, lambda run, name=name: rate(run.loading[name]), "{:.0f}")  # type: ignore[misc]
        share = _over(runs, lambda run, name=name, alone=alone: ratio(run.loading[name], run.loading[alone]))  # type: ignore[misc]
        lines.append(f"| {codec}, {reader} | {per_s} | {share} |")
    return [*lines, ""]


def _targets(runs: Sequence[Run]) -> list[str]:
    wanted = [("zstd", "limit of the array", 0.95), ("lz4", "limit of the array", 0.85)]
    wanted += [(codec, "limit of the array, straddling", 0.6) for codec in ("lz4", "zstd")]
    wanted += [(codec, "zarr-python, oindex", 20.0) for codec in ("lz4", "zstd")]
    asked = [
        (f"{codec}/SkyFrame, array{', straddling' if 'straddling' in other else ''}", f"{codec}/{other}", least)
        for codec, other, least in wanted
    ]
    for codec in ("lz4", "zstd"):
        ours = f"{codec}/SkyFrame, array"
        asked += [(ours, GEOTIFF, 25.0), (ours, f"files/webdataset, blosc-{codec} (frozen)", 1.0)]
    lines = ["## Asked for and seen", "", "| SkyFrame, array | beside | at least | seen | | by CPU time |"]
    lines += ["|---|---|---|---|---|---|"]
    for ours, other, least in asked:
        if all(other in run.turns for run in runs):
            seen = statistics.median(ratio(run.turns[ours], run.turns[other]) for run in runs)
            met = "met" if seen >= least else "below"
            shown = _times(runs, ours, other), met, _by_cpu(runs, ours, other)
            cells = ours.split("/")[0], other.split("/")[1], f"{least:g}", *shown
            lines.append(f"| {' | '.join(cells)} |")
    return lines
