"""Growth of every unit, day by day, driven by the weather through thermal time and soil water.

Green-up and senescence are logistic in thermal time, the form of Baret (1986) for wheat; deciduous trees lose their
leaves by a sum of chilling (Delpierre et al. 2009); a lack of water scales the leaf area down. So the same crop looks
different in another climate and another year.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.special import expit

from skyframe.calendar import day_of
from skyframe.data.synthetic.climate import cell_of, cell_weather
from skyframe.data.synthetic.crops import CROPS, GRASS_CROP, Habits, crop_of, habits
from skyframe.data.synthetic.landscape import CONIFER, CROP, DECIDUOUS, GRASS, TOWN, Units
from skyframe.data.synthetic.noise import Floats, Integers, uniform
from skyframe.data.synthetic.water import SoilWater, soil_water
from skyframe.data.synthetic.world import World

_SPIN_UP = 184
"""Days simulated before 1 January: from 1 July, so that autumn-sown crops and soil water have their past."""


@dataclass(frozen=True)
class Growth:
    """State of the units on some days, float32 `[T, U]` unless said."""

    day: Integers  # [T]
    crop: NDArray[np.int64]  # [U] crop harvested this year, -1 outside cropland
    habits: Habits
    green: Floats  # green leaf area index
    brown: Floats  # dry leaves, straw and litter, area index
    petals: Floats  # share of the canopy's surface in flower
    moisture: Floats  # volumetric, top 5 cm
    supply: Floats  # Ks, 0..1
    snow: Floats  # share of the ground under snow
    frozen: NDArray[np.bool_]
    tilled: Floats  # 0..1: freshness of the last ploughing


@dataclass
class _Canopy:
    """Leaf areas before water stress, `[D, U]`."""

    green: Floats
    brown: Floats
    petals: Floats
    tilled: Floats


def growth(world: World, units: Units, year: int) -> Growth:
    """Daily state of every unit over a calendar year, 365 or 366 days."""
    first = day_of(date(year, 1, 1)) - _SPIN_UP
    days = np.arange(first, day_of(date(year + 1, 1, 1)))
    temperature, rain, radiation = _weather_of(world, units, year, days)
    crop = np.where(units.kind == CROP, crop_of(world, units.hashes, year), -1)
    now = habits(world, units.hashes, year)
    canopy = _canopies(world, units, year, crop, now, temperature)
    cover = -np.expm1(-0.55 * canopy.green)
    capacity = (85.0 + 85.0 * units.dark_soil + 15.0 * uniform(units.hashes, "depth")).astype(np.float32)
    deep = np.isin(units.kind, (DECIDUOUS, CONIFER))
    soil = soil_water(temperature, rain, radiation, cover, np.where(deep, 1.8 * capacity, capacity).astype(np.float32))
    return _select(units, days, slice(_SPIN_UP, None), canopy, soil, temperature, crop, now)


def _select(
    units: Units, days: Integers, keep: slice, canopy: _Canopy, soil: SoilWater, temperature: Floats,
    crop: NDArray[np.int64], now: Habits,
) -> Growth:  # fmt: skip
    memory = lfilter([0.08], [1.0, -0.92], soil.supply, axis=0, zi=0.92 * soil.supply[:1])[0].astype(np.float32)
    woody = np.isin(units.kind, (DECIDUOUS, CONIFER))
    vigour = np.where(woody, 0.8 + 0.2 * memory, 0.35 + 0.65 * memory)
    green = canopy.green * vigour
    wilted = (canopy.green - green) * np.float32(0.35)
    return Growth(
        day=days[keep],
        crop=crop,
        habits=now,
        green=green[keep].astype(np.float32),
        brown=(canopy.brown + wilted)[keep].astype(np.float32),
        petals=canopy.petals[keep],
        moisture=soil.moisture[keep],
        supply=soil.supply[keep],
        snow=(soil.snow_mm / (soil.snow_mm + np.float32(6.0)))[keep],
        frozen=(temperature < -2.0)[keep],
        tilled=canopy.tilled[keep],
    )


def _weather_of(world: World, units: Units, year: int, days: Integers) -> tuple[Floats, Floats, Floats]:
    """Weather over each unit `[D, U]`: its cell's, cooled by 6.5 degrees per km above 150 m (standard atmosphere)."""
    rows, columns = cell_of(units.y_m, units.x_m)
    cells, index = np.unique(np.stack([rows, columns], 1), axis=0, return_inverse=True)
    years = [[cell_weather(world, int(r), int(c), y) for y in (year - 1, year)] for r, c in cells]
    series = np.stack([np.concatenate(pair, axis=1)[:, -len(days) :] for pair in years])
    here = series[index.ravel()]  # [U, 3, D]
    lapse = np.float32(-0.0065) * (units.elevation_m - np.float32(150.0))
    return np.ascontiguousarray(here[:, 0].T) + lapse, here[:, 1].T.copy(), here[:, 2].T.copy()


