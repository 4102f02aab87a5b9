"""What stands between the satellite and the ground: acquisition dates, sun, clouds and their shadows, cirrus, haze."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from skyframe.calendar import date_of, day_of
from skyframe.data.synthetic.climate import CLIMATES, cell_weather, extraterrestrial
from skyframe.data.synthetic.noise import Doubles, Floats, fractal, hashed, normal, uniform, value_noise
from skyframe.data.synthetic.world import WEATHER_CELL_M, Frame, World

CLEAR, CLOUD, SHADOW = 1, 2, 3
"""Values of a cube's validity flags."""
_CLOUD_SEEN = 0.30
"""Opacity from which the mask says cloud; thinner veils stay unflagged, as in operational masks."""
_SHADOW_SEEN = 0.35


@dataclass(frozen=True)
class Sky:
    """Atmosphere over a frame on one date."""

    cloud: Floats  # [H, W] opacity 0..1, cirrus included
    shadow: Floats  # [H, W] share of the direct sun that clouds take away
    haze: Floats  # [H, W] aerosol load, 0 = clean
    flags: NDArray[np.uint8]  # [H, W] CLEAR, CLOUD or SHADOW


def optical_days(world: World, year: int) -> NDArray[np.int32]:
    """Sentinel-2 dates of a year, ascending: every 5 days, 17 % dropped, now and then one of a neighbouring orbit."""
    first, end = day_of(date(year, 1, 1)), day_of(date(year + 1, 1, 1))
    phase = int(uniform(hashed(world.key("s2 phase"), np.zeros(1, np.int64)))[0] * 5)
    base = np.arange(first + (phase - first) % 5, end, 5)
    draw = uniform(hashed(world.key("s2 dates"), base))
    extra = base[draw < 0.05] + 2
    return np.sort(np.concatenate([base[draw > 0.17], extra[extra < end]])).astype(np.int32)


def radar_days(world: World, year: int) -> NDArray[np.int32]:
    """Sentinel-1 dates of a year: every 6 days, one in six missing, moved by a day where Sentinel-2 looks too."""
    first, end = day_of(date(year, 1, 1)), day_of(date(year + 1, 1, 1))
    phase = int(uniform(hashed(world.key("s1 phase"), np.zeros(1, np.int64)))[0] * 6)
    base = np.arange(first + (phase - first) % 6, end, 6)
    base = base[uniform(hashed(world.key("s1 dates"), base)) > 0.17]
    taken = np.concatenate([optical_days(world, year + k) for k in (-1, 0, 1)])
    for _ in range(2):
        base = np.where(np.isin(base, taken), base + 1, base)
    return base[base < end].astype(np.int32)


def sun(world: World, day: int) -> tuple[float, float]:
    """Zenith and azimuth of the sun in radians at 10:30 local solar time (Sentinel-2's passage).

    Declination by Cooper (1969); hour angle -22.5 degrees; azimuth clockwise from north.
    """
    phi = math.radians(CLIMATES[world.climate].latitude_deg)
    doy = date_of(day).timetuple().tm_yday
    declination = math.radians(23.45) * math.sin(2 * math.pi * (284 + doy) / 365)
    hour = math.radians(-22.5)
    up = math.sin(phi) * math.sin(declination) + math.cos(phi) * math.cos(declination) * math.cos(hour)
    zenith = math.acos(up)
    east = -math.cos(declination) * math.sin(hour)
    north = math.sin(declination) * math.cos(phi) - math.cos(declination) * math.sin(phi) * math.cos(hour)
    return zenith, math.atan2(east, north)


