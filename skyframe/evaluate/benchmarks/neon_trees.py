"""NEON tree crowns: boxes around single trees on aerial RGB images of 0.1 m, from sites across North America.

| layout | images | annotations | parts |
|---|---|---|---|
| NeonTreeEvaluation | `{training,evaluation}/RGB/*.tif` | `annotations/*.xml` | evaluation is test |
| DeepForest's samples | `*.tif`, `*.png` in one folder | `.xml` or `.csv` beside | plots of 400 x 400 pixels are test |

Of the first layout val is an eighth of train by hash; the second is too small to have one. A CSV is read where there is
no XML; one with a column of scores holds a model's answers and is left alone, `<image>_truth.csv` is preferred. In one
folder an image without either is not listed.

Source: Weinstein et al., A benchmark dataset for canopy crown detection, PLOS Computational Biology 2021. The first
layout is written from descriptions of it.
"""

from __future__ import annotations

from pathlib import Path

from skyframe.evaluate.datasets.annotations import read_box_table, read_voc, targets
from skyframe.evaluate.datasets.dataset import Dataset, Item, hashed_part, missing_files
from skyframe.evaluate.datasets.files import image_size, read_image, read_text
from skyframe.evaluate.datasets.imagery import image_sample, rgb
from skyframe.sample import Sample
from skyframe.spec import InputError

CLASSES = ("Tree",)
PLOT_PX = 400
"""NEON's evaluation plots are 40 m wide; what is larger was annotated for training."""
SUFFIXES = (".tif", ".png", ".jpg")


def open_dataset(name: str, root: Path) -> Dataset:
    """Tree crowns below `root` in either layout."""
    folder = root / "NeonTreeEvaluation" if (root / "NeonTreeEvaluation").is_dir() else root
    split_folders = {part: folder / where / "RGB" for part, where in (("train", "training"), ("test", "evaluation"))}
    is_split = any(f.is_dir() for f in split_folders.values())
    items, problems = [], []
    for part, images in (split_folders if is_split else {"": folder}).items():
        found = [p for p in sorted(images.glob("*")) if p.suffix in SUFFIXES]
        for path in found:
            labels = folder / "annotations" / f"{path.stem}.xml" if is_split else _labels(path)
            if labels is not None:
                try:
                    items.append(Item(path.stem, _part(name, path, part), {"image": path, "boxes": labels}))
                except InputError as error:
                    problems.append(f"{name}: {error}")
        if is_split and not found:
            problems.append(f"{name}: no image in {images}, expected .tif files")
    if not items and not problems:
        raise InputError(f"{name}: no image with boxes in {folder}, expected .tif or .png beside .xml or .csv")
    return Dataset(
        name=name,
        kind="boxes",
        classes=CLASSES,
        modalities={"rgb": rgb(0.1)},
        items=tuple(items),
        read=_read,
        split="folders, val an eighth of train by hash" if is_split else "plots of 400 x 400 pixels are test, no val",
        source="Weinstein et al., PLOS Computational Biology 2021; its own score is recall and precision at IoU 0.4",
        problems=(*problems, *missing_files(name, items)),
    )


def _labels(image: Path) -> Path | None:
    for path in (image.with_name(f"{image.stem}{end}") for end in (".xml", "_truth.csv", ".csv")):
        if path.is_file() and not (path.suffix == ".csv" and "scores" in read_text(path).partition("\n")[0]):
            return path
    return None


def _part(name: str, image: Path, given: str) -> str:
    if given:
        return given if given == "test" else hashed_part(image.stem, (0.875, 0.125, 0.0), name)
    return "test" if image_size(image) == (PLOT_PX, PLOT_PX) else "train"


def _read(item: Item) -> Sample:
    pixels, path = read_image(item.files["image"]), item.files["boxes"]
    size = pixels.shape[1], pixels.shape[2]
    drawn = read_voc(path, size) if path.suffix == ".xml" else read_box_table(path, CLASSES[0])
    return image_sample("rgb", pixels, targets(path, drawn, CLASSES, size))
