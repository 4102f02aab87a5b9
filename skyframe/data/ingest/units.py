"""From the units of source files to the shared ones: reflectance 1e-4, backscatter 0.01 dB, flags per pixel.

Every function takes values as the file holds them and returns stored integers together with where they are missing,
so that a missing pixel is never recognised by its value later on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.data.cube import CLEAR, NODATA
from skyframe.spec import InputError, Modality

MISSING_U16 = 65535
"""openEO's whole-range cast leaves 65535 where an unsigned 16-bit pixel is missing; no attribute says so."""

AMPLITUDE_CODE_DB = -83.0
"""openEO-GFMAP stores backscatter as DN = 10**((dB + 83) / 20), so dB = 20 log10(DN) - 83.

Source: openeo_gfmap/preprocessing/sar.py, compress_backscatter_uint16. DN 65534 (13.3 dB) is its ceiling.
"""

LOWEST_CODE = -500  # ours
"""Reflectance x 10000 below which a pixel is missing: subtracting haze from dark water ends a little under zero, -0.05
is beyond that."""

SAR_FLOOR_DB = -50.0  # ours
"""Weaker echoes lie 25 dB under Sentinel-1's noise floor: residue of noise removal, not an observation."""

TOP_OF_ATMOSPHERE = "top-of-atmosphere reflectance"
"""Units of Level-1C: another quantity than the ground's `reflectance`, so that the two never mix unnoticed."""

PLAUSIBLE_MEDIAN = {"reflectance": (0.0, 1.5), TOP_OF_ATMOSPHERE: (0.0, 1.5), "dB": (-35.0, 5.0)}
"""Bounds on a modality's median over land, water and cloud; a wrong unit falls outside."""


def as_unsigned(values: NDArray[Any], where: str) -> NDArray[Any]:
    """Read 16-bit integers as the unsigned values they were written from; floats pass through.

    netCDF files of openEO carry `int16` data with `_Unsigned = "true"`: 65535 shows up as -1, 40000 as -25536.

    Args:
        values: int16, uint16 or float, any shape.
        where: file and modality, for the message.

    Raises:
        InputError: another dtype. Nothing is agreed on how it says "missing": -1 of an int32 would become clear black.
    """
    if values.dtype.kind != "f" and values.dtype not in (np.int16, np.uint16):
        raise InputError(
            f"{where}: holds {values.dtype}, expected int16 or uint16 (65535 = missing) or float (NaN = missing); "
            "export it in one of them"
        )
    return values.view(np.uint16) if values.dtype == np.int16 else values


def missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a source value is absent: 65535 among unsigned 16-bit integers, NaN among floats."""
    if values.dtype.kind == "f":
        return np.asarray(np.isnan(values))
    return np.asarray(values == MISSING_U16) if values.dtype == np.uint16 else np.zeros(values.shape, bool)


def to_reflectance(
    values: NDArray[Any], where: str, black_is_nodata: bool = True
) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Sentinel-2 digital numbers (reflectance x 10000) as stored values.

    Stored integers hold no negative number: a float from -500 (reflectance -0.05) to 0 is stored as 0, a dark pixel.

    Args:
        values: `[T, C, h, w]` int16, uint16 or float.
        where: file and modality, for the message.
        black_is_nodata: 0 in all bands is missing (Level-2A's own nodata); False where NaN alone says so, as after
            an offset was subtracted.

    Returns:
        uint16 `[T, C, h, w]`, 0 where missing, and missing bool `[T, h, w]`: some band absent or below -500, or all
        bands 0 (a single 0 is a dark pixel).

    Raises:
        InputError: another dtype.
    """
    values = as_unsigned(values, where)
    gone = missing(values) | (values < LOWEST_CODE)
    lost = np.asarray(gone.any(axis=1) | (black_is_nodata & (values == 0).all(axis=1)))
    whole = np.where(gone, 0, values) if values.dtype.kind == "u" else np.rint(np.where(gone, 0, values))
    stored = np.clip(whole, 0, MISSING_U16 - 1).astype(np.uint16)
    return np.where(lost[:, None], np.uint16(0), stored), lost


def amplitude_code_to_db(values: NDArray[Any], where: str) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """openEO-GFMAP's 16-bit amplitude code as stored backscatter.

    Args:
        values: `[T, C, h, w]` int16 or uint16; 0 and 65535 are missing.
        where: file and modality, for the message.

    Returns:
        int16 `[T, C, h, w]` hundredths of dB, and missing bool `[T, h, w]`.

    Raises:
        InputError: another dtype.
    """
    code = as_unsigned(values, where)
    gone = missing(code) | (code == 0)
    db = 20.0 * np.log10(np.where(gone, 1, code).astype(np.float64)) + AMPLITUDE_CODE_DB
    return _store_db(db, gone)


