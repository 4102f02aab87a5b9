"""Land cover in one place of Slovenia: eo-learn's TestEOPatch with its scenes of 13 bands.

`TestEOPatch/` and `REFERENCE_SCENES.npy` beside it, read as ingestion reads them: five Sentinel-2 scenes (Level-1C)
and 68 acquisitions of NDVI with cloud flags, both dated, and the class of each pixel. 101 x 100 pixels: 25 blocks
of 16 pixels that do not touch, so the number tells of this place alone.

Source: sentinel-hub/eo-learn, classes as in its land-cover example.
"""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from pathlib import Path

from skyframe.data.cube import CLEAR
from skyframe.data.ingest.eolearn import open_source
from skyframe.data.ingest.source import Source
from skyframe.evaluate.datasets.dataset import Dataset, Item
from skyframe.evaluate.datasets.imagery import series_of
from skyframe.evaluate.datasets.masks import blocks_of_scene, classes_of_numbers
from skyframe.geography import place_of
from skyframe.sample import Sample
from skyframe.spec import CubeSpec, InputError

PATCH, SCENES, SPEC = "TestEOPatch", "REFERENCE_SCENES.npy", "eolearn"
MODALITIES = ("s2", "ndvi")
BLOCK_PX, GAP_PX = 16, 5


def open_dataset(name: str, root: Path) -> Dataset:
    """The patch in `root`, or in its folder `eo-learn` there."""
    folder = next((p for p in (root, root / "eo-learn") if (p / PATCH).is_dir()), None)
    if folder is None:
        raise InputError(f"{name}: no {PATCH} in {root}, expected it beside {SCENES}; give the folder that holds both")
    files = {"patch": folder / PATCH / "timestamps.json", "scenes": folder / SCENES}
    spec = _spec()
    try:
        _source(files, spec)
    except InputError as error:  # all items stand in the same few files: without them there is none
        problems, blocks = [f"{name}: {error}"], []
    else:
        problems, blocks = [], list(blocks_of_scene(BLOCK_PX, GAP_PX))
    items = [Item(f"{b.top}_{b.left}", b.part, files, about={"window": (b.top, b.left, b.side)}) for b in blocks]
    return Dataset(
        name=name,
        kind="pixel",
        classes=spec.labels["land_cover"].classes[1:],
        modalities={m: spec.modalities[m] for m in MODALITIES},
        items=tuple(items),
        read=_read,
        split=f"25 blocks of {BLOCK_PX} pixels, {GAP_PX} apart: 15 train, 5 validate, 5 test",
        source="sentinel-hub/eo-learn, TestEOPatch; one place, three quarters of it forest, so no published number",
        problems=tuple(problems),
    )


def _spec() -> CubeSpec:
    spec = CubeSpec.load(SPEC)
    return dataclasses.replace(spec, modalities={m: spec.modalities[m] for m in MODALITIES})


def _source(files: dict[str, Path], spec: CubeSpec) -> Source:
    with ExitStack() as stack:
        return open_source([files["patch"].parent, files["scenes"]], spec, stack)


def _read(item: Item) -> Sample:
    source = _source(item.files, _spec())
    top, left, side = item.about["window"]
    series = {}
    for layer in source.layers:
        values, flags = layer.read(top, left, side, side)
        series[layer.modality.name] = series_of(values, layer.days, flags == CLEAR)
    numbers = source.labels["land_cover"][top : top + side, left : left + side]
    table = {0: -1} | {n: n - 1 for n in range(1, 11)}
    gsd_m = source.layers[0].modality.gsd_m
    place = place_of(source.grid, (top + side / 2) * gsd_m, (left + side / 2) * gsd_m)
    mask = classes_of_numbers(item.files["patch"].parent / "mask_timeless/LULC.npy", numbers, table)
    return Sample(series, place, -1, targets={"mask": mask})
