"""From the bytes of a foreign chunk to its elements: every codec that numcodecs knows, the usual ones by a faster way.

zlib and gzip are what most archives are packed with; libdeflate (through imagecodecs) undoes them in a third of the
time that zlib takes. Without imagecodecs they are read by numcodecs.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import google_crc32c
import numcodecs
import numpy as np
from numpy.typing import NDArray

from skyframe.data.decode import blosc_decoder, frame_sizes
from skyframe.data.shard import CRC_RESIDUE
from skyframe.data.store import Buffer

Steps = tuple[str, ...]
"""Codecs in the order of decoding, each as JSON of its numcodecs configuration: plain text, so that it can be a key."""

Decoder = Callable[[Buffer, NDArray[np.uint8]], None]
"""Packed bytes -> flat target, filled to its last byte; ValueError where that cannot be."""


def steps_of(configs: Sequence[Mapping[str, Any]]) -> Steps:
    """Configurations in the order of encoding as `Steps`.

    Raises:
        KeyError: a codec that is not known here.
    """
    for config in configs:
        if config["id"] != "crc32c" and config["id"] not in numcodecs.registry.codec_registry:
            try:
                numcodecs.get_codec(dict(config))  # some are registered when first asked for
            except (ValueError, ImportError, AttributeError) as error:
                raise KeyError(config["id"]) from error
    return tuple(json.dumps(dict(config), sort_keys=True) for config in reversed(configs))


@functools.cache
def decoder(steps: Steps) -> Decoder:
    """The function that undoes these steps."""
    parts = [_step(json.loads(step)) for step in steps]
    if not parts:
        return _copy
    if len(parts) == 1:
        return parts[0][1]

    def decode(packed: Buffer, target: NDArray[np.uint8]) -> None:
        for undo, _ in parts[:-1]:
            packed = undo(packed)
        parts[-1][1](packed, target)

    return decode


def _step(config: dict[str, Any]) -> tuple[Callable[[Buffer], Buffer], Decoder]:
    """A codec in the middle of a chain, and at its end."""
    name = config["id"]
    if name == "crc32c":
        return _checked, lambda packed, target: _copy(_checked(packed), target)
    codec = numcodecs.get_codec(config)
    undo: Callable[[Buffer], Buffer] = codec.decode

    def fill(packed: Buffer, target: NDArray[np.uint8]) -> None:
        _copy(np.ascontiguousarray(undo(packed)).reshape(-1).view(np.uint8), target)

    return undo, _blosc if name == "blosc" else _by_imagecodecs(name) or fill


def _copy(packed: Buffer, target: NDArray[np.uint8]) -> None:
    content = np.frombuffer(packed, np.uint8)
    if len(content) != len(target):
        raise ValueError(f"{len(content)} bytes, expected {len(target)}")
    target[:] = content


def _checked(packed: Buffer) -> Buffer:
    if google_crc32c.value(packed) != CRC_RESIDUE:
        raise ValueError("its checksum fails")
    return packed[:-4]


def _blosc(packed: Buffer, target: NDArray[np.uint8]) -> None:
    size = len(target)
    if frame_sizes(packed) != (size, len(packed)):
        raise ValueError(f"a blosc frame of {frame_sizes(packed)} bytes, expected {(size, len(packed))}")
    source = packed if isinstance(packed, bytes) else packed.ctypes.data
    if blosc_decoder()(source, target.ctypes.data, size, 1) != size:
        raise ValueError("blosc does not decode it")


def _by_imagecodecs(name: str) -> Decoder | None:
    """libdeflate and libzstd, straight into the target; None without imagecodecs."""
    try:
        from imagecodecs import deflate_decode, gzip_decode, zstd_decode
    except ImportError:
        return None
    decode = {"zlib": deflate_decode, "gzip": gzip_decode, "zstd": zstd_decode}.get(name)
    if decode is None:
        return None

    def fill(packed: Buffer, target: NDArray[np.uint8]) -> None:
        done: Any = decode(packed, out=cast("Any", target))
        if len(done) != len(target):
            raise ValueError(f"{len(done)} bytes, expected {len(target)}")

    return fill