def power_to_db(values: NDArray[Any]) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Linear backscatter power as stored backscatter, dB = 10 log10(power).

    Args:
        values: `[T, C, h, w]` float; NaN and values <= 0 are missing.

    Returns:
        int16 `[T, C, h, w]` hundredths of dB, and missing bool `[T, h, w]`.
    """
    gone = ~(values > 0)
    db = 10.0 * np.log10(np.where(gone, 1.0, values).astype(np.float64))
    return _store_db(db, gone)


def keep_db(values: NDArray[Any]) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Backscatter that is in dB already as stored backscatter.

    Args:
        values: `[T, C, h, w]` float; NaN is missing.

    Returns:
        int16 `[T, C, h, w]` hundredths of dB, and missing bool `[T, h, w]`.
    """
    gone = np.asarray(np.isnan(values))
    return _store_db(np.where(gone, 0.0, values).astype(np.float64), gone)


def to_stored(physical: NDArray[Any], modality: Modality, where: str) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Values in the modality's units as stored values.

    Args:
        physical: `[T, C, h, w]` float; NaN is missing.
        modality: its dtype, scale and offset.
        where: file and modality, for the message.

    Returns:
        `[T, C, h, w]` in the stored dtype, 0 where missing, and missing bool `[T, h, w]`: some band absent. Reflectance
        from -0.05 to 0 is a dark pixel, stored as 0; anything lower is missing.

    Raises:
        InputError: a value that the stored dtype cannot hold.
    """
    gone = np.asarray(np.isnan(physical))
    stored = (np.where(gone, modality.offset, physical) - modality.offset) / modality.scale
    dtype = np.dtype(modality.dtype)
    if "reflectance" in modality.units and dtype.kind == "u":
        gone |= stored < LOWEST_CODE * 1e-4 / modality.scale - 1e-6
        stored = np.maximum(stored, 0.0)
    if dtype.kind in "iu":
        stored, bounds = np.rint(stored), np.iinfo(dtype)
        outside = ~gone & ((stored < bounds.min) | (stored > bounds.max))
        if outside.any():
            worst = np.broadcast_to(physical, stored.shape)[outside]
            raise InputError(
                f"{where}: holds {float(worst[np.argmax(np.abs(worst))]):.6g} {modality.units}, expected what "
                f"{modality.dtype} holds at scale {modality.scale:g} and offset {modality.offset:g}; correct "
                "the unit, or give the modality a wider dtype in the spec"
            )
    lost = np.asarray(gone.any(axis=1))
    return np.where(lost[:, None], 0, stored).astype(dtype), lost


def _store_db(db: NDArray[np.float64], gone: NDArray[np.bool_]) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    lost = np.asarray((gone | (db < SAR_FLOOR_DB)).any(axis=1))
    stored = np.rint(db * 100.0).clip(-32767, 32767).astype(np.int16)
    return np.where(lost[:, None], np.int16(0), stored), lost


def to_integers(values: NDArray[np.float64], modality: Modality, where: str) -> NDArray[np.generic]:
    """Stored values in a modality's dtype: rounded where it is an integer, 0 where NaN.

    Args:
        values: any shape, in stored units, NaN where missing.
        modality: whose dtype.
        where: file and modality, for the message.

    Raises:
        InputError: a value that the dtype cannot hold.
    """
    present = np.where(np.isnan(values), 0.0, values)
    if np.dtype(modality.dtype).kind == "f":
        return present.astype(modality.dtype)
    bounds, whole = np.iinfo(modality.dtype), np.rint(present)
    if whole.size and (whole.min() < bounds.min or whole.max() > bounds.max):
        raise InputError(
            f"{where}: stored values run from {whole.min():g} to {whole.max():g}, expected {bounds.min} to "
            f"{bounds.max} of {modality.dtype}; correct scale and offset of the source or of the spec"
        )
    return whole.astype(modality.dtype)


def flags_of(lost: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Flags `[T, h, w]` of a sensor without a cloud mask: clear wherever it is not missing."""
    return np.where(lost, NODATA, CLEAR).astype(np.uint8)


def check_plausible(values: NDArray[Any], flags: NDArray[np.uint8], scale: float, units: str, where: str) -> None:
    """Refuse a block whose median contradicts its declared unit (linear power taken for dB, percent for reflectance).

    Args:
        values: `[T, C, h, w]` as stored.
        flags: `[T, h, w]`.
        scale: physical value = stored * scale.
        units: of the modality; units without a bound are not checked.
        where: file and modality, for the message.
    """
    seen = values.transpose(1, 0, 2, 3)[:, flags != NODATA]
    if units not in PLAUSIBLE_MEDIAN or seen.size == 0:
        return
    low, high = PLAUSIBLE_MEDIAN[units]
    middle = float(np.median(seen)) * scale
    if not low <= middle <= high:
        raise InputError(
            f"{where}: the median is {middle:.4g} {units}, expected {low:g} to {high:g}; check the unit of the source"
        )
