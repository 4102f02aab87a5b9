"""Existing archives in place: a YAML maps foreign Zarr stores and COGs to the arrays of a cube, nothing is copied."""

from __future__ import annotations

from pathlib import Path

from skyframe.data.archive.description import load_description
from skyframe.data.archive.from_scenes import open_scene_modality
from skyframe.data.archive.from_zarr import open_zarr_modality
from skyframe.data.archive.placed import common_grid, records_of
from skyframe.data.archive.pool import OpenedPool
from skyframe.data.archive.scenes import read_scenes
from skyframe.data.archive.source import ArchiveReader
from skyframe.data.cube import Cube
from skyframe.data.manifest import Manifest
from skyframe.data.store import open_store

__all__ = ["ArchiveReader", "open_archive"]


def open_archive(path: str | Path) -> Cube:
    """A cube whose pixels are read from somebody else's store or files.

    Args:
        path: the YAML description.

    Raises:
        InputError: the description is wrong, or the archive contradicts it.
    """
    description = load_description(Path(path))
    file, pool = description.file, OpenedPool()
    if file.store:
        store = open_store(description.place(file.store))
        placed = {name: open_zarr_modality(description, name, store, pool) for name in file.modalities}
    else:
        store, scenes = read_scenes(description.place(file.scenes))
        placed = {name: open_scene_modality(description, name, store, scenes, pool) for name in file.modalities}
    spec = description.spec
    both = {name: (spec.modality(name), one) for name, one in placed.items()}
    grid = common_grid(both, description.path.name)
    records = {name: record for m, one in both.values() for name, record in records_of(m, one).items()}
    about = {"kind": "archive", "place": file.store or file.scenes}
    manifest = Manifest(spec, grid, about, {name: one.days for name, one in placed.items()}, records)
    reader = ArchiveReader({name: one.source for name, one in placed.items()}, pool, store)
    return Cube(description.path.stem, store, spec, grid, manifest, reader)
