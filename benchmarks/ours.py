"""SkyFrame's reader, and the decode limit that it is held against.

The limit: what lies packed in memory is checksummed and decompressed into memory that is already there, one chunk
after another on one core, by the fastest decoder found on this machine. Nothing can read the same chunks faster.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import google_crc32c
import numpy as np
import torch
from numcodecs import blosc
from numpy.typing import NDArray

from benchmarks.material import GSD_M, MODALITY, SIDE_PX, Material, Pick
from benchmarks.measure import Contestant, interleave
from skyframe.config import load_recipe
from skyframe.data.cube import Box, Cube, open_cube
from skyframe.data.datamodule import CubeDataModule
from skyframe.data.manifest import ArrayRecord
from skyframe.data.read import read_series
from skyframe.data.shard import Codec, OpenShard
from skyframe.spec import Window

Job = list[tuple[bytes, NDArray[np.uint8], int, int]]
"""Packed chunks, and the place of each: as bytes, by its address and by its size."""

Decode = Callable[[Job], object]
"""Checks and decodes every chunk of a job."""

BATCH = 8


def decoders() -> dict[str, Decode]:
    """Blosc decoders that are installed here, each called by its shortest way."""
    blosc.use_threads = False
    decompress, checksum = ctypes.CDLL(blosc.__file__).blosc_decompress_ctx, google_crc32c.value
    decompress.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    def by_address(job: Job) -> None:
        for packed, _, address, size in job:
            checksum(packed)
            decompress(packed, address, size, 1)

    found: dict[str, Decode] = {"numcodecs' c-blosc by address": by_address}
    try:
        import imagecodecs
    except ModuleNotFoundError:
        return found

    def by_call(decode: Any, job: Job) -> None:
        for packed, place, _, _ in job:
            checksum(packed)
            decode(packed[:-4], out=place, numthreads=1)

    return found | {
        "imagecodecs' c-blosc": partial(by_call, imagecodecs.blosc_decode),
        "imagecodecs' c-blosc2": partial(by_call, imagecodecs.blosc2_decode),
    }


def fastest_decoder(material: Material, codec: Codec) -> tuple[Decode, dict[str, float]]:
    """The one to set the limit, and CPU ms per sample of all: wall time may favour another on a busy machine."""
    found = decoders()
    tried = {name: limit(material, material.aligned, codec, decode, False) for name, decode in found.items()}
    cpu_ms = {name: median(turn.cpu_ms for turn in turns) for name, turns in interleave(tried, 9, 0.1).items()}
    return found[min(cpu_ms, key=lambda name: cpu_ms[name])], cpu_ms


def packed_chunks(cube: Cube, record: ArrayRecord, firsts: Sequence[int], box: Box) -> list[bytes]:
    """Copies of the chunks that a box touches as they lie on disk, checksum and all, dates in the order asked for."""
    layout, found = record.layout, []
    spots = [range(start // size, -(-stop // size)) for (start, stop), size in zip(box, layout.chunk[1:], strict=True)]
    numbers = dict.fromkeys(first // layout.chunk[0] for first in firsts)
    for number in numbers:
        for place in np.ndindex(*(len(spot) for spot in spots)):
            chunk = number, *(spot[step] for spot, step in zip(spots, place, strict=True))
            at, row = layout.locate(chunk)
            shard = OpenShard(cube.store, layout, at)
            found.append(bytes(shard._blob.fetch([shard._index[row].tolist()])[0]))
    return found


def limit(material: Material, picks: Sequence[Pick], codec: Codec, decode: Decode, with_flags: bool) -> Contestant:
    """Every chunk that a sample touches, decoded: the values, and the flags where a Series is the measure.

    An aligned sample is decoded into its place in an array `[T, C, H, W]`, so that the answer is the sample. Where
    windows straddle, every chunk goes to the same place, which stays in the processor's cache.
    """
    cube = open_cube(material.store(codec))
    values, flags = (cube.manifest.arrays[f"{MODALITY}/{kind}"] for kind in ("values", "valid"))
    out = np.empty((len(picks[0].dates), *values.layout.chunk[1:]), values.layout.numpy_dtype)
    places = out.view(np.uint8).reshape(len(out), -1)
    flags_place = np.empty(flags.layout.chunk_bytes, np.uint8)
    aligned = all(pick.row % SIDE_PX == 0 == pick.column % SIDE_PX for pick in picks)
    jobs = []
    for pick in picks:
        box = (0, values.layout.shape[1]), *((s.start, s.stop) for s in pick.box)
        chunks = packed_chunks(cube, values, pick.dates.tolist(), box)
        job = [(packed, places[n if aligned else 0]) for n, packed in enumerate(chunks)]
        if with_flags:
            job += [(packed, flags_place) for packed in packed_chunks(cube, flags, pick.dates.tolist(), box[1:])]
        jobs.append([(packed, place, place.ctypes.data, place.nbytes) for packed, place in job])

    def read(number: int) -> Any:
        decode(jobs[number % len(jobs)])
        return out

    return read


def array_reader(material: Material, picks: Sequence[Pick], codec: Codec) -> Contestant:
    """SkyFrame's reader of one array."""
    cube = open_cube(material.store(codec))
    record = cube.manifest.arrays[f"{MODALITY}/values"]
    jobs = [(p.dates, ((0, record.layout.shape[1]), *((s.start, s.stop) for s in p.box))) for p in picks]
    return lambda n: cube.reader.read(record, *jobs[n % len(jobs)])[0]


