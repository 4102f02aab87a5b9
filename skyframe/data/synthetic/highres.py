"""The high-resolution image: 0.3125 m, red, green, blue, one date in June, with rows, crowns, roofs, roads, vehicles.

It shows the same land as the Sentinel pixels: units, growth, roads and buildings come from the same functions, colours
from the same endmembers; only texture is added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import day_of
from skyframe.data.synthetic.crops import CROPS
from skyframe.data.synthetic.landscape import CONIFER, CROP, DECIDUOUS, TOWN, WATER, Land, Units, joined, land
from skyframe.data.synthetic.noise import Floats, fractal, hashed, uniform, value_noise, white
from skyframe.data.synthetic.objects import BUILDING, VEHICLE, Things, buildings, select, vehicles
from skyframe.data.synthetic.optics import (
    ASPHALT,
    BRIGHT_SOIL,
    DARK_SOIL,
    DRY,
    ENDMEMBERS,
    FLAT,
    GRAVEL,
    NEEDLES,
    OPEN_WATER,
    PALE,
    PETALS,
    UPRIGHT,
    canopy_of,
    leaf_cover,
    soil_brightness,
)
from skyframe.data.synthetic.paint import doubled, draw_things, fine
from skyframe.data.synthetic.phenology import Growth, growth
from skyframe.data.synthetic.trees import crowns
from skyframe.data.synthetic.world import HR_PIXEL_M, Frame, World

Boxes = dict[str, NDArray[Any]]
_RGB = ENDMEMBERS[[2, 1, 0]]
"""Endmembers in red, green, blue."""
_HEDGE = (_RGB[:, FLAT] * 0.45 + _RGB[:, UPRIGHT] * 0.35 + _RGB[:, DRY] * 0.1 + _RGB[:, DARK_SOIL] * 0.1).astype(
    np.float32
)
"""Hedges and garden trees in leaf, as the Sentinel-2 law mixes them."""
_WHITE = 0.42
"""Reflectance that becomes 255 after the display curve."""
_CURVE = (255.0 * (np.arange(4096) / 4095.0) ** (1 / 1.8)).astype(np.uint8)
"""Display curve: 4096 steps of reflectance up to `_WHITE` to stored values."""
_ROW_M = {"maize": 0.75, "sunflower": 0.75, "sugar_beet": 0.64, "potato": 0.9}
"""Row spacing of crops whose rows show; others show wheel tracks only."""
_TRACKS_M = 27.0
"""Distance between the wheel tracks of a sprayer."""
_STRIP_PX = 128


@dataclass(frozen=True)
class Look:
    """What the units look like on the day of the survey."""

    plants: Floats  # [3, U] colour of plants, reflectance
    soil: Floats  # [3, U] colour of what lies between them
    cover: Floats  # [U] plant cover, 0..1
    row_m: Floats  # [U] row spacing, 0 = sown without visible rows, -1 = not a field


def image_day(world: World, year: int) -> int:
    """The day of the aerial survey, days since 2000-01-01: between 5 and 25 June."""
    shift = float(uniform(hashed(world.key("survey"), np.array([year])))[0])
    return day_of(date(year, 6, 5)) + int(20 * shift)


def tile(world: World, frame: Frame, year: int, draw: bool = True) -> tuple[NDArray[np.uint8] | None, Boxes]:
    """One tile of imagery and what stands in it.

    Args:
        world: seed and climate.
        frame: the tile at 0.3125 m, an even number of pixels a side.
        year: of the survey.
        draw: False gives the boxes alone.

    Returns:
        uint8 `[3, H, W]` (None without `draw`), and boxes: class, absolute upper-left y_m, x_m, height_m, width_m.
    """
    houses, cars = buildings(world, frame, 40.0), vehicles(world, frame, 12.0)
    boxes = _boxes(frame, houses, cars)
    if not draw:
        return None, boxes
    day = image_day(world, year)
    strips = [_strip(frame, row) for row in range(0, frame.height, _STRIP_PX)]
    grounds = [land(world, Frame(s.y_m, s.x_m, 2 * s.gsd_m, s.height // 2, s.width // 2).grown(1)) for s in strips]
    units, maps = joined(grounds)
    state = growth(world, units, year)
    look = _look(units, state, int(day - state.day[0]))
    colour = np.empty((3, frame.height, frame.width), np.float32)
    for number, (part, ground, unit) in enumerate(zip(strips, grounds, maps, strict=True)):
        rows = slice(number * _STRIP_PX, number * _STRIP_PX + part.height)
        _paint_land(world, part, replace(ground, units=units, unit=unit), look, colour[:, rows])
    draw_things(world, frame, colour, houses, cars, day)
    parts = [_displayed(world, s, colour[:, k * _STRIP_PX :][:, : s.height]) for k, s in enumerate(strips)]
    return np.concatenate(parts, axis=1), boxes


def _strip(frame: Frame, row: int) -> Frame:
    """Rows from `row` on: imagery is painted strip by strip, so that its planes stay in the processor's cache."""
    height = min(_STRIP_PX, frame.height - row)
    return Frame(frame.y_m + row * frame.gsd_m, frame.x_m, frame.gsd_m, height, frame.width)


