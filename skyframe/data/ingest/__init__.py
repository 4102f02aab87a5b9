"""Real files to cubes: one file per source kind, one loop that writes, restartable block by block."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray

from skyframe.data.cube import NODATA, partial_path, tile_px
from skyframe.data.ingest import cf, earthnet, eolearn, geotiff, gfmap, presto, stac, treesatai, worldcereal
from skyframe.data.ingest.placed import check_restart
from skyframe.data.ingest.source import Block, Layer, Source
from skyframe.data.ingest.units import check_plausible
from skyframe.data.manifest import MANIFEST
from skyframe.data.write import CubeWriter
from skyframe.spec import CubeSpec, InputError, did_you_mean

if TYPE_CHECKING:
    from rich.progress import Progress

SOURCES: dict[str, Callable[[Sequence[Path], CubeSpec, ExitStack], Source | dict[str, Source]]] = {
    "worldcereal": worldcereal.open_source,
    "gfmap": gfmap.open_source,
    "treesatai": treesatai.open_source,
    "eolearn": eolearn.open_source,
    "cf": cf.open_source,
    "earthnet": earthnet.open_source,
    "presto": presto.open_source,
    "stac": stac.open_source,
    "geotiff": geotiff.open_source,
}
"""Source kind -> the function that opens its files: one source, or several by cube name. The spec of the same name in
data_specs/, where there is one, goes with it; `cf` reads cubes of any kind and has none."""

Tick = Callable[[int, int, str], None]
"""Called after every block with blocks done, blocks in all and the modality's name."""


def ingest(
    source_kind: str,
    source_paths: Path | str | Sequence[Path | str],
    cube_path: Path | str,
    spec_name: str | Path | None = None,
    progress: Tick | Progress | None = None,
    part: str | None = None,
) -> Path:
    """Write one cube from the files of one place; run again after an interruption, it continues.

    Blocks go to `<cube_path>.partial`, which becomes `cube_path` by one rename at the very end, so that nothing
    half-written ever opens. The files are checked as a whole before the first byte is written.

    Args:
        source_kind: a key of `SOURCES`.
        source_paths: the file or files of the place.
        cube_path: where the cube will be; must not exist. Where the source is cut into cubes, a folder for them;
            finished ones in it are kept.
        spec_name: name or path of a cube spec, by default the one named like the kind; its bands are taken.
        progress: called after every block, or a `rich.progress.Progress`, which gets a task of its own.
        part: "K/N": write only the K-th of N parts of the blocks and leave the cube unfinished, so that N processes
            share the work; the same call without it writes what is missing and finishes. Of several cubes, the K-th
            part are whole cubes.

    Returns:
        Path of the finished cube, of the unfinished one after a part, or of the folder of several.

    Raises:
        InputError: unknown kind, a bad file, a modality without one valid pixel, implausible units, or a cube there.
    """
    if source_kind not in SOURCES:
        raise InputError(
            f"ingest: no source kind {source_kind!r}, expected one of "
            f"{', '.join(SOURCES)}{did_you_mean(source_kind, SOURCES)}"
        )
    share = _share(part)
    _check_extra()
    if spec_name is None and source_kind == "cf":
        raise InputError("ingest cf: no spec, expected one that says which variables are which bands; give --spec")
    spec = CubeSpec.load(spec_name or source_kind)
    listed = [source_paths] if isinstance(source_paths, str | Path) else list(source_paths)
    where, path = ", ".join(Path(p).name for p in listed), Path(cube_path)
    with ExitStack() as files:
        sources = SOURCES[source_kind]([Path(p) for p in listed], spec, files)
        if isinstance(sources, Source):
            return _write(sources, spec, path, _tick(progress, path.name), where, share)
        first, step = share or (1, 1)
        for name in list(sources)[first - 1 :: step]:
            if not (path / name).exists():
                _write(sources[name], spec, path / name, _tick(progress, name), where, None)
        return path


def _share(part: str | None) -> tuple[int, int] | None:
    if part is None:
        return None
    found = re.fullmatch(r"(\d+)/(\d+)", part)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"--part: got {part!r}, expected K/N with K from 1 to N, such as 3/16; correct it")
    return int(found[1]), int(found[2])


def _write(source: Source, spec: CubeSpec, path: Path, tick: Tick, where: str, share: tuple[int, int] | None) -> Path:
    for layer in source.layers:
        if not layer.block_px:
            _check_observed(layer, where)
    if share and (partial_path(path) / MANIFEST).exists():
        raise InputError(
            f"{partial_path(path)}: is being finished, expected parts to be over; start the command without --part"
        )
    check_restart(path, source.about)
    writer = CubeWriter(path, spec, source.grid, source.about)
    for layer in source.layers:
        writer.create(layer.modality.name, layer.days)
    first, step = share or (1, 1)
    work = [(layer, block) for layer in source.layers for block in blocks_of(layer)][first - 1 :: step]
    unseen = {layer.modality.name for layer in source.layers if layer.block_px}
    for done, (layer, block) in enumerate(work, start=1):
        name = layer.modality.name
        if not all(writer.is_written(name, y, x) for y, x in _shards_of(layer, block)):
            values, flags = _read(layer, block)
            if name in unseen and np.any(flags != NODATA):
                _check_units(layer, values, flags, where)
                unseen.remove(name)
            writer.write(name, *block[:2], values, flags)
            del values, flags  # before the next block is read, not after
        tick(done, len(work), name)
    if share:
        return partial_path(path)
    for layer in source.layers:
        if layer.modality.name in unseen:
            _check_written(layer, partial_path(path), where)
    for name, values in source.labels.items():
        writer.write_label(name, values)
    return writer.finish()


def blocks_of(layer: Layer) -> Iterator[tuple[int, int, int, int]]:
    """Blocks (row, column, height, width in pixels) on the cube's shard grid, ragged at the far edges."""
    step = layer.block_px or tile_px(layer.modality.gsd_m)[1]
    rows, columns = layer.shape_px
    for y in range(0, rows, step):
        for x in range(0, columns, step):
            yield y, x, min(step, rows - y), min(step, columns - x)


def _shards_of(layer: Layer, block: tuple[int, int, int, int]) -> Iterator[tuple[int, int]]:
    """Upper-left pixels of the shards of a block."""
    y, x, height, width = block
    step = tile_px(layer.modality.gsd_m)[1]
    return ((row, column) for row in range(y, y + height, step) for column in range(x, x + width, step))


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
            _check_units(layer, values, flags, where)
            return
    raise _no_data(layer, where)


def _check_written(layer: Layer, partial: Path, where: str) -> None:
    """Refuse a modality all of whose blocks were written without one pixel of data."""
    flags = zarr.open_array(partial / layer.modality.name / "valid", mode="r")
    if not any(np.any(flags[:, y : y + height, x : x + width]) for y, x, height, width in blocks_of(layer)):
        raise _no_data(layer, where)


def _no_data(layer: Layer, where: str) -> InputError:
    pixels = len(layer.days) * layer.shape_px[0] * layer.shape_px[1]
    return InputError(
        f"{where}: {layer.modality.name} has no data, all {pixels} pixels in {len(layer.days)} dates are missing, "
        f"expected at least one; give another file or a spec without {layer.modality.name}"
    )


def _check_units(layer: Layer, values: NDArray[Any], flags: NDArray[np.uint8], where: str) -> None:
    check_plausible(values, flags, layer.modality.scale, layer.modality.units, f"{where}: {layer.modality.name}")


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
