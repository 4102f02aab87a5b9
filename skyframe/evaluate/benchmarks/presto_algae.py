"""Severity of algae blooms at single sites, from a year of monthly Sentinel-1, Sentinel-2 and weather, and terrain.

Layout: `s1_s2_era5_srtm.npy` float64 `[1122, 12, 18]` with `month.npy`, `latlon.npy`, `target.npy` (1 to 5),
`is_test.npy` and `uid.npy`, in the folder given, in `npy/` or in `algae_blooms/npy/`. Units, order of channels and days
are those of the ingester of the same arrays (`data/ingest/presto.py`), which leaves out the NDVI that is none.

Source: nasaharvest/presto, commit 13173d0; Tseng et al., Presto, arXiv 2304.14065.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.data.ingest.presto import open_source
from skyframe.data.ingest.source import Source
from skyframe.data.ingest.units import NODATA
from skyframe.evaluate.datasets.dataset import Dataset, Item, need_folder
from skyframe.evaluate.datasets.files import read_npy
from skyframe.evaluate.datasets.imagery import series_of
from skyframe.sample import Sample
from skyframe.spec import CubeSpec, InputError

FOLDERS = ("algae_blooms/npy", "npy")
MODALITIES = ("s2", "s1", "weather", "terrain")
"""The arrays' own land-cover classes are left out: they are no measurement."""


def open_dataset(name: str, root: Path) -> Dataset:
    """The arrays below `root`; they are one whole, so that a damaged one is an error here."""
    folder = next((root / f for f in FOLDERS if (root / f).is_dir()), None) or need_folder(name, root)
    spec = CubeSpec.load("presto")
    modalities = {n: spec.modalities[n] for n in MODALITIES}
    try:
        with ExitStack() as files:
            chosen = CubeSpec(spec.name, spec.description, modalities, spec.labels)
            source = open_source([folder], chosen, files)
        uid = read_npy(folder / "uid.npy")
    except InputError as error:
        raise InputError(f"{name}: {folder}: {error}") from error
    severity, is_test = source.labels["severity"][:, 0], source.labels["is_test"][:, 0]
    if uid.shape != severity.shape or severity.min() < 1 or severity.max() > 5 or not set(is_test.tolist()) <= {0, 1}:
        raise InputError(
            f"{name}: {folder}: {uid.shape} names for {severity.shape} severities of {severity.min()} to "
            f"{severity.max()}, expected one name a site, severities 1 to 5 and is_test 0 or 1; fetch the arrays again"
        )
    items = [
        Item(str(uid[i]), "test" if is_test[i] else "train", _paths(folder), float(severity[i]), about={"row": i})
        for i in range(len(uid))
    ]
    return Dataset(
        name=name,
        kind="regression",
        classes=(),
        modalities=modalities,
        items=tuple(items),
        read=lambda item: _read(source, item),
        split="is_test.npy",
        source="nasaharvest/presto 13173d0; top-of-atmosphere; months without a year stand in 2001 and 2002; a noisy "
        "target on which good encoders may score below the mean: it checks the path, not the encoder",
    )


def _paths(folder: Path) -> dict[str, Path]:
    return {n: folder / f"{n}.npy" for n in ("s1_s2_era5_srtm", "month", "latlon", "target")}


def _read(source: Source, item: Item) -> Sample:
    series = {}
    for layer in source.layers:
        stored, flags = layer.read(item.about["row"], 0, 1, 1)
        seen: NDArray[Any] = (flags != NODATA)[:, 0, 0]  # the common dates that this site has a record at
        series[layer.modality.name] = series_of(stored[seen], layer.days[seen])
    place = np.array(source.grid.places[item.about["row"]], np.float64)
    return Sample(series, place, -1, targets={"value": np.array([item.label], np.float32)})
