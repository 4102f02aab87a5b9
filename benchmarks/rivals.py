"""Other ways to the same samples, one function each: what it prepares -> sample by number.

Stores are SkyFrame's own (plain Zarr v3), each rival in the form that serves it best where there is a choice. Formats
that hold samples cut in advance have their dates and windows frozen when they are built. A package that is not
installed is a ModuleNotFoundError here, and a named row of the table.
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.material import MODALITY, SIDE_PX, Material, Pick, built
from benchmarks.measure import Contestant
from skyframe.data.shard import BLOSC_LEVELS, Codec

Picks = Sequence[Pick]
GDAL_CACHE_MB = 64
"""GDAL keeps decoded blocks: less than the file set here, as any training set is larger than memory."""


def _open_zarr(material: Material, codec: Codec, pipeline: str | None) -> Any:
    import zarr

    settings = {"codec_pipeline.path": pipeline} if pipeline else {}
    with zarr.config.set(settings):
        return zarr.open_array(material.store(codec) / MODALITY / "values", mode="r")


def _zarrs_pipeline() -> str:
    import zarrs

    return f"{zarrs.__name__}.ZarrsCodecPipeline"


def zarr_oindex(material: Material, picks: Picks, codec: Codec, pipeline: str | None = None) -> Contestant:
    """zarr-python, the dates by orthogonal indexing."""
    array = _open_zarr(material, codec, pipeline)
    return lambda n: array.oindex[(picks[n % len(picks)].dates, slice(None), *picks[n % len(picks)].box)]


def zarr_slice(material: Material, picks: Picks, codec: Codec, pipeline: str | None = None) -> Contestant:
    """zarr-python, all dates of the window as one contiguous slice, then the picks in memory."""
    array = _open_zarr(material, codec, pipeline)
    return lambda n: array[(slice(None), slice(None), *picks[n % len(picks)].box)][picks[n % len(picks)].dates]


def zarrs_oindex(material: Material, picks: Picks, codec: Codec) -> Contestant:
    """zarr-python with the codec pipeline of zarrs, orthogonal indexing."""
    return zarr_oindex(material, picks, codec, _zarrs_pipeline())


def zarrs_slice(material: Material, picks: Picks, codec: Codec) -> Contestant:
    """zarr-python with the codec pipeline of zarrs, contiguous slice."""
    return zarr_slice(material, picks, codec, _zarrs_pipeline())


def tensorstore_oindex(material: Material, picks: Picks, codec: Codec) -> Contestant:
    """tensorstore on one thread."""
    import tensorstore

    one = {"limit": 1}
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(material.store(codec) / MODALITY / "values")},
        "context": {"data_copy_concurrency": one, "file_io_concurrency": one},
    }
    array = tensorstore.open(spec, read=True).result()

    def read(number: int) -> Any:
        pick = picks[number % len(picks)]
        return array.oindex[(pick.dates, slice(None), *pick.box)].read().result()

    return read


def _dataset(material: Material, codec: Codec) -> Any:
    import xarray

    return xarray.open_zarr(material.store(codec), group=MODALITY, chunks=None, mask_and_scale=False)


def xarray_isel(material: Material, picks: Picks, codec: Codec) -> Contestant:
    """xarray without dask and without scaling, the dates by `isel`."""
    array = _dataset(material, codec)["values"]

    def read(number: int) -> Any:
        pick = picks[number % len(picks)]
        rows, columns = pick.box
        return array.isel(day=pick.dates, y=rows, x=columns).values

    return read


def xarray_slice(material: Material, picks: Picks, codec: Codec) -> Contestant:
    """xarray, all dates of the window, then the picks in memory."""
    array = _dataset(material, codec)["values"]

    def read(number: int) -> Any:
        pick = picks[number % len(picks)]
        rows, columns = pick.box
        return array.isel(y=rows, x=columns).values[pick.dates]

    return read


def xbatcher_grid(material: Material, picks: Picks, codec: Codec) -> Contestant:
    """xbatcher: windows of a fixed grid with all dates, contiguous by its nature; then the picks in memory."""
    import xbatcher

    data = _dataset(material, codec)["values"]
    batches = xbatcher.BatchGenerator(data, input_dims={"day": data.sizes["day"], "y": SIDE_PX, "x": SIDE_PX})
    across = data.sizes["x"] // SIDE_PX

    def read(number: int) -> Any:
        pick = picks[number % len(picks)]
        batch = batches[pick.row // SIDE_PX * across + pick.column // SIDE_PX]
        return batch.transpose("day", "band", "y", "x").values[pick.dates]

    return read


def geotiff(material: Material, picks: Picks, tile_px: int) -> Contestant:
    """rasterio: a GeoTIFF per date with all bands (tiles of `tile_px`, zstd, predictor 2), all of them kept open."""
    import rasterio
    from rasterio.windows import Window

    def build(folder: Path) -> None:
        folder.mkdir()
        _, bands, height, width = material.values.shape
        shape = {"count": bands, "height": height, "width": width, "dtype": "uint16"}
        tiles = {"tiled": True, "blockxsize": tile_px, "blockysize": tile_px, "compress": "zstd", "predictor": 2}
        place = {"crs": "EPSG:32631", "transform": rasterio.Affine(10, 0, 400_000, 0, -10, 5_500_240)}
        for date, image in enumerate(material.values):
            with rasterio.open(folder / f"{date:03d}.tif", "w", driver="GTiff", **shape, **tiles, **place) as file:
                file.write(image)

    folder = built(material.folder / f"geotiff{tile_px}", build)
    environment = rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB, GDAL_NUM_THREADS=1)
    environment.__enter__()  # for as long as this process reads
    files = [rasterio.open(path) for path in sorted(folder.iterdir())]

    def read(number: int) -> Any:
        pick = picks[number % len(picks)]
        window = Window(pick.column, pick.row, SIDE_PX, SIDE_PX)
        return np.stack([files[date].read(window=window) for date in pick.dates.tolist()])

    return read


def npy_per_sample(material: Material, picks: Picks) -> Contestant:
    """One `.npy` file per sample, cut in advance."""

    def build(folder: Path) -> None:
        folder.mkdir()
        for number, pick in enumerate(picks):
            np.save(folder / f"{number:04d}.npy", material.expected(pick))

    files = sorted(built(material.folder / "npy", build).iterdir())
    return lambda n: np.load(files[n % len(files)])


def _packer(packing: str) -> Any:
    from numcodecs import Blosc, Zstd

    if packing == "zstd":
        return Zstd(3)
    codec: Codec = "lz4" if packing == "blosc-lz4" else "zstd"
    return Blosc(codec, BLOSC_LEVELS[codec], Blosc.BITSHUFFLE)


def tar_stream(material: Material, picks: Picks, packing: str) -> Contestant:
    """webdataset: samples cut in advance in a tar, in its order; `npy` as they are or packed by numcodecs."""
    import webdataset

    def build(target: Path) -> None:
        with webdataset.TarWriter(str(target), encoder=False) as tar:
            for number, pick in enumerate(picks):
                sample = material.expected(pick)
                if packing == "npy":
                    raw = io.BytesIO()
                    np.save(raw, sample)
                    tar.write({"__key__": f"{number:04d}", "npy": raw.getvalue()})
                else:
                    tar.write({"__key__": f"{number:04d}", "packed": bytes(_packer(packing).encode(sample))})

    tar = built(material.folder / f"{packing}.tar", build)
    shape = material.expected(picks[0]).shape

    def stream() -> Iterator[Any]:
        codec = None if packing == "npy" else _packer(packing)
        for _ in itertools.count():
            data = webdataset.WebDataset(str(tar), shardshuffle=False)
            if codec is None:
                yield from (sample["npy"] for sample in data.decode())
            else:
                for sample in data:
                    out = np.empty(shape, np.uint16)
                    codec.decode(sample["packed"], out=out)
                    yield out

    samples = stream()
    return lambda n: next(samples)


def _cut(source: str, picks: Picks, number: int) -> Any:
    pick = picks[number]
    return np.load(source, mmap_mode="r")[(pick.dates, slice(None), *pick.box)]


def litdata_stream(material: Material, picks: Picks) -> Contestant:
    """litdata: samples cut in advance in its chunk files, by number.

    Its default cache folders are emptied when it builds, whoever's they are: it is given folders of its own.
    """
    caches = material.folder / "litdata_cache"
    os.environ["DATA_OPTIMIZER_CACHE_FOLDER"] = str(caches / "chunks")
    os.environ["DATA_OPTIMIZER_DATA_CACHE_FOLDER"] = str(caches / "data")
    import litdata

    source = str(material.folder / "source.npy")
    cut = partial(_cut, source, picks)

    def build(folder: Path) -> None:
        litdata.optimize(
            cut, list(range(len(picks))), str(folder), chunk_bytes="64MB", num_workers=1, keep_data_ordered=True
        )

    samples = litdata.StreamingDataset(str(built(material.folder / "litdata", build)))
    return lambda n: samples[n % len(picks)]


STORE_RIVALS: dict[str, Callable[[Material, Picks, Codec], Contestant]] = {
    "tensorstore, 1 thread": tensorstore_oindex,
    "zarr-python, oindex": zarr_oindex,
    "zarr-python, slice then pick": zarr_slice,
    "zarr-python + zarrs, oindex": zarrs_oindex,
    "zarr-python + zarrs, slice then pick": zarrs_slice,
    "xarray, isel": xarray_isel,
    "xarray, slice then pick": xarray_slice,
    "xbatcher (grid of windows, all dates), then pick": xbatcher_grid,
}

FILE_RIVALS: dict[str, Callable[[Material, Picks], Contestant]] = {
    "rasterio, GeoTIFF per date, tiles of 256": partial(geotiff, tile_px=256),
    "rasterio, GeoTIFF per date, tiles of 64": partial(geotiff, tile_px=64),
    "webdataset, blosc-zstd (frozen)": partial(tar_stream, packing="blosc-zstd"),
    "webdataset, blosc-lz4 (frozen)": partial(tar_stream, packing="blosc-lz4"),
    "webdataset, zstd (frozen)": partial(tar_stream, packing="zstd"),
    "webdataset, npy (frozen)": partial(tar_stream, packing="npy"),
    "litdata (frozen)": litdata_stream,
    ".npy per sample (frozen)": npy_per_sample,
}
