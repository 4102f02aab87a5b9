"""A tiled GeoTIFF or COG, read tile by tile: its header once, then one byte range and one decode per tile.

GDAL opens a file anew for every read of every process and copies through its block cache; a window of 20 dates and 10
bands is 200 files. Here a header is a few hundred bytes that stay in memory while the file is in use.

Source of the format: TIFF 6.0 (Adobe 1992), BigTIFF (libtiff), GeoTIFF 1.1 (OGC 19-008r4).
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.data.archive.pool import OpenedPool
from skyframe.data.archive.tiled import damaged
from skyframe.data.store import Blob, Store
from skyframe.spec import InputError

WIDTH, HEIGHT, BITS, COMPRESSION = 256, 257, 258, 259
STRIP_OFFSETS, SAMPLES, STRIP_ROWS, STRIP_BYTES, PLANAR, PREDICTOR = 273, 277, 278, 279, 284, 317
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, SAMPLE_FORMAT = 322, 323, 324, 325, 339
PIXEL_SCALE, TIE_POINT, GEO_KEYS, GDAL_NODATA = 33550, 33922, 34735, 42113
HEAD_BYTES = 16384
"""Read at once when a file is opened: a COG keeps its directory there."""

RASTER_TYPE, GEOGRAPHIC_CRS, PROJECTED_CRS = 1025, 2048, 3072

TYPES = {1: "u1", 2: "u1", 3: "u2", 4: "u4", 6: "i1", 8: "i2", 9: "i4", 11: "f4", 12: "f8", 16: "u8", 17: "i8"}
CODECS = {1: "none", 5: "lzw", 8: "deflate", 32946: "deflate", 50000: "zstd"}
KINDS = {1: "u", 2: "i", 3: "f"}


@dataclass(frozen=True)
class Frame:
    """Where the pixels of a file lie: rows and columns, north-up transform (x0, dx, y0, dy), `EPSG:<code>` or ""."""

    shape: tuple[int, int]
    transform: tuple[float, float, float, float]
    crs: str


@dataclass(frozen=True)
class Header:
    """What a TIFF says of its full-resolution image; offsets and byte counts by `[tile row, tile column(, sample)]`."""

    frame: Frame
    tile: tuple[int, int]
    samples: int
    planar: bool
    dtype: str
    codec: str
    predictor: int
    nodata: float | None
    offsets: NDArray[np.uint64]
    counts: NDArray[np.uint64]


@dataclass(frozen=True)
class _OpenTiff:
    blob: Blob
    header: Header

    def close(self) -> None:
        self.blob.close()


@dataclass(frozen=True)
class TiffArray:
    """See `Tiled`: axes y, x, and band where the file has several samples."""

    store: Store
    key: str
    pool: OpenedPool

    @property
    def _opened(self) -> _OpenTiff:
        return self.pool.get(self.store, self.key, lambda: _open(self.store, self.key))

    @property
    def header(self) -> Header:
        """Its header.

        Raises:
            InputError: no such file, or no TIFF that is read here.
        """
        return self._opened.header

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Tiled`."""
        return self.header.frame.shape + ((self.header.samples,) if self.header.samples > 1 else ())

    @property
    def chunk(self) -> tuple[int, ...]:
        """See `Tiled`."""
        depth = 1 if self.header.planar else self.header.samples
        return self.header.tile + ((depth,) if self.header.samples > 1 else ())

    @property
    def roles(self) -> tuple[str, ...]:
        """See `Tiled`."""
        return ("y", "x", "band") if self.header.samples > 1 else ("y", "x")

    @property
    def numpy_dtype(self) -> np.dtype[np.generic]:
        """See `Tiled`."""
        return np.dtype(self.header.dtype)

    @property
    def fill(self) -> float:
        """See `Tiled`."""
        return self.header.nodata or 0.0

    def scratch(self) -> tuple[NDArray[np.uint8], NDArray[np.generic]]:
        """See `Tiled`."""
        flat = self.pool.room("decoded", math.prod(self.chunk) * self.numpy_dtype.itemsize)
        return flat, flat.view(self.numpy_dtype).reshape(self.chunk)

    def fetch(self, number: tuple[int, ...]) -> Any:
        """See `Tiled`. A tile of no bytes is one that GDAL left out as empty (sparse file)."""
        opened = self._opened
        header = opened.header
        at = number if header.planar and header.samples > 1 else number[:2]
        offset, count = int(header.offsets[at]), int(header.counts[at])
        if not count:
            return None
        packed = opened.blob.fetch([(offset, count)])[0]
        if len(packed) != count:
            raise damaged(self.store, self.key, number, f"has {len(packed)} of {count} bytes: the file was truncated")
        return packed

    def decode(self, number: tuple[int, ...], packed: Any, flat: NDArray[np.uint8]) -> None:
        """See `Tiled`."""
        header = self.header
        try:
            decode_tile(header, packed, flat, self.chunk)
        except Exception as error:  # every codec has errors of its own
            what = f"does not decode from its {len(packed)} bytes ({' '.join(str(error).split())})"
            raise damaged(self.store, self.key, number, what) from error

    def file_of(self, number: tuple[int, ...]) -> str:
        """See `Tiled`."""
        return self.key


