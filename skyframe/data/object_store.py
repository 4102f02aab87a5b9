"""Cubes in object stores: `https://host/cube.zarr`, `s3://bucket/cube.zarr`. Nothing is listed: the manifest lists.

S3 takes endpoint, region and credentials from where AWS's tools do (AWS_ENDPOINT_URL, AWS_REGION,
AWS_ACCESS_KEY_ID, ..., profiles, instance roles); AWS_NO_SIGN_REQUEST=1 reads public buckets. A query in an HTTP
address (a token, a signature) goes with every request and into no message.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from skyframe.data.store import Buffer, Span
from skyframe.data.transport import Address, Client, Part
from skyframe.spec import InputError

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore


class ObjectBlob:
    """One object. Opening it takes one request, which brings its end (where a shard keeps its index) along."""

    address: int | None = None

    def __init__(self, client: Client, where: Address, tail: int) -> None:
        self._client, self._where = client, where
        self._known = client.read(where, max(tail, 1))
        self.size = self._known.size
        self._lock = threading.Lock()
        self._starts: list[int] = []  # first bytes of what is under way, in order, and the parts
        self._under_way: list[weakref.ref[Part]] = []
        self._clear_at = 64

    def fetch(self, spans: Sequence[Span]) -> list[Buffer]:
        """See `Blob`: what `ahead` began is waited for, all else is asked for at once, neighbours together."""
        parts = self._covering(spans)
        held_from = self.size - len(self._known.body)
        missing = [s for s, part in zip(spans, parts, strict=True) if part is None and s[0] < held_from]
        if missing:
            begun = self._begin(missing)  # held until they are cut
            parts = [part or begun.get(int(s[0])) for s, part in zip(spans, parts, strict=True)]
        tail = self._known.body
        return [
            part.cut(s) if part is not None else tail[s[0] - held_from : s[0] - held_from + s[1]]
            for s, part in zip(spans, parts, strict=True)
        ]

    def _covering(self, spans: Sequence[Span]) -> list[Part | None]:
        """The part that is under way and holds each span, None where there is none."""
        with self._lock:
            alive = [part for ref in self._under_way if (part := ref()) is not None]
        reaching: list[Part] = []  # of the parts up to there, the one that ends last
        for part in alive:
            reaching.append(part if not reaching or part.stop > reaching[-1].stop else reaching[-1])
        starts = [part.start for part in alive]
        found: list[Part | None] = []
        for start, length in spans:
            at = bisect_right(starts, start) - 1
            covered = at >= 0 and reaching[at].stop >= min(start + length, self.size)
            found.append(reaching[at] if covered else None)
        return found

    def _begin(self, spans: Sequence[Span]) -> dict[int, Part]:
        """Ask for spans; the part that holds each, by the span's first byte."""
        begun = self._client.submit(self._where, self._known, spans)
        with self._lock:
            for part in begun:
                at = bisect_right(self._starts, part.start)
                self._starts.insert(at, part.start)
                self._under_way.insert(at, weakref.ref(part))
            if len(self._starts) > self._clear_at:
                alive = [(start, ref) for start, ref in zip(self._starts, self._under_way, strict=True) if ref()]
                self._starts, self._under_way = [start for start, _ in alive], [ref for _, ref in alive]
                self._clear_at = max(64, 2 * len(alive))
        return _by_span(begun, spans)

    def again(self, span: Span) -> Buffer:
        """See `Blob`: past the cache, over the network."""
        return self._client.read_span(self._where, self._known, span, fresh=True)

    def ahead(self, spans: Sequence[Span]) -> list[Part]:
        """Begin to read spans; `fetch` finds them for as long as the caller holds what is returned."""
        parts = self._covering(spans)
        missing = [span for span, part in zip(spans, parts, strict=True) if part is None]
        begun = list(self._begin(missing).values()) if missing else []
        return list({id(part): part for part in [*parts, *begun] if part is not None}.values())

    def close(self) -> None:
        """See `Blob`; connections are the client's."""


def _by_span(parts: Sequence[Part], spans: Sequence[Span]) -> dict[int, Part]:
    """The part that holds each span, by the span's first byte."""
    ordered = sorted(spans, key=lambda span: int(span[0]))
    made, rest = {}, iter(parts)
    part = next(rest, None)
    for span in ordered:
        while part is not None and span[0] + span[1] > part.stop:
            part = next(rest, None)
        assert part is not None and part.start <= span[0]
        made[int(span[0])] = part
    return made


