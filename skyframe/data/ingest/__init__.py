"""Real files to cubes: one file per source kind, one loop that writes, restartable block by block."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from skyframe.data.cube import NODATA, tile_px
from skyframe.data.ingest import cf, earthnet, eolearn, gfmap, presto, treesatai, worldcereal
from skyframe.data.ingest.source import Block, Layer, Source
from skyframe.data.ingest.units import check_plausible
from skyframe.data.write import CubeWriter
from skyframe.spec import CubeSpec, InputError, did_you_mean

if TYPE_CHECKING:
    from rich.progress import Progress

SOURCES: dict[str, Callable[[Sequence[Path], CubeSpec, ExitStack], Source]] = {
    "worldcereal": worldcereal.open_source,
    "gfmap": gfmap.open_source,
    "treesatai": treesatai.open_source,
    "eolearn": eolearn.open_source,
    "cf": cf.open_source,
    "earthnet": earthnet.open_source,
    "presto": presto.open_source,
}
"""Source kind -> the function that opens its files. The spec of the same name in data_specs/ goes with it; `cf` reads
cubes of any kind and has none."""

Tick = Callable[[int, int, str], None]
"""Called after every block with blocks done, blocks in all and the modality's name."""


def ingest(
    source_kind: str,
    source_paths: Path | str | Sequence[Path | str],
    cube_path: Path | str,
    spec_name: str | Path | None = None,
    progress: Tick | Progress | None = None,
) -> Path:
    """Write one cube from the files of one place; run again after an interruption, it continues.

    Blocks go to `<cube_path>.partial`, which becomes `cube_path` by one rename at the very end, so that nothing
    half-written ever opens. The files are checked as a whole before the first byte is written.

    Args:
        source_kind: a key of `SOURCES`.
        source_paths: the file or files of the place.
        cube_path: where the cube will be; must not exist.
        spec_name: name or path of a cube spec, by default the one named like the kind; its bands are taken.
        progress: called after every block, or a `rich.progress.Progress`, which gets a task of its own.

    Returns:
        Path of the finished cube.

    Raises:
        InputError: unknown kind, a bad file, a modality without one valid pixel, implausible units, or a cube there.
    """
    if source_kind not in SOURCES:
        raise InputError(
            f"ingest: no source kind {source_kind!r}, expected one of "
            f"{', '.join(SOURCES)}{did_you_mean(source_kind, SOURCES)}"
        )
    _check_extra()
    if spec_name is None and source_kind == "cf":
        raise InputError("ingest cf: no spec, expected one that says which variables are which bands; give --spec")
    spec = CubeSpec.load(spec_name or source_kind)
    listed = [source_paths] if isinstance(source_paths, str | Path) else list(source_paths)
    with ExitStack() as files:
        source = SOURCES[source_kind]([Path(p) for p in listed], spec, files)
        for layer in source.layers:
            _check_observed(layer, ", ".join(Path(p).name for p in listed))
        return _write(source, spec, Path(cube_path), _tick(progress, Path(cube_path).name))


def _write(source: Source, spec: CubeSpec, path: Path, tick: Tick) -> Path:
    writer = CubeWriter(path, spec, source.grid, source.about)
    work = [(layer, block) for layer in source.layers for block in blocks_of(layer)]
    for layer in source.layers:
        writer.create(layer.modality.name, layer.days)
    for done, (layer, (y, x, height, width)) in enumerate(work, start=1):
        name = layer.modality.name
        if not writer.is_written(name, y, x):
            values, flags = _read(layer, (y, x, height, width))
            writer.write(name, y, x, values, flags)
        tick(done, len(work), name)
    for name, values in source.labels.items():
        writer.write_label(name, values)
    return writer.finish()


def blocks_of(layer: Layer) -> Iterator[tuple[int, int, int, int]]:
    """Blocks (row, column, height, width in pixels) on the cube's shard grid, ragged at the far edges."""
    _, step = tile_px(layer.modality.gsd_m)
    rows, columns = layer.shape_px
    for y in range(0, rows, step):
        for x in range(0, columns, step):
            yield y, x, min(step, rows - y), min(step, columns - x)


def _read(layer: Layer, block: tuple[int, int, int, int]) -> Block:
    try:
        return layer.read(*block)
    except OSError as error:
        raise InputError(
            f"{layer.modality.name}: the source cannot be read at row {block[0]}, column {block[1]} "
            f"({' '.join(str(error).split())}); fetch it again, then start the same command to continue"
        ) from error


def _check_observed(layer: Layer, where: str) -> None:
    """Refuse a modality without one pixel of data, or in another unit; stops at the first block that has data."""
    for block in blocks_of(layer):
        values, flags = _read(layer, block)
        if np.any(flags != NODATA):
            check_plausible(
                values, flags, layer.modality.scale, layer.modality.units, f"{where}: {layer.modality.name}"
            )
            return
    pixels = len(layer.days) * layer.shape_px[0] * layer.shape_px[1]
    raise InputError(
        f"{where}: {layer.modality.name} has no data, all {pixels} pixels in {len(layer.days)} dates are missing, "
        f"expected at least one; give another file or a spec without {layer.modality.name}"
    )


def _check_extra() -> None:
    lacking = [name for name in ("h5py", "h5netcdf", "rasterio") if importlib.util.find_spec(name) is None]
    if lacking:
        raise InputError(
            f"ingest: {', '.join(lacking)} not installed, expected for reading source files; pip install "
            "'skyframe-eo[ingest]'"
        )


def _tick(progress: Tick | Progress | None, title: str) -> Tick:
    if progress is None:
        return lambda done, total, name: None
    if callable(progress):
        return progress
    bar, task = progress, progress.add_task(title, total=None)
    return lambda done, total, name: bar.update(task, completed=done, total=total, description=f"{title} {name}")
