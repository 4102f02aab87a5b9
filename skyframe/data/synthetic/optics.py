"""Sentinel-2 reflectance: a linear mixture of endmember spectra seen through the atmosphere of the date."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import date_of
from skyframe.data.synthetic.atmosphere import calibration, sky, sun
from skyframe.data.synthetic.crops import CROPS
from skyframe.data.synthetic.landscape import CONIFER, CROP, DECIDUOUS, TOWN, Cover, Land, Units
from skyframe.data.synthetic.noise import Floats, hashed, normal, white
from skyframe.data.synthetic.phenology import Growth
from skyframe.data.synthetic.water import SATURATED, WILTING
from skyframe.data.synthetic.world import World

WAVELENGTH_UM = np.array([0.490, 0.560, 0.665, 0.705, 0.740, 0.783, 0.842, 0.865, 1.610, 2.190])
"""Centres of B02, B03, B04, B05, B06, B07, B08, B8A, B11, B12 (ESA Sentinel-2 user handbook)."""
_SPECTRA = {
    "upright": (0.026, 0.056, 0.027, 0.088, 0.270, 0.350, 0.385, 0.400, 0.195, 0.088),
    "flat": (0.026, 0.070, 0.030, 0.115, 0.380, 0.515, 0.550, 0.560, 0.225, 0.098),
    "pale": (0.046, 0.110, 0.068, 0.170, 0.345, 0.410, 0.435, 0.445, 0.270, 0.150),
    "needles": (0.016, 0.028, 0.018, 0.040, 0.130, 0.170, 0.188, 0.196, 0.085, 0.036),
    "dry": (0.080, 0.118, 0.165, 0.200, 0.232, 0.258, 0.285, 0.300, 0.360, 0.265),
    "bright_soil": (0.098, 0.138, 0.182, 0.208, 0.232, 0.252, 0.270, 0.284, 0.378, 0.330),
    "dark_soil": (0.052, 0.068, 0.092, 0.108, 0.122, 0.136, 0.148, 0.158, 0.230, 0.205),
    "petals": (0.050, 0.250, 0.230, 0.270, 0.430, 0.510, 0.540, 0.550, 0.250, 0.130),
    "snow": (0.900, 0.900, 0.890, 0.880, 0.870, 0.860, 0.850, 0.830, 0.110, 0.075),
    "water": (0.048, 0.050, 0.032, 0.026, 0.018, 0.017, 0.015, 0.014, 0.007, 0.005),
    "asphalt": (0.085, 0.096, 0.106, 0.111, 0.116, 0.121, 0.126, 0.130, 0.152, 0.142),
    "roof": (0.078, 0.096, 0.162, 0.186, 0.202, 0.214, 0.224, 0.230, 0.272, 0.258),
    "gravel": (0.168, 0.198, 0.230, 0.242, 0.252, 0.260, 0.268, 0.274, 0.305, 0.285),
    "haze": (0.340, 0.275, 0.212, 0.193, 0.180, 0.165, 0.148, 0.143, 0.050, 0.030),
    "cloud": (0.620, 0.615, 0.620, 0.630, 0.640, 0.645, 0.650, 0.655, 0.450, 0.360),
}
ENDMEMBERS = np.array(list(_SPECTRA.values()), np.float32).T.copy()
"""Reflectance `[bands, endmembers]`, rounded magnitudes: leaves and canopies as PROSAIL gives them (Jacquemoud et al.
2009), soils, straw, snow and man-made surfaces as in the USGS spectral library (Kokaly et al. 2017)."""
UPRIGHT, FLAT, PALE, NEEDLES, DRY, BRIGHT_SOIL, DARK_SOIL, PETALS, SNOW = range(9)
OPEN_WATER, ASPHALT, ROOF, GRAVEL, HAZE, VEIL = range(9, 15)
EXTINCTION = 0.55
"""k of Beer's law for leaves of mixed angle (Campbell & Norman 1998)."""
_NOISE = np.array([32, 30, 30, 36, 40, 44, 46, 46, 40, 34], np.float32)
"""Radiometric and resampling noise, stored units (1e-4 reflectance)."""
_CHUNK = 256
"""Columns of one matrix product: always the same shape, and below the width at which BLAS cuts a product in panels of
unlike kernels, so that a column's rounding depends neither on the block nor on its place in it."""


