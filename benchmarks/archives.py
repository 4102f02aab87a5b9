"""Archives in place: `read_series` on random windows beside that layout's own decode limit, interleaved in one run.

The limit decodes the chunks that a window touches, from memory into one scratch array, by the fastest decoder there is
on this machine (blosc by address, libdeflate): nothing is read, cut out, masked or checked. Run from the repository:
`python -m benchmarks.archives [SHARED]`, where SHARED holds the real samples (default ../shared).
"""

from __future__ import annotations

import functools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, cast

import imagecodecs
import numcodecs
import numpy as np
import rasterio
import xarray as xr
import yaml
import zarr
from imagecodecs import deflate_decode, delta_decode, lzw_decode, zstd_decode
from numcodecs import Blosc, Zlib
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.windows import Window as RasterWindow

import skyframe
from skyframe.data.archive import ArchiveReader
from skyframe.data.archive.geotiff import TiffArray
from skyframe.data.archive.tiled import Tiled
from skyframe.data.archive.zarr_array import ZarrArray
from skyframe.data.cube import Cube, open_cube
from skyframe.data.decode import blosc_decoder
from skyframe.data.read import read_series
from skyframe.spec import Window

ROUNDS, SECONDS, WINDOWS = 5, 0.4, 10
BANDS = ("B02", "B03", "B04", "B08")
EXTENT_PX, SIDE_PX, GSD_M, DATES = 768, 64, 10.0, 21


@dataclass(frozen=True)
class Case:
    """One archive: its cube, the modality, dates per sample, and how its usual reader reads a window."""

    name: str
    cube: Cube
    modality: str
    num_dates: int
    usual: str
    read_usual: Callable[[int, int, NDArray[np.intp]], object]


@dataclass(frozen=True)
class Sample:
    """A window and its dates, what decodes each chunk that is there, and how many it touches."""

    row: int
    column: int
    window: Window
    dates: NDArray[np.intp]
    limits: list[Callable[[], object]]
    touched: int


