"""Aerial land cover at 5 cm: ISPRS Potsdam, 38 tiles of 6000 x 6000 pixels, read window by window.

Images: `4_Ortho_RGBIR/top_potsdam_R_C_RGBIR.tif`. Labels: `top_potsdam_R_C_label.tif` in `5_Labels_all/`, or beside
the folder of images, where torchgeo unpacks them. 24 tiles train (part of which validates) and 14 test, as published.

Source: ISPRS 2D Semantic Labeling Contest, Potsdam.
"""

from __future__ import annotations

from pathlib import Path

from skyframe.evaluate.datasets.dataset import Dataset, Item, hashed_part, missing_files, need_folder
from skyframe.evaluate.datasets.files import raster_shape, read_raster
from skyframe.evaluate.datasets.imagery import image_sample, rgb
from skyframe.evaluate.datasets.masks import classes_of_colours, need_size
from skyframe.sample import Sample
from skyframe.spec import InputError

CLASSES = {
    "impervious surface": (255, 255, 255), "building": (0, 0, 255), "low vegetation": (0, 255, 255),
    "tree": (0, 255, 0), "car": (255, 255, 0), "clutter": (255, 0, 0),
}  # fmt: skip
"""Colour of each class; clutter is last, as published mF1 are means over the first five."""
COLOUR_TOLERANCE = 8
"""Two published tiles store (252, 255, 0) for cars."""
TRAIN = (
    "2_10", "2_11", "2_12", "3_10", "3_11", "3_12", "4_10", "4_11", "4_12", "5_10", "5_11", "5_12",
    "6_10", "6_11", "6_12", "6_7", "6_8", "6_9", "7_10", "7_11", "7_12", "7_7", "7_8", "7_9",
)  # fmt: skip
TEST = (
    "2_13", "2_14", "3_13", "3_14", "4_13", "4_14", "4_15", "5_13", "5_14", "5_15", "6_13", "6_14", "6_15", "7_13",
)  # fmt: skip
WINDOW_PX = 1024
VAL_SHARE = 0.15


def open_dataset(name: str, root: Path) -> Dataset:
    """Potsdam below `root`; windows of up to 1024 x 1024 pixels are its items."""
    images = need_folder(name, root, "4_Ortho_RGBIR")
    apart = [root / "5_Labels_all", images.parent / "5_Labels_all"]
    labels = next((p for p in apart if p.is_dir()), root)
    items: list[Item] = []
    problems, absent = [], []
    for tile in (*TRAIN, *TEST):
        files = {
            "image": images / f"top_potsdam_{tile}_RGBIR.tif",
            "mask": labels / f"top_potsdam_{tile}_label.tif",
        }
        part = "test" if tile in TEST else hashed_part(tile, (1 - VAL_SHARE, VAL_SHARE, 0), name)
        lost = missing_files(name, [Item(tile, part, files)])
        if not any(path.exists() for path in files.values()):
            absent.append(tile)
        elif lost:
            problems += lost
        else:
            found = _windows(name, tile, part, files)
            if isinstance(found, str):
                problems.append(found)
            else:
                items += found
    held = f"; this copy: {38 - len(absent)} of 38 tiles" if absent else ""
    strange = sorted(set(images.glob("*.tif")) - {images / f"top_potsdam_{t}_RGBIR.tif" for t in (*TRAIN, *TEST)})
    if strange:
        problems.append(f"{name}: {strange[0].name} is none of the 38 published tiles, expected top_potsdam_R_C_RGBIR")
    return Dataset(
        name=name,
        kind="pixel",
        classes=tuple(CLASSES),
        modalities={"rgb": rgb(0.05, ("red", "green", "blue", "nir"))},
        items=tuple(items),
        read=_read,
        split="the published 24 and 14 tiles; of the 24, those that a hash of the tile chooses validate",
        source="ISPRS 2D Semantic Labeling Contest, Potsdam, labels with boundaries; published mF1 are means over "
        f"five classes without clutter, and some leave out tile 7_10{held}",
        problems=tuple(problems),
    )


def _windows(name: str, tile: str, part: str, files: dict[str, Path]) -> list[Item] | str:
    """Windows that cover a tile, or what is wrong with its files; headers are read, no pixels."""
    try:
        (bands, height, width), drawn = raster_shape(files["image"]), raster_shape(files["mask"])
    except InputError as error:
        return f"{name}: {error}"
    if bands != 4 or drawn != (3, height, width):
        return (
            f"{name}: tile {tile} has an image of {bands} x {height} x {width} and a mask of "
            f"{' x '.join(map(str, drawn))}, expected 4 and 3 bands of one size; fetch both again"
        )
    starts = [(y, x) for y in range(0, height, WINDOW_PX) for x in range(0, width, WINDOW_PX)]
    return [
        Item(
            f"{tile}/{y}_{x}",
            part,
            files,
            cluster=tile,
            about={"window": (y, x, min(WINDOW_PX, height - y), min(WINDOW_PX, width - x))},
        )
        for y, x in starts
    ]


def _read(item: Item) -> Sample:
    window, path = item.about["window"], item.files["mask"]
    pixels = read_raster(item.files["image"], window=window)
    mask = classes_of_colours(
        path, read_raster(path, bands=(1, 2, 3), window=window), tuple(CLASSES.values()), COLOUR_TOLERANCE
    )
    need_size(path, mask, *pixels.shape[1:])
    return image_sample("rgb", pixels, {"mask": mask})
