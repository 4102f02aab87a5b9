"""Many byte ranges at a time over kept connections, by one thread: where reading ahead over a network spends its time.

A request here costs a fraction of one by `http.client` in a thread of its own: no hand-over between threads, the body
received in one piece into memory that the decoder reads from. Only the plain case is known here, `206` with exactly
the bytes that were asked for of the object that was opened; whatever else comes is left to `otherwise`, which asks
again with all patience and finds the words for what is wrong.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

Place = tuple[str, str]
"""Scheme and host with port."""

Connect = Callable[[Place], socket.socket]

HEAD_BYTES = 64 * 1024


class Job:
    """A range that is being fetched; `result` waits for it."""

    __slots__ = ("_body", "_done", "expected", "otherwise", "place", "request", "size")

    def __init__(
        self,
        place: Place,
        request: bytes,
        expected: dict[bytes, bytes],
        size: int,
        otherwise: Callable[[], Future[Any]],
    ) -> None:
        """Nothing is asked for yet.

        Args:
            place: where the server is.
            request: what to send, head and all.
            expected: headers of the answer, by name in lower case, that must be these.
            size: bytes of the range.
            otherwise: begins the patient way.
        """
        self.place, self.request, self.expected, self.size, self.otherwise = place, request, expected, size, otherwise
        self._body: Any = None  # the bytes, or what `otherwise` gave
        self._done = threading.Lock()
        self._done.acquire()

    def finish(self, body: Any) -> None:
        """Called once, by the thread that fetches."""
        self._body = body
        self._done.release()

    def result(self) -> Any:
        """The bytes, as an array or as `bytes`; raises what the patient way raised."""
        with self._done:
            body = self._body
        return body.result() if isinstance(body, Future) else body


class _Wire:
    """A connection and what it is receiving."""

    __slots__ = ("body", "deadline", "got", "head", "job", "socket")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.job: Job | None = None
        self.head = b""
        self.body: NDArray[np.uint8] | None = None
        self.got = 0
        self.deadline = 0.0


class RangeLoop:
    """Fetches jobs of one process; the thread starts with the first one and ends with the process."""

    def __init__(self, concurrency: int, timeout_s: float, connect: Connect, threads: ThreadPoolExecutor) -> None:
        """Nothing is connected yet.

        Args:
            concurrency: connections to one place.
            timeout_s: without a byte, after which a job goes the patient way.
            connect: opens a connection; called in `threads`.
            threads: for what may block.
        """
        self.concurrency, self.timeout_s, self.connect, self.threads = concurrency, timeout_s, connect, threads
        self._lock = threading.Lock()
        self._new: deque[Job | tuple[Place, socket.socket | None]] = deque()
        self._waiting: dict[Place, deque[Job]] = {}
        self._idle: dict[Place, list[_Wire]] = {}
        self._count: dict[Place, int] = {}  # connections that are open or being opened
        self._opening: dict[Place, int] = {}
        self._busy: set[_Wire] = set()
        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = os.pipe()[::-1]
        os.set_blocking(self._woken, False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread: threading.Thread | None = None
        self._pid, self._stopped = os.getpid(), False

    def stop(self) -> None:
        """End the thread and its connections; nothing may be under way. Without effect in a child process."""
        if self._pid == os.getpid():
            self._stopped = True
            os.write(self._waker, b"x")

    def ask(self, jobs: list[Job]) -> None:
        """Begin jobs."""
        self._tell(jobs)

    def _tell(self, what: list[Any]) -> None:
        with self._lock:
            wake = not self._new
            self._new.extend(what)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="skyframe-ranges", daemon=True)
                self._thread.start()
        if wake:
            os.write(self._waker, b"x")

    def _run(self) -> None:
        while not self._stopped:
            for key, _ in self._selector.select(self.timeout_s / 4 if self._busy else None):
                if key.data is None:
                    os.read(self._woken, 4096)
                else:
                    self._receive(key.data)
            with self._lock:
                new, self._new = self._new, deque()
            for one in new:
                if isinstance(one, Job):
                    self._waiting.setdefault(one.place, deque()).append(one)
                else:
                    self._connected(*one)
            for place in [place for place, jobs in self._waiting.items() if jobs]:
                self._start(place)
            now = time.monotonic()
            for wire in [wire for wire in self._busy if wire.deadline < now]:
                self._give_up(wire)
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                key.data.socket.close()
        self._selector.close()
        os.close(self._waker)
        os.close(self._woken)

    def _start(self, place: Place) -> None:
        """Put waiting jobs on idle connections, and open more where there are too few."""
        waiting, idle = self._waiting[place], self._idle.setdefault(place, [])
        while waiting and idle:
            self._send(idle.pop(), waiting.popleft())
        opening, count = self._opening.setdefault(place, 0), self._count.setdefault(place, 0)
        for _ in range(min(len(waiting) - opening, self.concurrency - count)):
            self._opening[place] += 1
            self._count[place] += 1
            self.threads.submit(self._open, place)

    def _open(self, place: Place) -> None:
        """In a thread of its own, as names, handshakes and servers take their time."""
        made = None
        with contextlib.suppress(OSError, ValueError):
            made = self.connect(place)
            made.setblocking(False)
        self._tell([(place, made)])

    def _connected(self, place: Place, made: socket.socket | None) -> None:
        self._opening[place] -= 1
        if made is not None:
            self._selector.register(made, selectors.EVENT_READ, wire := _Wire(made))
            self._idle.setdefault(place, []).append(wire)
            return
        self._count[place] -= 1
        if not self._count[place]:  # not one connection: the patient way says why
            for job in self._waiting.pop(place, ()):
                job.finish(job.otherwise())

    def _send(self, wire: _Wire, job: Job) -> None:
        wire.job, wire.head, wire.body, wire.got = job, b"", None, 0
        wire.deadline = time.monotonic() + self.timeout_s
        self._busy.add(wire)
        try:
            if wire.socket.send(job.request) != len(job.request):
                self._give_up(wire)
        except OSError:  # closed by the server while it was idle, or no room for a few hundred bytes
            self._give_up(wire)

    def _receive(self, wire: _Wire) -> None:
        """Take what has come; a readable connection without a job was closed by the server."""
        job = wire.job
        if job is None:
            self._drop(wire, None)
            return
        try:
            if wire.body is None and not self._receive_head(wire, job):
                return
            body = wire.body
            assert body is not None
            while wire.got < job.size:
                count = wire.socket.recv_into(body[wire.got :])  # type: ignore[arg-type]
                if not count:
                    self._give_up(wire)
                    return
                wire.got += count
        except (BlockingIOError, ssl.SSLWantReadError):
            wire.deadline = time.monotonic() + self.timeout_s
            return
        except OSError:
            self._give_up(wire)
            return
        self._busy.discard(wire)
        wire.job, wire.body = None, None
        waiting = self._waiting.get(job.place)
        if waiting:
            self._send(wire, waiting.popleft())
        else:
            self._idle[job.place].append(wire)
        job.finish(body)

    def _receive_head(self, wire: _Wire, job: Job) -> bool:
        """Read up to the first bytes of the body; False where it is not all there, or not what was expected."""
        end = b""
        while not end:  # until there is no more: TLS may hold a piece that no selector tells of
            came = wire.socket.recv(HEAD_BYTES)
            wire.head += came
            head, end, rest = wire.head.partition(b"\r\n\r\n")
            if not came or len(head) > HEAD_BYTES:
                break
        status, *lines = head.split(b"\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        as_expected = all(headers.get(name) == value for name, value in job.expected.items())
        usable = status.startswith(b"HTTP/1.1 206") and b"transfer-encoding" not in headers and len(rest) <= job.size
        if not end or not as_expected or not usable or headers.get(b"connection", b"").lower() == b"close":
            self._give_up(wire)
            return False
        wire.body = np.empty(job.size, np.uint8)
        wire.body[: len(rest)] = np.frombuffer(rest, np.uint8)
        wire.got = len(rest)
        return True

    def _give_up(self, wire: _Wire) -> None:
        """This connection is done with, and its job goes the patient way."""
        job = wire.job
        assert job is not None
        self._drop(wire, job.place)
        job.finish(job.otherwise())

    def _drop(self, wire: _Wire, place: Place | None) -> None:
        self._busy.discard(wire)
        self._selector.unregister(wire.socket)
        wire.socket.close()
        for at, idle in self._idle.items():
            if wire in idle:
                idle.remove(wire)
                place = at
        if place is not None:
            self._count[place] -= 1