def decode_tile(header: Header, packed: Any, flat: NDArray[np.uint8], shape: tuple[int, ...]) -> None:
    """Undo compression and predictor of one tile.

    Args:
        header: of its file.
        packed: its bytes.
        flat: what is filled, all of it.
        shape: of the tile, `[h, w]` or `[h, w, samples]`.

    Raises:
        ValueError: the bytes are too few.
    """
    from imagecodecs import delta_decode, floatpred_decode

    if header.codec == "none":
        done: Any = np.frombuffer(packed, np.uint8)
        flat[: len(done)] = done
    else:
        done = _codec(header.codec)(packed, out=flat)
    if len(done) != len(flat):
        raise ValueError(f"{len(done)} bytes, expected {len(flat)}")
    pixels = flat.view(header.dtype).reshape(shape)
    if header.predictor == 2:
        delta_decode(pixels, axis=1, out=pixels)
    elif header.predictor == 3:
        depth = shape[2] if len(shape) > 2 else 1
        rows = pixels.reshape(shape[0], -1)
        rows[...] = floatpred_decode(rows.copy(), axis=1, dist=depth)


@functools.cache
def _codec(name: str) -> Callable[..., Any]:
    from imagecodecs import deflate_decode, lzw_decode, zstd_decode

    decoder: Callable[..., Any] = {"deflate": deflate_decode, "lzw": lzw_decode, "zstd": zstd_decode}[name]
    return decoder


def _open(store: Store, key: str) -> _OpenTiff:
    where = f"{key} in {store.url}"
    try:
        import imagecodecs  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{where}: reading GeoTIFF in place needs imagecodecs; pip install skyframe-eo[archive]"
        ) from error
    try:
        blob = store.open(key)
    except FileNotFoundError as error:
        raise InputError(f"{where}: no such file, expected one that the list of scenes names; restore it") from error
    try:
        return _OpenTiff(blob, _parse(blob, where))
    except (KeyError, IndexError, struct.error, ValueError) as error:
        blob.close()
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{where}: no readable GeoTIFF ({error}), expected a tiled GeoTIFF; restore the file"
        ) from error


