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
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

Place = tuple[str, str]
"""Scheme and host with port."""

Connect = Callable[[Place], socket.socket]

HEAD_BYTES = 8 * 1024
"""Longest head of an answer that is understood here."""

MOST_AWAITED = 2**20
"""Bytes that are waited for before a socket counts as readable: at every waking this thread and the one that decodes
take Python's lock from each other."""

PAUSE_S = 0.001
"""Between wakings, for the same reason: what came meanwhile is taken together."""

STALLED_S = 0.1
"""After so long without a byte a socket is readable as soon as there is one: an error's answer is short."""


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
        """Called once, by the thread that fetches, which may keep the job for a while, but not its client."""
        self._body = body
        del self.otherwise
        self._done.release()

    def leave(self) -> None:
        """Take the patient way; where even that cannot begin (the process is ending), `result` says why."""
        try:
            later = self.otherwise()
        except RuntimeError as error:
            later = Future()
            later.set_exception(error)
        self.finish(later)

    def result(self) -> Any:
        """The bytes, as an array or as `bytes`; raises what the patient way raised."""
        with self._done:
            body = self._body
        return body.result() if isinstance(body, Future) else body


class _Wire:
    """A connection and what it is receiving."""

    __slots__ = ("answer", "awaited", "got", "head", "job", "since", "socket")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.job: Job | None = None
        self.answer = np.empty(0, np.uint8)  # head and body as they come
        self.got = self.head = 0  # bytes of the answer that are here, and of its head once that is known
        self.awaited = 1
        self.since = 0.0  # when the last byte came

    def await_bytes(self, count: int) -> None:
        """Be readable when so many bytes are there (an encrypted connection always is, as its records are short)."""
        count = min(count, MOST_AWAITED)
        if count != self.awaited and not isinstance(self.socket, ssl.SSLSocket):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
            self.awaited = count


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
        self._lock = threading.RLock()  # a collection inside it may end in `stop`
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
        self._pid, self._stopped = os.getpid(), False  # set once, by `stop`

    def stop(self) -> None:
        """End the thread and its connections; nothing may be under way. Without effect in a child process."""
        if self._pid != os.getpid():
            return
        with self._lock:  # the thread closes the pipe under it, so that no other file has the number by now
            self._stopped = True
            if self._thread is None:
                self._close()
            else:
                os.write(self._waker, b"x")

    def ask(self, what: Sequence[Job | tuple[Place, socket.socket | None]]) -> None:
        """Begin jobs; the loop's own helpers hand it connections the same way."""
        with self._lock:
            if self._stopped:  # a connection that came too late
                return
            if not self._new:
                os.write(self._waker, b"x")
            self._new.extend(what)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="skyframe-ranges", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._stopped:
            for key, _ in self._selector.select(STALLED_S if self._busy else None):
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
            self._look_at_stalled()  # first, as what is given up makes room for what waits
            for place in [place for place, jobs in self._waiting.items() if jobs]:
                self._start(place)
            time.sleep(PAUSE_S)
        with self._lock:
            self._close()

    def _look_at_stalled(self) -> None:
        now = time.monotonic()
        for wire in [wire for wire in self._busy if now - wire.since > STALLED_S]:
            if now - wire.since > self.timeout_s:
                self._give_up(wire)
            else:
                wire.await_bytes(1)

    def _close(self) -> None:
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
        self.ask([(place, made)])

    def _connected(self, place: Place, made: socket.socket | None) -> None:
        self._opening[place] -= 1
        if made is not None:
            self._selector.register(made, selectors.EVENT_READ, wire := _Wire(made))
            self._idle.setdefault(place, []).append(wire)
            return
        self._count[place] -= 1
        if not self._count[place]:  # not one connection: the patient way says why
            for job in self._waiting.pop(place, ()):
                job.leave()

    def _send(self, wire: _Wire, job: Job) -> None:
        wire.job, wire.got, wire.head, wire.since = job, 0, 0, time.monotonic()
        wire.answer = np.empty(HEAD_BYTES + job.size, np.uint8)
        self._busy.add(wire)
        try:
            wire.await_bytes(job.size)
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
            while not wire.head or wire.got < wire.head + job.size:
                count = wire.socket.recv_into(wire.answer[wire.got :])  # type: ignore[arg-type]
                wire.got += count
                wire.since = time.monotonic()
                if not count or not (wire.head or self._understand(wire, job)):
                    self._give_up(wire)
                    return
                if wire.got < wire.head + job.size:
                    wire.await_bytes(wire.head + job.size - wire.got)
        except (BlockingIOError, ssl.SSLWantReadError):
            return
        except OSError:
            self._give_up(wire)
            return
        body = wire.answer[wire.head : wire.got]
        self._busy.discard(wire)
        wire.job, wire.answer = None, np.empty(0, np.uint8)
        waiting = self._waiting.get(job.place)
        if waiting:
            self._send(wire, waiting.popleft())
        else:
            wire.await_bytes(1)
            self._idle[job.place].append(wire)
        job.finish(body)

    def _understand(self, wire: _Wire, job: Job) -> bool:
        """Find the end of the head; False where the answer is not what was expected."""
        head, end, _ = wire.answer[: min(wire.got, HEAD_BYTES)].tobytes().partition(b"\r\n\r\n")
        if not end:
            return wire.got < HEAD_BYTES  # more of it may come
        status, *lines = head.split(b"\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        wire.head = len(head) + len(end)
        return (
            status.startswith(b"HTTP/1.1 206")
            and all(headers.get(name) == value for name, value in job.expected.items())
            and b"transfer-encoding" not in headers
            and headers.get(b"connection", b"").lower() != b"close"
            and wire.got <= wire.head + job.size
        )

    def _give_up(self, wire: _Wire) -> None:
        """This connection is done with, and its job goes the patient way."""
        job = wire.job
        assert job is not None
        self._drop(wire, job.place)
        job.leave()

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
