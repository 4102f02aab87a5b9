"""Two climates and their daily weather: temperature, precipitation, global radiation.

A weather generator after Richardson (1981, Water Resources Research 17): rain days are a two-state Markov chain, rain
amounts are gamma distributed, temperature and radiation are seasonal means plus first-order autoregressive residuals
that differ between wet and dry days. Its driving noise is correlated in space (nodes every 60 km), so neighbouring
cells share their weather and an infinite landscape needs no simulated neighbours. On top lie slow anomalies of weeks to
months, which make years differ. Every calendar year is drawn from the chain's stationary state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv, ndtr

from skyframe.calendar import day_of
from skyframe.data.synthetic.noise import Doubles, Floats, Integers, hashed, normal, value_noise_at
from skyframe.data.synthetic.world import WEATHER_CELL_M, ClimateName, World

_NODE_M = 60_000.0
_RAIN_SHAPE = 0.75
"""Shape of the gamma distribution of daily rain (Richardson & Wright 1984 find 0.6-0.9)."""


@dataclass(frozen=True)
class Climate:
    """Constants of one climate and where on Earth it lies."""

    latitude_deg: float
    crs: str
    x0_m: float  # where the landscape's origin lies in that CRS
    y0_m: float
    mean_c: float  # annual mean temperature
    swing_c: float  # half of the difference between July and January
    wet_share: tuple[float, float]  # share of rain days in winter and in summer
    rain_mm: tuple[float, float]  # mean rain of a wet day in winter and in summer
    dry_clearness: float  # transmittance of a dry day's atmosphere
    wet_clearness: float


CLIMATES: dict[ClimateName, Climate] = {
    "oceanic": Climate(49.5, "EPSG:32631", 400_000.0, 5_490_000.0, 11.0, 7.4, (0.52, 0.38), (4.0, 5.2), 0.60, 0.30),
    "continental": Climate(
        47.3, "EPSG:32634", 400_000.0, 5_240_000.0, 10.8, 12.2, (0.32, 0.29), (3.2, 6.6), 0.66, 0.33
    ),
}


@dataclass(frozen=True)
class Weather:
    """Daily weather of cells, float32 `[days, cells]`."""

    day: Integers  # [days] days since 2000-01-01
    temperature_c: Floats  # daily mean at 2 m, at 150 m above the sea
    precipitation_mm: Floats
    radiation_mj: Floats  # global radiation, MJ m-2 d-1


def cell_of(y_m: Doubles, x_m: Doubles) -> tuple[Integers, Integers]:
    """Row and column of the absolute weather cell that holds each point."""
    return np.floor(y_m / WEATHER_CELL_M).astype(np.int64), np.floor(x_m / WEATHER_CELL_M).astype(np.int64)


def weather(world: World, rows: Integers, columns: Integers, first_year: int, last_year: int) -> Weather:
    """Daily weather of cells over whole calendar years.

    Args:
        world: seed and climate.
        rows, columns: int64 `[cells]` of `cell_of`.
        first_year, last_year: inclusive.
    """
    years = [_year(world, rows, columns, year) for year in range(first_year, last_year + 1)]
    return Weather(
        day=np.concatenate([y.day for y in years]),
        temperature_c=np.concatenate([y.temperature_c for y in years]),
        precipitation_mm=np.concatenate([y.precipitation_mm for y in years]),
        radiation_mj=np.concatenate([y.radiation_mj for y in years]),
    )


def _year(world: World, rows: Integers, columns: Integers, year: int) -> Weather:
    climate = CLIMATES[world.climate]
    first, end = day_of(date(year, 1, 1)), day_of(date(year + 1, 1, 1))
    day = np.arange(first, end)
    doy = np.arange(end - first)
    y = ((rows + 0.5) * WEATHER_CELL_M).astype(np.float64)
    x = ((columns + 0.5) * WEATHER_CELL_M).astype(np.float64)
    summer = (0.5 - 0.5 * np.cos(2 * np.pi * (doy - 15) / 365.25))[:, None]
    warmth, wetness = _anomaly(world, "warm", day, 70.0), _anomaly(world, "wet", day, 55.0)
    wet = _rain_days(world, climate, day, y, x, summer, wetness)
    draw = np.clip(ndtr(_driver(world, "amount", day, y, x)), 1e-4, 1 - 1e-4)
    mean_mm = climate.rain_mm[0] + (climate.rain_mm[1] - climate.rain_mm[0]) * summer
    rain = np.where(wet, gammaincinv(_RAIN_SHAPE, draw) / _RAIN_SHAPE * mean_mm, 0.0)
    season = climate.mean_c - climate.swing_c * np.cos(2 * np.pi * (doy - 20) / 365.25)[:, None]
    on_wet = np.where(wet, 0.6 - 2.4 * summer, 0.25 * (2.4 * summer - 0.6))  # rain cools summers and warms winters
    residual = _autoregression(_driver(world, "heat", day, y, x), 0.78)
    temperature = season + on_wet + 1.6 * warmth + (3.6 - 1.2 * summer) * residual
    clear = np.where(wet, climate.wet_clearness, climate.dry_clearness)
    clear = np.clip(clear + 0.10 * _autoregression(_driver(world, "clear", day, y, x), 0.4), 0.12, 0.78)
    radiation = clear * extraterrestrial(climate.latitude_deg, doy)[:, None]
    return Weather(day, *(v.astype(np.float32) for v in (temperature, rain, radiation)))


@lru_cache(maxsize=256)
def cell_weather(world: World, row: int, column: int, year: int) -> Floats:
    """Temperature, precipitation and radiation of one cell, float32 `[3, 365 or 366]`; kept, so do not write to it."""
    w = weather(world, np.array([row]), np.array([column]), year, year)
    return np.stack([w.temperature_c[:, 0], w.precipitation_mm[:, 0], w.radiation_mj[:, 0]])


def extraterrestrial(latitude_deg: float, doy: Integers) -> Doubles:
    """Radiation at the top of the atmosphere, MJ m-2 d-1, `[days]` (FAO-56, Allen et al. 1998, equation 21)."""
    j = 2 * np.pi * (doy + 1) / 365.0
    distance, declination = 1 + 0.033 * np.cos(j), 0.409 * np.sin(j - 1.39)
    phi = math.radians(latitude_deg)
    sunset = np.arccos(np.clip(-math.tan(phi) * np.tan(declination), -1.0, 1.0))
    reach = sunset * math.sin(phi) * np.sin(declination) + math.cos(phi) * np.cos(declination) * np.sin(sunset)
    return np.asarray(24 * 60 / np.pi * 0.0820 * distance * reach)


def _anomaly(world: World, purpose: str, day: Integers, period_days: float) -> Doubles:
    """Slow departure from the climate, `[days, 1]`, about -1.7..1.7, the same over the whole region."""
    days = day.astype(np.float64)
    slow = value_noise_at(world.key("anomaly", purpose), days, np.zeros_like(days), period_days)
    return slow.astype(np.float64)[:, None]


def _driver(world: World, purpose: str, day: Integers, y_m: Doubles, x_m: Doubles) -> Doubles:
    """Standard normal noise, white in time and smooth in space, `[days, cells]`."""
    gy, gx = y_m / _NODE_M, x_m / _NODE_M
    iy, ix = np.floor(gy).astype(np.int64), np.floor(gx).astype(np.int64)
    total, power = np.zeros((len(day), len(y_m))), np.zeros(len(y_m))
    for dy in (0, 1):
        for dx in (0, 1):
            weight = (1 - np.abs(gy - iy - dy)) * (1 - np.abs(gx - ix - dx))
            node = hashed(world.key("weather", purpose), day[:, None], (iy + dy)[None], (ix + dx)[None])
            total, power = total + weight * normal(node), power + weight**2
    return np.asarray(total / np.sqrt(power))


def _autoregression(noise: Doubles, memory: float) -> Doubles:
    """First-order autoregressive series of unit variance, begun in its stationary state."""
    out = noise.copy()
    for i in range(1, len(out)):
        out[i] = memory * out[i - 1] + math.sqrt(1 - memory**2) * noise[i]
    return out


def _rain_days(
    world: World, climate: Climate, day: Integers, y: Doubles, x: Doubles, summer: Doubles, wetness: Doubles
) -> NDArray[np.bool_]:
    """True on rain days `[days, cells]`: a Markov chain whose persistence (p11 - p01) is 0.35."""
    share = climate.wet_share[0] + (climate.wet_share[1] - climate.wet_share[0]) * summer
    share = np.clip(share + 0.13 * wetness, 0.04, 0.85)
    chance = ndtr(_driver(world, "rain", day, y, x))
    wet = np.zeros(chance.shape, bool)
    wet[0] = chance[0] < share[0]
    for i in range(1, len(day)):
        wet[i] = chance[i] < share[i] * 0.65 + 0.35 * wet[i - 1]
    return wet