def _displayed(world: World, frame: Frame, colour: Floats) -> NDArray[np.uint8]:
    """Stored values of reflectance `[3, H, W]`: grain of the sensor, then the display curve."""
    keys = np.array([world.key("hr", c) for c in range(3)], np.uint64)
    grain = white(keys, frame.y_px, frame.x_px, *colour.shape[1:])
    grain *= np.float32(0.006)
    grain += colour
    grain *= np.float32(4095.0 / _WHITE)
    np.clip(grain, 0.0, 4095.0, out=grain)
    return _CURVE[grain.astype(np.uint16)]


def _without_margin(wide: Land) -> Land:
    """The land without its margin of one pixel (its relief keeps it)."""
    names = ("unit", "edge_m", "tract_edge_m", "street_m", "road_m", "hedge")
    return replace(wide, frame=wide.frame.grown(-1), **{name: getattr(wide, name)[1:-1, 1:-1] for name in names})


def _paint_land(world: World, frame: Frame, wide: Land, look: Look, colour: Floats) -> None:
    """Paint everything but buildings and vehicles into `colour` `[3, H, W]`, reflectance.

    The land comes at twice the pixel size with a margin of one pixel, so that what is interpolated has no seams.
    """
    ground = _without_margin(wide)
    unit = doubled(ground.unit)
    kind = ground.units.kind[ground.unit]
    vigour = np.float32(0.75) * fractal(world.key("vigour"), frame.ys, frame.xs, 140.0, 3, 0.7)
    clumps = fractal(world.key("clumps"), frame.ys, frame.xs, 3.0, 3, 0.7)
    leafy = np.clip(look.cover[unit] * (1.0 + np.float32(0.16) * vigour + np.float32(0.10) * clumps), 0.0, 1.0)
    leafy *= _rows(frame, ground.units, look.row_m, unit)
    shade = 1.0 + np.float32(0.05) * clumps + np.float32(0.06) * vigour
    contrast = look.plants - look.soil
    for c in range(3):
        np.multiply(contrast[c][unit], leafy, out=colour[c])
        colour[c] += look.soil[c][unit]
        colour[c] *= shade
    _edges(ground, kind, colour, clumps)
    wood = (kind == DECIDUOUS) | (kind == CONIFER)
    hedge = ground.hedge & (ground.tract_edge_m < 3.5) & (kind != WATER) & (kind != TOWN)
    plots = value_noise(world.key("garden trees"), ground.frame.ys, ground.frame.xs, 14.0) > 0.75
    trees = wood | hedge | ((kind == TOWN) & plots & (ground.street_m > 6.0))
    if trees.any():
        planted = doubled(trees & ~wood)
        for c in range(3):
            colour[c][planted] = _HEDGE[c]
        crowns(world, ground.frame, colour, trees, kind == CONIFER)
    _streets(wide, kind, colour, clumps)


def _look(units: Units, state: Growth, t: int) -> Look:
    """Colours and cover of every unit on day row `t`."""
    canopy = canopy_of(units, state)
    leafy, dry, _ = leaf_cover(state.green[t], state.brown[t])
    cover = leafy + dry
    green = _RGB[:, [UPRIGHT, FLAT, PALE, NEEDLES]] @ canopy.leaves
    green += (_RGB[:, [PETALS]] - green) * state.petals[t]
    plants = (green * leafy + _RGB[:, [DRY]] * dry) / np.maximum(cover, np.float32(1e-6))
    dark = units.dark_soil
    soil = (_RGB[:, [BRIGHT_SOIL]] * (1 - dark) + _RGB[:, [DARK_SOIL]] * dark) * soil_brightness(state.moisture[t])
    kind = units.kind
    soil[:, kind == WATER] = _RGB[:, [OPEN_WATER]]
    cover[kind == WATER] = 0.0
    pitch = np.array([_ROW_M.get(crop.name, 0.0) for crop in CROPS] + [0.0], np.float32)
    row_m = np.where((kind == CROP) & (state.crop >= 0), pitch[state.crop], -1.0)
    return Look(*(v.astype(np.float32) for v in (plants, soil, cover, row_m)))


