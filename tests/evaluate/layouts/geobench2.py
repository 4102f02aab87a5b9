"""Tiny GEO-Bench v2 containers: a pile of files and a Parquet table behind them, one inside the other."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

from skyframe.evaluate.benchmarks.geobench2 import ABOUT

SIDE_PX = 8
HEAD = 200
"""Bytes before the pile: two of magic, then little-endian 8-byte numbers: table's place, its length, parts."""


def container(files: list[bytes], rows: list[dict[str, Any]], parts: int = 1) -> bytes:
    """A tortilla of some files."""
    offsets = np.cumsum([HEAD, *map(len, files)])
    table = [
        {**row, "tortilla:offset": int(at), "tortilla:length": len(f)}
        for row, f, at in zip(rows, files, offsets, strict=False)
    ]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(table), sink)
    head = b"#y" + b"".join(int(n).to_bytes(8, "little") for n in (offsets[-1], len(sink.getvalue()), parts))
    return head.ljust(HEAD, b"\0") + b"".join(files) + sink.getvalue()


def raster(values: NDArray[np.generic]) -> bytes:
    """A GeoTIFF in memory."""
    count, height, width = values.shape
    with MemoryFile() as memory:
        about = {"count": count, "height": height, "width": width, "dtype": values.dtype}
        with memory.open(driver="GTiff", transform=from_origin(500000, 5000000, 10, 10), **about) as file:
            file.write(values)
        return bytes(memory.read())


def hdf5(values: NDArray[np.generic]) -> bytes:
    """An HDF5 file with one array."""
    sink = io.BytesIO()
    with h5py.File(sink, "w") as file:
        file["data"] = values
    return sink.getvalue()


def write_geobench2(path: Path, name: str, num: int = 6, first: int = 0, parts: int = 1) -> Path:
    """Samples `id<n>`, two per part of the split; band k of sample n holds 10 * n + k, its class is n modulo theirs."""
    about = ABOUT[name]
    files, rows = [], []
    for n in range(first, first + num):
        count = max([*about.files.values(), about.mask]) + 1
        inner: list[bytes] = [raster(np.zeros((1, SIDE_PX, SIDE_PX), np.uint8))] * count
        form, dates = "GTiff", [20190102, 20190228]
        extra: dict[str, Any] = {about.label: [about.classes[n % len(about.classes)]]} if about.label else {}
        for modality, number in about.files.items():
            m = about.modalities[modality]
            planes = len(m.bands) + (1 if modality in about.keep else 0)
            values = (10 * n + np.arange(planes, dtype=np.float32))[:, None, None] + np.zeros((SIDE_PX, SIDE_PX))
            stored = values.astype("float32" if m.dtype == "float32" else m.dtype)
            form = "HDF5" if m.kind == "series" else form
            inner[number] = hdf5(np.stack([stored, stored + 1])) if m.kind == "series" else raster(stored)
        if about.mask >= 0:
            mask = np.full((1, SIDE_PX, SIDE_PX), n % len(about.classes) + about.first, np.uint8)
            if about.hidden and max(about.hidden) > 0:
                mask[0, 0, 0] = max(about.hidden)
            inner[about.mask] = hdf5(mask) if form == "HDF5" else raster(mask)
        lines = [{"tortilla:id": f"f{k}", "tortilla:file_format": form, "dates": dates, **extra} for k in range(count)]
        files.append(container(inner, lines))
        part = ("train", "validation", "test")[n % 3]
        row = {"tortilla:id": f"id{n}", "tortilla:file_format": "TORTILLA", "tortilla:data_split": part}
        rows.append({**row, "lat": 50.0 + n, "lon": 5.0, **extra})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(container(files, rows, parts))
    return path