def _canopies(
    world: World, units: Units, year: int, crop: NDArray[np.int64], now: Habits, temperature: Floats
) -> _Canopy:
    """Leaf areas of all units by kind."""
    shape = temperature.shape
    out = _Canopy(*(np.zeros(shape, np.float32) for _ in range(4)))
    fields = np.flatnonzero((crop >= 0) & (crop != GRASS_CROP))
    if len(fields):
        part = _fields(world, units, year, crop, now, temperature, fields)
        for name in ("green", "brown", "petals", "tilled"):
            getattr(out, name)[:, fields] = getattr(part, name)
    for kind, law in ((GRASS, _meadow), (TOWN, _garden), (DECIDUOUS, _trees), (CONIFER, _conifers)):
        chosen = np.flatnonzero((units.kind == kind) | ((kind == GRASS) & (crop == GRASS_CROP)))
        if len(chosen):
            out.green[:, chosen], out.brown[:, chosen] = law(units, now, temperature, chosen)
    return out


def _take(world: World, units: Units, fields: Integers, year: int) -> tuple[NDArray[np.int64], Habits]:
    """Crop and habits of some fields in a year."""
    hashes = units.hashes[fields]
    return crop_of(world, hashes, year), habits(world, hashes, year)


def _fields(
    world: World, units: Units, year: int, crop: NDArray[np.int64], now: Habits, temperature: Floats, fields: Integers
) -> _Canopy:
    """Arable fields: this year's crop, the cover crops before and after it, and the next crop's autumn."""
    t = temperature[:, fields]
    kinds, manage = _take(world, units, fields, year)
    _, before = _take(world, units, fields, year - 1)
    after_kinds, after = _take(world, units, fields, year + 1)
    continental = world.climate == "continental"
    canopy, sown, reaped = _crop(kinds, manage, continental, t, _SPIN_UP)
    following, next_sown, _ = _crop(after_kinds, after, continental, t, _SPIN_UP + 365)
    next_sown = np.where(after_kinds == GRASS_CROP, np.float32(1e4), next_sown)
    index = np.arange(len(t))[:, None]
    ploughed = np.minimum(reaped + manage.plough_days, next_sown - 4.0)
    canopy.brown *= np.where(index > ploughed, np.float32(0.12), np.float32(1.0))
    autumn = next_sown < len(t)
    warm = np.cumsum(np.maximum(t - 4.0, 0.0), axis=0)
    early = _cover_crop(before.cover_crop, warm, index, np.full(len(fields), 68.0), sown - 28.0)
    late = _cover_crop(np.where(autumn, 0.0, manage.cover_crop), warm, index, ploughed + 6.0, np.full(len(fields), 1e4))
    canopy.green += np.where(index < sown, early, 0.0) + np.where(index > ploughed, late, 0.0)
    canopy.green += np.where(autumn & (index > ploughed), following.green, 0.0)
    fresh = np.exp(-np.maximum(index - ploughed, 0.0) / 40.0) * (index > ploughed)
    fresh += np.exp(-np.maximum(index - sown, 0.0) / 30.0) * (index > sown)
    canopy.tilled = np.clip(fresh, 0.0, 1.0).astype(np.float32)
    return canopy


def _crop(
    kinds: NDArray[np.int64], manage: Habits, continental: bool, t: Floats, new_year: int
) -> tuple[_Canopy, Floats, Floats]:
    """One crop from sowing to harvest: leaf areas, and the days (index into `t`) of sowing and harvest."""

    def of(name: str) -> Floats:
        return np.array([getattr(c, name) for c in CROPS], np.float32)[kinds]

    doy = np.array([c.sowing_doy[int(continental)] for c in CROPS], np.float32)[kinds]
    sown = new_year + np.where(doy > 200, doy - 365, doy) + manage.delay_days
    index = np.arange(len(t))[:, None]
    warmth = np.maximum(t - of("base_c"), 0.0) * (index >= sown)
    scale = manage.pace * np.where(continental, of("continental"), 1.0)
    time = (np.cumsum(warmth, axis=0, dtype=np.float32) / scale).astype(np.float32)
    young = of("young_lai") * expit((time - of("young")) / 60.0) * (of("young_lai") > 0)
    peak = of("peak_lai") * manage.density
    area = young + np.maximum(peak - young, 0.0) * expit((time - of("green")) / of("rise"))
    faded = expit((time - of("fade")) / of("fall"))
    ripe = (time > of("harvest")) | (index > new_year + 325)
    reaped = np.where(ripe.any(axis=0), ripe.argmax(axis=0), len(t) + 1).astype(np.float32)
    standing = (index < reaped) & (index >= sown)
    straw = of("straw") * manage.density * (index >= reaped)
    bloom = np.where(of("flower") > 0, np.exp(-(((time - of("flower")) / 125.0) ** 2)), 0.0) * of("flower_share")
    canopy = _Canopy(
        green=(area * (1 - faded) * standing).astype(np.float32),
        brown=(0.6 * area * faded * standing + straw).astype(np.float32),
        petals=(bloom * standing).astype(np.float32),
        tilled=np.zeros(t.shape, np.float32),
    )
    return canopy, sown.astype(np.float32), reaped


