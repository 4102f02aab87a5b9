"""Byte ranges over HTTP and S3: kept connections, many requests at a time, retries, and never a short answer.

Python's own `http.client` in threads, as readers are forked: obstore, the Rust client that was tried first, hangs in a
child as soon as its parent has read anything (tokio's threads do not survive a fork). A request costs 0.15 ms of a core
here, 0.36 ms through urllib3.
"""

from __future__ import annotations

import functools
import http.client
import os
import random
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn
from urllib.parse import urlsplit

from skyframe.data.cache import BlockCache
from skyframe.data.ranges import Job, Place, RangeLoop
from skyframe.data.store import Buffer, Span
from skyframe.spec import InputError

GAP_BYTES = 256 * 1024
"""Ranges this near to each other are one request: what lies between costs less than another request."""

PIECE_BYTES = 8 * 1024 * 1024
"""Longer stretches are cut, so that their parts come side by side."""

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
LONGEST_WAIT_S = 30.0

THREADS = 32
"""For requests that wait: whole objects, ends of shards, and what has to be asked for again."""


@dataclass(frozen=True)
class Address:
    """Where an object lies: what a request needs, and the name that messages use (no tokens in it)."""

    name: str
    url: str
    signed: bool = False  # by the S3 credentials of the environment


@dataclass(frozen=True)
class Reply:
    """Bytes of an object, its whole size, and what identifies this version of it (empty where a server does not)."""

    body: bytes
    size: int
    tag: str
    tagged_by: str = ""  # header that holds the tag, in lower case


class _Passing(Exception):
    """A failure that another attempt may not meet."""

    def __init__(self, what: str, wait_s: float = 0.0) -> None:
        super().__init__(what)
        self.wait_s = wait_s


class _Live:
    """What belongs to one process: its threads, and the connection that each of them keeps to each host."""

    def __init__(self, client: Client) -> None:
        self.pid = os.getpid()
        self.requests = ThreadPoolExecutor(THREADS, "skyframe-http")
        self.ranges = RangeLoop(
            client.concurrency, client.timeout_s, partial(_connected, client.timeout_s), self.requests
        )
        self.plans = ThreadPoolExecutor(THREADS, "skyframe-ahead")  # apart, as a plan waits for requests
        self.kept = threading.local()
        self.draw = random.Random()
        self.connections: list[http.client.HTTPConnection] = []
        weakref.finalize(self, _close_all, self.connections)
        weakref.finalize(self, self.ranges.stop).atexit = False  # then the thread ends with its process