def _parse(blob: Blob, where: str) -> Header:
    tags, order = _tags(blob)
    height, width = int(tags[HEIGHT][0]), int(tags[WIDTH][0])
    samples, planar = int(tags.get(SAMPLES, [1])[0]), int(tags.get(PLANAR, [1])[0]) == 2
    compression, predictor = int(tags.get(COMPRESSION, [1])[0]), int(tags.get(PREDICTOR, [1])[0])
    tiled = TILE_WIDTH in tags
    bits, kinds = {int(b) for b in tags[BITS]}, {int(k) for k in tags.get(SAMPLE_FORMAT, [1])}
    layout = "tiles" if tiled else "strips"
    if not tiled or compression not in CODECS or len(bits) > 1 or len(kinds) > 1 or not kinds <= set(KINDS):
        raise InputError(
            f"{where}: compression {compression}, {sorted(bits)} bits, sample formats {sorted(kinds)} in {layout}, "
            "expected tiles of deflate, zstd, LZW or no compression and one number type; convert it by "
            "gdal_translate -of COG"
        )
    tile = int(tags[TILE_HEIGHT][0]), int(tags[TILE_WIDTH][0])
    counts = -(-height // tile[0]), -(-width // tile[1])
    grid = (samples, *counts) if planar and samples > 1 else counts
    offsets, sizes = (
        np.moveaxis(tags[tag].astype("u8").reshape(grid), 0, -1)
        if len(grid) == 3
        else tags[tag].astype("u8").reshape(grid)
        for tag in (TILE_OFFSETS, TILE_BYTES)
    )
    nodata = bytes(tags[GDAL_NODATA]).rstrip(b"\0 ").decode() if GDAL_NODATA in tags else ""
    frame = Frame((height, width), _transform(tags, where), _crs(tags))
    dtype = np.dtype(f"{order}{KINDS[kinds.pop()]}{bits.pop() // 8}").str
    return Header(
        frame,
        tile,
        samples,
        planar,
        dtype,
        CODECS[compression],
        predictor,
        float(nodata) if nodata else None,
        offsets,
        sizes,
    )


def _tags(blob: Blob) -> tuple[dict[int, NDArray[Any]], str]:
    """Tags of the first directory, each as an array, and the byte order."""
    first = bytes(blob.fetch([(0, HEAD_BYTES)])[0])

    def fetch(start: int, length: int) -> bytes:
        return (
            first[start : start + length] if start + length <= len(first) else bytes(blob.fetch([(start, length)])[0])
        )

    head = first[:16]
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    version = struct.unpack_from(f"{order or '<'}H", head, 2)[0]
    if order is None or version not in (42, 43):
        raise ValueError(f"begins with {head[:4]!r}")
    big = version == 43
    start = struct.unpack_from(f"{order}Q", head, 8)[0] if big else struct.unpack_from(f"{order}I", head, 4)[0]
    count_form, entry, inline = ("Q", "HHQ", 8) if big else ("H", "HHI", 4)
    width, step = struct.calcsize(f"{order}{count_form}"), struct.calcsize(f"{order}{entry}") + inline
    number = struct.unpack(f"{order}{count_form}", fetch(start, width))[0]
    table = fetch(start + width, number * step)
    tags: dict[int, NDArray[Any]] = {}
    for at in range(0, number * step, step):
        tag, kind, count = struct.unpack_from(f"{order}{entry}", table, at)
        if kind not in TYPES:
            continue
        dtype = np.dtype(f"{order}{TYPES[kind]}")
        size = dtype.itemsize * count
        content = table[at + step - inline : at + step][:size]
        if size > inline:
            place = struct.unpack_from(f"{order}{'Q' if big else 'I'}", table, at + step - inline)[0]
            content = fetch(place, size)
        tags[tag] = np.frombuffer(content, dtype, count)
    return tags, order


def _transform(tags: dict[int, NDArray[Any]], where: str) -> tuple[float, float, float, float]:
    if PIXEL_SCALE not in tags or TIE_POINT not in tags or len(tags[TIE_POINT]) != 6:
        raise InputError(
            f"{where}: no north-up georeference, expected a pixel scale and a tie point; warp it by gdalwarp"
        )
    dx, dy = (float(v) for v in tags[PIXEL_SCALE][:2])
    column, row, _, x, y, _ = (float(v) for v in tags[TIE_POINT])
    half = 0.5 if _geo_key(tags, RASTER_TYPE) == 2 else 0.0  # a tie point at the pixel's centre
    return x - (column + half) * dx, dx, y + (row + half) * dy, -dy


def _crs(tags: dict[int, NDArray[Any]]) -> str:
    for key in (PROJECTED_CRS, GEOGRAPHIC_CRS):
        code = _geo_key(tags, key)
        if code is not None and 1024 <= code < 32767:
            return f"EPSG:{code}"
    return ""


def _geo_key(tags: dict[int, NDArray[Any]], wanted: int) -> int | None:
    keys = tags.get(GEO_KEYS, np.zeros(0, "u2")).reshape(-1, 4)[1:]
    for key, place, _, value in keys.tolist():
        if key == wanted and place == 0:
            return int(value)
    return None
