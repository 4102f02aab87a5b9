"""An array of somebody else's Zarr store (version 2 or 3, sharded or not), read chunk by chunk without zarr-python."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from skyframe.data.archive.codec import Steps, decoder, steps_of
from skyframe.data.archive.pool import OpenedPool
from skyframe.data.archive.tiled import damaged
from skyframe.data.shard import CRC_RESIDUE, MISSING
from skyframe.data.store import Blob, Buffer, Store
from skyframe.spec import InputError


@dataclass(frozen=True)
class Sharding:
    """Inner chunks of a shard file, and where the file keeps their index."""

    shard: tuple[int, ...]
    at_end: bool
    checked: bool


@dataclass(frozen=True)
class ZarrArray:
    """See `Tiled`. `chunk` is the inner chunk of a sharded array; `axes` the order of axes in a chunk's bytes."""

    store: Store
    name: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: str
    fill: float
    dims: tuple[str, ...]
    attrs: dict[str, Any] = field(compare=False)
    prefix: str
    separator: str
    steps: Steps
    axes: tuple[int, ...]
    sharding: Sharding | None
    pool: OpenedPool = field(compare=False, repr=False)
    roles: tuple[str, ...] = ()

    @functools.cached_property
    def numpy_dtype(self) -> np.dtype[np.generic]:
        """See `Tiled`."""
        return np.dtype(self.dtype)

    @functools.cached_property
    def place(self) -> str:
        """Of this array among all others."""
        return f"{self.store.url}/{self.name}"

    def scratch(self) -> tuple[NDArray[np.uint8], NDArray[np.generic]]:
        """See `Tiled`."""
        flat = self.pool.room("decoded", math.prod(self.chunk) * self.numpy_dtype.itemsize)
        stored = flat.view(self.numpy_dtype).reshape([self.chunk[axis] for axis in self.axes])
        return flat, stored.transpose(np.argsort(self.axes))

    def fetch(self, number: tuple[int, ...]) -> Buffer | None:
        """See `Tiled`."""
        if self.sharding is not None:
            return self._fetch_in_shard(number, self.sharding)
        return self.pool.read(self.store, self.place, number, self.key)

    def decode(self, number: tuple[int, ...], packed: Buffer, flat: NDArray[np.uint8]) -> None:
        """See `Tiled`."""
        if not len(packed):
            raise damaged(self.store, self.name, number, "is empty (0 bytes)")
        try:
            decoder(self.steps)(packed, flat)
        except Exception as error:  # every codec has errors of its own
            what = f"does not decode from its {len(packed)} bytes ({' '.join(str(error).split())})"
            raise damaged(self.store, self.name, number, what) from error

    def file_of(self, number: tuple[int, ...]) -> str:
        """See `Tiled`."""
        if self.sharding is None:
            return self.key(number)
        return self.key([n // (s // c) for n, s, c in zip(number, self.sharding.shard, self.chunk, strict=True)])

    def key(self, number: Sequence[int]) -> str:
        """Key of the object that holds a chunk (or of a shard, by its own number)."""
        return f"{self.name}/{self.prefix}{self.separator.join(map(str, number)) or '0'}"

    def _fetch_in_shard(self, number: tuple[int, ...], sharding: Sharding) -> Buffer | None:
        counts = [s // c for s, c in zip(sharding.shard, self.chunk, strict=True)]
        key = self.file_of(number)
        try:
            opened = self.pool.get(self.store, key, lambda: _open_shard(self, key, sharding, counts))
        except FileNotFoundError:
            return None
        start, length = opened.index[tuple(n % count for n, count in zip(number, counts, strict=True))].tolist()
        if start == MISSING:
            return None
        packed = opened.blob.fetch([(start, length)])[0]
        if len(packed) != length:
            raise damaged(self.store, self.name, number, f"has {len(packed)} of {length} bytes")
        return packed


@dataclass(frozen=True)
class _Shard:
    blob: Blob
    index: NDArray[np.uint64]

    def close(self) -> None:
        self.blob.close()


def _open_shard(array: ZarrArray, key: str, sharding: Sharding, counts: Sequence[int]) -> _Shard:
    blob = array.store.open(key)
    length = math.prod(counts) * 16 + 4 * sharding.checked
    raw = bytes(blob.fetch([(blob.size - length if sharding.at_end else 0, length)])[0]) if blob.size >= length else b""
    if len(raw) < length or (sharding.checked and google_crc32c.value(raw) != CRC_RESIDUE):
        blob.close()
        raise InputError(
            f"{array.name}: shard {key} in {array.store.url} has {blob.size} bytes and no whole index; the archive is "
            "damaged, restore that file"
        )
    return _Shard(blob, np.frombuffer(raw, "<u8", math.prod(counts) * 2).reshape(*counts, 2))


def open_array(store: Store, name: str, pool: OpenedPool, where: str) -> ZarrArray:
    """Read the metadata of an array.

    Args:
        store: of the archive.
        name: path of the array in it.
        pool: that keeps its shards open.
        where: place in the archive's description, for messages.

    Raises:
        InputError: no such array, or one that cannot be read here.
    """
    for key, parse in ((f"{name}/zarr.json", _parse_v3), (f"{name}/.zarray", _parse_v2)):
        try:
            tree = json.loads(store.read(key))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except ValueError as error:
            raise InputError(f"{where}: {key} in {store.url} is no JSON; the archive is damaged, restore it") from error
        try:
            return parse(store, name, tree, pool)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InputError(
                f"{where}: array {name!r} in {store.url} has {error} in its metadata, expected numbers in chunks "
                "whose codecs numcodecs knows; leave it out or convert the store"
            ) from error
    raise InputError(f"{where}: no array {name!r} in {store.url}, expected a Zarr array of that name; correct it")


def _parse_v2(store: Store, name: str, tree: Mapping[str, Any], pool: OpenedPool) -> ZarrArray:
    try:
        attrs = json.loads(store.read(f"{name}/.zattrs"))
    except FileNotFoundError:
        attrs = {}
    shape, dtype = tuple(tree["shape"]), _number_dtype(tree["dtype"])
    encoders = [*(tree["filters"] or []), *([tree["compressor"]] if tree["compressor"] else [])]
    axes = tuple(range(len(shape)))
    fill = tree["fill_value"]
    return ZarrArray(
        store,
        name,
        shape,
        tuple(tree["chunks"]),
        dtype,
        _fill(fill, dtype),
        tuple(attrs.get("_ARRAY_DIMENSIONS", ())),
        {**attrs, **({} if fill is None else {"zarr_fill": _fill(fill, dtype)})},
        "",
        tree.get("dimension_separator", "."),
        steps_of(encoders),
        axes[::-1] if tree["order"] == "F" else axes,
        None,
        pool,
    )


def _parse_v3(store: Store, name: str, tree: Mapping[str, Any], pool: OpenedPool) -> ZarrArray:
    if tree["node_type"] != "array":
        raise ValueError("a group")
    codecs, outer = list(tree["codecs"]), tuple(tree["chunk_grid"]["configuration"]["chunk_shape"])
    chunk, sharding = outer, None
    if len(codecs) == 1 and codecs[0]["name"] == "sharding_indexed":
        inner = codecs[0]["configuration"]
        index = [codec["name"] for codec in inner["index_codecs"]]
        if index not in (["bytes"], ["bytes", "crc32c"]):
            raise ValueError(f"index codecs {index}")
        sharding = Sharding(outer, inner.get("index_location", "end") == "end", "crc32c" in index)
        codecs, chunk = list(inner["codecs"]), tuple(inner["chunk_shape"])
    axes = tuple(range(len(chunk)))
    if codecs[0]["name"] == "transpose":
        axes = tuple(codecs.pop(0)["configuration"]["order"])
    if codecs[0]["name"] != "bytes":
        raise ValueError(f"codec {codecs[0]['name']}")
    order: Literal["<", ">"] = ">" if codecs.pop(0).get("configuration", {}).get("endian") == "big" else "<"
    encoding = tree["chunk_key_encoding"]
    default = encoding["name"] == "default"
    separator = encoding.get("configuration", {}).get("separator", "/" if default else ".")
    fill = tree["fill_value"]
    return ZarrArray(
        store,
        name,
        tuple(tree["shape"]),
        chunk,
        np.dtype(_number_dtype(tree["data_type"])).newbyteorder(order).str,
        _fill(fill, np.dtype(_number_dtype(tree["data_type"])).str),
        tuple(dim or "" for dim in tree.get("dimension_names") or ()),
        tree.get("attributes", {}),
        f"c{separator}" if default else "",
        separator,
        steps_of([{"id": c["name"].removeprefix("numcodecs."), **_configuration(c)} for c in codecs]),
        axes,
        sharding,
        pool,
    )


def _configuration(codec: Mapping[str, Any]) -> dict[str, Any]:
    """What decoding needs of a codec's configuration; blosc, gzip and zstd say the rest in their frames."""
    whole = codec["name"] in ("blosc", "gzip", "zstd", "crc32c")
    return {} if whole else dict(codec.get("configuration", {}))


def _number_dtype(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(f"data type {name}")
    dtype = np.dtype(name)
    if dtype.kind not in "biufM":
        raise ValueError(f"data type {name}")
    return dtype.str


def _fill(value: Any, dtype: str) -> float:
    return 0.0 if value is None or np.dtype(dtype).kind == "M" else float(value)
