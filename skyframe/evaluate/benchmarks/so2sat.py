"""So2Sat LCZ42: local climate zones of cities, patches of 32 x 32 pixels at 10 m from Sentinel-2 and Sentinel-1.

Layout (version 2): `training.h5` of 42 cities, `validation.h5` and `testing.h5` of the western and eastern halves of
ten others. Each holds `sen1` float `[N, 32, 32, 8]`, `sen2` float `[N, 32, 32, 10]` and `label` `[N, 17]`, one-hot.

`sen2` is Level-1C reflectance as a fraction. Of `sen1`, channels 1 to 4 are the unfiltered VH and VV as real and
imaginary parts and 7 and 8 the covariance of both: no intensities, so not taken; 5 and 6 are the intensities of VH and
VV in linear power after a refined Lee filter, with less speckle than what encoders are trained on.

Source: Zhu et al., So2Sat LCZ42, GRSM 2020.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from skyframe.evaluate.datasets.dataset import Dataset, Item
from skyframe.evaluate.datasets.hdf5 import h5_shapes, read_h5
from skyframe.evaluate.datasets.imagery import sentinel1, sentinel2, series_of
from skyframe.sample import Sample
from skyframe.spec import InputError

CLASSES = (
    "Compact high rise", "Compact mid rise", "Compact low rise", "Open high rise", "Open mid rise", "Open low rise",
    "Lightweight low rise", "Large low rise", "Sparsely built", "Heavy industry", "Dense trees", "Scattered trees",
    "Bush, scrub", "Low plants", "Bare rock or paved", "Bare soil or sand", "Water",
)  # fmt: skip
FILES = {"train": "training.h5", "val": "validation.h5", "test": "testing.h5"}
S2_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
VV_VH = [5, 4]
"""Of the eight channels from 0: VH comes first in the files."""
SHAPES = {"sen1": (32, 32, 8), "sen2": (32, 32, 10), "label": (17,)}


def open_dataset(name: str, root: Path) -> Dataset:
    """The files of version 2 in `root`."""
    paths = {part: root / file for part, file in FILES.items() if (root / file).is_file()}
    if not paths:
        raise InputError(f"{name}: no {FILES['train']} in {root}, expected {', '.join(FILES.values())}; fetch them")
    problems = [f"{name}: {root / f} is missing, expected the part {p}" for p, f in FILES.items() if p not in paths]
    items: list[Item] = []
    for part, path in paths.items():
        try:
            items += _rows(part, path, problems)
        except InputError as error:
            problems.append(str(error))
    return Dataset(
        name=name,
        kind="scene",
        classes=CLASSES,
        modalities={
            "s2": sentinel2(S2_BANDS, level="L1C", dtype="float64", scale=1.0),
            "s1": sentinel1(units="linear power"),
        },
        items=tuple(items),
        read=_read,
        split=", ".join(p.name for p in paths.values()) + ", by city (version 2)",
        source="Zhu et al., So2Sat LCZ42, GRSM 2020; Level-1C; Sentinel-1 as intensities after a refined Lee filter; "
        "dates and places unknown",
        problems=tuple(problems),
    )


def _rows(part: str, path: Path, problems: list[str]) -> list[Item]:
    """Rows of one file; those without exactly one class are told and left out."""
    shapes = h5_shapes(path)
    count = shapes.get("label", (0,))[0]
    for name, shape in SHAPES.items():
        if shapes.get(name) != (count, *shape):
            raise InputError(
                f"{path}: {name} has shape {shapes.get(name, 'none')}, expected {(count, *shape)}; fetch the file again"
            )
    label = read_h5(path, ["label"])["label"]
    one = (label.sum(1) == 1) & (label.max(1) == 1)
    if not one.all():
        problems.append(f"{path}: {int((~one).sum())} rows have no class or several, such as row {int(np.argmin(one))}")
    numbers = label.argmax(1)
    return [
        Item(f"{path.stem}/{row:06d}", part, {"rows": path}, int(numbers[row]), about={"row": int(row)})
        for row in np.flatnonzero(one)
    ]


def _read(item: Item) -> Sample:
    found = read_h5(item.files["rows"], ["sen1", "sen2"], item.about["row"])
    s1 = series_of(np.moveaxis(found["sen1"][..., VV_VH], -1, 0).astype(np.float32))
    series = {"s2": series_of(np.moveaxis(found["sen2"], -1, 0)), "s1": s1}
    return Sample(series, np.full(2, np.nan), -1, targets={"class": np.array(item.label, np.int64)})
