"""EuroSAT RGB: 64 x 64 chips of ten classes in folders, real Sentinel-2 visual images of Europe.

The chips are 8-bit visual values, not reflectance: per band, the data set's mean and standard deviation are mapped
onto the contract's, and the normaliser is named `dataset`.

Source: Helber et al., EuroSAT, IEEE JSTARS 2019.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from skyframe.calendar import DAY_UNKNOWN
from skyframe.config.contract import Contract
from skyframe.config.evaluate import EuroSatData
from skyframe.evaluate.benchmarks.places import side_of
from skyframe.evaluate.features import TEST, TRAIN, VAL, Inputs, watched
from skyframe.evaluate.protocol import digest
from skyframe.sample import Layout, Sample, Series
from skyframe.spec import InputError, Modality

CHIP_PX = 64
RGB = {"s2": ("B04", "B03", "B02"), "hr": ("red", "green", "blue")}
"""Which bands of which modality the red, green and blue of a chip become, first match first."""

Chip = NDArray[np.uint8]


def load_eurosat(data: EuroSatData, contract: Contract, show_progress: bool = True) -> Inputs:
    """Read chips and cut them into tiles for an encoder's contract.

    With Sentinel-2 in the contract a chip's red, green and blue are its B04, B03 and B02, all other bands and
    modalities absent; otherwise they are the high-resolution image, enlarged to the contract's crop.

    Raises:
        InputError: folder, class folders or images missing or unreadable, or an encoder without optical bands.
    """
    files, split = list_chips(Path(data.root), data.images_per_class)
    classes = tuple(sorted({f.parent.name for f in files}))
    modality = _target(contract)
    side = data.tile_px or min(contract.crop_px, CHIP_PX)
    if not contract.min_side_px <= side <= CHIP_PX:
        raise InputError(
            f"data.eurosat.tile_px: {side}, expected {contract.min_side_px} (the encoder's smallest side) to {CHIP_PX}"
        )
    chips = np.stack([_read(f) for f in watched(files, "reading EuroSAT", show_progress)])
    part = np.array(split, np.int64)
    train = chips[part == TRAIN].reshape(-1, 3).astype(np.float64)
    statistics = train.mean(0), train.std(0).clip(1e-6)
    pieces = [
        _tiles(c, side, data.tiles_per_image) if modality.name == "s2" else [_enlarge(c, side_of(modality, side))]
        for c in chips
    ]
    samples: list[Sample] = []
    row: list[int] = []
    for i, tiles in enumerate(pieces):
        for tile in tiles:
            samples.append(_sample(tile, modality, statistics, len(samples)))
            row.append(i)
    bands = "+".join(RGB[modality.name])
    fed = f"{modality.name}:{bands} of 8-bit RGB, {len(pieces[0])} tile(s) of {side} positions, day and place unknown"
    labels = np.array([[classes.index(f.parent.name)] for f in files], np.int64)
    return Inputs(
        samples=samples,
        layouts={n: Layout(1, len(m.bands), side_of(m, side), m.dtype) for n, m in contract.modalities.items()},
        row=np.array(row, np.int64),
        part=part,
        cluster=np.arange(len(files)),
        positions=np.empty((len(samples), 0), np.int64),
        truth={"": labels},
        classes={"": classes},
        source=f"eurosat {fed}",
        normaliser="dataset",
        split=digest([(f.parent.name, f.name, p) for f, p in zip(files, split, strict=True)]),
        side_px=side,
    )


def list_chips(root: Path, per_class: int) -> tuple[list[Path], list[int]]:
    """Chips in a fixed order, at most `per_class` of each class, and the part of each: 60 % train, 20 % validation,
    20 % test by a hash of class and file name, so that no list of files need travel."""
    if not root.is_dir():
        raise InputError(f"data.eurosat.root: no folder {str(root)!r}, expected one holding <Class>/<name>.jpg")
    folders = sorted(p for p in root.iterdir() if p.is_dir())
    if len(folders) == 1 and not any(folders[0].glob("*.jpg")):
        return list_chips(folders[0], per_class)
    files: list[Path] = []
    for folder in folders:
        found = sorted(folder.glob("*.jpg"), key=_hash)
        if not found:
            raise InputError(f"data.eurosat.root: no .jpg in {str(folder)!r}, expected one folder of chips per class")
        files += found[:per_class]
    if len(folders) < 2:
        raise InputError(f"data.eurosat.root: {len(folders)} class folders in {str(root)!r}, expected at least two")
    return files, [_part(f) for f in files]


def _hash(path: Path) -> int:
    return int.from_bytes(hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).digest()[:8], "big")


def _part(path: Path) -> int:
    bucket = int.from_bytes(hashlib.sha256(f"split {path.parent.name}/{path.name}".encode()).digest()[:8], "big") % 10
    return TRAIN if bucket < 6 else VAL if bucket < 8 else TEST


def _target(contract: Contract) -> Modality:
    for name, bands in RGB.items():
        if name in contract.modalities and set(bands) <= set(contract.modalities[name].band_names):
            return contract.modalities[name]
    raise InputError(
        f"eurosat: the encoder takes {', '.join(contract.modalities)}, expected s2 or hr with red, green and blue bands"
    )


def _read(path: Path) -> Chip:
    try:
        with Image.open(path) as image:
            chip = np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{path}: not a readable JPEG ({error}); fetch the file again") from error
    if chip.shape != (CHIP_PX, CHIP_PX, 3):
        raise InputError(f"{path}: {chip.shape[0]} x {chip.shape[1]} pixels, expected {CHIP_PX} x {CHIP_PX}")
    return chip


def _tiles(chip: Chip, side: int, count: int) -> list[Chip]:
    """The `count` tiles nearest the chip's centre, of those that fit."""
    per_side = CHIP_PX // side
    edge = (CHIP_PX - per_side * side) // 2
    middle = (per_side - 1) / 2
    order = sorted(((y - middle) ** 2 + (x - middle) ** 2, y, x) for y in range(per_side) for x in range(per_side))
    return [
        chip[edge + y * side : edge + (y + 1) * side, edge + x * side : edge + (x + 1) * side]
        for _, y, x in order[:count]
    ]


def _enlarge(chip: Chip, side: int) -> Chip:
    return np.asarray(Image.fromarray(chip).resize((side, side), Image.Resampling.BICUBIC))


def _sample(
    tile: Chip, modality: Modality, statistics: tuple[NDArray[np.float64], NDArray[np.float64]], index: int
) -> Sample:
    """One tile as a single frame in stored units, the bands that RGB lacks flagged absent."""
    names = modality.band_names
    number = [names.index(b) for b in RGB[modality.name]]
    mean, std = np.array(modality.mean)[number], np.array(modality.std)[number]
    physical = (tile - statistics[0]) / statistics[1] * std + mean
    stored = (physical - modality.offset) / modality.scale
    dtype = np.dtype(modality.dtype)
    if dtype.kind in "iu":
        stored = np.clip(np.rint(stored), np.iinfo(dtype).min, np.iinfo(dtype).max)
    values = np.zeros((1, len(names), *tile.shape[:2]), dtype)
    values[0, number] = np.moveaxis(stored, -1, 0).astype(dtype)
    bands = np.isin(np.arange(len(names)), number)
    series = Series(values, np.ones((1, *tile.shape[:2]), bool), np.full(1, DAY_UNKNOWN, np.int32), bands)
    return dataclasses.replace(Sample({modality.name: series}, np.zeros(2), -1), index=index)
