"""Writes a cube of the simulated Earth: all sensors, weather, terrain, and truth."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import DAY_UNKNOWN
from skyframe.data.synthetic.atmosphere import optical_days, radar_days
from skyframe.data.synthetic.climate import CLIMATES, cell_of, weather
from skyframe.data.synthetic.highres import image_day, tile
from skyframe.data.synthetic.landscape import CROP, Cover, Land, cover, land
from skyframe.data.synthetic.noise import hashed, uniform
from skyframe.data.synthetic.optics import Scene
from skyframe.data.synthetic.phenology import Growth, growth
from skyframe.data.synthetic.radar import Echo
from skyframe.data.synthetic.world import (
    BLOCK_PX,
    HR_PIXEL_M,
    HR_TILE_M,
    PIXEL_M,
    WEATHER_CELL_M,
    ClimateName,
    Frame,
    World,
)
from skyframe.data.write import CubeWriter
from skyframe.spec import CubeSpec, Grid, InputError, did_you_mean, side_pixels

NO_CROP = 255
"""`crop_type` outside cropland."""
Progress = Callable[[int, int], None]
"""Called with jobs done and jobs in all."""


@dataclass(frozen=True)
class Job:
    """What one cube is, in plain values: goes to every worker."""

    path: Path
    world: World
    origin_m: tuple[float, float]
    height_m: float
    width_m: float
    years: tuple[int, ...]
    hr_share: float

    @property
    def grid(self) -> Grid:
        """Where the cube lies on Earth."""
        climate = CLIMATES[self.world.climate]
        y, x = self.origin_m
        return Grid(climate.crs, climate.x0_m + x, climate.y0_m - y, self.width_m, self.height_m)

    def frame(self, y_m: float, x_m: float, height_m: float, width_m: float, gsd_m: float) -> Frame:
        """A rectangle of the cube, `y_m` south and `x_m` east of its corner, cut at its edge."""
        height, width = min(height_m, self.height_m - y_m), min(width_m, self.width_m - x_m)
        y, x = self.origin_m
        return Frame(y + y_m, x + x_m, gsd_m, side_pixels(height, gsd_m), side_pixels(width, gsd_m))


def simulate(
    path: str | Path,
    *,
    width_m: float,
    height_m: float,
    seed: int,
    climate: ClimateName,
    origin_m: tuple[float, float] = (0.0, 0.0),
    year: int = 2021,
    num_years: int = 1,
    hr_share: float = 0.1,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Path:
    """Write one cube of the simulated Earth; the same arguments give the same values.

    Args:
        path: where the cube shall stand; must not exist.
        width_m, height_m: extent, whole pixels of 10 m.
        seed: which landscape, weather and management.
        climate: `oceanic` (UTM zone 31, 49.5 N) or `continental` (UTM zone 34, 47.3 N).
        origin_m: absolute position (y southwards, x eastwards) of the upper-left corner in the infinite landscape:
            cubes of one seed and climate whose rectangles touch continue each other.
        year, num_years: calendar years of the series; labels are those of the first.
        hr_share: share of the area under high-resolution imagery, in whole tiles of 640 m.
        progress: called with (jobs done, jobs in all).
        workers: processes, default one per core; a small cube is written without any.

    Returns:
        The path of the finished cube. Label `crop_type` is 255 outside cropland; `soil_moisture` is the mean of the
        top 5 cm from April to September; table `boxes` lists class (0 building, 1 vehicle) and the upper-left corner
        and size in metres from the cube's corner, of everything inside the high-resolution tiles.

    Raises:
        InputError: an extent or origin that is not whole pixels, an unknown climate, a share outside 0..1.
    """
    _check(width_m, height_m, climate, origin_m, num_years, hr_share)
    years = tuple(range(year, year + num_years))
    job = Job(Path(path), World(seed, climate), origin_m, height_m, width_m, years, hr_share)
    writer = _open(job)
    _write_weather(job, writer)
    labels: dict[str, NDArray[Any]] = {}
    boxes: list[dict[str, NDArray[Any]]] = []
    tasks = [*(("block", y, x) for y, x in _corners(job)), *(("tile", y, x) for y, x in hr_tiles(job))]
    for done, (kind, y_px, x_px, result) in enumerate(_run(job, tasks, workers), start=1):
        if kind == "tile":
            boxes.append(result)
        for name, values in result.items() if kind == "block" else ():
            whole = labels.setdefault(name, np.zeros(_shape(job), values.dtype))
            whole[y_px : y_px + values.shape[0], x_px : x_px + values.shape[1]] = values
        if progress is not None:
            progress(done, len(tasks))
    for name, values in labels.items():
        writer.write_label(name, values)
    if boxes:
        writer.write_table("boxes", {name: np.concatenate([b[name] for b in boxes]) for name in boxes[0]})
    return writer.finish()


def _check(
    width_m: float, height_m: float, climate: str, origin_m: tuple[float, float], num_years: int, hr_share: float
) -> None:
    named = {"width_m": width_m, "height_m": height_m, "origin_m y": origin_m[0], "origin_m x": origin_m[1]}
    for name, value in named.items():
        if abs(value / PIXEL_M - round(value / PIXEL_M)) > 1e-9:
            raise InputError(f"simulate: {name} is {value:g} m, expected a multiple of {PIXEL_M:g} m (one pixel)")
    if width_m < PIXEL_M or height_m < PIXEL_M:
        raise InputError(f"simulate: extent is {width_m:g} x {height_m:g} m, expected at least {PIXEL_M:g} m a side")
    if max(map(abs, origin_m)) > 250_000:
        raise InputError(f"simulate: origin {origin_m} lies outside the UTM zone, expected at most 250000 m from 0")
    if climate not in get_args(ClimateName):
        known = get_args(ClimateName)
        raise InputError(
            f"simulate: climate {climate!r} is not one of {', '.join(known)}{did_you_mean(climate, known)}"
        )
    if num_years < 1:
        raise InputError(f"simulate: num_years is {num_years}, expected at least 1")
    if not 0.0 <= hr_share <= 1.0:
        raise InputError(f"simulate: hr_share is {hr_share}, expected a share between 0 and 1")


def _shape(job: Job) -> tuple[int, int]:
    return side_pixels(job.height_m, PIXEL_M), side_pixels(job.width_m, PIXEL_M)


def _corners(job: Job) -> list[tuple[int, int]]:
    """Upper-left pixels of the cube's blocks."""
    height, width = _shape(job)
    return [(y, x) for y in range(0, height, BLOCK_PX) for x in range(0, width, BLOCK_PX)]