@dataclass
class Client:
    """Reads objects; one is shared by all cubes of a process. Forked or pickled, it starts anew with its settings."""

    attempts: int = 5
    timeout_s: float = 30.0  # without a byte
    backoff_s: float = 0.1  # before the second attempt; four times as long before each further one
    concurrency: int = 128  # ranges at a time; 600 samples/s of six ranges keep 108 under way at 30 ms
    cache: BlockCache | None = None
    _held: _Live | None = field(default=None, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[Client], tuple[Any, ...]]:
        return Client, (self.attempts, self.timeout_s, self.backoff_s, self.concurrency, self.cache)

    @property
    def live(self) -> _Live:
        """Threads and connections of this process: those of a parent are never touched."""
        held = self._held
        if held is None or held.pid != os.getpid():
            held = self._held = _Live(self)
        return held

    def read(self, address: Address, tail: int = 0) -> Reply:
        """A whole object, or its last `tail` bytes (all of them where it has fewer).

        Raises:
            FileNotFoundError: there is no such object.
            InputError: the server failed in every attempt.
        """
        return self._persist(address, f"bytes=-{tail}" if tail else "", f"its last {tail} bytes" if tail else "it")

    def read_span(self, address: Address, known: Reply, span: Span, fresh: bool = False) -> bytes:
        """Bytes of an object that was read before; fewer where it ends before.

        Args:
            address: of the object.
            known: an earlier reply: the object must still be the same.
            span: first byte and number of bytes.
            fresh: pass over what the cache holds, and replace it.

        Raises:
            FileNotFoundError: the object is no longer there.
            InputError: the server failed in every attempt, or the object was replaced in between.
        """
        start, stop = span[0], min(span[0] + span[1], known.size)
        if start >= stop:
            return b""
        if self.cache is None:
            return self._download(address, known, start, stop)
        key = f"{address.name} {known.tag} {known.size}"
        return self.cache.read(key, start, stop, known.size, lambda a, b: self._download(address, known, a, b), fresh)

    def submit(self, address: Address, known: Reply, spans: Sequence[Span]) -> list[Part]:
        """Begin to read spans: neighbours together, all at once.

        Returns:
            What is under way, in rising order.
        """
        live = self.live
        made = []
        jobs = []
        for start, stop in coalesce(spans):
            patient = partial(_patiently, live.requests, self, address, known, (start, stop - start))
            if self.cache is not None or stop > known.size:
                made.append(Part(start, stop, patient()))
            else:
                jobs.append(self._job(address, known, start, stop, patient))
                made.append(Part(start, stop, jobs[-1]))
        if jobs:
            live.ranges.ask(jobs)
        return made

    def _job(self, address: Address, known: Reply, start: int, stop: int, patient: Callable[[], Future[bytes]]) -> Job:
        """A range of an object as the bytes that go over the wire, and the headers that must come back."""
        place, target = _placed(address.url)
        headers = {"Host": place[1]} | _headers(address, f"bytes={start}-{stop - 1}")
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        request = f"GET {target} HTTP/1.1\r\n{lines}\r\n"
        expected = {"content-length": f"{stop - start}", "content-range": f"bytes {start}-{stop - 1}/{known.size}"}
        if known.tag:
            expected[known.tagged_by] = known.tag
        answer = {name.encode(): value.encode("latin-1") for name, value in expected.items()}
        return Job(place, request.encode("latin-1"), answer, stop - start, patient)

    def _download(self, address: Address, known: Reply, start: int, stop: int) -> bytes:
        reply = self._persist(address, f"bytes={start}-{stop - 1}", f"bytes {start} to {stop - 1}")
        if (reply.size, reply.tag) != (known.size, known.tag):
            raise InputError(
                f"{address.name}: was replaced while it was read ({known.size} bytes before, {reply.size} now), "
                "expected a finished cube; wait until its writer is done and start again"
            )
        return reply.body

    def _persist(self, address: Address, wanted: str, part: str) -> Reply:
        """Ask until there is a whole answer; waits grow fourfold, shortened at random so that clients part."""
        wait_s = self.backoff_s
        for attempt in range(1, self.attempts + 1):
            try:
                return self._ask(address, wanted)
            except _Passing as error:
                if attempt == self.attempts:
                    raise InputError(
                        f"{address.name}: {part} could not be read in {attempt} attempts, the last one {error}; check "
                        "the address, the network and the server, then start again"
                    ) from error
                time.sleep(min(LONGEST_WAIT_S, max(error.wait_s, wait_s * self.live.draw.uniform(0.5, 1.0))))
                wait_s *= 4
        raise AssertionError("attempts is at least 1")

    def _ask(self, address: Address, wanted: str) -> Reply:
        connection = self._connection(address)
        try:
            connection.request("GET", _placed(address.url)[1], headers=_headers(address, wanted))
            reply = connection.getresponse()
            length = int(reply.headers.get("Content-Length") or 0)
            if reply.status == 200 and wanted and length > PIECE_BYTES:
                connection.close()
                _refuse(address, f"answered a byte range with the whole of {length} bytes", "use a server with ranges")
            body = reply.read()
        except TimeoutError as error:
            connection.close()
            raise _Passing(f"timed out after {self.timeout_s:g} s") from error
        except http.client.IncompleteRead as error:
            connection.close()
            raise _Passing(f"ended after {len(error.partial)} bytes, {error.expected} short") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise _Passing(f"failed ({' '.join(str(error).split()) or type(error).__name__})") from error
        try:
            return _understood(address, wanted, reply, body)
        except _Passing:
            connection.close()  # what else it would send belongs to nothing
            raise

    def _connection(self, address: Address) -> http.client.HTTPConnection:
        """This thread's connection to the host; `http.client` opens it again after a close."""
        kept: dict[Any, http.client.HTTPConnection] = self.live.kept.__dict__
        place = _placed(address.url)[0]
        if place not in kept:
            kept[place] = _connection(place, self.timeout_s)
            self.live.connections.append(kept[place])
        return kept[place]


def _connection(place: Place, timeout_s: float) -> http.client.HTTPConnection:
    """A connection that opens when it is used."""
    scheme, netloc = place
    if scheme == "https":
        return http.client.HTTPSConnection(netloc, timeout=timeout_s, context=ssl.create_default_context())
    return http.client.HTTPConnection(netloc, timeout=timeout_s)


