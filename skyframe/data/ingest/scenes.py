"""Scenes placed on a target grid: which make one date, and a layer that reads them block by block.

One date is one pass: neighbouring tiles of it are mosaicked, also across the seam of two UTM zones; two passes of one
day stay two dates. Only the scenes that touch a block are opened for it. Memory holds one block of every date (side
by `block_px`) and the windows of the scenes in the hands of the reading threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import DAY_UNKNOWN, day_of
from skyframe.data.cube import NODATA, tile_px
from skyframe.data.ingest.mask import Mask, flags_by
from skyframe.data.ingest.source import Block, Layer
from skyframe.data.ingest.units import flags_of, power_to_db, to_integers, to_reflectance
from skyframe.data.ingest.warp import Box, read_window, signed_address
from skyframe.spec import Grid, InputError, Modality, side_pixels

SAME_PASS = timedelta(minutes=15)
"""Scenes of one track that follow each other within this are one pass: 15 minutes of flight are 6000 km of ground."""

MASK = "mask"
"""Key of a scene's mask among its assets; no band is called so."""

MAX_BLOCK_PX = 1024
"""Side of the tiles inside the common cloud-optimised archives: a larger block saves no reading."""

Bounds = tuple[float, float, float, float]
"""Left, bottom, right, top in metres."""


@dataclass(frozen=True)
class Asset:
    """One band of a scene: where it lies, and physical value = stored * `scale` + `offset`; `sign`: the collection
    whose tokens open the address, where it has to be signed."""

    href: str
    band: int = 1
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    sign: str = ""


@dataclass(frozen=True)
class Scene:
    """One image as its archive keeps it, one file or asset per band of the modality.

    `when` is its sensing time (UTC); `bounds_m` its rectangle in the target CRS; `crs` that of its pixels where
    known; `track` what tells passes apart (platform, orbit); `baseline` its processing, higher is preferred.
    """

    id: str
    when: datetime
    assets: Mapping[str, Asset]
    bounds_m: Bounds
    crs: str = ""
    track: str = ""
    baseline: str = ""


@dataclass(frozen=True)
class Sampling:
    """How scenes become a modality's pixels: `resampling` for all bands and `by_band`; `power` where backscatter is
    linear in the files; the mask that flags clouds, if there is one."""

    resampling: str = "auto"
    by_band: Mapping[str, str] = field(default_factory=dict)
    power: bool = True
    mask: Mask | None = None

    def of(self, modality: Modality, band: str) -> str:
        """Resampling of one band; classes are never averaged."""
        return self.by_band.get(band, "nearest" if modality.units == "class" else self.resampling)


def passes(scenes: Sequence[Scene], crs: str) -> list[list[Scene]]:
    """Scenes grouped into dates, in time's order.

    Within a date those in the target's own CRS come first (their pixels need no resampling), then those of a higher
    baseline: where two overlap, the first one's pixel is taken.

    Args:
        scenes: in any order.
        crs: the target's.
    """
    found: list[list[Scene]] = []
    last: dict[str, list[Scene]] = {}
    for scene in sorted(scenes, key=lambda s: (s.when, s.id)):
        group = last.get(scene.track)
        if group is None or scene.when - group[-1].when > SAME_PASS:
            last[scene.track] = group = []
            found.append(group)
        group.append(scene)
    by_id = [sorted(group, key=lambda s: s.id) for group in found]
    by_baseline = [sorted(group, key=lambda s: s.baseline, reverse=True) for group in by_id]
    return [sorted(group, key=lambda s: s.crs != crs) for group in by_baseline]


def touches(bounds: Bounds, box: Bounds) -> bool:
    """Whether two rectangles share any area."""
    return bounds[0] < box[2] and box[0] < bounds[2] and bounds[1] < box[3] and box[1] < bounds[3]


def bounds_of(grid: Grid) -> Bounds:
    """The rectangle of a grid."""
    return grid.x0_m, grid.y0_m - grid.height_m, grid.x0_m + grid.width_m, grid.y0_m


def block_px(modality: Modality, num_dates: int, memory_mb: float, threads: int) -> int:
    """Side of the blocks to read: whole shards, as large as the memory allows, at most `MAX_BLOCK_PX`.

    Larger blocks decode each tile of an archive's files fewer times; a shard holds every date, so one shard of every
    date is the least.

    Raises:
        InputError: not even one shard fits.
    """
    shard, bands = tile_px(modality.gsd_m)[1], len(modality.bands)
    values = num_dates * bands * np.dtype(modality.dtype).itemsize
    working = threads * bands * 64  # a window as read, and its steps to what is stored (eight bytes each, measured)
    per_pixel, encoding = (values + num_dates + working) / 1e6, values * shard**2 / 1e6
    if per_pixel * shard**2 + encoding > memory_mb:
        raise InputError(
            f"{modality.name}: one block of {shard} x {shard} pixels x {num_dates} dates x {bands} bands needs "
            f"{per_pixel * shard**2 + encoding:.0f} MB, expected at most memory_mb: {memory_mb:g}; "
            "raise memory_mb, lower threads or take a shorter time"
        )
    side = shard
    while side * 2 <= MAX_BLOCK_PX and per_pixel * (side * 2) ** 2 + encoding <= memory_mb:
        side *= 2
    return side


