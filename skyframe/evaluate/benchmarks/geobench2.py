"""GEO-Bench v2: data sets in tortilla containers, read through `tacoreader` 0.5 (optional).

`<root>/geobench_<name>.tortilla`, or `geobench_<name>.NNNN.part.tortilla` in several parts, perhaps in a folder of the
set's name; each row is one sample, itself a container of rasters or HDF5 arrays, and `tortilla:data_split` its part.

| read here | of the nineteen not read yet |
|---|---|
| benv2, burn_scars, caffe, cloudsen12, flair2, pastis, spacenet7, treesatai | biomassters, dynamic_earthnet, everwatch,
forestnet, fotw, kuro_siwo, nzcattle, so2sat, spacenet2, substation, wind_turbine |

Source: Simumba et al., GEO-Bench-2, arXiv 2511.15658; order of files and bands as its repository reads them.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import day_of
from skyframe.evaluate.datasets.dataset import Dataset, Item, Kind
from skyframe.evaluate.datasets.imagery import DISPLAY, bands, rgb, sentinel1, sentinel2, series_of
from skyframe.sample import Sample
from skyframe.spec import InputError, Modality

L2A = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
PASTIS_S2 = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
TREESAT_S2 = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09")
PARTS = {"train": "train", "validation": "val", "val": "val", "test": "test"}


@dataclass(frozen=True)
class _About:
    """What is known of a data set beyond its container."""

    kind: Kind
    modalities: dict[str, Modality]
    files: dict[str, int]  # number of each modality's file in a sample
    classes: tuple[str, ...]
    mask: int = -1  # number of the mask's file
    label: str = ""  # column of the class names
    first: int = 0  # number in the mask that is class 0
    hidden: tuple[int, ...] = ()  # numbers in the mask that are not scored
    top: bool = False  # numbers above the last class are the last class
    note: str = ""
    keep: dict[str, int] = field(default_factory=dict)  # bands that are read of a modality, the first ones


def _hls() -> Modality:
    names = ("B02", "B03", "B04", "B8A", "B11", "B12")
    return Modality("s2", "image", bands(names), 30.0, "reflectance", "float32")


def _picture(gsd_m: float, *names: str) -> dict[str, Modality]:
    return {"rgb": rgb(gsd_m, names)}


ABOUT = {
    "benv2": _About(
        "multilabel",
        {"s1": sentinel1(), "s2": sentinel2(L2A)},
        {"s1": 0, "s2": 1},
        (
            *("Urban fabric", "Industrial or commercial units", "Arable land", "Permanent crops", "Pastures"),
            "Complex cultivation patterns",
            "Land principally occupied by agriculture, with significant areas of natural vegetation",
            *("Agro-forestry areas", "Broad-leaved forest", "Coniferous forest", "Mixed forest"),
            "Natural grassland and sparsely vegetated areas",
            *("Moors, heathland and sclerophyllous vegetation", "Transitional woodland, shrub"),
            *("Beaches, dunes, sands", "Inland wetlands", "Coastal wetlands", "Inland waters", "Marine waters"),
        ),
        label="labels",
    ),
    "burn_scars": _About("pixel", {"s2": _hls()}, {"s2": 0}, ("not burned", "burn scar"), 1, hidden=(-1, 255)),
    "caffe": _About(
        "pixel",
        {"sar": Modality("sar", "image", bands(["gray"]), 20.0, DISPLAY, "uint8", scale=1 / 255)},
        {"sar": 0},
        ("no data", "rock", "glacier", "ocean or ice melange"),
        1,
    ),
    "cloudsen12": _About(
        "pixel", {"s2": sentinel2(L2A)}, {"s2": 0}, ("clear", "thick cloud", "thin cloud", "cloud shadow"), 1
    ),
    "flair2": _About(
        "pixel",
        _picture(0.2, "red", "green", "blue", "nir"),
        {"rgb": 0},
        (
            *("building", "pervious surface", "impervious surface", "bare soil", "water", "coniferous", "deciduous"),
            *("brushwood", "vineyard", "herbaceous vegetation", "agricultural land", "plowed land", "other"),
        ),
        1,
        first=1,
        top=True,
        keep={"rgb": 4},
        note="elevation is left out",
    ),
    "pastis": _About(
        "pixel",
        {"s2": sentinel2(PASTIS_S2, dtype="int16", many=True), "s1": sentinel1(many=True)},
        {"s2": 0, "s1": 1},
        (
            *("background", "meadow", "soft winter wheat", "corn", "winter barley", "winter rapeseed", "spring barley"),
            *("sunflower", "grapevine", "beet", "winter triticale", "winter durum wheat"),
            *("fruits, vegetables, flowers", "potatoes", "leguminous fodder", "soybeans", "orchard"),
            *("mixed cereal", "sorghum"),
        ),
        3,
        hidden=(19,),
        keep={"s1": 2},
        note="Sentinel-1 of ascending orbits",
    ),
    "spacenet7": _About(
        "pixel", _picture(4.0, "red", "green", "blue"), {"rgb": 0}, ("no building", "building"), 1, hidden=(255,),
        keep={"rgb": 3},
    ),
    "treesatai": _About(
        "multilabel",
        {**_picture(0.2, "nir", "red", "green", "blue"), "s2": sentinel2(TREESAT_S2)},
        {"rgb": 0, "s2": 2},
        (
            *("Abies", "Acer", "Alnus", "Betula", "Cleared", "Fagus", "Fraxinus", "Larix", "Picea", "Pinus"),
            *("Populus", "Prunus", "Pseudotsuga", "Quercus", "Tilia"),
        ),
        label="species_labels",
        note="one date each; Sentinel-1 and the series beside are left out",
    ),
}  # fmt: skip


def open_dataset(name: str, root: Path) -> Dataset:
    """One data set, `gb2-<name>`, from all of its parts."""
    own = name.removeprefix("gb2-").replace("-", "_")
    about = ABOUT[own]
    paths = _containers(name, own, root)
    items: list[Item] = []
    problems: list[str] = []
    for path in paths:
        try:
            frame = _load(path)
        except InputError as error:
            problems.append(f"{name}: {error}")
            continue
        for row in range(len(frame)):
            item = _item(name, about, path, frame, row)
            problems += [item] if isinstance(item, str) else []
            items += [item] if isinstance(item, Item) else []
    return Dataset(
        name=name,
        kind=about.kind,
        classes=about.classes,
        modalities=about.modalities,
        items=tuple(items),
        read=lambda item: _read(item, about),
        split="column tortilla:data_split of the container",
        source="; ".join(filter(None, ["Simumba et al., GEO-Bench-2, arXiv 2511.15658", about.note])),
        problems=(*_lost_parts(name, paths), *problems),
    )


def _containers(name: str, own: str, root: Path) -> list[Path]:
    for folder in (root, root / own, root / name):
        for stem in (f"geobench_{own}", own):
            found = sorted([*folder.glob(f"{stem}.tortilla"), *folder.glob(f"{stem}.*.part.tortilla")])
            if found:
                return found
    raise InputError(f"{name}: no geobench_{own}.tortilla in {root}, expected it or its parts; give their folder")


def _lost_parts(name: str, paths: list[Path]) -> list[str]:
    """A part whose number the others let expect; each container says how many there are."""
    if ".part." not in paths[0].name:
        return []
    with paths[0].open("rb") as file:
        count = int.from_bytes(file.read(26)[18:26], "little")
    have = {p.name.split(".")[-3] for p in paths}
    return [
        f"{name}: part {k:04d} of {count} is missing beside {paths[0]}; fetch it"
        for k in range(count)
        if f"{k:04d}" not in have
    ][:20]


def _load(path: Path) -> Any:
    """The rows of a container."""
    try:
        import tacoreader
    except ImportError as error:
        raise InputError(
            "GEO-Bench v2 is read through the package tacoreader, which is not installed; pip install "
            "'tacoreader>=0.5,<0.6'"
        ) from error
    if not hasattr(tacoreader, "TortillaDataFrame"):
        version = getattr(tacoreader, "__version__", "unknown")
        raise InputError(f"tacoreader {version} does not read tortillas, expected 0.5; install 'tacoreader<0.6'")
    try:
        return tacoreader.load(str(path))
    except Exception as error:  # the package raises whatever its parser meets
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{path}: not a readable tortilla ({reason}); fetch the file again") from error


def _item(name: str, about: _About, path: Path, frame: Any, row: int) -> Item | str:
    line = frame.iloc[row]
    key, part = str(line["tortilla:id"]), PARTS.get(str(line["tortilla:data_split"]))
    if part is None:
        return f"{name}: {key} has split {line['tortilla:data_split']!r}, expected train, validation or test"
    end = int(line["tortilla:offset"]) + int(line["tortilla:length"])
    if end > path.stat().st_size:
        return f"{name}: {key} ends at byte {end:,} of {path}, which has {path.stat().st_size:,}; fetch the file again"
    label: tuple[int, ...] | None = None
    if about.label:
        names = [str(n) for n in line[about.label]]
        unknown = [n for n in names if n not in about.classes]
        if unknown:
            return f"{name}: {key} is labelled {unknown[0]!r}, which is none of its {len(about.classes)} classes"
        label = tuple(sorted(about.classes.index(n) for n in names))
    held = {k: float(line[k]) for k in ("lat", "lon") if k in frame.columns}
    return Item(key, part, {"container": path}, label, about={"frame": frame, "row": row, **held})


def _read(item: Item, about: _About) -> Sample:
    path, inner = item.files["container"], item.about["frame"]
    try:
        inner = inner.read(item.about["row"])
    except Exception as error:  # see _load
        raise InputError(f"{path}: sample {item.key} cannot be opened ({error}); fetch the file again") from error
    series = {}
    for name, number in about.files.items():
        values = _array(path, item.key, inner, number)
        values = values[..., : about.keep.get(name, values.shape[-3]), :, :]
        want = len(about.modalities[name].bands)
        if values.shape[-3] != want:
            raise InputError(
                f"{path}: {name} of {item.key} has {values.shape[-3]} bands, expected {want}; it is another version"
            )
        days = None
        if values.ndim == 4:
            days = np.array(
                [day_of(date(d // 10000, d // 100 % 100, d % 100)) for d in map(int, inner.iloc[number]["dates"])],
                np.int32,
            )
        series[name] = series_of(values.astype(np.float32), days)
    place = np.array([item.about.get("lat", np.nan), item.about.get("lon", np.nan)])
    targets: dict[str, NDArray[np.generic]]
    if about.kind == "multilabel":
        targets = {"classes": np.isin(np.arange(len(about.classes)), item.label)}
    else:
        targets = {"mask": _mask(path, item.key, about, _array(path, item.key, inner, about.mask))}
    return Sample(series, place, -1, targets=targets)


def _array(path: Path, key: str, inner: Any, number: int) -> NDArray[np.generic]:
    """A raster or an HDF5 array inside a sample."""
    import h5py
    import rasterio

    try:
        row = inner.iloc[number]
        if row["tortilla:file_format"] == "HDF5":
            offset, length = int(row["tortilla:offset"]), int(row["tortilla:length"])
            with path.open("rb") as file:
                file.seek(offset)
                with h5py.File(io.BytesIO(file.read(length)), "r") as held:
                    return np.asarray(held["data"])
        with rasterio.open(inner.read(number)) as raster:
            values: NDArray[np.generic] = raster.read()
            return values
    except (rasterio.errors.RasterioError, OSError, KeyError, IndexError) as error:
        raise InputError(f"{path}: file {number} of {key} cannot be read ({error}); fetch the file again") from error


def _mask(path: Path, key: str, about: _About, stored: NDArray[np.generic]) -> NDArray[np.int64]:
    plane = (stored if stored.ndim == 2 else stored[0]).astype(np.int64)
    mask = np.where(np.isin(plane, about.hidden), -1, plane - about.first)
    last = len(about.classes) - 1
    if about.top:
        mask = np.minimum(mask, last)
    if mask.max() > last or ((mask < 0) & ~np.isin(plane, about.hidden)).any():
        raise InputError(f"{path}: mask of {key} holds {plane.min()} to {plane.max()}, expected classes to {last}")
    return mask
