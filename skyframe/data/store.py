"""Where the bytes of a cube lie: a folder, or an object store. Knows keys and byte ranges, not arrays."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from skyframe.data.cache import BlockCache
    from skyframe.data.transport import Client

Buffer = Any
"""Bytes, or a read-only uint8 array over mapped ones."""

Span = Sequence[int]
"""First byte and number of bytes."""

NETWORK_FILESYSTEMS = frozenset({"nfs", "nfs4", "lustre", "gpfs", "beegfs", "cifs", "smb3", "ceph", "afs", "9p"})
"""Here a failing read of a mapped page would end the process by a signal; a plain read gives an error to report."""


class Blob(Protocol):
    """One object of a store, opened for reading."""

    size: int
    address: int | None
    """Where its first byte lies in memory while it is open and whole, None where it is not mapped."""

    def fetch(self, spans: Sequence[Span]) -> list[Buffer]:
        """The bytes of each span; fewer where the object ends before."""

    def again(self, span: Span) -> Buffer:
        """The bytes of a span once more, from where they lie: what came before failed its checksum."""

    def close(self) -> None:
        """Give its handle back."""


class Store(Protocol):
    """Objects by key. May be pickled and forked; holds no handle of its own that a child could not use."""

    @property
    def url(self) -> str:
        """How messages and plain zarr name it."""

    def read(self, key: str) -> bytes:
        """A whole object.

        Raises:
            FileNotFoundError: no such key.
        """

    def for_zarr(self, key: str) -> Any:
        """What `zarr.open_array` takes for the array under a key."""

    def open(self, key: str, tail: int = 0) -> Blob:
        """Open an object for reads of byte ranges.

        Args:
            key: of the object.
            tail: bytes at its end that will be read first: over a network they come with the opening.

        Raises:
            FileNotFoundError: no such key.
        """


class LocalFile:
    """A file. On a local disk it is mapped, as copying out of the page cache costs a tenth of decoding lz4."""

    _file = -1

    def __init__(self, path: Path, mapped: bool) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._file).st_size
        self._map: mmap.mmap | None = None
        self.address: int | None = None
        if mapped and self.size:
            self._map = mmap.mmap(self._file, self.size, prot=mmap.PROT_READ)
            self._bytes = np.frombuffer(self._map, np.uint8)  # checksums take an array, not a memoryview
            self.address = self._bytes.ctypes.data
            self._release()  # the map holds a descriptor of its own

    def fetch(self, spans: Sequence[Span]) -> list[Buffer]:
        """See `Blob`. A file that shrank since it was opened is not touched through its map: that would be a signal."""
        if self._map is None:
            return [os.pread(self._file, length, start) for start, length in spans]
        if self._map.size() < self.size:
            self.address = None
            with self._path.open("rb") as file:
                return [os.pread(file.fileno(), length, start) for start, length in spans]
        whole = self._bytes
        return [whole[start : start + length] for start, length in spans]

    def again(self, span: Span) -> Buffer:
        """See `Blob`."""
        return self.fetch([span])[0]

    def _release(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def close(self) -> None:
        """Give the descriptor back; a map goes when the last buffer of it does."""
        self._release()
        self._map, self._bytes, self.address = None, np.empty(0, np.uint8), None

    def __del__(self) -> None:
        self._release()


@dataclass(frozen=True)
class LocalStore:
    """A folder on a disk, or on a file system that nodes share: then files may be read by way of a node's cache."""

    path: Path
    cache: BlockCache | None = None

    @cached_property
    def url(self) -> str:
        """The folder."""
        return str(self.path)

    @cached_property
    def _mapped(self) -> bool:
        return filesystem_of(self.path) not in NETWORK_FILESYSTEMS

    def path_of(self, key: str) -> str:
        """File of a key; an absolute one stays as it is."""
        return key if key.startswith("/") else f"{self.url}/{key}"

    def read(self, key: str) -> bytes:
        """See `Store`."""
        return (self.path / key).read_bytes()

    def for_zarr(self, key: str) -> Path:
        """See `Store`."""
        return self.path / key

    def open(self, key: str, tail: int = 0) -> Blob:
        """See `Store`."""
        if self.cache is not None:
            from skyframe.data.cached_file import CachedFile  # it needs the types of this file

            return CachedFile(self.path / key, self.cache)
        return LocalFile(self.path / key, self._mapped)


def is_address(path: str | Path) -> bool:
    """Whether this is an address of an object store (`scheme://...`), not a path."""
    return "://" in str(path)


def open_store(url: str | Path, client: Client | None = None) -> Store:
    """The store at a path or an address; nothing is read.

    Args:
        url: a folder, `https://host/...` or `s3://bucket/...`.
        client: for addresses, and its cache for folders where that is wanted; share one among stores.

    Raises:
        InputError: an address of another kind.
    """
    if not is_address(url):
        cache = client.cache if client is not None else None
        return LocalStore(Path(url), cache if cache is not None and cache.of_paths else None)
    from skyframe.data.object_store import open_object_store  # it needs the types of this file

    return open_object_store(str(url), client)


def filesystem_of(path: Path) -> str:
    """Type of the file system that holds a path (`ext4`, `nfs4`, ...), empty where the system does not tell."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    there = str(path.absolute())
    mounts = [line.split()[1:3] for line in lines]
    under = [(len(at), kind) for at, kind in mounts if there == at or there.startswith(at.rstrip("/") + "/")]
    return max(under, default=(0, ""))[1]