def sky(world: World, frame: Frame, day: int) -> Sky:
    """Clouds, shadows, cirrus and haze over a frame on a day.

    Cloud amount follows the day's clearness of the weather (so it is overcast when it rains); the pattern is fractal
    noise above the matching quantile. A shadow is the same pattern seen towards the sun: displaced by cloud height
    times the tangent of the sun's zenith angle (Zhu & Woodcock 2012, geometry of Fmask).
    """
    h = hashed(world.key("sky"), np.array([day]))
    zenith, azimuth = sun(world, day)
    cloud = _clouds(world, frame.ys, frame.xs, day)
    top_m = 600.0 + 1700.0 * float(uniform(h, "top")[0])
    reach = top_m * math.tan(zenith)
    towards_sun = -reach * math.cos(azimuth), reach * math.sin(azimuth)
    south, east = (round(v / frame.gsd_m) * frame.gsd_m for v in towards_sun)
    shade = _clouds(world, frame.ys + south, frame.xs + east, day)
    veil = 0.0 if uniform(h, "cirrus")[0] > 0.4 else 0.28 * float(uniform(h, "veil")[0])
    if veil:
        cirrus = veil * np.clip(fractal(world.key("cirrus", day), frame.ys, frame.xs, 9000.0, 4) * 0.6 + 0.35, 0.0, 1.0)
        cloud = 1.0 - (1.0 - cloud) * (1.0 - cirrus)
    load = 0.03 + 0.10 * float(uniform(h, "haze")[0]) ** 2
    haze = load * (1.0 + 0.45 * value_noise(world.key("haze", day), frame.ys, frame.xs, 5200.0))
    flags = np.full(cloud.shape, CLEAR, np.uint8)
    flags[shade > _SHADOW_SEEN] = SHADOW
    flags[cloud > _CLOUD_SEEN] = CLOUD
    return Sky(cloud.astype(np.float32), shade, haze.astype(np.float32), flags)


def _clouds(world: World, ys: Doubles, xs: Doubles, day: int) -> Floats:
    """Opacity of water clouds, float32 `[H, W]`."""
    amount = _cloud_amount(world, ys, xs, day)
    if amount.max() < 0.01:
        return np.zeros((len(ys), len(xs)), np.float32)
    cumulus = float(uniform(hashed(world.key("cloud type"), np.array([day])))[0])
    pattern = fractal(world.key("cloud", day), ys, xs, 1500.0 + 6500.0 * cumulus, 6, 0.55)
    depth = np.maximum(pattern - ndtri(1.0 - np.clip(amount, 0.005, 0.995)).astype(np.float32), 0.0)
    return -np.expm1(np.float32(-3.0) * depth)


def _cloud_amount(world: World, ys: Doubles, xs: Doubles, day: int) -> Floats:
    """Share of sky under cloud, 0..1, from the clearness of the weather cells, linear between their centres."""
    gy, gx = ys / WEATHER_CELL_M - 0.5, xs / WEATHER_CELL_M - 0.5
    iy, ix = np.floor(gy).astype(np.int64), np.floor(gx).astype(np.int64)
    rows, columns = np.arange(iy[0], iy[-1] + 2), np.arange(ix[0], ix[-1] + 2)
    nodes = np.array([[cloudiness(world, int(r), int(c), day) for c in columns] for r in rows])
    jy, jx = iy - rows[0], ix - columns[0]
    fx = gx - ix
    lines = nodes[:, jx] * (1 - fx) + nodes[:, jx + 1] * fx
    fy = (gy - iy)[:, None]
    return (lines[jy] * (1 - fy) + lines[jy + 1] * fy).astype(np.float32)


def cloudiness(world: World, row: int, column: int, day: int) -> float:
    """Cloud amount over a weather cell: linear in the radiation missing against a clear day (Angstrom's relation)."""
    stamp = date_of(day)
    doy = stamp.timetuple().tm_yday - 1
    radiation = cell_weather(world, row, column, stamp.year)[2, doy]
    clear = 0.64 * extraterrestrial(CLIMATES[world.climate].latitude_deg, np.array([doy]))[0]
    return float(np.clip(1.9 * (1.0 - radiation / clear) - 0.06, 0.0, 1.0))


def calibration(world: World, day: int, wavelength_um: Doubles) -> tuple[Floats, Floats]:
    """Residual of the atmospheric correction and of view geometry: gain and offset per band, float32 `[C]`.

    Aerosol left in the correction falls off with wavelength to the power -1.3 (Angstrom); the two view angles of
    neighbouring orbits differ by about 7 % in brightness (bidirectional reflectance, Roy et al. 2016).
    """
    h = hashed(world.key("calibration"), np.array([day]))
    orbit = 0.035 if uniform(h, "orbit")[0] < 0.5 else -0.035
    level = orbit + 0.035 * float(normal(h, "level")[0])
    tilt = 0.05 * float(normal(h, "tilt")[0]) * np.log(wavelength_um / 0.8)
    each = 0.012 * normal(hashed(h[:, None], np.arange(len(wavelength_um))[None]).ravel())
    aerosol = 0.009 * float(normal(h, "aerosol")[0]) * (wavelength_um / 0.49) ** -1.3
    offset = aerosol + 0.002 * float(normal(h, "offset")[0])
    return np.exp(level + tilt + each).astype(np.float32), offset.astype(np.float32)