def series_reader(material: Material, picks: Sequence[Pick], codec: Codec) -> Contestant:
    """`read_series`: values, validity and days, everything checked."""
    cube = open_cube(material.store(codec))
    jobs = [(_window(cube, pick), {MODALITY: pick.dates}) for pick in picks]

    def read(number: int) -> Any:
        window, dates = jobs[number % len(jobs)]
        return read_series(cube, window, dates=dates)[MODALITY].values

    return read


def _window(cube: Cube, pick: Pick) -> Window:
    return Window(cube.name, pick.row * GSD_M, pick.column * GSD_M, SIDE_PX * GSD_M)


def training_data(material: Material, codec: Codec, workers: int) -> CubeDataModule:
    """The data module of a pretraining run on this store: windows of 64 px, 20 dates, batches of 8, without end."""
    torch.set_num_threads(1)
    words = [
        f"data.cubes=[{material.store(codec)}]",
        f"data.modalities=[{MODALITY}]",
        f"data.frames.{MODALITY}={len(material.aligned[0].dates)}",
        f"data.window_px={SIDE_PX}",
        f"data.stride_px={SIDE_PX}",
        f"views.crop_px={SIDE_PX}",
        f"data.workers={workers}",
        f"train.global_batch={BATCH}",
        "train.max_steps=1000000000",
    ]
    return CubeDataModule(load_recipe("skysense_s2s1", words))


def training_reads(material: Material, codec: Codec) -> Contestant:
    """`read_series` alone, of the windows and dates that the training loader asks for."""
    data = training_data(material, codec, 0).dataset()
    jobs = []
    for position in range(len(material.aligned)):
        window, index = data.plan.at(*divmod(position, len(data.plan)))
        jobs.append((data.cubes[window.cube], window, data._dates(position // len(data.plan), window, index)))

    def read(number: int) -> Any:
        cube, window, dates = jobs[number % len(jobs)]
        return read_series(cube, window, data.spec, [MODALITY], dates)[MODALITY].values

    return read


def training_loader(material: Material, codec: Codec, workers: int) -> Contestant:
    """The loader as training iterates it, dates drawn and batches joined; one call gives one batch."""
    batches = iter(training_data(material, codec, workers).train_dataloader())
    return lambda n: next(batches).series[MODALITY].values.numpy()
