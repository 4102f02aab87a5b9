"""A data set as one encoder's contract wants it: which modality becomes which, bands by name, units converted exactly.

Converted where a rule is exact: numbers to reflectance by scale and offset (also the offset of Level-1C and of the
newer processing baselines), linear power or amplitude to dB. Everything else is refused, or mapped by the data set's
own statistics where the suite says `normaliser: dataset`, which the result row then names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skyframe.calendar import DAY_UNKNOWN, date_of, day_of
from skyframe.config.contract import Contract
from skyframe.evaluate.benchmarks.places import POSITION_GSD_M
from skyframe.evaluate.datasets.dataset import Dataset, Item, naming
from skyframe.sample import Layout, Sample, Series
from skyframe.spec import InputError, Modality

Normaliser = Literal["pretraining", "dataset"]
Statistics = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Mean and standard deviation per band of a data set's modality, in its units."""

SAME = {
    "red": "B04", "green": "B03", "blue": "B02", "nir": "B08", "swir1": "B11", "swir2": "B12",
    "B04": "red", "B03": "green", "B02": "blue", "B08": "nir", "B11": "swir1", "B12": "swir2",
}  # fmt: skip
"""Bands that stand for each other between sensors of other names."""
GREY = ("ir",)
"""Pictures of one band that an encoder of colours sees as grey: the band as every colour, by statistics."""
FIRST_DAY, LAST_DAY = day_of(date(1972, 7, 23)), day_of(date(2040, 1, 1))
"""From Landsat-1 on; days counted from 1970 by mistake lie beyond the end."""
HOSTS = {
    "rgb": ("hr", "rgb", "s2"), "planet": ("hr", "planet", "s2"), "spot": ("hr", "spot", "s2"),
    "ir": ("ir", "hr"), "hr": ("hr", "s2"), "s2": ("s2", "hr"), "s1": ("s1",), "l8": ("l8", "s2"), "l5": ("l5", "s2"),
}  # fmt: skip
"""What modality of an encoder a data set's modality may become, first match first; by its own name otherwise."""


@dataclass(frozen=True)
class Match:
    """One modality of a data set as one of the encoder's."""

    given: Modality
    want: Modality
    band: tuple[int, ...]  # for each band of `want` its number in `given`, -1 = absent
    rule: Literal["affine", "power", "amplitude", "dataset"]

    @property
    def note(self) -> str:
        """What was fed as what, for the result row."""
        pairs = [self.given.band_names[i] for i in self.band if i >= 0]
        how = "" if self.rule == "affine" else f" by {'statistics' if self.rule == 'dataset' else 'dB'}"
        coarse = "" if self.given.gsd_m == self.want.gsd_m else f" {self.given.gsd_m:g} m as {self.want.gsd_m:g} m"
        return f"{self.given.name}>{self.want.name}:{'+'.join(pairs)}{coarse}{how}"


