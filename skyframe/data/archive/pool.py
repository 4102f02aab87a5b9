"""What a process keeps open of an archive: files by their store and key, and the window that was read last."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from skyframe.data.store import Store


class Opened(Protocol):
    """Something with a handle."""

    def close(self) -> None:
        """Give the handle back."""


T = TypeVar("T", bound=Opened)


@dataclass
class OpenedPool:
    """Least recently used dropped first; a child process starts with an empty one, so `limit` bounds its handles."""

    limit: int = 256
    opened: OrderedDict[tuple[str, str], Any] = field(default_factory=OrderedDict)
    kept: tuple[Any, Any] | None = None
    _pid: int = -1

    def __reduce__(self) -> tuple[type[OpenedPool], tuple[int]]:
        return OpenedPool, (self.limit,)

    def get(self, store: Store, key: str, make: Callable[[], T]) -> T:
        """The opened file, made at first use.

        Raises:
            FileNotFoundError: no such key.
        """
        self._own()
        name = (store.url, key)
        found: T | None = self.opened.get(name)
        if found is not None:
            self.opened.move_to_end(name)
            return found
        made = make()
        self.opened[name] = made
        if len(self.opened) > self.limit:
            self.opened.popitem(last=False)[1].close()
        return made

    def keep(self, key: Any, value: Any) -> None:
        """Remember one thing; the one before is forgotten."""
        self._own()
        self.kept = key, value

    def take(self, key: Any) -> Any:
        """What was kept under this key, at most once; None where it is not there."""
        self._own()
        kept = self.kept
        if kept is None or kept[0] != key:
            return None
        self.kept = None
        return kept[1]

    def _own(self) -> None:
        if self._pid != os.getpid():
            self.opened, self.kept, self._pid = OrderedDict(), None, os.getpid()
