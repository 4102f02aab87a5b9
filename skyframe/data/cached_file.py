"""A file of a shared file system, read through the cache on the node's own disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from skyframe.data.cache import BlockCache
from skyframe.data.store import Buffer, Span
from skyframe.spec import InputError


class CachedFile:
    """A `Blob` that opens its file where a block is wanted that the node does not have; otherwise one stat is all.

    Size and time of change are part of a block's name, so that a file that was written anew is never mixed with its
    old blocks.
    """

    _file = -1

    def __init__(self, path: Path, cache: BlockCache) -> None:
        """Ask for size and time.

        Raises:
            FileNotFoundError: no such file.
        """
        self._path, self._cache = path, cache
        self.address: int | None = None
        self._version = _version(os.stat(path))
        self.size = self._version[0]
        self._key = f"{path.absolute()} {self._version}"

    def fetch(self, spans: Sequence[Span]) -> list[Buffer]:
        """See `Blob`."""
        return [self._read(int(start), int(start + length)) for start, length in spans]

    def again(self, span: Span) -> Buffer:
        """See `Blob`: past the cache."""
        return self._read(int(span[0]), int(span[0] + span[1]), fresh=True)

    def _read(self, start: int, stop: int, fresh: bool = False) -> bytes:
        stop = min(stop, self.size)
        return self._cache.read(self._key, start, stop, self.size, self._copy, fresh) if start < stop else b""

    def _copy(self, start: int, stop: int) -> bytes:
        if self._file < 0:
            self._file = os.open(self._path, os.O_RDONLY)
        body = os.pread(self._file, stop - start, start)
        if len(body) < stop - start or _version(os.fstat(self._file)) != self._version:
            raise InputError(f"{self._path}: was changed while it was read, expected a finished cube; start again")
        return body

    def close(self) -> None:
        """Give the descriptor back, if there is one."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        self.close()


def _version(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns
