"""TreeSatAI time series: 0.2 m aerial TIFF + HDF5 of Sentinel-2, Sentinel-1 ascending and descending, over 60 m.

The HDF5 carries no georeferencing: its 6 x 6 pixels of 10 m are the 60 m footprint about the middle of the TIFF (304
pixels of 0.2 m are 60.8 m; 0.4 m stick out on each side). Rows run north to south in both: the mean summer near
infrared of the two correlates at +0.6 upright and -0.4 upside down on the sample kept with the project.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.calendar import DAY_UNKNOWN
from skyframe.data.cube import CLEAR, CLOUD, NODATA
from skyframe.data.ingest.aerial import band_index, read_picture, resample
from skyframe.data.ingest.products import acquisition
from skyframe.data.ingest.source import Block, Layer, Source, check_file, check_modalities, describe_files
from skyframe.data.ingest.units import flags_of, power_to_db, to_reflectance
from skyframe.spec import CubeSpec, InputError, Modality

S2_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
S1_BANDS = ("VV", "VH")

CLOUD_PERCENT = 10.0  # ours
"""Cloud probability from which a pixel is cloud: at 10-20 % the sample's median red is already 0.15, clear 0.04."""
SNOW_PERCENT = 50.0
"""Snow probability from which a pixel is cloud too: the sample's eight such dates, June and August among them, have a
reflectance of 0.85 over forest: ice cloud."""
BRIGHT_BLUE = 3000  # ours
"""B02 (reflectance 0.3) from which a pixel is cloud whatever the masks say: they miss a tenth of the sample's clouds,
mostly under low winter sun, and no forest is that bright."""

GENERA = (
    "Abies", "Acer", "Alnus", "Betula", "Cleared", "Fagus", "Fraxinus", "Larix",
    "Picea", "Pinus", "Populus", "Prunus", "Pseudotsuga", "Quercus", "Tilia",
)  # fmt: skip
"""Class `i` of the label `genus`; a file's name begins with its main genus. Source: Ahlswede et al. 2023, table 2."""

DATASETS = {
    "sen-2-data": len(S2_BANDS),
    "sen-2-masks": 2,
    "sen-1-asc-data": len(S1_BANDS),
    "sen-1-des-data": len(S1_BANDS),
}
"""HDF5 datasets `[T, C, 6, 6]` and their bands; masks are (snow, cloud) probability in percent, padded with zeros."""


def open_source(paths: Sequence[Path], spec: CubeSpec, files: ExitStack) -> Source:
    """Open a triple.

    Args:
        paths: the `.h5` and the `.tif`, in any order; one alone stands for the pair of that name in its folder.
        spec: modalities hr, s2, s1 or some of them.
        files: unused: the files are small and are read whole.

    Raises:
        InputError: a file missing or of another format, wrong bands or shapes, no dates, an unknown genus.
    """
    check_modalities(spec, "treesatai", ("hr", "s2", "s1"))
    series_path, aerial_path = _pair(paths)
    picture = read_picture(aerial_path)
    found = _read_series(series_path)
    about: dict[str, Any] = describe_files("treesatai", [series_path, aerial_path])
    layers = []
    for modality in spec.modalities.values():
        if modality.name == "hr":
            days, whole = np.array([DAY_UNKNOWN], np.int32), resample(modality, picture)
        elif modality.name == "s2":
            days, whole, about["s2_products"] = _optical(modality, found, series_path.name)
        else:
            days, whole, about["s1_products"] = _radar(modality, found, series_path.name)
        layers.append(_layer(modality, days, whole))
    genus = genus_of(aerial_path.name)
    about |= {"genus": genus, "sample": aerial_path.stem}
    labels = {"genus": np.array([[GENERA.index(genus)]], np.uint8)} if "genus" in spec.labels else {}
    return Source(picture.grid, tuple(layers), about, labels)


def genus_of(file_name: str) -> str:
    """Main tree genus from a file name such as `Abies_alba_1_1005_WEFL_NLF.tif`."""
    genus = file_name.split("_")[0]
    if genus not in GENERA:
        raise InputError(
            f"{file_name}: begins with {genus!r}, expected one of {', '.join(GENERA)}; keep TreeSatAI's file names"
        )
    return genus


