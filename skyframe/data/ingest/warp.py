"""One window of one raster on the target grid: resampled, missing pixels as NaN, read again when the network fails."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

import numpy as np
from numpy.typing import NDArray

from skyframe.spec import InputError

if TYPE_CHECKING:
    from rasterio import DatasetReader

RESAMPLING = ("auto", "nearest", "bilinear", "cubic", "average")

GDAL_OPTIONS: dict[str, str | int] = {
    "GDAL_CACHEMAX": 64,  # MB of decoded tiles; GDAL's own default is a share of the machine's memory
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_CONNECTTIMEOUT": "15",
    "GDAL_HTTP_TIMEOUT": "120",
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "CPL_VSIL_CURL_USE_HEAD": "NO",  # a signed address may be read, not asked about
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsicurl?",  # a failed or cut answer must not be served again from memory
}
"""What is set for every read; a variable of the same name in the environment goes first."""

ATTEMPTS = 4
"""Reads of one window before its failure is final, each with GDAL's own retries of HTTP 429 and 5xx inside."""

TOLERANCE_PX = 1e-9
"""How far a reprojected place may be off: nothing, so that a pixel does not depend on the block it is read in. With
GDAL's 0.125 it does; that is five times as fast, for scenes of another zone alone. 0 is refused by rasterio."""

RETRY_DELAY_S = 0.5
FINAL_ANSWERS = ("HTTP response code: 404", "HTTP response code: 403", "HTTP response code: 401")
REMOTE = ("http://", "https://", "s3://", "gs://", "az://", "/vsi")