@dataclass(frozen=True)
class ObjectStore:
    """Objects under one address."""

    url: str
    client: Client = field(repr=False, compare=False)
    root: str = field(repr=False)  # http(s) address that the keys are put behind
    query: str = field(default="", repr=False)
    signed: bool = False

    def address(self, key: str) -> Address:
        """Where the object of a key lies."""
        tail = f"?{self.query}" if self.query else ""
        return Address(f"{self.url}/{key}", f"{self.root}/{quote(key)}{tail}", self.signed)

    def read(self, key: str) -> bytes:
        """See `Store`."""
        return self.client.read(self.address(key)).body

    def open(self, key: str, tail: int = 0) -> ObjectBlob:
        """See `Store`."""
        return ObjectBlob(self.client, self.address(key), tail)

    def for_zarr(self, key: str) -> ZarrStore:
        """See `Store`: zarr-python through the same client."""
        return zarr_view(self, key)


def open_object_store(url: str, client: Client | None = None) -> ObjectStore:
    """The store at an address.

    Args:
        url: http://, https:// or s3:// and a path; no trailing slash is needed.
        client: shared with other stores; by default it gets one of its own.

    Raises:
        InputError: another scheme, or no host or bucket.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "s3") or not parts.netloc:
        raise InputError(
            f"{url}: not an address that skyframe reads, expected a path, https://host/cube.zarr or s3://bucket/cube.zarr"
        )
    path = parts.path.rstrip("/")
    name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{path}"
    client = client or Client()
    if parts.scheme == "s3":
        from skyframe.data.s3 import bucket_address, wants_signing

        return ObjectStore(name, client, bucket_address(parts.netloc) + quote(path), signed=wants_signing())
    return ObjectStore(name, client, f"{parts.scheme}://{parts.netloc}{path}", parts.query)


def zarr_view(store: ObjectStore, prefix: str) -> ZarrStore:
    """What lies under a prefix as a read-only store of zarr-python: the same retries and the same errors."""
    from zarr.abc.store import RangeByteRequest, SuffixByteRequest
    from zarr.abc.store import Store as ZarrStore

    def read(key: str, prototype: Any, wanted: Any) -> Any:
        address, client = store.address(f"{prefix}/{key}"), store.client
        try:
            if wanted is None:
                return prototype.buffer.from_bytes(client.read(address).body)
            if isinstance(wanted, SuffixByteRequest):
                return prototype.buffer.from_bytes(client.read(address, wanted.suffix).body)
            known = client.read(address, 1)
        except FileNotFoundError:
            return None
        stop = wanted.end if isinstance(wanted, RangeByteRequest) else known.size
        start = wanted.start if isinstance(wanted, RangeByteRequest) else wanted.offset
        return prototype.buffer.from_bytes(client.read_span(address, known, (start, stop - start)))

    class View(ZarrStore):
        supports_writes = supports_deletes = supports_listing = supports_partial_writes = False

        def __eq__(self, other: object) -> bool:
            return isinstance(other, View) and self.key == other.key

        key = (store.url, prefix)

        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            return await asyncio.to_thread(read, key, prototype, byte_range)

        async def get_partial_values(self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]) -> list[Any]:
            return list(await asyncio.gather(*(self.get(key, prototype, wanted) for key, wanted in key_ranges)))

        async def exists(self, key: str) -> bool:
            return await asyncio.to_thread(_exists, store, f"{prefix}/{key}")

        async def set(self, key: str, value: Any) -> None:
            raise InputError(f"{store.url}: is read only, expected no writes; write to a folder")

        async def delete(self, key: str) -> None:
            raise InputError(f"{store.url}: is read only, expected no writes; write to a folder")

        async def _none(self) -> AsyncIterator[str]:
            no_keys: tuple[str, ...] = ()
            for key in no_keys:
                yield key

        def list(self) -> AsyncIterator[str]:
            return self._none()

        def list_prefix(self, prefix: str) -> AsyncIterator[str]:
            return self._none()

        def list_dir(self, prefix: str) -> AsyncIterator[str]:
            return self._none()

    return View(read_only=True)


def _exists(store: ObjectStore, key: str) -> bool:
    try:
        store.client.read(store.address(key), 1)
    except FileNotFoundError:
        return False
    return True