def _pair(paths: Sequence[Path]) -> tuple[Path, Path]:
    suffixes = sorted(p.suffix for p in paths)
    if suffixes == [".h5", ".tif"]:
        series, aerial = sorted(paths, key=lambda p: p.suffix)
    elif suffixes in ([".h5"], [".tif"]):
        series, aerial = paths[0].with_suffix(".h5"), paths[0].with_suffix(".tif")
    else:
        raise InputError(
            f"treesatai: got {', '.join(p.name for p in paths) or 'nothing'}, expected one .h5 and one .tif of "
            "the same name; name both"
        )
    if not series.stem.startswith(aerial.stem):
        raise InputError(
            f"treesatai: {series.name} and {aerial.name} are of different samples, expected equal names; name a pair"
        )
    return series, aerial


def _read_series(path: Path) -> dict[str, NDArray[Any]]:
    """Every dataset and its product names, shapes checked."""
    import h5py

    check_file(path, (b"\x89HDF\r\n\x1a\n",), "HDF5")
    try:
        with h5py.File(path) as store:
            found = {name: store[name][()] for name in store}
    except (OSError, KeyError, TypeError) as error:
        raise InputError(
            f"{path.name}: cannot be read as HDF5 ({' '.join(str(error).split())}); fetch it again"
        ) from error
    for name, bands in DATASETS.items():
        products = products_key(name)
        for key in (name, products):
            if key not in found:
                raise InputError(
                    f"{path.name}: no dataset {key}, expected {', '.join(DATASETS)} and their products; found "
                    f"{', '.join(found)}; fetch the whole file"
                )
        shape, num_dates = found[name].shape, len(found[products])
        enough = len(shape) == 4 and (shape[1] >= bands if name == "sen-2-masks" else shape[1] == bands)
        if not enough or shape[0] != num_dates or shape[2:] != (6, 6):
            raise InputError(
                f"{path.name}: {name} has shape {shape}, expected ({num_dates}, {bands}, 6, 6) for its "
                f"{num_dates} products; fetch it again"
            )
    return found


def products_key(dataset: str) -> str:
    """The dataset of product names that dates `dataset`: `sen-2-masks` -> `sen-2-products`."""
    return dataset.rsplit("-", 1)[0] + "-products"


def _optical(
    modality: Modality, found: dict[str, NDArray[Any]], where: str
) -> tuple[NDArray[np.int32], Block, list[str]]:
    days, order, products = _by_time([p.decode() for p in found["sen-2-products"]], where)
    bands = [band_index(b, S2_BANDS, modality) for b in modality.band_names]
    values, lost = to_reflectance(found["sen-2-data"][order][:, bands], f"{where}: sen-2-data")
    snow, cloud = found["sen-2-masks"][order][:, 0], found["sen-2-masks"][order][:, 1]
    bright = found["sen-2-data"][order][:, S2_BANDS.index("B02")] >= BRIGHT_BLUE
    covered = (cloud >= CLOUD_PERCENT) | (snow >= SNOW_PERCENT) | bright
    flags = np.where(lost, NODATA, np.where(covered, CLOUD, CLEAR)).astype(np.uint8)
    return days, (values, flags), products


def _radar(
    modality: Modality, found: dict[str, NDArray[Any]], where: str
) -> tuple[NDArray[np.int32], Block, list[str]]:
    """Ascending and descending passes as one series; the product names, kept in the manifest, tell them apart."""
    names = [p.decode() for k in ("sen-1-asc-products", "sen-1-des-products") for p in found[k]]
    days, order, products = _by_time(names, where)
    power = np.concatenate([found["sen-1-asc-data"], found["sen-1-des-data"]])[order]
    values, lost = power_to_db(power[:, [band_index(b, S1_BANDS, modality) for b in modality.band_names]])
    return days, (values, flags_of(lost)), products


def _by_time(products: list[str], where: str) -> tuple[NDArray[np.int32], list[int], list[str]]:
    """Days, the order that sorts by sensing time, and the products in that order, each with its relative orbit."""
    if not products:
        raise InputError(
            f"{where}: a series has no dates (length 0), expected at least one; fetch it again or use a spec without it"
        )
    stamps = [acquisition(p, where) for p in products]
    order = sorted(range(len(products)), key=lambda i: stamps[i][:2])
    days = np.array([stamps[i][0] for i in order], np.int32)
    return days, order, [f"{products[i]} orbit {stamps[i][2]}" for i in order]


def _layer(modality: Modality, days: NDArray[np.int32], whole: Block) -> Layer:
    values, flags = whole

    def read(y: int, x: int, height: int, width: int) -> Block:
        rows, columns = slice(y, y + height), slice(x, x + width)
        return values[:, :, rows, columns], flags[:, rows, columns]

    return Layer(modality, days, (values.shape[2], values.shape[3]), read)
