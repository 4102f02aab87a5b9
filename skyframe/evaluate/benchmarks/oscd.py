"""Urban change between two Sentinel-2 images: Onera Satellite Change Detection, 24 cities, Level-1C.

`<Images>/<city>/imgs_{1,2}_rect/B01.tif ... B12.tif` and `<Images>/<city>/dates.txt`, and in `<Train Labels>` or
`<Test Labels>` `<city>/cm/cm.png` (not 0 = change) or `<city>-cm.tif` (1 = no change, 2 = change). Bands of another
size than B02's are resampled to its 10 m grid, which is the mask's.

Source: Caye Daudt et al., Urban change detection for multispectral Earth observation, IGARSS 2018.
"""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from skyframe.calendar import DAY_UNKNOWN, day_of
from skyframe.evaluate.datasets.dataset import Dataset, Item, hashed_part, missing_files
from skyframe.evaluate.datasets.files import read_image, read_lines, read_raster
from skyframe.evaluate.datasets.imagery import S2_BANDS, sentinel2, series_of
from skyframe.evaluate.datasets.masks import classes_of_numbers, need_size
from skyframe.sample import Sample
from skyframe.spec import InputError

PREFIX = "Onera Satellite Change Detection dataset - "
IMAGES = (f"{PREFIX}Images", "images", "Images")
LABELS = {
    "train": (f"{PREFIX}Train Labels", "train_labels", "Train Labels"),
    "test": (f"{PREFIX}Test Labels", "test_labels", "Test Labels"),
}
CITIES = {
    "train": (
        "abudhabi", "aguasclaras", "beihai", "beirut", "bercy", "bordeaux", "cupertino", "hongkong", "mumbai",
        "nantes", "paris", "pisa", "rennes", "saclay_e",
    ),
    "test": (
        "brasilia", "chongqing", "dubai", "lasvegas", "milano", "montpellier", "norcia", "rio", "saclay_w", "valencia",
    ),
}  # fmt: skip
VAL_SHARE = 0.2


def open_dataset(name: str, root: Path) -> Dataset:
    """OSCD below `root`, in the folders of its archives or shorter ones."""
    images = next((root / sub for sub in IMAGES if (root / sub).is_dir()), None)
    if images is None:
        raise InputError(
            f"{name}: no folder {IMAGES[0]!r} in {root}, expected it beside those of the labels; unpack the archives "
            "there"
        )
    items: list[Item] = []
    problems: list[str] = []
    num_absent = 0
    for stored, folders in LABELS.items():
        labels = next((root / sub for sub in folders if (root / sub).is_dir()), root / folders[0])
        found = sorted(p.name for p in labels.glob("*") if p.is_dir())
        absent = [c for c in CITIES[stored] if c not in found]
        lost = [c for c in absent if (images / c).is_dir()]
        num_absent += len(absent) - len(lost)
        if lost:
            problems.append(
                f"{name}: no labels of {', '.join(lost)}, expected the {len(CITIES[stored])} published {stored} cities "
                f"in {labels}"
            )
        for city in found:
            part = stored if stored == "test" else hashed_part(city, (1 - VAL_SHARE, VAL_SHARE, 0), name)
            days, problem = _days(name, images / city / "dates.txt")
            items.append(Item(city, part, _files(images / city, labels / city / "cm"), about={"days": days}))
            problems += problem
    return Dataset(
        name=name,
        kind="change",
        classes=("no change", "change"),
        modalities={"s2": sentinel2(S2_BANDS, level="L1C", many=True)},
        items=tuple(items),
        read=_read,
        split="the published 14 and 10 cities; of the 14, those that a hash of the name chooses validate",
        source="Caye Daudt et al., OSCD, IGARSS 2018; F1 of the class change over all test pixels"
        + (f"; this copy lacks {num_absent} of 24 cities" if num_absent else ""),
        problems=(*missing_files(name, items), *problems),
    )


def _files(images: Path, labels: Path) -> dict[str, Path]:
    files = {f"{i}/{band}": images / f"imgs_{i}_rect" / f"{band}.tif" for i in (1, 2) for band in S2_BANDS}
    other = labels / f"{images.name}-cm.tif"
    return files | {"mask": other if other.is_file() and not (labels / "cm.png").is_file() else labels / "cm.png"}


def _days(name: str, path: Path) -> tuple[list[int], list[str]]:
    """Days of both images from lines such as `date_1: 20160120`; unknown, and why, where that cannot be had."""
    try:
        texts = [line.split()[-1] for line in read_lines(path)]
        days = [day_of(_date(text)) for text in texts]
    except (InputError, ValueError) as error:
        return [DAY_UNKNOWN] * 2, [f"{name}: dates of {path.parent.name} are not known ({error})"]
    if len(days) != 2 or days[0] > days[1]:
        return [DAY_UNKNOWN] * 2, [f"{name}: {path} has dates {', '.join(texts)}, expected an earlier and a later one"]
    return days, []


def _date(text: str) -> date:
    return datetime.strptime(text, "%Y%m%d").date()


def _read(item: Item) -> Sample:
    stacks = []
    for number in (1, 2):
        planes = [read_raster(item.files[f"{number}/{band}"], bands=(1,))[0] for band in S2_BANDS]
        height, width = planes[S2_BANDS.index("B02")].shape
        stacks.append(np.stack([_onto(plane, height, width) for plane in planes]))
    need_size(item.files["2/B02"], stacks[1], *stacks[0].shape[1:])
    path = item.files["mask"]
    if path.suffix == ".png":
        mask = (read_image(path, "L") > 0).astype(np.int64)
    else:
        mask = classes_of_numbers(path, read_raster(path, bands=(1,))[0], {1: 0, 2: 1}, "1 and 2 for the classes")
    need_size(path, mask, *stacks[0].shape[1:])
    pair = np.stack(stacks)
    series = series_of(pair, np.array(item.about["days"], np.int32), (pair != 0).any(1))
    return Sample({"s2": series}, np.full(2, np.nan), -1, targets={"mask": mask})


def _onto(plane: NDArray[np.generic], height: int, width: int) -> NDArray[np.generic]:
    """A band on the 10 m grid, bilinear where its own is another."""
    if plane.shape == (height, width):
        return plane
    image = Image.fromarray(plane.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return np.rint(np.asarray(image)).astype(plane.dtype)
