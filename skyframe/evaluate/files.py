"""Opening files that strangers made: images, rasters, arrays, XML, lists and archives, each refused in one sentence.

Nothing here executes what it reads, follows a path out of its folder, or takes memory that the file merely claims.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skyframe.spec import InputError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MAX_PIXELS = 160_000_000
"""Of an image that is decoded whole: above the largest of any benchmark (10,000 x 10,000), below 0.5 GB as RGB."""
MAX_TEXT = 64_000_000
"""Bytes of a text file that is read whole, such as an annotation or a list of a million names."""
MAX_UNPACKED = 200
"""An archive may grow by this factor at most; real ones of images hardly grow at all, text by ten."""


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
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a readable image ({_short(error)}); fetch the file again") from error
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
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: not a readable image ({_short(error)}); fetch the file again") from error


def _unlimited(path: Path) -> Image.Image:
    """Open without Pillow's own limit, which warns of large images instead of refusing them; ours follows."""
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
        InputError: missing, empty, damaged, without one of the bands, or more than `MAX_PIXELS` at once.
    """
    import rasterio
    from rasterio.windows import Window

    need_file(path)
    try:
        with rasterio.open(path) as file:
            height, width = window[2:] if window else (file.height, file.width)
            if height * width > MAX_PIXELS:
                raise InputError(
                    f"{path}: {width} x {height} pixels at once, expected at most {MAX_PIXELS:,}; read it by windows"
                )
            if bands and max(bands) > file.count:
                raise InputError(
                    f"{path}: {file.count} bands, expected at least {max(bands)}; it is not the file that its name says"
                )
            at = Window(window[1], window[0], window[3], window[2]) if window else None
            values: NDArray[np.generic] = file.read(list(bands) or None, window=at)
            return values
    except rasterio.errors.RasterioError as error:
        raise InputError(f"{path}: not a readable raster ({_short(error)}); fetch the file again") from error


def raster_shape(path: Path) -> tuple[int, int, int]:
    """Bands, height and width of a GeoTIFF, from its header alone."""
    import rasterio

    need_file(path)
    try:
        with rasterio.open(path) as file:
            return file.count, file.height, file.width
    except rasterio.errors.RasterioError as error:
        raise InputError(f"{path}: not a readable raster ({_short(error)}); fetch the file again") from error


def read_npy(path: Path) -> NDArray[np.generic]:
    """An array of numbers; one of Python objects, which could run anything, is refused."""
    need_file(path)
    try:
        values: NDArray[np.generic] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not a readable array of numbers ({_short(error)}); fetch the file again") from error
    return values


def read_xml(path: Path) -> Element:
    """The root of an XML file; one with its own entities or document type, which could grow without end, is refused."""
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        root: Element = fromstring(read_text(path), forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise InputError(
            f"{path}: not XML of plain elements ({_short(error)}), expected annotations without a document type; fetch "
            "the file again"
        ) from error
    return root


def read_json(path: Path) -> Any:
    """A JSON file."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({_short(error)}); fetch the file again") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a list, stripped, without empty ones."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV with a header line that names at least `columns`."""
    reader = csv.DictReader(io.StringIO(read_text(path)))
    missing = [c for c in columns if c not in (reader.fieldnames or ())]
    if missing:
        raise InputError(
            f"{path}: no column {', '.join(missing)}, got {', '.join(reader.fieldnames or ()) or 'none'}; it is not "
            "the file that its name says"
        )
    rows = list(reader)
    short = next((i for i, row in enumerate(rows, 2) if any(row[c] is None for c in columns)), None)
    if short is not None:
        raise InputError(f"{path}: line {short} has too few columns; fetch the file again")
    return rows


def read_text(path: Path) -> str:
    """A whole text file in UTF-8, of at most `MAX_TEXT` bytes."""
    need_file(path)
    if path.stat().st_size > MAX_TEXT:
        raise InputError(f"{path}: {path.stat().st_size:,} bytes, expected text of at most {MAX_TEXT:,}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not text ({error.reason} at byte {error.start}); fetch the file again") from error


def need_file(path: Path) -> None:
    """Refuse what is missing or empty."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give the folder that holds the whole data set")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: 0 bytes, the download broke off; fetch the file again")


def unpack(archive: Path, folder: Path) -> list[Path]:
    """Unpack a zip archive, all of it or nothing; members that are there already with their full size are left.

    Raises:
        InputError: a member that would land outside `folder` or is a link, an archive that would grow by more than
            `MAX_UNPACKED`, or one that is damaged.
    """
    need_file(archive)
    try:
        with zipfile.ZipFile(archive) as file:
            members = [m for m in file.infolist() if not m.is_dir()]
            for member in members:
                _check_member(archive, member)
            grown = sum(m.file_size for m in members)
            if grown > MAX_UNPACKED * archive.stat().st_size:
                raise InputError(
                    f"{archive}: would grow from {archive.stat().st_size:,} to {grown:,} bytes, expected at most "
                    f"{MAX_UNPACKED} times; it is not an archive of data"
                )
            made = [folder / member.filename for member in members]
            for member, path in zip(members, made, strict=True):
                if not (path.is_file() and path.stat().st_size == member.file_size):
                    file.extract(member, folder)
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise InputError(f"{archive}: not a readable zip archive ({_short(error)}); fetch the file again") from error
    return made


def _check_member(archive: Path, member: zipfile.ZipInfo) -> None:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or is_link:
        raise InputError(
            f"{archive}: member {member.filename!r} {'is a link' if is_link else 'leads out of its folder'}, "
            "expected plain files below it; do not trust this archive"
        )


def _short(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:160]
