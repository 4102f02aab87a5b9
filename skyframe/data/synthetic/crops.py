"""Crops: thermal calendars, canopies, and which field grows what in which year."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skyframe.data.synthetic.noise import Floats, Hashes, hashed, normal, uniform
from skyframe.data.synthetic.world import World


@dataclass(frozen=True)
class Crop:
    """One crop. Thermal times are degree days above `base_c` since sowing (since 1 January for grass).

    Sources: base temperatures and orders of magnitude of thermal requirements after FAO-66 (Steduto et al. 2012,
    AquaCrop crop tables) and, for winter cereals, Baret (1986); values are rounded and set so that dates fall right in
    both climates.
    """

    name: str
    sowing_doy: tuple[int, int]  # oceanic, continental; above 200 = in the autumn before the harvest year
    base_c: float
    young: float  # degree days to half of the autumn (rosette, tillering) canopy; 0 = none
    young_lai: float
    green: float  # degree days to half of the full canopy
    rise: float  # width of the green-up, degree days
    fade: float  # degree days to half senescence
    fall: float  # width of senescence
    harvest: float
    peak_lai: float
    flat_leaf: float  # 0 = upright narrow leaves (cereals), 1 = flat broad leaves (beet)
    flower: float  # degree days at mid-flowering, 0 = not visible from above
    flower_share: float  # share of the canopy's surface that shows petals
    continental: float  # factor on all thermal times for the cultivars of the continental climate
    straw: float  # dry matter left standing or lying after harvest, area index
    water_vv: float  # water-cloud model: scattering of the canopy in VV, VH (linear), and attenuation per LAI
    water_vh: float
    attenuation: float


# fmt: off
CROPS: tuple[Crop, ...] = (
    Crop("winter_wheat", (290, 283), 0.0, 300, 0.7, 1100, 130, 2230, 100, 2640, 5.2,
         0.08, 0, 0.0, 0.86, 1.6, 0.045, 0.010, 0.22),
    Crop("winter_barley", (275, 270), 0.0, 300, 1.0, 1000, 130, 1900, 90, 2260, 4.6,
         0.24, 0, 0.0, 0.86, 1.4, 0.055, 0.012, 0.19),
    Crop("rapeseed", (242, 240), 0.0, 480, 1.4, 1700, 120, 2900, 110, 3260, 5.0,
         0.60, 2060, 0.42, 0.80, 1.0, 0.160, 0.050, 0.14),
    Crop("maize", (120, 115), 8.0, 0, 0.0, 400, 65, 1230, 70, 1400, 4.8,
         0.22, 0, 0.0, 1.28, 1.4, 0.130, 0.034, 0.16),
    Crop("sunflower", (106, 101), 6.0, 0, 0.0, 520, 75, 1370, 75, 1680, 3.0,
         0.70, 1020, 0.36, 1.12, 0.7, 0.190, 0.048, 0.16),
    Crop("sugar_beet", (88, 90), 3.0, 0, 0.0, 800, 95, 3200, 200, 2620, 5.0,
         0.95, 0, 0.0, 1.15, 0.3, 0.150, 0.032, 0.18),
    Crop("potato", (104, 100), 4.0, 0, 0.0, 560, 75, 1420, 90, 1850, 4.6,
         0.90, 980, 0.06, 1.18, 0.4, 0.115, 0.026, 0.18),
    Crop("temporary_grass", (1, 1), 4.0, 0, 0.0, 230, 80, 1e5, 100, 1e5, 4.2,
         0.25, 0, 0.0, 1.0, 0.2, 0.085, 0.017, 0.18),
)
# fmt: on
CROP_TYPES = tuple(crop.name for crop in CROPS)
GRASS_CROP = CROP_TYPES.index("temporary_grass")
_ORDER = "rapeseed winter_wheat sugar_beet winter_barley maize sunflower temporary_grass potato"
_ROTATION = tuple(CROP_TYPES.index(name) for name in _ORDER.split())


def crop_of(world: World, units: Hashes, year: int) -> NDArray[np.int64]:
    """Which crop each field is harvested for in `year`.

    Fields follow one rotation, each from its own place in it; three in ten fields leave the rotation in a given year.
    So all crops have about equal area, and the crop before says something, not all, about the crop now.
    """
    place = np.floor(uniform(units, "rotation") * len(_ROTATION)).astype(np.int64)
    planned = np.array(_ROTATION)[(place + year) % len(_ROTATION)]
    now = hashed(units ^ np.uint64(world.key("year")), np.full(units.shape, year))
    free = np.floor(uniform(now, "free") * len(CROPS)).astype(np.int64)
    return np.where(uniform(now, "leave") < 0.3, free, planned)


@dataclass(frozen=True)
class Habits:
    """What a farmer and a cultivar change on one field in one year, float32 `[U]` each."""

    delay_days: Floats  # of sowing
    pace: Floats  # factor on the cultivar's thermal times
    density: Floats  # factor on the peak leaf area
    greenness: Floats  # chlorophyll, 0 = pale, 1 = dark
    plough_days: Floats  # from harvest to ploughing
    cover_crop: Floats  # 0 or peak leaf area of a cover crop after harvest
    first_cut_doy: Floats  # grass: day of the first mowing
    cut_gap_days: Floats  # grass: days between mowings
    rough_db: Floats  # tillage: departure of the bare soil's backscatter


def habits(world: World, units: Hashes, year: int) -> Habits:
    """Management of every field in a year, drawn by its identity."""
    h = hashed(units ^ np.uint64(world.key("habits")), np.full(units.shape, year))
    covered = uniform(h, "covered") < (0.55 if world.climate == "oceanic" else 0.3)
    return Habits(
        delay_days=np.clip(9.0 * normal(h, "sow"), -20.0, 20.0).astype(np.float32),
        pace=np.clip(1.0 + 0.05 * normal(h, "pace"), 0.85, 1.15).astype(np.float32),
        density=np.exp(np.float32(0.22) * np.clip(normal(h, "density"), -2.0, 2.0)),
        greenness=uniform(h, "chlorophyll"),
        plough_days=(6.0 + 55.0 * uniform(h, "plough")).astype(np.float32),
        cover_crop=np.where(covered, 1.2 + 1.8 * uniform(h, "cover"), 0.0).astype(np.float32),
        first_cut_doy=(125.0 + 35.0 * uniform(h, "cut")).astype(np.float32),
        cut_gap_days=(34.0 + 30.0 * uniform(h, "gap")).astype(np.float32),
        rough_db=np.float32(1.3) * np.clip(normal(h, "rough"), -2.0, 2.0),
    )
