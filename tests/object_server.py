"""A small HTTP server over a folder, in a process of its own: byte ranges, ETags, latency, and faults on demand.

The parser is plain so that the server takes little of the cores that it shares with what is measured against it.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REASONS = {200: "OK", 206: "Partial Content", 404: "Not Found", 416: "Range Not Satisfiable", 429: "Too Many Requests"}


@dataclass
class Fault:
    """What goes wrong for requests whose path holds `match`, `times` times (default: always)."""

    match: str
    kind: str  # a status such as "503", or: truncate, reset, hang, short_length, whole, flip, stale, other_range
    times: int = 1 << 30
    ranged: bool = False  # only requests with a range


class Handler(socketserver.StreamRequestHandler):
    """One connection: requests one after another."""

    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        if self.server.tls is not None:
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def handle(self) -> None:
        while True:
            line = self.rfile.readline()
            if not line.strip():
                return
            method, path, _ = line.decode().split(" ", 2)
            headers: dict[str, str] = {}
            while (line := self.rfile.readline()).strip():
                name, _, value = line.decode().partition(":")
                headers[name.lower()] = value.strip()
            body = self.rfile.read(int(headers.get("content-length", 0)))
            if not self._answer(method, path, headers, body):
                return

    def _answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> bool:
        """Answer one request; False closes the connection."""
        server = self.server
        if path.startswith("/_"):
            return self._control(path, body)
        fault = server.take(path, "range" in headers)
        time.sleep(server.latency_s)
        kind = fault.kind if fault else ""
        if kind == "hang":
            time.sleep(server.hang_s)
            return False
        if kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return False
        if kind.isdigit():
            return self._send(int(kind), b"injected")
        try:
            file = open(server.root / path.split("?")[0].lstrip("/"), "rb")  # noqa: SIM115
        except OSError:
            return self._send(404, b"not there")
        with file:
            return self._send_file(file.fileno(), headers.get("range", ""), method, kind)

    def _send_file(self, file: int, wanted: str, method: str, kind: str) -> bool:
        stat = os.fstat(file)
        size, etag = stat.st_size, f'"{stat.st_ino:x}-{stat.st_size:x}-{stat.st_mtime_ns:x}"'
        if kind == "stale":
            etag = '"another"'
        start, stop, status = 0, size, 200
        if wanted and kind != "whole":
            first, last = wanted.removeprefix("bytes=").split("-")
            start, stop = (int(first), min(size, int(last) + 1)) if first else (max(0, size - int(last)), size)
            status = 206
            if start >= stop:
                return self._send(416, b"", f"Content-Range: bytes */{size}\r\n")
        shown = start + 1 if kind == "other_range" else start
        extra = (
            f"ETag: {etag}\r\nContent-Range: bytes {shown}-{stop - 1}/{size}\r\n"
            if status == 206
            else f"ETag: {etag}\r\n"
        )
        length = stop - start
        if kind == "short_length":  # a length that is told wrong, with as many bytes
            length, stop = length // 2, start + length // 2
        head = f"HTTP/1.1 {status} {REASONS[status]}\r\n{extra}Content-Length: {length}\r\n\r\n".encode()
        if kind == "truncate":
            stop = start + length // 2
        if method == "HEAD":
            stop = start
        self._count(stop - start)
        if kind == "flip":
            body = bytearray(os.pread(file, stop - start, start))
            body[len(body) // 2] ^= 0x10
            self.connection.sendall(head + bytes(body))
            return True
        if stop - start < 65536 or self.server.tls is not None:
            self.connection.sendall(head + os.pread(file, stop - start, start))
        else:
            self.connection.sendall(head, socket.MSG_MORE)
            while start < stop:
                start += os.sendfile(self.connection.fileno(), file, start, stop - start)
        return kind != "truncate"

    def _send(self, status: int, body: bytes, extra: str = "") -> bool:
        self._count(len(body))
        reason = REASONS.get(status, "Injected")
        head = f"HTTP/1.1 {status} {reason}\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
        self.connection.sendall(head.encode() + body)
        return True

    def _count(self, num_bytes: int) -> None:
        with self.server.lock:
            self.server.requests += 1
            self.server.bytes += num_bytes

    def _control(self, path: str, body: bytes) -> bool:
        """`/_set` takes latency and faults, `/_stats` tells requests, bytes and the processor time taken so far."""
        server = self.server
        if path == "/_set":
            tree = json.loads(body)
            with server.lock:
                server.latency_s = tree.get("latency_s", server.latency_s)
                if "faults" in tree:
                    server.faults = [Fault(**fault) for fault in tree["faults"]]
        with server.lock:
            answer = {"requests": server.requests, "bytes": server.bytes, "cpu_s": time.process_time()}
        reply = json.dumps(answer).encode()
        self.connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(reply)}\r\n\r\n".encode() + reply)
        return True


class Server(socketserver.ThreadingTCPServer):
    """The listening socket and what the handlers share."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 512

    def __init__(self, root: Path, latency_s: float, hang_s: float) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.latency_s, self.hang_s = root, latency_s, hang_s
        self.faults: list[Fault] = []
        self.tls: ssl.SSLContext | None = None
        self.lock = threading.Lock()
        self.requests = self.bytes = 0

    def take(self, path: str, ranged: bool) -> Fault | None:
        """The fault that this request meets."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.match in path and (ranged or not fault.ranged):
                    fault.times -= 1
                    return fault
        return None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class ServerProcess:
    """Starts the server over a folder and talks to it; a context manager."""

    def __init__(
        self, root: Path, latency_s: float = 0.0, hang_s: float = 30.0, tls: tuple[Path, Path] | None = None
    ) -> None:
        command = [sys.executable, __file__, str(root), "--latency", str(latency_s), "--hang", str(hang_s)]
        command += ["--tls", *map(str, tls)] if tls else []
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{int(self._process.stdout.readline())}"

    def set(self, *faults: Fault, latency_s: float | None = None) -> None:
        """Replace the faults, and the latency where one is given."""
        tree: dict[str, Any] = {"faults": [vars(fault) for fault in faults]}
        if latency_s is not None:
            tree["latency_s"] = latency_s
        self._ask("/_set", json.dumps(tree).encode())

    def stats(self) -> dict[str, float]:
        """Requests answered, bytes sent and processor seconds since the start."""
        return self._ask("/_stats")

    def _ask(self, path: str, body: bytes | None = None) -> dict[str, float]:
        with urllib.request.urlopen(self.url + path, data=body, timeout=10) as reply:
            answer: dict[str, float] = json.loads(reply.read())
        return answer

    def stop(self) -> None:
        """End the process: its address refuses connections from here on."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--hang", type=float, default=30.0)
    parser.add_argument("--tls", type=Path, nargs=2, metavar=("CERTIFICATE", "KEY"))
    given = parser.parse_args()
    with Server(given.root, given.latency, given.hang) as listening:
        if given.tls:
            listening.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            listening.tls.load_cert_chain(*given.tls)
        print(listening.server_address[1], flush=True)
        listening.serve_forever()