def scene_layer(
    modality: Modality, grid: Grid, dates: Sequence[Sequence[Scene]], sampling: Sampling, memory_mb: float, threads: int
) -> Layer:
    """A modality that is read from scenes.

    Args:
        modality: as it will be stored.
        grid: of the cube.
        dates: from `passes`, each with at least one scene.
        sampling: of its bands.
        memory_mb: bound on a block of every date and what is being read.
        threads: dates read at a time: most of the time is waiting for a server.
    """
    if modality.kind == "static":
        dates = [[scene for group in dates for scene in group]]
        days = np.array([DAY_UNKNOWN], np.int32)
    else:
        days = np.array([day_of(min(scene.when for scene in group).date()) for group in dates], np.int32)

    def read(y: int, x: int, height: int, width: int) -> Block:
        gsd = modality.gsd_m
        box = Box(grid.crs, grid.x0_m + x * gsd, grid.y0_m - y * gsd, gsd, height, width)
        values = np.zeros((len(dates), len(modality.bands), height, width), modality.dtype)
        flags = np.full((len(dates), height, width), NODATA, np.uint8)
        near = [[s for s in group if touches(s.bounds_m, box.bounds_m)] for group in dates]
        wanted = [date for date, group in enumerate(near) if group]
        pool = ThreadPoolExecutor(threads)
        try:
            jobs = [pool.submit(_mosaic, modality, near[d], sampling, box, (y, x), values[d], flags[d]) for d in wanted]
            for job in jobs:
                job.result()
        finally:
            pool.shutdown(cancel_futures=True)
        return values, flags

    shape = side_pixels(grid.height_m, modality.gsd_m), side_pixels(grid.width_m, modality.gsd_m)
    return Layer(modality, days, shape, read, block_px(modality, len(dates), memory_mb, threads))


def _mosaic(
    modality: Modality,
    group: Sequence[Scene],
    sampling: Sampling,
    box: Box,
    corner: tuple[int, int],
    values: NDArray[np.generic],
    flags: NDArray[np.uint8],
) -> None:
    """Fill one date of a block `[C, h, w]` from its scenes, each where those before it have nothing."""
    for scene in group:
        if (flags != NODATA).all():
            return
        found, seen = _read_scene(modality, scene, sampling, box, corner)
        new = (flags == NODATA) & (seen != NODATA)
        np.copyto(values, found, where=new, casting="no")
        np.copyto(flags, seen, where=new)


def _read_scene(
    modality: Modality, scene: Scene, sampling: Sampling, box: Box, corner: tuple[int, int]
) -> tuple[NDArray[np.generic], NDArray[np.uint8]]:
    """One scene's pixels of a block, stored dtype `[C, h, w]`, and their flags `[h, w]`."""
    at = f"block at row {corner[0]}, column {corner[1]}"
    window = partial(_window, scene=scene, box=box, at=f"{modality.name}: {at}")
    physical = np.empty((len(modality.bands), box.height, box.width), np.float64)
    for index, band in enumerate(modality.band_names):
        asset = scene.assets[band]
        physical[index] = window(band, resampling=sampling.of(modality, band))
        physical[index] *= asset.scale
        physical[index] += asset.offset
        if np.isnan(physical[index]).all():  # outside the swath: a pixel needs all its bands
            return np.zeros(physical.shape, modality.dtype), np.full(physical.shape[1:], NODATA, np.uint8)
    where = f"{scene.id}: {modality.name}: {at}"
    stored, lost = to_stored(physical, modality, sampling.power, where)
    flags = flags_of(lost)
    if sampling.mask is not None:
        classes = window(MASK, resampling="nearest")
        flags = np.where(lost, NODATA, flags_by(sampling.mask, classes, where)).astype(np.uint8)
        stored = np.where(flags == NODATA, 0, stored).astype(modality.dtype)
    return stored, flags


def _window(name: str, *, scene: Scene, box: Box, at: str, resampling: str) -> NDArray[np.float32]:
    asset = scene.assets[name]
    href = signed_address(asset.href, asset.sign) if asset.sign else asset.href
    return read_window(href, asset.band, box, resampling, asset.nodata, f"{scene.id}: {name} for {at}")


def to_stored(
    physical: NDArray[np.float64], modality: Modality, power: bool, where: str
) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Physical values as a modality stores them.

    Args:
        physical: `[C, h, w]`, NaN where missing; reflectance 0 to 1, linear power where `power`, else `units`.
        modality: units `dB` and `reflectance` follow `units.power_to_db` and `units.to_reflectance`.
        power: backscatter comes as linear power.
        where: for the message.

    Returns:
        Stored dtype `[C, h, w]`, 0 where missing, and missing bool `[h, w]`: some band is.
    """
    if modality.units == "dB" and power and (modality.dtype, modality.scale) == ("int16", 0.01):
        stored, lost = power_to_db(physical[None])
        return stored[0], lost[0]
    if modality.units == "reflectance" and (modality.dtype, modality.scale, modality.offset) == ("uint16", 1e-4, 0.0):
        reflectance, gone = to_reflectance(physical[None] * 1e4, where, black_is_nodata=False)
        return reflectance[0], gone[0]
    if modality.units == "dB" and power:
        physical = 10.0 * np.log10(np.where(physical > 0, physical, np.nan))
    lost = np.asarray(np.isnan(physical).any(axis=0))
    return to_integers(np.where(lost, np.nan, (physical - modality.offset) / modality.scale), modality, where), lost
