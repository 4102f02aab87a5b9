"""The YAML that says where an archive's pixels lie and what they mean. Nothing of the archive is opened here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skyframe.spec import CubeSpec, InputError, build, load_yaml

FORMAT = 1
BAND = "{band}"


@dataclass(frozen=True)
class MaskSource:
    """Where a pixel is no data, cloud or shadow.

    `layer` names a scene classification (array or asset) whose values are listed under `clear`, `cloud` and `shadow`;
    every other value of it is no data. `nodata` lists stored values that mark a missing band (default: what the
    archive declares), `valid_min` and `valid_max` bound the stored values. What is not finite is always no data.
    """

    layer: str = ""
    clear: tuple[int, ...] = ()
    cloud: tuple[int, ...] = ()
    shadow: tuple[int, ...] = ()
    nodata: tuple[float, ...] | None = None
    valid_min: float | None = None
    valid_max: float | None = None


@dataclass(frozen=True)
class ModalityEntry:
    """Where one modality lies.

    `array` is a path in the store, or an asset (STAC) or band (table) of the scenes; with `{band}` in it every band
    has its own, else the bands lie along an axis. `bands` gives the archive's name of a band where it is not the
    spec's. `band_order` names the bands along the axis where the store does not. `dims` says what each axis of the
    arrays is (time, band, y, x, or "" for one of length 1) where their names do not. `dates` lists the dates where
    the store has no readable time.
    """

    array: str
    bands: dict[str, str] = field(default_factory=dict)
    band_order: tuple[str, ...] = ()
    dims: tuple[str, ...] = ()
    time: str = ""
    y: str = ""
    x: str = ""
    dates: tuple[Any, ...] = ()
    mask: MaskSource = field(default_factory=MaskSource)


@dataclass(frozen=True)
class ArchiveFile:
    """`store` is a Zarr store, `scenes` a list of COGs (STAC JSON or Parquet): folder, file or address, relative paths
    from the description's folder. `crs` is needed where the archive does not say it."""

    skyframe_archive: int
    spec: Any
    modalities: dict[str, ModalityEntry]
    store: str = ""
    scenes: str = ""
    crs: str = ""


@dataclass(frozen=True)
class Description:
    """A checked `ArchiveFile`, its spec reduced to what the archive holds, and the file it was read from."""

    path: Path
    file: ArchiveFile
    spec: CubeSpec

    def where(self, modality: str) -> str:
        """Place of a modality, for messages."""
        return f"{self.path.name}: modalities.{modality}"

    def place(self, text: str) -> str:
        """A path or address of the file, seen from the working folder."""
        return text if "://" in text else str(self.path.parent / text)


def load_description(path: Path) -> Description:
    """Read and check an archive's YAML.

    Raises:
        InputError: no such file, not an archive description, unknown keys, or modalities that the spec lacks.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file, expected the YAML description of an archive; check the path")
    tree = load_yaml(path)
    if not isinstance(tree, Mapping) or tree.get("skyframe_archive") != FORMAT:
        raise InputError(
            f"{path.name}: no `skyframe_archive: {FORMAT}` inside, expected the description of an archive; see the "
            "page on existing archives"
        )
    file: ArchiveFile = build(ArchiveFile, tree, path.name)
    if bool(file.store) == bool(file.scenes) or not file.modalities:
        raise InputError(
            f"{path.name}: needs modalities and either `store` (Zarr) or `scenes` (COGs), got "
            f"{len(file.modalities)} modalities and {'both' if file.store else 'neither'}; give one of the two"
        )
    spec = _spec(file.spec, path)
    chosen = {name: spec.modality(name) for name in file.modalities}
    for name, entry in file.modalities.items():
        _check_entry(entry, chosen[name].band_names, f"{path.name}: modalities.{name}")
    tree = spec.to_dict() | {"labels": {}, "modalities": {n: spec.to_dict()["modalities"][n] for n in chosen}}
    return Description(path, file, CubeSpec.from_dict(tree, path.name))


def _spec(value: Any, path: Path) -> CubeSpec:
    if isinstance(value, Mapping):
        return CubeSpec.from_dict(value, f"{path.name}: spec")
    beside = path.parent / str(value)
    return CubeSpec.load(beside if beside.suffix in (".yaml", ".yml") and beside.is_file() else str(value))


def _check_entry(entry: ModalityEntry, bands: tuple[str, ...], where: str) -> None:
    unknown = [band for band in entry.bands if band not in bands]
    if unknown:
        raise InputError(f"{where}.bands: {unknown[0]!r} is no band of the spec, expected some of {', '.join(bands)}")
    mask = entry.mask
    if bool(mask.layer) != bool(mask.clear):
        raise InputError(
            f"{where}.mask: layer {mask.layer!r} with clear {list(mask.clear)}, expected both or neither; list the "
            "values of the layer that mean clear"
        )
    listed = [*mask.clear, *mask.cloud, *mask.shadow]
    twice = [value for value in listed if listed.count(value) > 1 or not 0 <= value < 2**16]
    if twice:
        raise InputError(
            f"{where}.mask: value {twice[0]} is listed twice or outside 0 to 65535, expected it once; correct it"
        )
