"""EuroSAT with all bands: chips of 64 x 64 pixels at 10 m of ten classes, Sentinel-2 Level-1C.

Layout: `<Class>/<Class>_<n>.tif` below `EuroSATallBands/`, `EuroSAT_MS/` or the folder of the archive,
`ds/images/remote_sensing/otherDatasets/sentinel_2/tif/`. A file holds thirteen bands with B8A last. Lists
`eurosat-{train,val,test}.txt` name the chips as `.jpg` or `.tif`; without them the hash of EuroSAT RGB decides.

Source: Helber et al., EuroSAT, JSTARS 2019.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from skyframe.evaluate.benchmarks.class_folders import (
    CHIP_PX,
    EUROSAT_CLASSES,
    Layout,
    check_side,
    copy_note,
    list_images,
    with_parts,
)
from skyframe.evaluate.datasets.dataset import Dataset, Item, missing_files, need_folder
from skyframe.evaluate.datasets.files import read_raster
from skyframe.evaluate.datasets.imagery import image_sample, sentinel2
from skyframe.sample import Sample
from skyframe.spec import InputError

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
"""In the order of the files: B8A comes last, unlike in most other data sets."""
LAYOUT = Layout(
    EUROSAT_CLASSES,
    ("ds/images/remote_sensing/otherDatasets/sentinel_2/tif", "EuroSATallBands", "EuroSAT_MS", "tif"),
    "eurosat",
    sentinel2(BANDS, level="L1C"),
    "Helber et al., EuroSAT, JSTARS 2019; Level-1C, so reflectance at the top of the atmosphere; dates unknown",
    27_000,
    side_px=CHIP_PX,
)


def open_dataset(name: str, root: Path) -> Dataset:
    """EuroSAT's GeoTIFFs in `root`, or in one of their usual folders there."""
    found = (root / f for f in LAYOUT.folders if (root / f).is_dir())
    folder = next(found, None) or need_folder(name, root)
    items, problems = list_images(name, folder, LAYOUT.classes, (".tif", ".tiff"))
    items, split, more = with_parts(name, (root, folder), LAYOUT, items)
    return Dataset(
        name=name,
        kind="scene",
        classes=LAYOUT.classes,
        modalities={"s2": LAYOUT.modality},
        items=tuple(items),
        read=_read,
        split=split,
        source=LAYOUT.source + copy_note(LAYOUT, items),
        problems=(*problems, *more, *missing_files(name, items)),
    )


def _read(item: Item) -> Sample:
    path = item.files["image"]
    pixels = read_raster(path)
    count, *shape = pixels.shape
    if count != len(BANDS):
        raise InputError(f"{path}: {count} bands, expected {len(BANDS)} ({', '.join(BANDS)}); fetch the file again")
    check_side(item, shape, LAYOUT.side_px)
    return image_sample("s2", pixels, {"class": np.int64(item.label)})
