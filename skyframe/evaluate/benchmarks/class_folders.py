"""Scene classification from folders of images, one per class: AID, RESISC-45 and EuroSAT RGB.

| data set | layout | split |
|---|---|---|
| AID | `AID/<Class>/<class>_<n>.jpg`, 30 classes, 10,000 images of 600 x 600, 0.5 to 8 m | by hash |
| RESISC-45 | `NWPU-RESISC45/<class>/<class>_NNN.jpg`, 45 classes, 31,500 images of 256 x 256 | lists, else by hash |
| EuroSAT RGB | `EuroSAT_RGB/<Class>/<Class>_<n>.jpg`, 10 classes, 27,000 chips of 64 x 64, 10 m | lists, else by hash |

Lists are `<name>-{train,val,test}.txt`, one file name a line, in the folder given or beside the classes. `aid-20`,
`aid-50`, `resisc45-10` and `resisc45-20` train on that share of each class, drawn by hash, and test on the rest.

Source: Xia et al., AID, TGRS 2017; Cheng et al., NWPU-RESISC45, Proc. IEEE 2017; Helber et al., EuroSAT, JSTARS 2019;
the lists are those of Neumann et al., arXiv 1911.06721, as torchgeo hosts them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from skyframe.evaluate.datasets.dataset import PARTS, Dataset, Item, hashed_part, missing_files, need_folder
from skyframe.evaluate.datasets.files import read_image, read_lines
from skyframe.evaluate.datasets.imagery import DISPLAY, bands, image_sample, rgb
from skyframe.randomness import hash64
from skyframe.sample import Sample
from skyframe.spec import InputError, Modality, did_you_mean

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif")
AID_CLASSES = (
    "Airport", "BareLand", "BaseballField", "Beach", "Bridge", "Center", "Church", "Commercial", "DenseResidential",
    "Desert", "Farmland", "Forest", "Industrial", "Meadow", "MediumResidential", "Mountain", "Park", "Parking",
    "Playground", "Pond", "Port", "RailwayStation", "Resort", "River", "School", "SparseResidential", "Square",
    "Stadium", "StorageTanks", "Viaduct",
)  # fmt: skip
RESISC45_CLASSES = (
    "airplane", "airport", "baseball_diamond", "basketball_court", "beach", "bridge", "chaparral", "church",
    "circular_farmland", "cloud", "commercial_area", "dense_residential", "desert", "forest", "freeway", "golf_course",
    "ground_track_field", "harbor", "industrial_area", "intersection", "island", "lake", "meadow",
    "medium_residential", "mobile_home_park", "mountain", "overpass", "palace", "parking_lot", "railway",
    "railway_station", "rectangular_farmland", "river", "roundabout", "runway", "sea_ice", "ship", "snowberg",
    "sparse_residential", "stadium", "storage_tank", "tennis_court", "terrace", "thermal_power_station", "wetland",
)  # fmt: skip
EUROSAT_CLASSES = (
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop", "Residential",
    "River", "SeaLake",
)  # fmt: skip
CHIP_PX = 64
"""Side of every EuroSAT chip."""


@dataclass(frozen=True)
class Layout:
    """Where a data set lies and what its lists are called."""

    classes: tuple[str, ...]
    folders: tuple[str, ...]  # below the one given, first match; otherwise the classes lie there themselves
    lists: str  # first part of the lists' names
    modality: Modality
    source: str
    published: int  # images in all
    side_px: int = 0  # of every image; 0 = they differ
    train_share: float = 0.0  # of each class, by hash; 0 = by lists, or 60/20/20


EUROSAT_RGB = Modality("s2", "image", bands(("B04", "B03", "B02")), 10.0, DISPLAY, "uint8", scale=1 / 255)
"""Chips made for the eye from three bands: no rule turns them into reflectance."""
AID = Layout(
    AID_CLASSES, ("AID",), "aid", rgb(0.5),
    "Xia et al., AID, TGRS 2017; 0.5 to 8 m, taken as 0.5; papers train on a random 20 or 50 %, which none publishes",
    10_000,
)  # fmt: skip
RESISC45 = Layout(
    RESISC45_CLASSES, ("NWPU-RESISC45",), "resisc45", rgb(0.5),
    "Cheng et al., NWPU-RESISC45, Proc. IEEE 2017; 0.2 to 30 m, taken as 0.5; papers train on a random 10 or 20 %, the "
    "lists of arXiv 1911.06721 on 60 %",
    31_500,
)  # fmt: skip
LAYOUTS = {
    "aid": AID,
    "aid-20": dataclasses.replace(AID, train_share=0.2),
    "aid-50": dataclasses.replace(AID, train_share=0.5),
    "resisc45": RESISC45,
    "resisc45-10": dataclasses.replace(RESISC45, train_share=0.1),
    "resisc45-20": dataclasses.replace(RESISC45, train_share=0.2),
    "eurosat-rgb": Layout(
        EUROSAT_CLASSES, ("EuroSAT_RGB", "2750", "EuroSAT"), "eurosat", EUROSAT_RGB,
        "Helber et al., EuroSAT, JSTARS 2019; 8-bit pictures of three bands",
        27_000,
        side_px=CHIP_PX,
    ),
}  # fmt: skip


def open_dataset(name: str, root: Path) -> Dataset:
    """AID, RESISC-45 or EuroSAT RGB in `root`, or in its usual folder there."""
    layout = LAYOUTS[name]
    found = (root / f for f in layout.folders if (root / f).is_dir())
    folder = next(found, None) or need_folder(name, root)

    def read(item: Item) -> Sample:
        pixels = read_image(item.files["image"])
        check_side(item, pixels.shape[1:], layout.side_px)
        return image_sample(layout.modality.name, pixels, {"class": np.int64(item.label)})

    items, problems = list_images(name, folder, layout.classes, SUFFIXES)
    items, split, more = with_parts(name, (root, folder), layout, items)
    return Dataset(
        name=name,
        kind="scene",
        classes=layout.classes,
        modalities={layout.modality.name: layout.modality},
        items=tuple(items),
        read=read,
        split=split,
        source=layout.source + copy_note(layout, items),
        problems=(*problems, *more, *missing_files(name, items)),
    )


def copy_note(layout: Layout, items: Sequence[Item]) -> str:
    """What a copy holds of what was published, where that is not all of it; a part can be scored, but not compared."""
    num_classes = len({i.label for i in items})
    if (len(items), num_classes) == (layout.published, len(layout.classes)):
        return ""
    return f"; this copy: {len(items):,} of {layout.published:,} images, {num_classes} of {len(layout.classes)} classes"


def check_side(item: Item, shape: Sequence[int], side_px: int) -> None:
    """Refuse an image of another size than the data set has; `side_px` 0 = any."""
    if side_px and tuple(shape) != (side_px, side_px):
        raise InputError(
            f"{item.files['image']}: {shape[0]} x {shape[1]} pixels, expected {side_px} x {side_px}; fetch it again"
        )


def list_images(
    name: str, folder: Path, classes: Sequence[str], suffixes: Sequence[str]
) -> tuple[list[Item], list[str]]:
    """Images of every class folder, without a part yet, and what is wrong with the folders.

    Folders are matched without regard to case, spaces, hyphens and underscores, as copies differ in these.

    Raises:
        InputError: no folder of any of the classes.
    """
    numbers = {_plain(c): i for i, c in enumerate(classes)}
    items: list[Item] = []
    problems: list[str] = []
    known = set()
    folders = (p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    for path in sorted(folders, key=lambda p: _plain(p.name)):
        number = numbers.get(_plain(path.name))
        if number is None:
            problems.append(
                f"{name}: folder {path} is none of the {len(classes)} classes{did_you_mean(path.name, classes)}; "
                "rename it or move it away"
            )
            continue
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes)
        if not found:
            problems.append(f"{name}: no image in {path}, expected {suffixes[0]} files")
        items += [Item(f"{classes[number]}/{p.stem}", "", {"image": p}, number) for p in found]
        known.add(number)
    if not known:
        need_folder(name, folder, classes[0])
    return items, problems


def with_parts(
    name: str, folders: Sequence[Path], layout: Layout, items: Sequence[Item]
) -> tuple[list[Item], str, list[str]]:
    """Items with their parts, how these were found, and what is wrong with the lists.

    Args:
        name: of the data set.
        folders: where lists may lie.
        layout: of the data set.
        items: without parts. An image that a list names and that is not there becomes an item all the same, so that it
            is told to be missing.
    """
    if layout.train_share:
        share = f"{layout.train_share:.0%}"
        return _by_share(items, layout.train_share), f"{share} of each class to train by hash, the others to test", []
    names = {p: f"{layout.lists}-{p}.txt" for p in PARTS}
    lists = {p: f / n for p, n in names.items() for f in folders if (f / n).is_file()}
    if not lists:
        hashed = _eurosat_part if layout.lists == "eurosat" else hashed_part
        return [dataclasses.replace(i, part=hashed(i.key)) for i in items], "by hash of class and name, 60/20/20", []
    problems = [
        f"{name}: {folders[0]} lacks {n}, its other lists are there" for p, n in names.items() if p not in lists
    ]
    by_stem = {Path(i.key).name: i for i in items}
    listed: list[Item] = []
    for part, path in lists.items():
        for line in read_lines(path):
            item = by_stem.get(Path(line).stem) or _absent(line, items, layout.classes)
            if item is None:
                problems.append(f"{name}: {path} names {line}, which is of no known class; fetch the list again")
            else:
                listed.append(dataclasses.replace(item, part=part))
    unlisted = sorted({i.key for i in items} - {i.key for i in listed})
    if unlisted:
        problems.append(f"{name}: {len(unlisted)} images stand in no list, such as {unlisted[0]}; they are not used")
    return listed, ", ".join(n for p, n in names.items() if p in lists), problems


def _absent(line: str, items: Sequence[Item], classes: Sequence[str]) -> Item | None:
    """An image that a list names and no folder holds, at the place where it was expected."""
    number = {_plain(c): i for i, c in enumerate(classes)}.get(_plain(Path(line).stem.rpartition("_")[0]))
    if number is None:
        return None
    beside = next((i.files["image"].parent for i in items if i.label == number), None)
    folder = beside or items[0].files["image"].parents[1] / classes[number]
    suffix = items[0].files["image"].suffix
    return Item(f"{classes[number]}/{Path(line).stem}", "", {"image": folder / f"{Path(line).stem}{suffix}"}, number)


def _by_share(items: Sequence[Item], share: float) -> list[Item]:
    """The first items of each class by hash to train, the others to test; in the order given."""
    train = set()
    for number in {i.label for i in items}:
        drawn = sorted((i.key for i in items if i.label == number), key=lambda key: hash64("share", key))
        train.update(drawn[: max(1, round(share * len(drawn)))])
    return [dataclasses.replace(i, part="train" if i.key in train else "test") for i in items]


def _eurosat_part(key: str) -> str:
    """By a hash that the RGB and the multispectral chips share, so that the same places are held out in both."""
    number = int.from_bytes(hashlib.sha256(f"split {key}.jpg".encode()).digest()[:8], "big") % 10
    return PARTS[0] if number < 6 else PARTS[1] if number < 8 else PARTS[2]


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())