def _connected(timeout_s: float, place: Place) -> socket.socket:
    """An open connection; OSError where there is none to be had."""
    connection = _connection(place, timeout_s)
    connection.connect()
    opened: socket.socket = connection.sock
    return opened


def _patiently(
    threads: ThreadPoolExecutor, client: Client, address: Address, known: Reply, span: Span
) -> Future[bytes]:
    """`Client.read_span` in a thread."""
    return threads.submit(client.read_span, address, known, span)


def _headers(address: Address, wanted: str) -> dict[str, str]:
    """Of a GET; the signature is made over the others."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": wanted} if wanted else {})
    if not address.signed:
        return headers
    from skyframe.data.s3 import signed_headers

    return signed_headers(address.url, headers)


@functools.lru_cache(1024)
def _placed(url: str) -> tuple[Place, str]:
    """Server of an address, and what is asked of it."""
    parts = urlsplit(url)
    return (parts.scheme, parts.netloc), parts.path + ("?" + parts.query if parts.query else "")


def _close_all(connections: list[http.client.HTTPConnection]) -> None:
    for connection in connections:
        connection.close()


class Part:
    """A stretch of an object that is being read."""

    def __init__(self, start: int, stop: int, body: Future[bytes] | Job) -> None:
        self.start, self.stop, self._body = start, stop, body

    def cut(self, span: Span) -> Buffer:
        """The bytes of one span inside it, once they are there."""
        at = span[0] - self.start
        return self._body.result()[at : at + span[1]]


def coalesce(spans: Sequence[Span], gap: int = GAP_BYTES, longest: int = PIECE_BYTES) -> list[tuple[int, int]]:
    """First and past-the-last byte of the requests that cover spans: near ones joined while they are not too long."""
    made: list[tuple[int, int]] = []
    for start, length in sorted((int(s[0]), int(s[1])) for s in spans):
        stop = start + length
        if made and start - made[-1][1] <= gap and stop - made[-1][0] <= longest:
            made[-1] = made[-1][0], max(made[-1][1], stop)
        else:
            made.append((start, stop))
    return made


def _understood(address: Address, wanted: str, reply: http.client.HTTPResponse, body: bytes) -> Reply:
    """The bytes asked for, or an exception: nothing less passes."""
    status = reply.status
    tagged_by = next((name for name in ("etag", "last-modified") if reply.headers.get(name)), "")
    tag = reply.headers.get(tagged_by, "") if tagged_by else ""
    shown = reply.headers.get("Content-Range", "")
    if status == 404:
        raise FileNotFoundError(address.name)
    if status == 416:
        size = shown.rpartition("/")[2]
        return Reply(b"", int(size) if size.isdigit() else 0, tag, tagged_by)
    if status in RETRIED:
        after = reply.headers.get("Retry-After", "")
        raise _Passing(f"was answered {status} {reply.reason}", float(after) if after.isdigit() else 0.0)
    if status in (401, 403):
        _refuse(address, f"was refused ({status} {reply.reason})", "check the credentials and the name")
    if status not in (200, 206):
        _refuse(
            address,
            f"was answered {status} {reply.reason}",
            f"use {reply.headers.get('Location') or 'another address'}",
        )
    if status == 200:
        return Reply(_cut(body, wanted), len(body), tag, tagged_by)
    try:
        where, _, size = shown.removeprefix("bytes ").partition("/")
        first, last = (int(n) for n in where.split("-"))
        whole = int(size)
    except ValueError:
        raise _Passing(f"was answered without a sound Content-Range ({shown!r})") from None
    start, stop = _bounds(wanted, whole)
    if (first, last + 1) != (start, stop) or len(body) != stop - start:
        raise _Passing(f"brought {len(body)} bytes said to be {first} to {last}, expected {start} to {stop - 1}")
    return Reply(body, whole, tag, tagged_by)


def _bounds(wanted: str, size: int) -> tuple[int, int]:
    """First and past-the-last byte that a Range header asks of an object."""
    first, last = wanted.removeprefix("bytes=").split("-")
    return (int(first), min(size, int(last) + 1)) if first else (max(0, size - int(last)), size)


def _cut(body: bytes, wanted: str) -> bytes:
    """What a Range header asked for, of a server that sends small objects whole."""
    return body[slice(*_bounds(wanted, len(body)))] if wanted else body


def _refuse(address: Address, what: str, remedy: str) -> NoReturn:
    raise InputError(f"{address.name}: {what}, expected its bytes; {remedy}")
