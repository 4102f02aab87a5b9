"""What benchmark files hold, as modalities, and single images as samples."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import DAY_UNKNOWN, day_of
from skyframe.sample import Sample, Series
from skyframe.spec import Band, Modality

WAVELENGTHS_UM = {
    "B01": 0.443, "B02": 0.490, "B03": 0.560, "B04": 0.665, "B05": 0.705, "B06": 0.740, "B07": 0.783, "B08": 0.842,
    "B8A": 0.865, "B09": 0.945, "B10": 1.375, "B11": 1.610, "B12": 2.190,
    "red": 0.665, "green": 0.560, "blue": 0.490, "nir": 0.842, "lwir": 10.5,
}  # fmt: skip
"""Central wavelengths in micrometres, of Sentinel-2's bands and of colours by name."""

DISPLAY = "display value"
"""Units of 8-bit pictures made for the eye: no rule turns them into reflectance."""

S2_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
"""All thirteen in the order of wavelength columns of most data sets; L2A products lack B10."""


def bands(names: Sequence[str]) -> tuple[Band, ...]:
    """Bands by name, with the wavelength where it is known."""
    return tuple(Band(n, WAVELENGTHS_UM.get(n)) for n in names)


def rgb(gsd_m: float, names: Sequence[str] = ("red", "green", "blue")) -> Modality:
    """An 8-bit picture."""
    return Modality("rgb", "image", bands(names), gsd_m, DISPLAY, "uint8", scale=1 / 255)


def sentinel2(
    names: Sequence[str],
    *,
    level: str = "L2A",
    offset_dn: float = 0.0,
    dtype: str = "uint16",
    scale: float = 1e-4,
    many: bool = False,
) -> Modality:
    """Sentinel-2 on the 10 m grid.

    Args:
        names: bands in the order of the files.
        level: `L1C` is reflectance at the top of the atmosphere, `L2A` at the ground.
        offset_dn: what to add to stored numbers first (-1000 from processing baseline 04.00 on).
        dtype: as stored.
        scale: reflectance per stored number.
        many: a series rather than one date.
    """
    units = "reflectance" if level == "L2A" else "top-of-atmosphere reflectance"
    kind = "series" if many else "image"
    return Modality("s2", kind, bands(names), 10.0, units, dtype, scale=scale, offset=offset_dn * scale)  # type: ignore[arg-type]  # one of two literals


def sentinel1(names: Sequence[str] = ("VV", "VH"), *, units: str = "dB", many: bool = False) -> Modality:
    """Sentinel-1 on the 10 m grid in `dB`, or as `linear power` or `linear amplitude`."""
    kind = "series" if many else "image"
    return Modality("s1", kind, bands(names), 10.0, units, "float32")  # type: ignore[arg-type]  # one of two literals


def product_day(name: str) -> int:
    """The day in the name of a Sentinel product, `S2A_MSIL2A_20170613T101031...`; `DAY_UNKNOWN` without one."""
    found = re.search(r"_(\d{4})(\d{2})(\d{2})T", name)
    try:
        return day_of(date(*map(int, found.groups()))) if found else DAY_UNKNOWN
    except ValueError:
        return DAY_UNKNOWN


def series_of(
    values: NDArray[np.generic],
    days: NDArray[np.int32] | None = None,
    valid: NDArray[np.bool_] | None = None,
) -> Series:
    """`[C, H, W]` of one date or `[T, C, H, W]` as a series with all bands; days unknown and all valid by default."""
    stack = values if values.ndim == 4 else values[None]
    num, count, height, width = stack.shape
    known = np.full(num, DAY_UNKNOWN, np.int32) if days is None else days
    seen = np.ones((num, height, width), bool) if valid is None else valid
    return Series(stack, seen, known, np.ones(count, bool))


def finite(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Where all bands of `[..., C, H, W]` hold a number: bool `[..., H, W]`."""
    return np.asarray(np.isfinite(values.astype(np.float32)).all(-3))


def place_of_raster(path: Path) -> NDArray[np.float64]:
    """Latitude and longitude `[2]` of the centre of a GeoTIFF that was read already; NaN where it tells no place."""
    import rasterio

    with rasterio.open(path, driver="GTiff") as file:
        lon, lat = file.lnglat() if file.crs else (np.nan, np.nan)
    return np.array([lat, lon], np.float64)


def image_sample(
    name: str, pixels: NDArray[np.generic], targets: Mapping[str, NDArray[np.generic] | np.generic]
) -> Sample:
    """One image `[C, H, W]` at an unknown place and day, with its targets."""
    found = {k: np.asarray(v) for k, v in targets.items()}
    return Sample({name: series_of(pixels)}, np.full(2, np.nan), -1, targets=found)