def _rows(frame: Frame, units: Units, row_m: Floats, unit: NDArray[np.int32]) -> Floats:
    """Factor on plant cover: rows of row crops while they are open, wheel tracks in every field."""
    sin, cos = np.sin(units.angle).astype(np.float32)[unit], np.cos(units.angle).astype(np.float32)[unit]
    # Measured from a round place, as single precision holds the absolute position to decimetres only.
    y = (frame.ys % 10_000.0).astype(np.float32)[:, None]
    x = (frame.xs % 10_000.0).astype(np.float32)[None, :]
    across = x * cos + y * sin
    pitch = row_m[unit]
    cycle = across * np.float32(1 / _TRACKS_M)
    cycle -= np.floor(cycle)
    wheel = (np.abs(np.abs(cycle - np.float32(0.5)) - np.float32(0.95 / _TRACKS_M)) < 0.32 / _TRACKS_M) & (pitch >= 0)
    out = np.ones(unit.shape, np.float32)
    rows = pitch > 0
    if rows.any():
        out[rows] = 0.76 + np.float32(0.32) * np.cos(across[rows] * (np.float32(2 * math.pi) / pitch[rows]))
    out[wheel] = 0.45
    return out


def _edges(ground: Land, kind: NDArray[np.int64], colour: Floats, clumps: Floats) -> None:
    """Grass margins between fields, gravel tracks along tracts."""
    open_land = ~((kind == WATER) | (kind == TOWN) | (kind == DECIDUOUS) | (kind == CONIFER))
    margin = doubled(open_land & (ground.edge_m < 1.2))
    track = doubled(open_land & ~ground.hedge & (ground.tract_edge_m < 1.7))
    grass = _RGB[:, UPRIGHT] * 0.6 + _RGB[:, PALE] * 0.3 + _RGB[:, DRY] * 0.15
    for chosen, paint, rough in ((margin, grass, 0.12), (track, _RGB[:, GRAVEL] * 0.8, 0.10)):
        tone = 1 + np.float32(rough) * clumps[chosen]
        for c in range(3):
            colour[c][chosen] = np.float32(paint[c]) * tone


def _streets(wide: Land, kind: NDArray[np.int64], colour: Floats, clumps: Floats) -> None:
    """Asphalt of roads and streets with pavements and centre lines; the land still has its margin."""
    if not ((wide.road_m < 2.0).any() or (wide.street_m < 6.0).any()):
        return
    dry = doubled(kind != WATER)
    road, street = fine(wide.road_m), fine(np.minimum(wide.street_m, np.float32(50.0)))
    hard = (road < 0.0) | ((street < 3.4) & dry)
    kerb = (street < 5.0) & dry & ~hard
    for chosen, paint in ((kerb, _RGB[:, GRAVEL] * 0.62), (hard, _RGB[:, ASPHALT])):
        tone = 1 + np.float32(0.06) * clumps[chosen]
        for c in range(3):
            colour[c][chosen] = np.float32(paint[c]) * tone
    line = (np.abs(road + np.float32(0.45)) < 0.12) | ((street < 0.12) & (road > 0.0) & dry)
    colour[:, line] = 0.27


def _boxes(frame: Frame, houses: Things, cars: Things) -> Boxes:
    """Upright boxes around what has its centre inside the frame, cut at its edge."""
    parts = []
    for number, things in ((BUILDING, houses), (VEHICLE, cars)):
        y0, x0 = frame.y_px * HR_PIXEL_M, frame.x_px * HR_PIXEL_M
        y1, x1 = y0 + frame.height * HR_PIXEL_M, x0 + frame.width * HR_PIXEL_M
        here = select(things, (things.y_m >= y0) & (things.y_m < y1) & (things.x_m >= x0) & (things.x_m < x1))
        cos, sin = np.abs(np.cos(here.angle)), np.abs(np.sin(here.angle))
        height, width = here.length_m * sin + here.width_m * cos, here.length_m * cos + here.width_m * sin
        top, bottom = np.maximum(here.y_m - height / 2, y0), np.minimum(here.y_m + height / 2, y1)
        left, right = np.maximum(here.x_m - width / 2, x0), np.minimum(here.x_m + width / 2, x1)
        parts.append((np.full(len(top), number, np.uint8), top, left, bottom - top, right - left))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return dict(zip(("class", "y_m", "x_m", "height_m", "width_m"), columns, strict=True))