def hr_tiles(job: Job) -> list[tuple[int, int]]:
    """Upper-left 10 m pixels of the tiles with high-resolution imagery, whole tiles only.

    They are spread evenly: tile k of a scan gets the number k times the golden ratio, modulo 1 (an additive
    recurrence, which fills 0..1 evenly), and the lowest numbers are taken.
    """
    rows, columns = int(job.height_m / HR_TILE_M + 1e-9), int(job.width_m / HR_TILE_M + 1e-9)
    count = min(rows * columns, math.ceil(job.hr_share * rows * columns - 1e-9))
    start = float(uniform(hashed(job.world.key("hr tiles"), np.zeros(1, np.int64)))[0])
    order = np.argsort((start + np.arange(rows * columns) * 0.6180339887498949) % 1.0, kind="stable")
    side = round(HR_TILE_M / PIXEL_M)
    return sorted((int(k) // columns * side, int(k) % columns * side) for k in order[:count])


def _open(job: Job) -> CubeWriter:
    """A writer with every modality created: the parent and each worker open their own."""
    source = {
        "kind": "simulated_earth", "seed": job.world.seed, "climate": job.world.climate, "origin_m": list(job.origin_m),
        "years": list(job.years), "hr_share": job.hr_share,
    }  # fmt: skip
    writer = CubeWriter(job.path, CubeSpec.load("simulated_earth"), job.grid, source)
    writer.create("s2", _days(job, optical_days))
    writer.create("s1", _days(job, radar_days))
    writer.create("weather", _all_days(job))
    writer.create("terrain", np.array([DAY_UNKNOWN], np.int32))
    if hr_tiles(job):
        writer.create("hr", np.array([image_day(job.world, job.years[0])], np.int32))
    return writer


def _days(job: Job, of: Callable[[World, int], NDArray[np.int32]]) -> NDArray[np.int32]:
    return np.concatenate([of(job.world, year) for year in job.years])


def _all_days(job: Job) -> NDArray[np.int32]:
    cell = np.zeros(1, np.int64)
    return weather(job.world, cell, cell, job.years[0], job.years[-1]).day.astype(np.int32)


def _write_weather(job: Job, writer: CubeWriter) -> None:
    """Daily weather on cells of 5 km: the landscape's own cell at the centre of each."""
    rows, columns = (side_pixels(v, WEATHER_CELL_M) for v in (job.height_m, job.width_m))
    y = job.origin_m[0] + (np.arange(rows) + 0.5) * WEATHER_CELL_M
    x = job.origin_m[1] + (np.arange(columns) + 0.5) * WEATHER_CELL_M
    cy, cx = cell_of(*np.meshgrid(y, x, indexing="ij"))
    w = weather(job.world, cy.ravel(), cx.ravel(), job.years[0], job.years[-1])
    values = np.stack([w.temperature_c, w.precipitation_mm, w.radiation_mj], 1).reshape(len(w.day), 3, rows, columns)
    writer.write("weather", 0, 0, values.astype(np.float32), np.ones((len(w.day), rows, columns), np.uint8))


def _run(job: Job, tasks: list[tuple[str, int, int]], workers: int | None) -> Iterator[tuple[str, int, int, Any]]:
    count = min(len(os.sched_getaffinity(0)) if workers is None else workers, len(tasks) // 2)
    if count < 2:
        yield from (_do(job, *task) for task in tasks)
        return
    # Forked, so that a caller needs no importable __main__; the children use NumPy alone.
    with ProcessPoolExecutor(count, multiprocessing.get_context("fork")) as pool:
        yield from pool.map(_do, [job] * len(tasks), *zip(*tasks, strict=True))


def _do(job: Job, kind: str, y_px: int, x_px: int) -> tuple[str, int, int, Any]:
    return kind, y_px, x_px, (_block if kind == "block" else _tile)(job, _open(job), y_px, x_px)


def _block(job: Job, writer: CubeWriter, y_px: int, x_px: int) -> dict[str, NDArray[Any]]:
    """Write one block of all modalities of 10 m (unless it stands already) and give back its labels."""
    side = BLOCK_PX * PIXEL_M
    frame = job.frame(y_px * PIXEL_M, x_px * PIXEL_M, side, side, PIXEL_M)
    ground = land(job.world, frame)
    shares = cover(job.world, ground)
    states = [growth(job.world, ground.units, year) for year in job.years]
    if not writer.is_written("s2", y_px, x_px):
        writer.write("s2", y_px, x_px, *_observe(job, Scene, optical_days, ground, shares, states))
    if not writer.is_written("s1", y_px, x_px):
        writer.write("s1", y_px, x_px, *_observe(job, Echo, radar_days, ground, shares, states))
    relief = np.stack([ground.terrain.elevation_m, ground.terrain.slope_deg])[None]
    writer.write("terrain", y_px, x_px, relief, np.ones((1, frame.height, frame.width), np.uint8))
    return _labels(ground, states[0])


def _observe(
    job: Job, sensor: type[Scene] | type[Echo], dates: Callable[[World, int], NDArray[np.int32]],
    ground: Land, shares: Cover, states: list[Growth],
) -> tuple[NDArray[Any], NDArray[np.uint8]]:  # fmt: skip
    """All dates of one sensor over a block: values `[T, C, h, w]` and flags `[T, h, w]`."""
    values, flags = [], []
    for year, state in zip(job.years, states, strict=True):
        scene = sensor(job.world, ground, shares, state)
        for day in dates(job.world, year):
            seen, flag = scene.observe(int(day - state.day[0]))
            values.append(seen)
            flags.append(flag)
    return np.stack(values), np.stack(flags)


def _labels(ground: Land, state: Growth) -> dict[str, NDArray[Any]]:
    summer = state.moisture[90:273].mean(axis=0)
    return {
        "land_cover": ground.kind.astype(np.uint8),
        "crop_type": np.where(ground.kind == CROP, state.crop[ground.unit], NO_CROP).astype(np.uint8),
        "soil_moisture": summer.astype(np.float32)[ground.unit],
        "parcel": (ground.units.hashes >> np.uint64(33)).astype(np.int32)[ground.unit],
    }


def _tile(job: Job, writer: CubeWriter, y_px: int, x_px: int) -> dict[str, NDArray[Any]]:
    """Write one high-resolution tile (unless it stands already) and give back its boxes."""
    frame = job.frame(y_px * PIXEL_M, x_px * PIXEL_M, HR_TILE_M, HR_TILE_M, HR_PIXEL_M)
    row, column = (round(v * PIXEL_M / HR_PIXEL_M) for v in (y_px, x_px))
    image, boxes = tile(job.world, frame, job.years[0], draw=not writer.is_written("hr", row, column))
    if image is not None:
        writer.write("hr", row, column, image[None], np.ones((1, *image.shape[1:]), np.uint8))
    origin = {"y_m": job.origin_m[0], "x_m": job.origin_m[1]}
    return {name: column - origin[name] if name in origin else column for name, column in boxes.items()}