@dataclass(frozen=True)
class Canopy:
    """What a unit's plants look like, whatever the date: shares of leaf kinds `[4, U]`, rows UPRIGHT..NEEDLES."""

    leaves: Floats
    tall: Floats  # 0..1: snow lies below the crowns


def canopy_of(units: Units, state: Growth) -> Canopy:
    """Leaf kinds of every unit: by crop for fields, darker and deeper for woods, paler where chlorophyll is short."""
    kind, hashes = units.kind, units.hashes
    flat_of = np.array([crop.flat_leaf for crop in CROPS], np.float32)
    flat = np.where(kind == CROP, flat_of[state.crop], np.where(kind == DECIDUOUS, 0.6, 0.3))
    pale = np.where(kind == CROP, 0.40, 0.25) * (1.0 - state.habits.greenness)
    needles = np.where(kind == CONIFER, 0.92, np.where(kind == DECIDUOUS, 0.22, 0.0))
    bright = 1.0 + 0.07 * np.clip(normal(hashes, "bright"), -2.0, 2.0)
    rest = bright * (1.0 - needles)
    leaves = np.stack([rest * (1 - pale) * (1 - flat), rest * (1 - pale) * flat, rest * pale, bright * needles])
    tall = np.where(np.isin(kind, (DECIDUOUS, CONIFER)), 0.75, np.where(kind == TOWN, 0.2, 0.0))
    return Canopy(leaves.astype(np.float32), tall.astype(np.float32))


def leaf_cover(green: Floats, brown: Floats) -> tuple[Floats, Floats, Floats]:
    """Shares of ground seen as green leaves, dry matter and soil.

    Beer's law: cover = 1 - exp(-k (green + brown)), shared in proportion to the areas (Monsi & Saeki 1953).
    """
    area = green + brown
    soil = np.exp(np.float32(-EXTINCTION) * area)
    leafy = (1.0 - soil) * (green / np.maximum(area, np.float32(1e-6)))
    return leafy, 1.0 - soil - leafy, soil


def soil_brightness(moisture: Floats) -> Floats:
    """Factor on dry soil reflectance: exponential darkening to half when wet (Lobell & Asner 2002)."""
    wet = (moisture - np.float32(WILTING)) / np.float32(SATURATED - WILTING)
    return np.float32(0.5) + np.float32(0.5) * np.exp(np.float32(-2.6) * wet)


