"""What a cube family is (`CubeSpec`, `Modality`, `Band`), where a store lies (`Grid`), what to read (`Window`).

Torch-free and cheap to import: listings, `--help` and the launcher use it on login nodes.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import math
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

Kind = Literal["image", "series", "static", "weather"]
KINDS: tuple[str, ...] = typing.get_args(Kind)


class InputError(ValueError):
    """Bad input from the user: the message is one sentence with subject, place, expected, got and remedy.

    The command line prints it without a traceback and exits with code 2.
    """


@dataclass(frozen=True)
class Band:
    """One band of a modality; `wavelength_um` is its central wavelength in micrometres (None outside optics)."""

    name: str
    wavelength_um: float | None = None


@dataclass(frozen=True)
class Modality:
    """One sensor as it is stored: physical value = stored * `scale` + `offset`, in `units`.

    `mean` and `std` are per band, in `units`; `nodata` is the stored value that marks a missing pixel: the
    writer refuses a clear pixel that holds it in every band (None: any value may be clear), and readers go by the
    validity mask alone. `kind`: `image` = one date, `series` = many dates, `static` = no date, `weather` =
    daily values on a coarse grid, read at the window's centre.
    """

    name: str
    kind: Kind
    bands: tuple[Band, ...]
    gsd_m: float
    units: str
    dtype: str
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    revisit_days: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"{self.name}: kind {self.kind!r} is not one of {', '.join(KINDS)}")
        if not self.bands:
            raise InputError(f"{self.name}: no bands; list at least one under modalities.{self.name}.bands")
        for name in self.band_names:
            if self.band_names.count(name) > 1:
                raise InputError(f"{self.name}: band {name} is listed twice; give every band its own name")
        if not self.gsd_m > 0:
            raise InputError(f"{self.name}: gsd_m must be positive metres, got {self.gsd_m}")
        for key, numbers in (("mean", self.mean), ("std", self.std)):
            if numbers and len(numbers) != len(self.bands):
                raise InputError(
                    f"{self.name}: {key} has {len(numbers)} values for {len(self.bands)} bands "
                    f"({', '.join(self.band_names)}); give one per band"
                )
        if any(s <= 0 for s in self.std):
            raise InputError(f"{self.name}: std must be positive, got {list(self.std)}")

    @property
    def band_names(self) -> tuple[str, ...]:
        """Band names in stored order."""
        return tuple(b.name for b in self.bands)

    def pixels(self, size_m: float) -> int:
        """Pixels of this modality along `size_m` metres; an error where that is not a whole number."""
        count = size_m / self.gsd_m
        if abs(count - round(count)) > 1e-6 * max(1.0, count):
            raise InputError(
                f"{self.name}: {size_m:g} m is {count:.3f} pixels of {self.gsd_m:g} m, expected a whole number; "
                f"use a multiple of {self.gsd_m:g} m"
            )
        return round(count)


@dataclass(frozen=True)
class Label:
    """A truth layer `[H, W]` stored beside the modalities: `classes` by value, or `units` for a continuous one."""

    name: str
    gsd_m: float
    dtype: str
    classes: tuple[str, ...] = ()
    units: str = ""
    nodata: float | None = None


@dataclass(frozen=True)
class RegionGrid:
    """How a place becomes a prototype region.

    `balanced`: the training footprint cut into `num_regions` cells of near-equal window count;
    `equal_area`: global cells of about `cell_km2` on a sinusoidal grid, whatever the footprint.
    """

    kind: Literal["balanced", "equal_area"] = "balanced"
    num_regions: int = 16
    cell_km2: float = 4294.0

    def __post_init__(self) -> None:
        if self.num_regions < 1:
            raise InputError(f"regions: num_regions must be at least 1, got {self.num_regions}")
        if not self.cell_km2 > 0:
            raise InputError(f"regions: cell_km2 must be positive square kilometres, got {self.cell_km2}")


@dataclass(frozen=True)
class Split:
    """Which cubes are for what: whole cubes by name or glob, so that neighbours never leak.

    Pretraining refuses cubes that are named under `val` or `test`; with `train` it refuses all others.
    """

    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    def held_out(self, cube: str) -> bool:
        """Whether a cube is not for training."""
        return bool(self.held_out_among([cube]))

    def held_out_among(self, cubes: typing.Iterable[str]) -> list[str]:
        """Those of some cubes that are not for training, each once."""
        names = dict.fromkeys(cubes)
        kept, scored = (
            {n for p in part for n in fnmatch.filter(names, p)} for part in (self.train, (*self.val, *self.test))
        )
        return [name for name in names if name in scored or (self.train and name not in kept)]


@dataclass(frozen=True)
class CubeSpec:
    """A cube family: modalities and labels by name. From `data_specs/<name>.yaml` or from a store's manifest."""

    name: str
    description: str
    modalities: dict[str, Modality]
    labels: dict[str, Label] = field(default_factory=dict)
    split: Split = field(default_factory=Split)
    regions: RegionGrid = field(default_factory=RegionGrid)
    source: dict[str, Any] = field(default_factory=dict)
    """How an ingester finds the modalities in files, by modality; each source kind checks its own keys."""

    @staticmethod
    def load(name_or_path: str | Path) -> CubeSpec:
        """Read `data_specs/<name>.yaml` or a YAML file by path.

        Raises:
            InputError: no such file, a key that the schema does not know, or a value out of range.
        """
        path = find_yaml("data_specs", name_or_path)
        return CubeSpec.from_dict(load_yaml(path), path.name)

    @staticmethod
    def from_dict(tree: Any, where: str) -> CubeSpec:
        """Build from plain values (YAML or manifest); `where` names the source in errors."""
        if not isinstance(tree, Mapping):
            raise InputError(
                f"{where}: expected a mapping with name, description and modalities, got {type(tree).__name__}"
            )
        tree = dict(tree)
        for group in ("modalities", "labels"):
            entries = tree.get(group, {})
            if not isinstance(entries, Mapping):
                raise InputError(f"{where}: {group} must be a mapping by name, got {type(entries).__name__}")
            tree[group] = {str(k): {**v, "name": str(k)} if isinstance(v, Mapping) else v for k, v in entries.items()}
        spec: CubeSpec = build(CubeSpec, tree, where)
        if not spec.modalities:
            raise InputError(f"{where}: no modalities; describe at least one under modalities:")
        return spec

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the inverse of `from_dict`."""
        return typing.cast("dict[str, Any]", plain(dataclasses.asdict(self)))

    def modality(self, name: str) -> Modality:
        """One modality by name, or an error that lists the names there are."""
        if name not in self.modalities:
            raise InputError(
                f"spec {self.name}: no modality {name!r}; it has "
                f"{', '.join(self.modalities)}{did_you_mean(name, self.modalities)}"
            )
        return self.modalities[name]


METRES_PER_DEGREE = 111_320.0
"""Of latitude, and of longitude at the equator; what a GSD in metres means for a store in degrees."""


@dataclass(frozen=True)
class Grid:
    """Where a store lies: CRS and the upper-left corner of a north-up rectangle.

    Everything in metres: those of the CRS, or where the CRS is in degrees, degrees * `unit_m`
    (`METRES_PER_DEGREE`: true to the north, nominal to the east).

    `places`: only where the store holds points that do not lie side by side. Its rows are then sites, and `places`
    has the latitude and longitude of each in degrees; corner and CRS are nominal.
    """

    crs: str
    x0_m: float
    y0_m: float
    width_m: float
    height_m: float
    unit_m: float = 1.0
    places: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if not (self.width_m > 0 and self.height_m > 0):
            raise InputError(f"grid: width and height must be positive metres, got {self.width_m} x {self.height_m}")


@dataclass(frozen=True)
class Window:
    """A planned read: a square of `size_m` metres whose upper-left corner lies `y_m` south and `x_m` east of the
    cube's upper-left corner; dates with `start_day <= day < end_day` (days since 2000-01-01). No pixels."""

    cube: str
    y_m: float
    x_m: float
    size_m: float
    start_day: int = -(2**31) + 1
    end_day: int = 2**31 - 1
    region: int = -1


