"""A bounded copy on the local disk of what was read over the network, shared by the processes of a node.

It holds blocks of 1 MiB of objects, one file each: the compressed dates of a place lie side by side, so that a block
serves the other dates that later epochs draw; files per chunk would be ten million small ones, whole shards would
bring the places that nobody asked for. A block's name holds the object's ETag and size, so that a replaced object is
never mixed with its old blocks. What lies here is not trusted: every chunk's checksum is compared after it, and a block
that fails is fetched again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from skyframe.spec import InputError

BLOCK_BYTES = 1024 * 1024
KEPT = 0.9
"""Share of the bound that is left after the oldest blocks were removed."""

TORN_AFTER_S = 3600.0
"""A file of a writer that was killed is removed when it is this old."""


@dataclass(frozen=True)
class BlockCache:
    """Blocks of objects in a folder of at most `max_bytes`. Safe with many processes; holds no handle."""

    path: Path
    max_bytes: int
    of_paths: bool = False  # of cubes at paths too

    def read(
        self,
        key: str,
        start: int,
        stop: int,
        size: int,
        download: Callable[[int, int], bytes],
        fresh: bool = False,
    ) -> bytes:
        """Bytes `start` to `stop` of an object, the blocks around them from here or else downloaded and kept.

        Args:
            key: name and version of the object.
            start: first byte.
            stop: past the last byte, at most `size`.
            size: of the object in bytes.
            download: fetches bytes from one position to another, all of them or an error.
            fresh: download whatever is here.

        Raises:
            InputError: the folder cannot be written.
        """
        first, last = start // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES
        wanted = {n: (max(start - n * BLOCK_BYTES, 0), stop - n * BLOCK_BYTES) for n in range(first, last + 1)}
        parts = {n: None if fresh else self._look(key, n, size, wanted[n]) for n in wanted}
        for low, high in _runs([number for number, part in parts.items() if part is None]):
            body = download(low * BLOCK_BYTES, min(size, (high + 1) * BLOCK_BYTES))
            for number in range(low, high + 1):
                at = (number - low) * BLOCK_BYTES
                block = body[at : at + BLOCK_BYTES]
                parts[number] = block[slice(*wanted[number])]
                self._keep(key, number, block)
        return b"".join(part for part in parts.values() if part is not None)

    def _file(self, key: str, number: int) -> Path:
        name = hashlib.blake2b(f"{key} {number}".encode(), digest_size=20).hexdigest()
        return self.path / name[:2] / name

    def _look(self, key: str, number: int, size: int, wanted: tuple[int, int]) -> bytes | None:
        """Some bytes of a block, which is marked as used now; None where it is not here, or not all of it."""
        low, high = wanted[0], min(wanted[1], BLOCK_BYTES)
        try:
            with self._file(key, number).open("rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_size != min(size - number * BLOCK_BYTES, BLOCK_BYTES):
                    return None
                part = os.pread(file.fileno(), high - low, low)
                os.utime(file.fileno())
        except OSError:
            return None
        return part if len(part) == high - low else None

    def _keep(self, key: str, number: int, block: bytes) -> None:
        """Write a block beside, make room for it, then give it its name."""
        file = self._file(key, number)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, aside = tempfile.mkstemp(suffix=".tmp", dir=file.parent)
            with os.fdopen(handle, "wb") as out:
                out.write(block)
            with self._locked() as total:
                old = file.stat().st_size if file.exists() else 0
                used = int(total.read_text() or 0) if total.exists() else self._scan(self.max_bytes)
                if used - old + len(block) > self.max_bytes:
                    used = self._scan(int(KEPT * self.max_bytes) - len(block))
                    old = file.stat().st_size if file.exists() else 0
                os.replace(aside, file)
                total.write_text(str(used - old + len(block)))
        except OSError as error:
            raise InputError(
                f"data.cache.path {self.path}: cannot keep a block ({error.strerror}), expected a local folder with "
                "room for data.cache.max_gb; free space there, or leave data.cache out"
            ) from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[Path]:
        """Alone among the processes of the node; the file that holds the bytes in use, absent after a crash in here."""
        with (self.path / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            total = self.path / "total"
            changing = self.path / "total.changing"  # stays where a process is killed in here: then blocks are counted
            if changing.exists():
                total.unlink(missing_ok=True)
            changing.touch()
            yield total
            changing.unlink()

    def _scan(self, at_most: int) -> int:
        """Count the blocks, and remove the least recently used ones until they take `at_most` bytes."""
        found, now = [], time.time()
        for file in self.path.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                stat = file.stat()
                if file.suffix != ".tmp":
                    found.append((stat.st_mtime_ns, stat.st_size, file))
                elif now - stat.st_mtime > TORN_AFTER_S:
                    file.unlink()
        used = sum(size for _, size, _ in found)
        for _, size, file in sorted(found):
            if used <= at_most:
                break
            file.unlink(missing_ok=True)
            used -= size
        return used


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """First and last of each stretch of successive numbers."""
    first = 0
    for at, number in enumerate(numbers):
        if at + 1 == len(numbers) or numbers[at + 1] != number + 1:
            yield numbers[first], number
            first = at + 1