@functools.cache
def scene(seed: int, side: int = EXTENT_PX) -> NDArray[np.uint16]:
    """Fields with noise, as reflectance x 10000: what a codec meets in imagery."""
    shape, draw = (side, side), np.random.default_rng(seed)
    fields = draw.integers(400, 3500, (shape[0] // 32 + 1, shape[1] // 32 + 1)).repeat(32, 0).repeat(32, 1)
    return (fields[: shape[0], : shape[1]] + draw.normal(0, 40, shape)).astype(np.uint16)


def spec(dtype: str) -> dict[str, object]:
    """An inline spec of four bands."""
    bands = [{"name": band} for band in BANDS]
    s2 = {"kind": "series", "bands": bands, "gsd_m": GSD_M, "units": "reflectance", "dtype": dtype, "scale": 1e-4}
    return {"name": "bench", "description": "made for a benchmark", "modalities": {"s2": s2}}


def describe(folder: Path, name: str, dtype: str, **where: object) -> Cube:
    """Write a description and open it."""
    entry = {"array": "{band}", "mask": {"nodata": [0]}}
    tree = {"skyframe_archive": 1, "spec": spec(dtype), "crs": "EPSG:32631", "modalities": {"s2": entry}, **where}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    return open_cube(folder / f"{name}.yaml")


def awkward(folder: Path, name: str, dtype: str, compressor: object) -> Case:
    """One Zarr v2 array per band in chunks of (7, 100, 130)."""
    root = zarr.create_group(folder / f"{name}.zarr", zarr_format=2)
    for number, band in enumerate(BANDS):
        values = np.stack([scene(100 * number + t) for t in range(DATES)]).astype(dtype)
        array = root.create_array(
            band,
            shape=values.shape,
            chunks=(7, 100, 130),
            dtype=dtype,
            compressors=[cast("Any", compressor)],
            fill_value=0,
        )
        array[:] = values
        array.attrs["_ARRAY_DIMENSIONS"] = ["time", "y", "x"]
    centres = (np.arange(EXTENT_PX) + 0.5) * GSD_M
    coordinates = {"time": np.arange(DATES) * 5, "y": 5_600_000 - centres, "x": 600_000 + centres}
    for axis, numbers in coordinates.items():
        array = root.create_array(axis, data=numbers)
        array.attrs["_ARRAY_DIMENSIONS"] = [axis]
    root["time"].attrs["units"] = "days since 2021-01-01"
    cube = describe(folder, name, dtype, store=f"{name}.zarr")
    opened = xr.open_zarr(folder / f"{name}.zarr", chunks=None, mask_and_scale=False, consolidated=False)

    def usual(row: int, column: int, dates: NDArray[np.intp]) -> object:
        here = opened.isel(time=dates, y=slice(row, row + SIDE_PX), x=slice(column, column + SIDE_PX))
        return here[list(BANDS)].to_array().values

    return Case(f"per band (7, 100, 130) {dtype} {name}", cube, "s2", 20, "xarray", usual)


def cogs(folder: Path, compress: str, block: int) -> Case:
    """COGs of one band and date, listed by a STAC ItemCollection."""
    transform, items = from_origin(600_000, 5_600_000, GSD_M, GSD_M), []
    place = folder / f"cogs_{compress}_{block}"
    place.mkdir()
    for t in range(DATES):
        assets = {}
        for number, band in enumerate(BANDS):
            file = f"{t:02}_{band}.tif"
            profile = {
                "driver": "COG",
                "compress": compress,
                "predictor": "YES",
                "blocksize": block,
                "overviews": "NONE",
            }
            with rasterio.open(
                place / file, "w", width=EXTENT_PX, height=EXTENT_PX, count=1, dtype="uint16", crs="EPSG:32631",
                transform=transform, **profile,
            ) as out:  # fmt: skip
                out.write(scene(100 * number + t), 1)
            assets[band] = {"href": f"{place.name}/{file}"}
        stamp = f"2021-{1 + t // 28:02}-{1 + t % 28:02}T10:30:00Z"
        items.append({"type": "Feature", "id": f"item{t}", "properties": {"datetime": stamp}, "assets": assets})
    (folder / f"{place.name}.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    cube = describe(folder, place.name, "uint16", scenes=f"{place.name}.json")

    def usual(row: int, column: int, dates: NDArray[np.intp]) -> object:
        found = []
        for t in dates:
            for band in BANDS:
                with rasterio.open(place / f"{t:02}_{band}.tif") as source:
                    found.append(source.read(1, window=RasterWindow(column, row, SIDE_PX, SIDE_PX)))
        return found

    return Case(f"COGs behind STAC, {block} px tiles, {compress} + predictor", cube, "s2", 20, "rasterio", usual)


def xcube(shared: Path, folder: Path) -> Case:
    """xcube's sample cube: three float64 arrays, chunks (1, 250, 250), blosc lz4, most chunks absent."""
    store = (shared / "data" / "xcube" / "cube-1-250-250.zarr").resolve()
    tree = {"skyframe_archive": 1, "spec": "xcube_ocean_colour", "store": str(store)}
    (folder / "xcube.yaml").write_text(yaml.safe_dump({**tree, "modalities": {"ocean": {"array": "{band}"}}}))
    cube = open_cube(folder / "xcube.yaml")
    opened = xr.open_zarr(store, chunks=None, mask_and_scale=False)[list(cube.spec.modality("ocean").band_names)]

    def usual(row: int, column: int, dates: NDArray[np.intp]) -> object:
        here = opened.isel(time=dates, lat=slice(row, row + SIDE_PX), lon=slice(column, column + SIDE_PX))
        return here.to_array().values

    return Case("xcube ocean colour, Zarr v2 (1, 250, 250) float64 lz4", cube, "ocean", 5, "xarray", usual)


def limit_of(tiled: Tiled, packed: bytes, flat: Any) -> Callable[[], object]:
    """Decodes one chunk by the shortest way that is known, into scratch memory that stays."""
    if isinstance(tiled, TiffArray):
        pixels = flat.view(tiled.numpy_dtype).reshape(tiled.chunk)
        unpack = {"deflate": deflate_decode, "zstd": zstd_decode, "lzw": lzw_decode}[tiled.header.codec]

        def tile() -> None:
            unpack(packed, out=flat)
            delta_decode(pixels, axis=1, out=pixels)

        return tile
    (step,) = cast("ZarrArray", tiled).steps
    if json.loads(step)["id"] == "blosc":
        decompress, address, size = blosc_decoder(), flat.ctypes.data, len(flat)
        return lambda _kept=flat: decompress(packed, address, size, 1)  # type: ignore[misc]
    return lambda: deflate_decode(packed, out=flat)


def draw_samples(case: Case) -> list[Sample]:
    """Random windows that hold something, anywhere in the archive, with random dates."""
    draw, cube = np.random.default_rng(7), case.cube
    source = cast("ArchiveReader", cube.reader).sources[case.modality]
    gsd_m, (num_dates, _, height, width) = cube.spec.modality(case.modality).gsd_m, source.values.shape
    found: list[Sample] = []
    flat: NDArray[np.uint8] | None = None
    while len(found) < WINDOWS:
        row, column = int(draw.integers(height - SIDE_PX + 1)), int(draw.integers(width - SIDE_PX + 1))
        dates = np.sort(draw.choice(num_dates, case.num_dates, replace=False))
        area = (row, row + SIDE_PX), (column, column + SIDE_PX)
        limits, chunks = [], list(source.touched(dates.tolist(), area))
        for tiled, number in chunks:
            packed = tiled.fetch(number)
            if packed is not None:
                flat = np.empty_like(tiled.scratch()[0]) if flat is None else flat
                limits.append(limit_of(tiled, bytes(packed), flat))
        if limits:
            window = Window(cube.name, row * gsd_m, column * gsd_m, SIDE_PX * gsd_m)
            found.append(Sample(row, column, window, dates, limits, len(chunks)))
    return found


def measure(case: Case) -> dict[str, float]:
    """Median samples per second of processor time of each reader, in turns within each round."""
    samples = draw_samples(case)

    def ours(sample: Sample) -> object:
        return read_series(case.cube, sample.window, dates={case.modality: sample.dates})

    def limit(sample: Sample) -> object:
        return [decode() for decode in sample.limits]

    def usual(sample: Sample) -> object:
        return case.read_usual(sample.row, sample.column, sample.dates)

    forms: dict[str, Callable[[Sample], object]] = {"limit": limit, "skyframe": ours, "usual": usual}
    rates: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(ROUNDS + 1):  # the first turn warms the file cache
        for name, form in forms.items():
            done, started = 0, time.process_time()
            while done < len(samples) or time.process_time() - started < SECONDS:
                form(samples[done % len(samples)])
                done += 1
            if turn:
                rates[name].append(done / (time.process_time() - started))
    chunks = statistics.mean(sample.touched for sample in samples)
    decoded = statistics.mean(len(sample.limits) for sample in samples)
    return {name: statistics.median(r) for name, r in rates.items()} | {"touched": chunks, "decoded": decoded}


def table(rows: Sequence[tuple[Case, dict[str, float]]]) -> str:
    """The dated page."""
    versions = ", ".join(f"{m.__name__} {m.__version__}" for m in (np, zarr, xr, rasterio, numcodecs, imagecodecs))
    lines = [
        "# Existing archives, read in place",
        "",
        f"{date.today()}, `python -m benchmarks.archives`; skyframe-eo {skyframe.__version__}, {versions}, Python "
        f"{platform.python_version()}, {os.cpu_count()}-core {platform.machine()} CPU, one process, warm page cache.",
        "",
        f"Windows of {SIDE_PX} x {SIDE_PX} px at random places that hold data; dates at random. The limit decodes "
        "the chunks that such a window touches, from memory, by the fastest decoder here, and does nothing else. "
        f"Medians of {ROUNDS} rounds of {SECONDS} s of processor time over all threads, as the machine is shared; "
        "readers in turn within a round. The ratios count, samples/s move with the machine. The usual reader is xarray "
        "without dask and without decoding (it gives no flags), or rasterio opening each file.",
        "",
        "| archive | dates x bands | chunks touched (present) | limit /CPU s | skyframe /CPU s | of the limit | "
        "usual reader /CPU s | times the usual |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case, found in rows:
        bands = len(case.cube.spec.modality(case.modality).bands)
        lines.append(
            f"| {case.name} | {case.num_dates} x {bands} | {found['touched']:.0f} ({found['decoded']:.0f}) | "
            f"{found['limit']:.1f} | {found['skyframe']:.1f} | **{found['skyframe'] / found['limit']:.2f}** | "
            f"{case.usual} {found['usual']:.1f} | {found['skyframe'] / found['usual']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every archive, print the table and write it to benchmarks/results/."""
    shared = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[2] / "shared")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cases = [
            awkward(folder, "zlib", "uint16", Zlib(5)),
            awkward(folder, "blosc_lz4", "float32", Blosc("lz4", 5, Blosc.SHUFFLE)),
            awkward(folder, "blosc_zstd", "uint16", Blosc("zstd", 3, Blosc.BITSHUFFLE)),
            cogs(folder, "deflate", 512),
            cogs(folder, "zstd", 512),
            cogs(folder, "lzw", 512),
        ]
        if (shared / "data" / "xcube").is_dir():
            cases.insert(0, xcube(shared, folder))
        else:
            print(f"no {shared}/data/xcube: that row is left out")
        text = table([(case, measure(case)) for case in cases])
    print(text)
    out = Path(__file__).parent / "results" / f"{date.today()}_archives.md"
    out.write_text(text)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
