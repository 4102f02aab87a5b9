"""Water of the soil: a daily two-layer bucket with snow, driven by weather and plant cover."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from skyframe.data.synthetic.noise import Floats

SURFACE_MM = 18.0
"""Water that the top 5 cm hold between wilting point and field capacity."""
WILTING, SATURATED = 0.07, 0.38
"""Volumetric soil moisture of an empty and of a full surface layer, m3 m-3."""


@dataclass(frozen=True)
class SoilWater:
    """Daily state, float32 `[D, U]` each."""

    moisture: Floats  # volumetric, top 5 cm, m3 m-3
    supply: Floats  # transpiration relative to demand, 0..1 (the stress coefficient Ks)
    snow_mm: Floats  # water in the snow pack


def demand_mm(temperature_c: Floats, radiation_mj: Floats) -> Floats:
    """Reference evapotranspiration, mm per day, same shape as its inputs.

    Makkink's formula 0.65 s / (s + gamma) R / lambda in de Bruin's form (1987), with the slope s of the saturation
    pressure curve of FAO-56 (equation 13) and gamma = 0.066 kPa per degree.
    """
    t = np.clip(temperature_c, -20.0, 45.0)
    slope = 4098.0 * 0.6108 * np.exp(17.27 * t / (t + 237.3)) / (t + 237.3) ** 2
    return (0.65 * slope / (slope + 0.066) * radiation_mj / 2.45).astype(np.float32)


def soil_water(
    temperature_c: Floats, precipitation_mm: Floats, radiation_mj: Floats, cover: Floats, capacity_mm: Floats
) -> SoilWater:
    """Run the bucket day by day.

    Rain and melt fill the surface layer, what it cannot hold goes to the root zone, what that cannot hold drains. Bare
    soil evaporates from the surface layer in proportion to its water; plants transpire from the root zone at the demand
    times Ks, which falls linearly below 55 % of the capacity (FAO-56 chapter 8). Snow falls below 0.5 degrees and melts
    3 mm per degree and day (Hock 2003).

    Args:
        temperature_c, precipitation_mm, radiation_mj: float32 `[D, U]` daily weather.
        cover: float32 `[D, U]` plant cover, 0..1.
        capacity_mm: float32 `[U]` water that the root zone holds for plants.
    """
    demand = demand_mm(temperature_c, radiation_mj)
    frozen = temperature_c < 0.5
    rain = np.where(frozen, np.float32(0), precipitation_mm)
    snowfall = precipitation_mm - rain
    thaw = np.float32(3.0) * np.maximum(temperature_c, 0.0)
    bare = demand * (1.0 - cover) / np.float32(SURFACE_MM)
    leafy = np.float32(1.05) * demand * cover
    surface = np.full(capacity_mm.shape, 0.5 * SURFACE_MM, np.float32)
    root, snow = np.float32(0.6) * capacity_mm, np.zeros_like(capacity_mm)
    moisture, supply, pack = (np.empty_like(demand) for _ in range(3))
    for day in range(len(demand)):
        melt = np.minimum(snow, thaw[day])
        snow = snow + snowfall[day] - melt
        surface = surface + rain[day] + melt
        spill = np.maximum(surface - np.float32(SURFACE_MM), 0.0)
        stress = np.minimum(root / (np.float32(0.55) * capacity_mm), 1.0)
        drawn = leafy[day] * stress
        rise = np.float32(0.06) * (root / capacity_mm * np.float32(SURFACE_MM) - surface)
        surface = np.maximum(surface - spill - bare[day] * surface - np.float32(0.12) * drawn + rise, 0.0)
        root = np.clip(root + spill - np.float32(0.88) * drawn - rise, 0.0, capacity_mm)
        moisture[day], supply[day], pack[day] = surface, stress, snow
    moisture *= np.float32((SATURATED - WILTING) / SURFACE_MM)
    moisture += np.float32(WILTING)
    return SoilWater(moisture, supply, pack)
