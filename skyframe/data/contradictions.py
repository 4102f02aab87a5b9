"""Where a spec contradicts its data: impossible units, statistics far off, constant, saturated or swapped bands."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from skyframe.data.statistics import BandStatistics, ModalityStatistics
from skyframe.spec import CubeSpec, Modality

MEAN_STDS = 0.5  # ours
"""Declared standard deviations by which a mean may be off: beyond, a normalised band is far from centred."""

WIDE_FACTOR, NARROW_FACTOR = 2.0, 4.0  # ours
"""How many times wider or narrower than declared a band may be: one place varies less than a whole archive."""

SATURATED_SHARE = 0.01  # ours
"""Share of clear pixels that hold just the highest value from which a band looks cut off."""

SWAP_GAIN = 0.5  # ours
"""Bands look swapped where another order brings the means to less than half the distance from the declared ones."""

COMMON_LEVEL = {"reflectance": (1e-3, 2.0), "dB": (-60.0, 15.0)}
"""Bounds of a median over land, water and cloud; another unit or scale falls outside."""


def contradictions(spec: CubeSpec, found: dict[str, ModalityStatistics]) -> list[str]:
    """One sentence per contradiction; none where spec and data agree.

    Args:
        spec: declared units, mean and std.
        found: measured statistics by modality.
    """
    sentences = []
    for name, measured in found.items():
        modality = spec.modalities[name]
        unit = _unit(modality, measured)
        sentences += unit
        for band in measured.bands:
            sentences += _shape(modality, band)
        if modality.mean and modality.std and not unit:  # in a wrong unit every number is off for one reason
            swapped = _swapped(modality, measured)
            sentences += swapped or _declared(modality, measured)
    return sentences


def _unit(modality: Modality, measured: ModalityStatistics) -> list[str]:
    middles = [band.quantiles[3] for band in measured.bands]
    middle, kind = float(np.median(middles)), "dB" if modality.units == "dB" else "reflectance"
    if "reflectance" in modality.units or modality.units == "dB":
        low, high = COMMON_LEVEL[kind]
        if kind == "dB" and min(band.quantiles[0] for band in measured.bands) >= 0:
            return [
                f"{modality.name}: units dB but hardly a value is below 0 (median {middle:.4g}), as in linear "
                "power or an amplitude code; convert to dB or correct units"
            ]
        if low <= middle <= high:
            return []
        guess = ""
        if kind == "reflectance":
            guess = ", as of values 0-1 read as 0-10000" if middle < low else ", as of values 0-10000 read as 0-1"
        return [
            f"{modality.name}: the median is {middle:.4g} {modality.units}, expected {low:g} to "
            f"{high:g}{guess}; correct scale or units"
        ]
    if "power" in modality.units and min(band.low for band in measured.bands) < 0:
        lowest = min(band.low for band in measured.bands)
        return [f"{modality.name}: units {modality.units} but values fall to {lowest:.4g}, as in dB; correct units"]
    return []


def _shape(modality: Modality, band: BandStatistics) -> list[str]:
    where = f"{modality.name} {band.name}"
    if band.low == band.high:
        return [f"{where}: every clear pixel holds {band.low:.6g}; a constant band teaches nothing, leave it out"]
    is_class = modality.units == "class" or len(np.unique(band.values)) <= 32
    if band.at_high > SATURATED_SHARE and not is_class:
        return [
            f"{where}: {band.at_high:.1%} of the clear pixels hold just the highest value {band.high:.6g}, as "
            "where values are cut off; look for saturation or a fill value taken as data"
        ]
    return []


def _declared(modality: Modality, measured: ModalityStatistics) -> list[str]:
    """The bands whose mean or std is off, in one sentence."""
    off = []
    for band in measured.bands:
        at = modality.band_names.index(band.name)
        mean, std = modality.mean[at], modality.std[at]
        far = abs(band.mean - mean) > MEAN_STDS * std
        if far or not (std / NARROW_FACTOR <= band.std <= std * WIDE_FACTOR or band.std == 0):
            off.append(f"{band.name} {band.mean:.4g} +- {band.std:.4g} (declared {mean:g} +- {std:g})")
    if not off:
        return []
    return [
        f"{modality.name}: measured mean +- std differ from the spec's in {', '.join(off)}, expected a mean within "
        f"{MEAN_STDS:g} std and a std of 1/{NARROW_FACTOR:g} to {WIDE_FACTOR:g} times the declared; take the "
        "measured ones (--write) where these cubes stand for the whole archive, or check the source"
    ]


def _swapped(modality: Modality, measured: ModalityStatistics) -> list[str]:
    """Whether the measured means fit the declared ones much better in another order."""
    order = [modality.band_names.index(band.name) for band in measured.bands]
    means, stds = np.array(modality.mean)[order], np.array(modality.std)[order]
    got = np.array([band.mean for band in measured.bands])
    if len(got) < 2 or "," in modality.units:  # bands of several units do not swap
        return []
    cost = np.abs(got[:, None] - means[None]) / stds[None]
    rows, best = linear_sum_assignment(cost)
    moved = np.flatnonzero(best != rows)
    here, there = cost[moved, moved], cost[moved, best[moved]]
    if not len(moved) or here.mean() <= MEAN_STDS or there.mean() > SWAP_GAIN * here.mean():
        return []
    pairs = ", ".join(f"{measured.bands[i].name} looks like {measured.bands[best[i]].name}" for i in moved)
    return [
        f"{modality.name}: {pairs} by the declared means (off by {there.mean():.2g} std in that order, "
        f"{here.mean():.2g} in the spec's); check the order of the bands"
    ]