def _cover_crop(peak: Floats, warm: Floats, index: Integers, sown: Floats, destroyed: Floats) -> Floats:
    """Leaf area of mustard or phacelia between two crops: logistic in degree days above 4 since its sowing."""
    start = np.clip(sown, 0, len(warm) - 1).astype(np.int64)
    time = warm - warm[start, np.arange(len(start))]
    grown = peak * expit((time - 330.0) / 70.0)
    return np.where((index >= sown) & (index < destroyed) & (peak > 0), grown, 0.0).astype(np.float32)


def _meadow(units: Units, now: Habits, temperature: Floats, chosen: Integers) -> tuple[Floats, Floats]:
    """Grass: after each cut it grows again logistically in degree days above 4; old leaves stay as a brown layer."""
    t = temperature[:, chosen]
    warm = np.cumsum(np.maximum(t - 4.0, 0.0), axis=0)
    index = np.arange(len(t))[:, None]
    doy = index - _SPIN_UP
    first, gap = now.first_cut_doy[chosen], now.cut_gap_days[chosen]
    count = np.clip(np.floor((doy - first) / gap) + 1.0, 0.0, np.floor((285.0 - first) / gap) + 1.0)
    last = np.where(count > 0, np.ceil(first + (count - 1.0) * gap), 0.0).astype(np.int64) + _SPIN_UP
    since = warm - np.take_along_axis(warm, np.minimum(last, len(t) - 1), axis=0)
    peak = 3.9 * now.density[chosen]
    green = 0.8 + np.maximum(peak - 0.8, 0.0) * expit((since - np.where(count > 0, 190.0, 240.0)) / 65.0)
    winter = expit((t_mean(t) - 3.0) / 2.0)
    green = np.where(doy < 0, 1.4, green) * (0.55 + 0.45 * winter)
    return green.astype(np.float32), (0.25 + 0.7 * (1.0 - winter)).astype(np.float32)


def t_mean(temperature_c: Floats) -> Floats:
    """Temperature of about the last three weeks (exponential memory), `[D, U]`."""
    return lfilter([0.05], [1.0, -0.95], temperature_c, axis=0, zi=0.95 * temperature_c[:1])[0].astype(np.float32)


def _garden(units: Units, now: Habits, temperature: Floats, chosen: Integers) -> tuple[Floats, Floats]:
    """Lawns: kept short, pale in winter."""
    winter = expit((t_mean(temperature[:, chosen]) - 5.0) / 3.0)
    lush = 1.4 + 1.2 * now.greenness[chosen]
    return (lush * (0.5 + 0.5 * winter)).astype(np.float32), np.full(winter.shape, 0.3, np.float32)


def _trees(units: Units, now: Habits, temperature: Floats, chosen: Integers) -> tuple[Floats, Floats]:
    """Deciduous wood: leaf-out logistic in degree days above 5 since January; leaf fall by chilling below 15."""
    t = temperature[:, chosen]
    doy = np.arange(len(t))[:, None] - _SPIN_UP
    warm = np.cumsum(np.maximum(t - 5.0, 0.0) * (doy >= 0), axis=0)
    chill = np.cumsum(np.maximum(15.0 - t, 0.0) * (doy > 225), axis=0)
    out = 190.0 + 70.0 * uniform(units.hashes[chosen], "leaf-out")
    turn = 150.0 + 90.0 * uniform(units.hashes[chosen], "leaf-fall")
    leaves = 4.6 * (0.85 + 0.3 * uniform(units.hashes[chosen], "closed"))
    up, faded, fallen = expit((warm - out) / 32.0), expit((chill - turn) / 28.0), expit((chill - turn - 130.0) / 45.0)
    green = 0.35 + leaves * up * (1.0 - faded)
    return green.astype(np.float32), (0.8 + leaves * up * np.maximum(faded - fallen, 0.0)).astype(np.float32)


def _conifers(units: Units, now: Habits, temperature: Floats, chosen: Integers) -> tuple[Floats, Floats]:
    """Spruce and pine keep their needles; density differs from stand to stand."""
    closed = 3.4 + 1.6 * uniform(units.hashes[chosen], "closed")
    season = 0.92 + 0.08 * expit((t_mean(temperature[:, chosen]) - 6.0) / 3.0)
    return (closed * season).astype(np.float32), np.full(season.shape, 0.25, np.float32)
