"""What a process keeps of an archive: opened files, room to decode in, and the window that was read last.

Fresh memory costs more than lz4 here: the pages of half a megabyte take as long to come as the chunk takes to decode.
So files are read, and chunks decoded, into memory that stays.
"""

from __future__ import annotations

import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from skyframe.data.store import Blob, Buffer, LocalStore, Store


class Opened(Protocol):
    """Something with a handle."""

    def close(self) -> None:
        """Give the handle back."""


MAX_ABSENT = 100_000
"""Keys of absent chunks that are remembered."""

T = TypeVar("T", bound=Opened)

MOST_HANDLES = 2048


def handles() -> int:
    """Files that a pool keeps open: a quarter of what this process may."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_HANDLES if allowed == resource.RLIM_INFINITY else min(MOST_HANDLES, max(16, allowed // 4))


KeyOf = Callable[[Sequence[int]], str]


class _File:
    """A file that is read whole: copied the first time; kept mapped if it is asked for again, which costs more once."""

    number = -1
    _again: Blob | None = None
    _was_read = False

    def __init__(self, store: LocalStore, key: str) -> None:
        self.store, self.key = store, key
        self.number = os.open(store.path_of(key), os.O_RDONLY)
        self.size = os.fstat(self.number).st_size

    def content(self, room: Callable[[str, int], NDArray[np.uint8]]) -> Buffer:
        """All of it, in the room if it is read for the first time."""
        if not self.size:
            return b""
        if not self._was_read:
            self._was_read = True
            into = room("packed", self.size)
            return into[: os.preadv(self.number, [into.data], 0)]
        if self._again is None:
            self._again = self.store.open(self.key)
            os.close(self.number)
            self.number = -1
        return self._again.fetch([(0, self.size)])[0]

    def close(self) -> None:
        """See `Opened`."""
        if self._again is not None:
            self._again.close()
            self._again = None
        if self.number >= 0:
            os.close(self.number)
        self.number = -1

    __del__ = close


@dataclass
class OpenedPool:
    """Least recently used dropped first; a child process starts with an empty one, so `limit` bounds its handles."""

    limit: int = field(default_factory=handles)
    opened: OrderedDict[Hashable, Any] = field(default_factory=OrderedDict)
    absent: set[Hashable] = field(default_factory=set)
    kept: tuple[Any, Any] | None = None
    _pid: int = -1
    _rooms: threading.local = field(default_factory=threading.local)
    _lock: threading.Lock = field(default_factory=threading.Lock)  # over a network, threads open files side by side

    def __reduce__(self) -> tuple[type[OpenedPool], tuple[int]]:
        return OpenedPool, (self.limit,)

    def get(self, store: Store, key: str, make: Callable[[], T]) -> T:
        """The opened file, made at first use.

        Raises:
            FileNotFoundError: no such key.
        """
        name = (store.url, key)
        with self._lock:
            found: T | None = self.opened.get(name)
            if found is not None:
                self.opened.move_to_end(name)
                return found
        return self._hold(name, make())

    def _hold(self, name: Hashable, made: T) -> T:
        with self._lock:
            self.opened[name] = made
            if len(self.opened) > self.limit:
                self.opened.popitem(last=False)[1].close()
        return made

    def room(self, name: str, size: int) -> NDArray[np.uint8]:
        """Memory of this thread under a name, `size` bytes; what it held is lost."""
        room: NDArray[np.uint8] | None = getattr(self._rooms, name, None)
        if room is None or len(room) < size:
            room = np.empty(size, np.uint8)
            setattr(self._rooms, name, room)
        return room[:size]

    def read(self, store: Store, place: str, number: tuple[int, ...], key_of: KeyOf) -> Buffer | None:
        """A chunk that is a whole object, whose bytes stay until the next one is read; None where there is none.

        What was absent once is not looked for again: a sparse archive lacks more chunks than it holds.

        Args:
            store: that holds it.
            place: of its array, told apart from all others of this pool.
            number: of the chunk; its key is only made where the object is not open.
            key_of: key of a number.
        """
        name = (place, number)
        if name in self.absent:
            return None
        file: _File | None = self.opened.get(name)
        if file is None:
            try:
                if not isinstance(store, LocalStore):
                    return store.read(key_of(number))
                file = self._hold(name, _File(store, key_of(number)))
            except FileNotFoundError:
                if len(self.absent) < MAX_ABSENT:
                    self.absent.add(name)
                return None
        else:
            self.opened.move_to_end(name)
        return file.content(self.room)

    def keep(self, key: Any, value: Any) -> None:
        """Remember one thing; the one before is forgotten."""
        self.kept = key, value

    def take(self, key: Any) -> Any:
        """What was kept under this key, at most once; None where it is not there."""
        kept = self.kept
        if kept is None or kept[0] != key:
            return None
        self.kept = None
        return kept[1]

    def own(self) -> None:
        """Start empty in a process that was forked; called once before each window, as asking for the pid costs too."""
        if self._pid != os.getpid():
            self.opened, self.absent, self.kept, self._pid = OrderedDict(), set(), None, os.getpid()
            self._lock = threading.Lock()  # another thread of the parent may have held it
