"""What an ingester hands over: a place, layers that are read block by block, and what is known about the files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import CRS
from pyproj.exceptions import CRSError

from skyframe.geography import check_crs
from skyframe.spec import CubeSpec, Grid, InputError, Modality

Block = tuple[NDArray[Any], NDArray[np.uint8]]
"""Values `[T, C, h, w]` in the stored dtype and flags `[T, h, w]` (see `units`)."""

POINTER_HEADS = (b"version https://git-lfs", b"/annex/objects/", b"../.git/annex", b".git/annex/objects")


@dataclass(frozen=True)
class Layer:
    """One modality of a source.

    `days` int32 `[T]`; `shape_px` rows and columns; `read(y_px, x_px, height_px, width_px)` gives one block.
    `block_px` is the side of the blocks to read, whole shards (0: one shard); a source that sets it is costly to read
    and is checked block by block as it is written, not beforehand.
    """

    modality: Modality
    days: NDArray[np.int32]
    shape_px: tuple[int, int]
    read: Callable[[int, int, int, int], Block]
    block_px: int = 0


@dataclass(frozen=True)
class Source:
    """One place as its files describe it; `about` is kept in the cube's manifest, `labels` become truth layers."""

    grid: Grid
    layers: tuple[Layer, ...]
    about: dict[str, Any]
    labels: dict[str, NDArray[Any]] = field(default_factory=dict)


def check_file(path: Path, magics: Sequence[bytes], wanted: str) -> bytes:
    """The magic bytes a file begins with; refuses an absent file, a git-lfs or git-annex pointer, another format.

    Args:
        path: the file.
        magics: byte strings, one of which the file must begin with.
        wanted: the format in words, for the message.

    Raises:
        InputError: with what was found and what to do.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected a {wanted} file; check the path")
    with path.open("rb") as stream:
        head = stream.read(64)
    if any(head.startswith(h) or (h in head and path.stat().st_size < 1024) for h in POINTER_HEADS):
        raise InputError(
            f"{path.name}: is a git-lfs or git-annex pointer file of {path.stat().st_size} bytes, expected the "
            f"{wanted} "
            "file it stands for; fetch the content (git lfs pull, git annex get)"
        )
    for magic in magics:
        if head.startswith(magic):
            return magic
    raise InputError(f"{path.name}: begins with {head[:8]!r}, expected a {wanted} file; check which file was given")


def describe_files(kind: str, paths: Sequence[Path]) -> dict[str, Any]:
    """Kind, and name, bytes and SHA-256 of every source file: a restart on other files is then noticed."""
    files = []
    for path in paths:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        files.append({"name": path.name, "bytes": path.stat().st_size, "sha256": digest})
    return {"kind": kind, "files": files}


def short_crs(wkt: str, where: str) -> str:
    """`EPSG:<code>` where the coordinate reference system has one, else its WKT; must be projected, in metres.

    Raises:
        InputError: not a coordinate reference system, or one in degrees.
    """
    try:
        crs = CRS.from_user_input(wkt)
    except CRSError as error:
        raise InputError(
            f"{where}: {wkt[:40]!r} is not a coordinate reference system, expected WKT of a UTM zone; repair the file"
        ) from error
    code = crs.to_epsg()
    name = f"EPSG:{code}" if code else crs.to_wkt()
    try:
        check_crs(name)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return name


def check_modalities(spec: CubeSpec, kind: str, known: Sequence[str]) -> None:
    """Refuse a spec that asks for a modality which this kind of source never has."""
    strange = [m for m in spec.modalities if m not in known]
    if strange:
        raise InputError(
            f"spec {spec.name}: a {kind} source has no modality {', '.join(strange)}, expected some of "
            f"{', '.join(known)}; take it out of the spec"
        )