def side_pixels(extent_m: float, gsd_m: float) -> int:
    """Pixels that cover `extent_m` metres (rounded up when the last one sticks out)."""
    return math.ceil(extent_m / gsd_m - 1e-6)


def did_you_mean(name: str, known: typing.Iterable[str]) -> str:
    """`"; did you mean 's2'?"` for a near miss, else an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def find_yaml(folder: str, name_or_path: str | Path) -> Path:
    """A YAML file by path, or by bare name in the shipped folder (`data_specs`, `recipes`, `launch`).

    Raises:
        InputError: nothing there; the message lists the shipped names.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    roots = [Path(__file__).resolve().parent.parent / folder, Path(sys.prefix) / "share" / "skyframe" / folder]
    for root in roots:
        for candidate in (root / f"{path}.yaml", root / path):
            if candidate.is_file():
                return candidate
    names = sorted(p.stem for root in roots if root.is_dir() for p in root.glob("*.yaml"))
    raise InputError(
        f"{folder}: no file {str(name_or_path)!r}; give a path to a YAML file or one of "
        f"{', '.join(names)}{did_you_mean(path.stem, names)}"
    )


def load_yaml(path: Path) -> Any:
    """Plain values of a YAML file.

    Raises:
        InputError: not YAML, or not text.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name}: not valid YAML ({' '.join(str(error).split())}); correct the file") from error


def build(schema: Any, value: Any, where: str) -> Any:
    """Turn plain YAML values into (nested) dataclasses, strictly: unknown keys and wrong types are errors.

    Args:
        schema: a dataclass type, or the annotation of one of its fields.
        value: plain values as YAML or JSON give them.
        where: dotted place for messages, e.g. `skysense.yaml: modalities.s2`.

    Raises:
        InputError: unknown or missing key, or a value of another type; names the place and the nearest key.
    """
    if dataclasses.is_dataclass(schema):
        return _build_dataclass(typing.cast(type, schema), value, where)
    origin, args = typing.get_origin(schema), typing.get_args(schema)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return build(next(a for a in args if a is not type(None)), value, where)
    if origin is Literal:
        if value not in args:
            raise InputError(f"{where}: {value!r} is not one of {', '.join(map(repr, args))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: expected a list, got {value!r}")
        return tuple(build(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: expected a mapping, got {value!r}")
        return {str(k): build(args[1], v, f"{where}.{k}") for k, v in value.items()}
    return _scalar(schema, value, where)


def _build_dataclass(schema: type, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise InputError(
            f"{where}: expected a mapping with {', '.join(f.name for f in dataclasses.fields(schema))}, got {value!r}"
        )
    hints = typing.get_type_hints(schema)
    known = {f.name for f in dataclasses.fields(schema)}
    for key in value:
        if key not in known:
            raise InputError(
                f"{where}: unknown key {key!r}{did_you_mean(str(key), known)} (known: {', '.join(sorted(known))})"
            )
    missing = [
        f.name
        for f in dataclasses.fields(schema)
        if f.name not in value and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"{where}: missing {', '.join(missing)}")
    return schema(**{k: build(hints[k], v, f"{where}.{k}") for k, v in value.items()})


def _scalar(schema: Any, value: Any, where: str) -> Any:
    if schema is Any:
        return value
    if schema is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if schema is float and isinstance(value, str):
        try:
            return float(value)  # YAML reads 1e-4 as a string
        except ValueError:
            pass
    if not isinstance(value, schema) or (schema is int and isinstance(value, bool)):
        raise InputError(f"{where}: expected {schema.__name__}, got {value!r}")
    return value


def plain(value: Any) -> Any:
    """Tuples as lists, all the way down: what YAML and JSON hold."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return value