@dataclass(frozen=True)
class Fit:
    """How each item of a data set becomes a sample of a contract."""

    dataset: Dataset
    contract: Contract
    matches: dict[str, Match]  # by the data set's modality, in its order
    statistics: Statistics  # of the modalities whose rule is `dataset`
    positions: int = 0  # side that every image is resampled to; 0 = pixel by pixel

    @property
    def normaliser(self) -> Normaliser:
        """What stands in the result row: one modality that goes by the data set's statistics decides."""
        return "dataset" if self.statistics else "pretraining"

    @property
    def note(self) -> str:
        """What was fed, for the result row."""
        size = f", resampled to {self.positions} positions" if self.positions else ""
        return f"{self.dataset.name} {' '.join(m.note for m in self.matches.values())}{size}"

    def extent_of(self, fitted: Sample) -> tuple[int, int]:
        """Rows and columns of positions of a sample that this fit has made."""
        for match in self.matches.values():
            if match.want.name in fitted.series and match.want.kind != "weather":
                height, width = fitted.series[match.want.name].values.shape[-2:]
                k = side_px(match.want)
                return height // k, width // k
        raise InputError(f"{self.dataset.name}: an item holds none of {', '.join(self.matches)}; check the data set")

    def label_px(self, fitted: Sample) -> int:
        """Mask pixels per position along a side.

        Raises:
            InputError: images resampled to a number of positions that does not divide them.
        """
        first = next(iter(self.matches.values()))
        mask = next((fitted.targets[k] for k in ("mask", "masks") if k in fitted.targets), None)
        if not self.positions or mask is None:
            return side_px(first.want)
        if mask.shape[-1] != mask.shape[-2] or mask.shape[-1] % self.positions:
            raise InputError(
                f"{self.dataset.name}: masks of {mask.shape[-2]} x {mask.shape[-1]} pixels on {self.positions} "
                "positions, expected a square that they divide; choose another number of positions"
            )
        return mask.shape[-1] // self.positions

    def read(self, item: Item) -> Sample:
        """One item, read and fitted.

        Raises:
            InputError: it cannot be read, or holds something else than its data set says.
        """
        with naming(self.dataset, item):
            return self(self.dataset.read(item))

    def __call__(self, sample: Sample) -> Sample:
        """The sample with the contract's modalities, bands and stored units; targets and place as they were.

        All modalities cover the same whole positions: the first one pixel by pixel, padded with invalid pixels at the
        bottom and right, the others resampled where they do not cover the same number of positions.

        Raises:
            InputError: none of the data set's modalities is in the sample.
        """
        for name in self.matches:
            if name in sample.series:
                check_series(sample.series[name], self.dataset.modalities[name])
        rows, columns = self.extent(sample)
        series: dict[str, Series] = {}
        for name, match in self.matches.items():
            if name in sample.series:
                found = _convert(sample.series[name], match, self.statistics.get(name))
                if match.want.kind != "weather":  # one cell, whatever the place covers
                    found = _onto(found, rows, columns, side_px(match.want), pad=not self.positions)
                series[match.want.name] = found
        return dataclasses.replace(sample, series=series)

    def extent(self, sample: Sample) -> tuple[int, int]:
        """Rows and columns of positions that a sample of the data set covers, the last ones perhaps in part."""
        if self.positions:
            return self.positions, self.positions
        for name, match in self.matches.items():
            if name in sample.series and match.want.kind != "weather":
                height, width = sample.series[name].values.shape[-2:]
                k = side_px(match.want)
                return -(-height // k), -(-width // k)
        return 0, 0

    def layouts(self, side: int, frames: Mapping[str, int]) -> dict[str, Layout]:
        """Batch layout of every modality of the contract for squares of `side` positions."""
        made = {}
        for name, m in self.contract.modalities.items():
            pixels = 1 if m.kind == "weather" else side * side_px(m)
            dates = frames.get(name, 1) if m.kind in ("series", "weather") else 1
            made[name] = Layout(dates, len(m.bands), pixels, "float32")
        return made


def check_series(series: Series, given: Modality) -> None:
    """What every reader owes: as many bands as it says, and days in order and within living memory of satellites.

    Raises:
        InputError: naming the modality; the caller names the item.
    """
    if series.values.shape[1] != len(given.bands):
        raise InputError(
            f"{given.name} has {series.values.shape[1]} bands, expected {len(given.bands)} "
            f"({', '.join(given.band_names)}); check the file"
        )
    days = series.day[series.day != DAY_UNKNOWN].astype(np.int64)
    if (np.diff(days) < 0).any():
        raise InputError(
            f"dates of {given.name} are out of order, expected ascending ones; sort pixels and dates together"
        )
    for day in days[:1].tolist() + days[-1:].tolist():
        if not FIRST_DAY <= day <= LAST_DAY:
            raise InputError(
                f"{given.name} is dated {date_of(day)}, expected {date_of(FIRST_DAY)} to {date_of(LAST_DAY)}; days "
                "count from 2000-01-01"
            )


def side_px(modality: Modality) -> int:
    """Pixels of an encoder's modality along one position."""
    return modality.pixels(POSITION_GSD_M)


def fit(
    dataset: Dataset,
    contract: Contract,
    normaliser: Literal["auto", "pretraining", "dataset"] = "auto",
    only: tuple[str, ...] = (),
    positions: int = 0,
    statistics: Statistics | None = None,
) -> Fit:
    """Match a data set to a contract.

    Args:
        dataset: what the files hold.
        contract: what the encoder was trained on.
        normaliser: `pretraining` refuses what no exact rule converts; `dataset` maps every modality by its own
            statistics over the training part; `auto` the first where it can, the second where it must.
        only: modalities of the data set that may be used; all by default.
        positions: see `Fit`.
        statistics: of the training part, for the modalities that go by them (`training_statistics` measures them).

    Raises:
        InputError: nothing in common, units that no rule converts, or statistics wanted and not given.
    """
    unknown = [n for n in only if n not in dataset.modalities]
    if unknown:
        raise InputError(
            f"{dataset.name}: no modality {unknown[0]!r}, it has {', '.join(dataset.modalities)}; correct the task"
        )
    if positions and dataset.kind in ("boxes", "oriented"):
        raise InputError(
            f"{dataset.name}: positions {positions}, expected 0, as objects are scored in the image's own pixels; "
            "leave it out"
        )
    matches: dict[str, Match] = {}
    for name, given in dataset.modalities.items():
        want = _host(given, contract, {m.want.name for m in matches.values()})
        if want is not None and (not only or name in only):
            matches[name] = _match(given, want, normaliser, dataset.name)
    if not matches:
        raise InputError(
            f"{dataset.name}: holds {_shown(dataset.modalities)}, none of which the encoder takes "
            f"({_shown(contract.modalities)}); score it on another data set or export another module"
        )
    by_statistics = [n for n, m in matches.items() if m.rule == "dataset"]
    missing = [n for n in by_statistics if n not in (statistics or {})]
    if missing and statistics is not None:
        raise InputError(f"{dataset.name}: no statistics of {missing[0]} were measured; measure them first")
    kept = {n: (statistics or {})[n] for n in by_statistics if statistics}
    return Fit(dataset, contract, matches, kept, positions)


def training_statistics(dataset: Dataset, names: list[str], at_most: int = 256) -> Statistics:
    """Mean and standard deviation per band over the valid pixels of the training part.

    Args:
        dataset: whose items are read.
        names: modalities wanted.
        at_most: items read, evenly spread over the part.

    Raises:
        InputError: an item cannot be read.
    """
    part = dataset.part("train")
    chosen = part[:: max(1, len(part) // at_most)][:at_most]
    sums: dict[str, NDArray[np.float64]] = {}
    for item in chosen:
        with naming(dataset, item):
            sample = dataset.read(item)
        for name in names:
            if name in sample.series:
                s, m = sample.series[name], dataset.modalities[name]
                pixels = np.moveaxis(s.values, 1, -1)[s.valid].astype(np.float64) * m.scale + m.offset
                found = np.stack([np.full(pixels.shape[1], len(pixels)), pixels.sum(0), np.square(pixels).sum(0)])
                sums[name] = sums.get(name, np.zeros_like(found)) + found
    made: Statistics = {}
    for name, (count, total, square) in sums.items():
        mean = total / np.maximum(count, 1)
        made[name] = mean, np.sqrt(np.maximum(square / np.maximum(count, 1) - mean**2, 1e-12))
    return made


def _host(given: Modality, contract: Contract, taken: set[str]) -> Modality | None:
    """The modality of the contract that a data set's one becomes, None without one."""
    for name in HOSTS.get(given.name, (given.name,)):
        want = contract.modalities.get(name)
        if want is not None and name not in taken and any(i >= 0 for i in _bands(given, want)):
            return want
    return None


def _bands(given: Modality, want: Modality) -> tuple[int, ...]:
    names = given.band_names
    if given.name in GREY and given.name != want.name:
        return (0,) * len(want.bands)
    return tuple(
        names.index(b) if b in names else names.index(SAME[b]) if SAME.get(b) in names else -1 for b in want.band_names
    )


def _match(given: Modality, want: Modality, normaliser: str, where: str) -> Match:
    band = _bands(given, want)
    is_grey = given.name in GREY and given.name != want.name
    rule: Literal["affine", "power", "amplitude", "dataset"]
    if normaliser == "dataset":
        return Match(given, want, band, "dataset")
    if given.units == want.units and not is_grey:
        rule = "affine"
    elif (given.units, want.units) == ("linear power", "dB"):
        rule = "power"
    elif (given.units, want.units) == ("linear amplitude", "dB"):
        rule = "amplitude"
    elif normaliser == "auto":
        rule = "dataset"
    else:
        raise InputError(
            f"{where}: {given.name} is in {given.units}, the encoder's {want.name} in {want.units}, and no exact rule "
            "turns one into the other; set normaliser: dataset to map them by statistics"
        )
    return Match(given, want, band, rule)


def _convert(
    series: Series, match: Match, statistics: tuple[NDArray[np.float64], NDArray[np.float64]] | None
) -> Series:
    """Bands in the contract's order, in its stored units as float32; pixels without meaning become invalid."""
    given, want = match.given, match.want
    chosen = [i for i in match.band if i >= 0]
    physical = series.values[:, chosen].astype(np.float32) * np.float32(given.scale) + np.float32(given.offset)
    valid = series.valid & np.isfinite(physical).all(1)
    if match.rule in ("power", "amplitude"):
        valid = valid & (physical > 0).all(1)
        factor = 10.0 if match.rule == "power" else 20.0
        physical = factor * np.log10(np.where(physical > 0, physical, 1.0))
    elif match.rule == "dataset":
        assert statistics is not None
        mean, std = (x[chosen].astype(np.float32)[:, None, None] for x in statistics)
        wanted = [k for k, i in enumerate(match.band) if i >= 0]
        want_mean, want_std = (np.array(x, np.float32)[wanted][:, None, None] for x in (want.mean, want.std))
        physical = (physical - mean) / std * want_std + want_mean
    values = np.zeros((len(series.day), len(want.bands), *series.values.shape[-2:]), np.float32)
    seen = np.zeros(len(want.bands), bool)
    at = [k for k, i in enumerate(match.band) if i >= 0]
    values[:, at] = np.where(valid[:, None], (physical - want.offset) / want.scale, 0.0)
    seen[at] = series.bands[chosen]
    return Series(values, valid, series.day, seen)


def _onto(series: Series, rows: int, columns: int, k: int, pad: bool) -> Series:
    """Onto whole positions of k pixels: padded where less than one is missing, resampled otherwise."""
    height, width = series.values.shape[-2:]
    if (height, width) == (rows * k, columns * k):
        return series
    if pad and (-(-height // k), -(-width // k)) == (rows, columns):
        missing = [(0, rows * k - height), (0, columns * k - width)]
        values = np.pad(series.values, [(0, 0), (0, 0), *missing])
        return dataclasses.replace(series, values=values, valid=np.pad(series.valid, [(0, 0), *missing]))
    size = rows * k, columns * k
    values = np.stack([[_resize(band, *size) for band in date] for date in series.values])
    valid = np.stack([_resize(flag.astype(np.float32), *size) > 0.999 for flag in series.valid])
    return dataclasses.replace(series, values=values, valid=valid)


def _resize(plane: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Bilinear, over the area of the source pixels where it shrinks."""
    image = Image.fromarray(plane.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32)


def _shown(modalities: Mapping[str, Modality]) -> str:
    return "; ".join(f"{n} with {', '.join(m.band_names[:4])}" for n, m in modalities.items())
