"""Presto's point series: `s1_s2_era5_srtm.npy` float64 `[sites, 12, 18]` and its companions, one row of pixels a site.

Channels: VV, VH (dB), eleven Sentinel-2 bands (top of atmosphere x 10000), 2 m temperature (K), precipitation (m; the
month's mean per day), elevation, slope, NDVI. The last is left out: it holds (B7 - B3) / (B7 + B3), not what its name
says. `month.npy` (0 = January) has no year, so records carry the first day of their month in the nominal years 2001 and
2002. Records are about 30 days apart: a site may have two in one month and none in the next, so a month stands on the
date axis as often as one site needs it, and a site is nodata where it has no record.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import DAY_UNKNOWN, day_of
from skyframe.data.ingest.eolearn import load_array
from skyframe.data.ingest.source import Block, Layer, Source, check_modalities, describe_files
from skyframe.data.ingest.units import flags_of, keep_db, to_stored
from skyframe.spec import METRES_PER_DEGREE, CubeSpec, Grid, InputError, Modality

S2_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
CHANNELS = {
    "s1": ("VV", "VH"),
    "s2": S2_BANDS,
    "weather": ("temperature_c", "precipitation_mm"),
    "terrain": ("elevation_m", "slope_deg"),
}
"""Channels of the array in order, by modality; NDVI follows and is not taken."""

NUM_CHANNELS = 18
NOMINAL_YEAR = 2001
ZERO_CELSIUS_K = 273.15
TO_UNITS = {"B": (1e-4, 0.0), "temperature_c": (1.0, -ZERO_CELSIUS_K), "precipitation_mm": (1000.0, 0.0)}
"""Factor and addend from the array's unit to the spec's; a band not named here is taken as it is."""

LABELS = {"severity": "target", "is_test": "is_test"}


def open_source(paths: Sequence[Path], spec: CubeSpec, files: ExitStack) -> Source:
    """Open one folder of arrays.

    Args:
        paths: the folder with the `.npy` files.
        spec: modalities s1, s2, weather, terrain, dynamic_world or some of them; labels severity, is_test.
        files: unused: mapped arrays close themselves.

    Raises:
        InputError: a file missing, a pointer, arrays of differing lengths, months or places that cannot be.
    """
    if len(paths) != 1 or not paths[0].is_dir():
        raise InputError(
            f"presto: got {', '.join(p.name for p in paths)}, expected one folder with s1_s2_era5_srtm.npy; name it"
        )
    check_modalities(spec, "presto", (*CHANNELS, "dynamic_world"))
    gsd_m = {m.gsd_m for m in spec.modalities.values()} | {label.gsd_m for label in spec.labels.values()}
    if len(gsd_m) != 1:
        raise InputError(
            f"spec {spec.name}: gsd_m differ ({', '.join(f'{g:g}' for g in sorted(gsd_m))}), expected one "
            "because a site is one pixel of every modality; give all the same"
        )
    folder, used = paths[0], ["s1_s2_era5_srtm", "month", "latlon"]
    series, months, places = (load_array(folder / f"{name}.npy") for name in used)
    sites = len(series)
    if series.ndim != 3 or series.shape[2] != NUM_CHANNELS or months.shape != series.shape[:2]:
        raise InputError(
            f"{folder.name}: s1_s2_era5_srtm has shape {series.shape} and month {months.shape}, expected "
            f"(sites, records, {NUM_CHANNELS}) and (sites, records); fetch both again"
        )
    if places.shape != (sites, 2) or np.abs(places[:, 0]).max() > 90 or np.abs(places[:, 1]).max() > 180:
        raise InputError(
            f"{folder.name}: latlon has shape {places.shape}, expected ({sites}, 2) with latitude before longitude"
        )
    days, slots = place_in_time(np.asarray(months), folder.name)
    layers = []
    for modality in spec.modalities.values():
        if modality.name == "dynamic_world":
            used.append("dynamic_world")
            classes = load_array(folder / "dynamic_world.npy")[..., None]
            layers.append(_layer(modality, classes, ("dynamic_world",), days, slots, folder.name))
        else:
            first = sum(len(CHANNELS[n]) for n in list(CHANNELS)[: list(CHANNELS).index(modality.name)])
            known = CHANNELS[modality.name]
            chosen = series[..., first : first + len(known)]
            layers.append(_layer(modality, chosen, known, days, slots, folder.name))
    labels = {name: _label(folder, name, sites, label.dtype, used) for name, label in spec.labels.items()}
    (size,) = gsd_m
    grid = Grid("EPSG:4326", 0.0, sites * size, size, sites * size, METRES_PER_DEGREE, _pairs(places))
    about = describe_files("presto", [folder / f"{name}.npy" for name in used])
    return Source(grid, tuple(layers), about | {"years": f"nominal, {NOMINAL_YEAR} and {NOMINAL_YEAR + 1}"}, labels)


def _pairs(places: NDArray[Any]) -> tuple[tuple[float, float], ...]:
    return tuple((float(lat), float(lon)) for lat, lon in places)


def place_in_time(months: NDArray[np.integer[Any]], where: str) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """The common date axis of all sites.

    Args:
        months: `[sites, records]`, 0 = January, in order of time; the year turns where they fall.
        where: for the message.

    Returns:
        int32 `[T]` first days of months in nominal years, a month as often as one site has records in it; and
        `[sites, records]`, the position on that axis of every record.

    Raises:
        InputError: a month that is none, or a step of more than six months.
    """
    steps = np.diff(months, axis=1) % 12
    if months.min() < 0 or months.max() > 11 or (steps.size and steps.max() > 6):
        raise InputError(
            f"{where}: month runs from {months.min()} to {months.max()} with steps of up to "
            f"{steps.max() if steps.size else 0}, expected 0 to 11 in order of time; fetch month.npy again"
        )
    elapsed = np.concatenate([months[:, :1], months[:, :1] + np.cumsum(steps, axis=1)], axis=1)
    counts = np.zeros(int(elapsed.max()) + 1, np.intp)
    rank = np.zeros(elapsed.shape, np.intp)
    for record in range(1, elapsed.shape[1]):
        rank[:, record] = np.where(elapsed[:, record] == elapsed[:, record - 1], rank[:, record - 1] + 1, 0)
    np.maximum.at(counts, elapsed.ravel(), rank.ravel() + 1)
    firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    days = [day_of(date(NOMINAL_YEAR + m // 12, m % 12 + 1, 1)) for m in range(len(counts)) for _ in range(counts[m])]
    return np.array(days, np.int32), firsts[elapsed] + rank


def _layer(
    modality: Modality,
    values: NDArray[Any],
    known: Sequence[str],
    days: NDArray[np.int32],
    slots: NDArray[np.intp],
    where: str,
) -> Layer:
    strange = [band for band in modality.band_names if band not in known]
    if strange:
        raise InputError(
            f"{where}: {modality.name} has no band {', '.join(strange)}, expected some of {', '.join(known)}; "
            "take it out of the spec"
        )
    bands = [known.index(band) for band in modality.band_names]
    factors = [TO_UNITS.get(band, TO_UNITS["B"] if band in S2_BANDS else (1.0, 0.0)) for band in modality.band_names]
    static = modality.name == "terrain"
    place = f"{where}: {modality.name}"

    def read(y: int, x: int, height: int, width: int) -> Block:
        records = np.asarray(values[y : y + height][..., bands], np.float64)
        physical = records * [f for f, _ in factors] + [a for _, a in factors]  # [h, records, C]
        if static:
            if not np.array_equal(physical, np.broadcast_to(physical[:, :1], physical.shape), equal_nan=True):
                raise InputError(f"{place}: changes with time, expected one value a site; check the array's channels")
            spread = physical[:, :1]
        else:
            spread = np.full((len(physical), len(days), len(bands)), np.nan)
            spread[np.arange(len(physical))[:, None], slots[y : y + height]] = physical
        block = spread.transpose(1, 2, 0)[..., None]  # [T, C, h, 1]
        stored, lost = keep_db(block) if modality.units == "dB" else to_stored(block, modality, place)
        return stored, flags_of(lost)

    return Layer(modality, np.array([DAY_UNKNOWN], np.int32) if static else days, (len(values), 1), read)


def _label(folder: Path, name: str, sites: int, dtype: str, used: list[str]) -> NDArray[Any]:
    if name not in LABELS:
        raise InputError(
            f"{folder.name}: no label {name}, expected some of {', '.join(LABELS)}; take it out of the spec"
        )
    values = load_array(folder / f"{LABELS[name]}.npy")
    used.append(LABELS[name])
    if values.shape != (sites,):
        raise InputError(f"{folder.name}: {LABELS[name]} has shape {values.shape}, expected ({sites},); fetch it again")
    return np.asarray(values).astype(dtype)[:, None]
