"""Blosc frames into memory, by the shortest way: one call of C per chunk, with the GIL released.

`numcodecs.blosc.decompress` looks at its arguments for a tenth of the time that lz4 takes to decode a chunk; here the
same library is called by address. Where it does not export its functions, numcodecs is called as it stands.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable
from typing import Any

from numcodecs import blosc

Decoder = Callable[[Any, int, int, int], int]
"""Source (address or buffer) of a frame, target address, its size and the threads to use -> bytes decoded, negative
where it failed. Trusts the frame's own sizes: compare them with the bytes there are before."""

FRAME_SIZES = struct.Struct("<4xI4xI")
"""See `frame_sizes`; where every call costs, its `unpack_from` is called on bytes that are known to be enough."""


def frame_sizes(packed: Any) -> tuple[int, int]:
    """Bytes of a blosc frame when decoded and as it lies there, by its header (c-blosc README_CHUNK_FORMAT)."""
    return FRAME_SIZES.unpack_from(packed) if len(packed) >= FRAME_SIZES.size else (0, 0)  # type: ignore[return-value]


@functools.cache
def blosc_decoder() -> Decoder:
    """The decoder of this process; single-threaded, as every loader worker has one core."""
    blosc.use_threads = False
    try:
        decompress = ctypes.CDLL(blosc.__file__).blosc_decompress_ctx
    except (OSError, AttributeError):
        return decode_by_numcodecs
    decompress.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    decompress.restype = ctypes.c_int
    decode: Decoder = decompress
    return decode


def decode_by_numcodecs(source: Any, target: int, size: int, threads: int) -> int:
    """See `Decoder`: a tenth slower for lz4."""
    if isinstance(source, int):
        source = ctypes.string_at(source, frame_sizes(ctypes.string_at(source, 16))[1])
    try:
        blosc.decompress(source, (ctypes.c_char * size).from_address(target))
    except (RuntimeError, ValueError):
        return -1
    return size