class Scene:
    """Everything about a block that dates share, ready to be observed."""

    def __init__(self, world: World, ground: Land, shares: Cover, state: Growth) -> None:
        self.world, self.ground, self.shares, self.state = world, ground, shares, state
        self.shape = ground.unit.shape
        self.unit = ground.unit.ravel()
        look = canopy_of(ground.units, state)
        self.leaves = look.leaves[:, self.unit]
        self.tall = look.tall
        self.dark = np.clip(ground.units.dark_soil[self.unit] + shares.dark_soil.ravel(), 0.0, 1.0)
        static = np.stack([shares.water, shares.asphalt, shares.roof, shares.gravel]).reshape(4, -1)
        self.static = static
        self.tree = shares.tree.ravel()
        self.rest = np.clip(1.0 - static.sum(axis=0) - self.tree, 0.0, 1.0)
        frame, height, width = ground.frame, *self.shape
        speckled = white(np.array([world.key("leaves")], np.uint64), frame.y_px, frame.x_px, height, width)[0]
        self.vigour = shares.vigour.ravel() * np.exp(np.float32(0.10) * np.clip(speckled.ravel(), -2.5, 2.5))
        self.crowns = 1.0 + 0.07 * speckled.ravel() * np.isin(ground.units.kind, (DECIDUOUS, CONIFER))[self.unit]

    def abundances(self, t: int, light: Floats) -> Floats:
        """Shares of the surface endmembers times `light` on day row `t`: float32 `[15, pixels]`, atmosphere rows 0."""
        state, unit = self.state, self.unit
        leafy, dry, soil = leaf_cover(state.green[t][unit] * self.vigour, state.brown[t][unit])
        # Traces are dropped unit by unit: skipping a block whose units have traces alone would show at its edge.
        snow, petals = (np.where(share > 0.01, share, np.float32(0)) for share in (state.snow[t], state.petals[t]))
        rest = self.rest * light
        out = np.zeros((len(_SPECTRA), len(unit)), np.float32)
        if snow.any():
            white_ = (snow * (1.0 - self.tall * 0.8))[unit]
            above = self.static[1:].sum(axis=0) + self.tree  # roofs, roads and crowns hold less of it
            out[SNOW] = rest * white_ + above * light * (np.float32(0.4) * snow)[unit]
            rest = rest * (1.0 - white_)
        leafy = leafy * rest
        if petals.any():
            out[PETALS] = leafy * petals[unit]
            leafy = leafy - out[PETALS]
        np.multiply(self.leaves, leafy, out=out[UPRIGHT : NEEDLES + 1])
        out[DRY] = dry * rest
        soil = soil * rest * soil_brightness(state.moisture[t])[unit]
        out[DARK_SOIL] = soil * self.dark
        out[BRIGHT_SOIL] = soil - out[DARK_SOIL]
        self._trees(out, t, light)
        out[OPEN_WATER : GRAVEL + 1] = self.static * light
        return out

    def _trees(self, out: Floats, t: int, light: Floats) -> None:
        """Hedges and garden trees: the mean deciduous canopy of the day, one for the block's climate."""
        green, brown = hedge_leaves(self.world, int(self.state.day[t]))
        leafy, dry, soil = (
            float(v[0]) for v in leaf_cover(np.full(1, green, np.float32), np.full(1, brown, np.float32))
        )
        crowns = self.tree * light
        out[FLAT] += crowns * np.float32(0.45 * leafy)
        out[UPRIGHT] += crowns * np.float32(0.35 * leafy)
        out[DRY] += crowns * np.float32(0.7 * dry)
        out[DARK_SOIL] += crowns * np.float32(soil)

    def observe(self, t: int) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
        """One acquisition: reflectance in stored units uint16 `[10, H, W]` (1e-4) and flags uint8 `[H, W]`."""
        day = int(self.state.day[t])
        frame = self.ground.frame
        air = sky(self.world, frame, day)
        zenith, _ = sun(self.world, day)
        tilt = np.float32(0.55 * np.tan(min(zenith, 1.25)))
        light = (1.0 + tilt * self.ground.terrain.facing).ravel() * self.crowns
        haze, veil, shadow = air.haze.ravel(), air.cloud.ravel(), air.shadow.ravel()
        light *= (1.0 - veil) * (1.0 - np.float32(0.62) * shadow) * (1.0 - np.float32(0.5) * haze)
        parts = self.abundances(t, light)
        parts[HAZE] = haze * (1.0 - veil)
        parts[VEIL] = veil * np.float32(1.0 + 0.12 * np.sin(day))
        gain, offset = calibration(self.world, day, WAVELENGTH_UM)
        spectra = ENDMEMBERS * (gain[:, None] * np.float32(1e4))
        seen = mixed(spectra, parts)
        seen += offset[:, None] * np.float32(1e4) + np.float32(0.5)
        keys = hashed(self.world.key("s2", day), np.arange(len(_NOISE)))
        grain = white(keys, frame.y_px, frame.x_px, *self.shape).reshape(len(_NOISE), -1)
        grain *= _NOISE[:, None]
        seen += grain
        np.clip(seen, 1.0, 65535.0, out=seen)
        return seen.astype(np.uint16).reshape(-1, *self.shape), air.flags


def mixed(spectra: Floats, parts: Floats) -> Floats:
    """`spectra @ parts` for `[C, K]` and `[K, N]`, in products of one shape: a column's rounding is its own."""
    count = parts.shape[1]
    padded = -(-count // _CHUNK) * _CHUNK
    if padded != count:
        parts = np.pad(parts, ((0, 0), (0, padded - count)))
    out = np.empty((len(spectra), padded), np.float32)
    for start in range(0, padded, _CHUNK):
        out[:, start : start + _CHUNK] = spectra @ np.ascontiguousarray(parts[:, start : start + _CHUNK])
    return out[:, :count]


def hedge_leaves(world: World, day: int) -> tuple[float, float]:
    """Green and brown leaf area of hedges: a plain seasonal curve, a week apart in the two climates."""
    doy = date_of(day).timetuple().tm_yday
    late = 7.0 if world.climate == "continental" else 0.0
    up, down = 1 / (1 + np.exp(-(doy - 112.0 - late) / 7.0)), 1 / (1 + np.exp(-(doy - 300.0 + late) / 9.0))
    fallen = 1 / (1 + np.exp(-(doy - 325.0) / 9.0))
    return float(0.4 + 3.6 * up * (1 - down)), float(0.7 + 1.2 * up * down * (1 - fallen))
