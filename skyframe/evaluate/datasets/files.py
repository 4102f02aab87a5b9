"""Opening files that strangers made: images, rasters, arrays, XML and lists, each refused in one sentence.

Nothing here executes what it reads, follows a path out of its folder, or takes memory that the file merely claims.
"""

from __future__ import annotations

import csv
import io
import json
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skyframe.spec import InputError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from rasterio.io import DatasetReader

MAX_PIXELS = 160_000_000
"""Of an image that is decoded whole: above the largest of any benchmark (10,000 x 10,000), below 0.5 GB as RGB."""
MAX_BYTES = 1_000_000_000
"""Of a raster that is decoded at once, all bands together."""
MAX_TEXT = 64_000_000
"""Bytes of a text file that is read whole, such as an annotation or a list of a million names."""
_OPENING = threading.Lock()
"""Held while a file is opened: what Pillow and rasterio warn of then is switched for the whole process."""


def read_image(path: Path, mode: str = "RGB") -> NDArray[np.uint8]:
    """A JPEG, PNG or 8-bit TIFF as uint8 `[C, H, W]`, or `[H, W]` for mode `L` and for `P`, a palette's numbers.

    Raises:
        InputError: missing, empty, cut off, not an image, or more than `MAX_PIXELS`.
    """
    need_file(path)
    try:
        with _unlimited(path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise InputError(
                    f"{path}: {width} x {height} pixels, expected at most {MAX_PIXELS:,} of one image that is decoded "
                    "whole; cut it into tiles"
                )
            pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    except InputError:
        raise
    except Exception as error:  # a damaged header fails in ways that no list of errors holds
        raise InputError(f"{path}: not a readable image ({short(error)}); fetch the file again") from error
    return pixels if pixels.ndim == 2 else np.ascontiguousarray(np.moveaxis(pixels, -1, 0))


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image, from its header alone.

    Raises:
        InputError: as `read_image`, but for pixels that are cut off.
    """
    need_file(path)
    try:
        with _unlimited(path) as image:
            return image.size[1], image.size[0]
    except Exception as error:
        raise InputError(f"{path}: not a readable image ({short(error)}); fetch the file again") from error


def _unlimited(path: Path) -> Image.Image:
    """Open without Pillow's own limit, which warns of large images instead of refusing them; ours follows.

    Its warnings of odd tags are kept back too: whether the pixels are whole shows when they are decoded.
    """
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def read_raster(
    path: Path, bands: Sequence[int] = (), window: tuple[int, int, int, int] | None = None
) -> NDArray[np.generic]:
    """A GeoTIFF in its stored dtype, `[C, H, W]`.

    Args:
        path: the file.
        bands: numbers from 1 in the order wanted; all by default.
        window: first row, first column, rows and columns; the whole by default. A tiled file is read tile by tile, so
            that one of any size takes the memory of the window.

    Raises:
        InputError: missing, empty, damaged, without one of the bands or part of the window, or more than `MAX_PIXELS`
            or `MAX_BYTES` at once.
    """
    from rasterio.windows import Window

    with _raster(path) as file:
        top, left, height, width = window or (0, 0, file.height, file.width)
        if bands and not 1 <= min(bands) <= max(bands) <= file.count:
            raise InputError(
                f"{path}: {file.count} bands, expected at least {max(bands)}; it is not the file that its name says"
            )
        if min(top, left) < 0 or top + height > file.height or left + width > file.width:
            raise InputError(
                f"{path}: {file.height} x {file.width} pixels, expected the window of {height} x {width} from "
                f"{top}, {left} on inside; fetch the file again"
            )
        strip = max(h * w for h, w in file.block_shapes)  # decoded whole, however small the window
        size = np.dtype(file.dtypes[0]).itemsize
        if max(height * width, strip) > MAX_PIXELS or height * width * size * (len(bands) or file.count) > MAX_BYTES:
            raise InputError(
                f"{path}: {width} x {height} pixels in {len(bands) or file.count} bands at once, in blocks of "
                f"{strip:,}, expected at most {MAX_PIXELS:,} pixels and {MAX_BYTES:,} bytes; cut it into tiles"
            )
        values: NDArray[np.generic] = file.read(list(bands) or None, window=Window(left, top, width, height))
        return values


def raster_shape(path: Path) -> tuple[int, int, int]:
    """Bands, height and width of a GeoTIFF, from its header alone."""
    with _raster(path) as file:
        return file.count, file.height, file.width


@contextmanager
def _raster(path: Path) -> Iterator[DatasetReader]:
    """Open as GeoTIFF and as nothing else: some of GDAL's other formats name further files, or addresses, to read."""
    import rasterio

    need_file(path)
    try:
        with _OPENING, warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            opened = rasterio.open(path, driver="GTiff")
        with opened as file:
            yield file
    except rasterio.errors.RasterioError as error:
        raise InputError(f"{path}: not a readable raster ({short(error)}); fetch the file again") from error


def read_npy(path: Path) -> NDArray[np.generic]:
    """An array of numbers; one of Python objects, which could run anything, or shorter than it claims is refused."""
    need_file(path)
    try:
        # Mapped first: plain reading takes the memory that the header claims before it looks how long the file is.
        values: NDArray[np.generic] = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except Exception as error:  # the header is parsed as Python text, which fails in many ways
        raise InputError(f"{path}: not a readable array of numbers ({short(error)}); fetch the file again") from error
    return values


def read_xml(path: Path) -> Element:
    """The root of an XML file; one with its own entities or document type, which could grow without end, is refused."""
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    text = read_text(path)
    try:
        root: Element = fromstring(text, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise InputError(
            f"{path}: not XML of plain elements ({short(error)}), expected annotations without a document type; fetch "
            "the file again"
        ) from error
    return root


def read_json(path: Path) -> Any:
    """A JSON file."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({short(error)}); fetch the file again") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a list, stripped, without empty ones."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV with a header line that names at least `columns`."""
    reader = csv.DictReader(io.StringIO(read_text(path)))
    try:
        missing = [c for c in columns if c not in (reader.fieldnames or ())]
        if missing:
            raise InputError(
                f"{path}: no column {', '.join(missing)}, got {', '.join(reader.fieldnames or ()) or 'none'}; it is "
                "not the file that its name says"
            )
        rows: list[dict[str, str]] = []
        for row in reader:
            if None in row or None in row.values():
                raise InputError(
                    f"{path}: line {reader.line_num} has too {'many' if None in row else 'few'} columns, expected "
                    f"{len(reader.fieldnames or ())}; fetch the file again"
                )
            rows.append(row)
    except csv.Error as error:
        raise InputError(f"{path}: not a table ({short(error)}); fetch the file again") from error
    return rows


def read_text(path: Path) -> str:
    """A whole text file in UTF-8, of at most `MAX_TEXT` bytes."""
    need_file(path)
    if path.stat().st_size > MAX_TEXT:
        raise InputError(f"{path}: {path.stat().st_size:,} bytes, expected text of at most {MAX_TEXT:,}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text ({error.reason} at byte {error.start}); fetch the file again") from error
    if "\0" in text:
        raise InputError(f"{path}: not text (a NUL byte at character {text.index(chr(0))}); fetch the file again")
    return text


def need_file(path: Path) -> None:
    """Refuse what is missing or empty."""
    try:
        there = path.is_file()
    except OSError as error:  # such as a name that is too long for the disk
        raise InputError(f"{path}: {error.strerror}; it is no name of a file") from error
    if not there:
        raise InputError(f"{path}: no such file; give the folder that holds the whole data set")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: 0 bytes, the download broke off; fetch the file again")


def short(error: Exception) -> str:
    """What a library said, on one line."""
    return (" ".join(str(error).split()) or type(error).__name__)[:160]