@dataclass(frozen=True)
class Box:
    """A block of target pixels: CRS, upper-left corner in its metres, pixel side, rows and columns."""

    crs: str
    left_m: float
    top_m: float
    gsd_m: float
    height: int
    width: int

    @property
    def bounds_m(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top."""
        return (
            self.left_m,
            self.top_m - self.height * self.gsd_m,
            self.left_m + self.width * self.gsd_m,
            self.top_m,
        )


def read_window(
    href: str, band: int, box: Box, resampling: str, nodata: float | None, where: str
) -> NDArray[np.float32]:
    """One band of a raster on the target grid.

    Args:
        href: path or address of the raster.
        band: of the file, from 1.
        box: which pixels.
        resampling: of `RESAMPLING`; `auto` averages a source finer than two thirds of the target's pixels, else is
            bilinear (exact where the pixels coincide).
        nodata: value that marks missing source pixels; None: what the file declares.
        where: scene, asset and block, for the message.

    Returns:
        float32 `[h, w]` as the file holds it, NaN where no valid source pixel contributes.

    Raises:
        InputError: the raster cannot be opened or read, also after several tries where it lies on a server.
    """
    import rasterio
    from rasterio.errors import RasterioError

    options = {key: value for key, value in GDAL_OPTIONS.items() if key not in os.environ}
    attempts = ATTEMPTS if href.startswith(REMOTE) else 1
    for attempt in range(1, attempts + 1):
        try:
            with rasterio.Env(**options), _whole_header(href), rasterio.open(href) as source:
                return _warp(source, band, box, resampling, nodata, where)
        except RasterioError as error:
            said = " ".join(str(error.__cause__ or error).split())
            if attempt < attempts and not any(answer in said for answer in FINAL_ANSWERS):
                time.sleep(RETRY_DELAY_S * 2 ** (attempt - 1))
                continue
            raise InputError(
                f"{where}: {plain_address(href)} cannot be read after {attempt} "
                f"{'try' if attempt == 1 else 'tries'} ({said}), expected a whole raster; see that it can be "
                "fetched, then start the same command again to continue"
            ) from error
    raise AssertionError("every try returns or raises")


def signed_address(href: str, collection: str) -> str:
    """An address that GDAL signs when it opens it, by Planetary Computer's tokens for a collection."""
    return f"/vsicurl?pc_url_signing=yes&pc_collection={quote(collection, safe='')}&url={quote(href, safe='')}"


def plain_address(href: str) -> str:
    """An address without signature, for messages."""
    if href.startswith("/vsicurl?"):
        href = parse_qs(href.partition("?")[2])["url"][0]
    return href.split("?")[0]


@contextmanager
def _whole_header(href: str) -> Iterator[None]:
    """Raise where GDAL read on without a tag that it could not fetch: nodata or place would be lost silently."""
    from rasterio.errors import RasterioIOError

    lost: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == threading.get_ident() and "tag ignored" in record.getMessage():
                lost.append(record.getMessage())

    said, listener = logging.getLogger("rasterio._env"), Listener()
    said.addHandler(listener)
    try:
        yield
    except InputError:
        if not lost:
            raise
    finally:
        said.removeHandler(listener)
    if lost:
        raise RasterioIOError(lost[0])


def _warp(
    source: DatasetReader, band: int, box: Box, resampling: str, nodata: float | None, where: str
) -> NDArray[np.float32]:
    from rasterio.enums import Resampling
    from rasterio.transform import from_origin
    from rasterio.vrt import WarpedVRT

    if source.crs is None:
        raise InputError(f"{where}: the raster has no CRS, so its place is unknown; add it with gdal_edit -a_srs")
    if not 1 <= band <= source.count:
        raise InputError(
            f"{where}: the raster has {source.count} bands, expected a band {band}; correct the band under assets"
        )
    missing = source.nodatavals[band - 1] if nodata is None else nodata
    if source.crs == box.crs and _coincide(source, box):
        return _copy(source, band, box, missing)
    scale = pixel_m(source, box.crs) / box.gsd_m
    if resampling == "auto":
        resampling = "average" if scale < 1 / 1.5 else "bilinear"
    given: dict[str, Any] = {"src_nodata": missing} if missing is not None else {"add_alpha": False}
    with WarpedVRT(
        source,
        crs=box.crs,
        transform=from_origin(box.left_m, box.top_m, box.gsd_m, box.gsd_m),
        height=box.height,
        width=box.width,
        resampling=Resampling[resampling],
        nodata=np.nan,
        dtype="float32",
        init_dest_nodata=True,
        tolerance=TOLERANCE_PX,
        XSCALE=scale,  # GDAL would estimate it for each block anew, and a block's edges would show
        YSCALE=scale,
        **given,
    ) as view:
        return np.asarray(view.read(band), np.float32)


def _coincide(source: DatasetReader, box: Box) -> bool:
    """Whether pixels of source and target are the same squares: then every resampling is a copy."""
    a, b, left, d, e, top = tuple(source.transform)[:6]
    shifts = ((box.left_m - left) / box.gsd_m, (top - box.top_m) / box.gsd_m)
    whole = all(abs(shift - round(shift)) < 1e-6 for shift in shifts)
    return whole and (b, d) == (0.0, 0.0) and abs(a - box.gsd_m) < 1e-9 and abs(e + box.gsd_m) < 1e-9


def _copy(source: DatasetReader, band: int, box: Box, missing: float | None) -> NDArray[np.float32]:
    """The source's own pixels, at a third of the time of a warp."""
    from rasterio.windows import Window

    found = np.full((box.height, box.width), np.nan, np.float32)
    column = round((box.left_m - source.transform.c) / box.gsd_m)
    row = round((source.transform.f - box.top_m) / box.gsd_m)
    first = max(row, 0), max(column, 0)
    last = min(row + box.height, source.height), min(column + box.width, source.width)
    if first[0] < last[0] and first[1] < last[1]:
        pixels = source.read(band, window=Window(first[1], first[0], last[1] - first[1], last[0] - first[0]))
        part = found[first[0] - row : last[0] - row, first[1] - column : last[1] - column]
        part[:] = pixels
        if missing is not None and not np.isnan(missing):
            part[pixels == missing] = np.nan
    return found


def pixel_m(source: DatasetReader, crs: str) -> float:
    """Side of a raster's pixels in metres, also where its own coordinates are degrees."""
    if source.crs.is_projected:
        return float(abs(source.transform.a))
    from rasterio.warp import calculate_default_transform

    return float(calculate_default_transform(source.crs, crs, source.width, source.height, *source.bounds)[0].a)
