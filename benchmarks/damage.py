"""The damage matrix: what each reader says to each kind of damage, from a disk and over HTTP, as a dated table.

python -m benchmarks.damage
"""

from __future__ import annotations

import datetime
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np

from skyframe.data.box import by_zarr
from skyframe.data.cube import Cube, open_cube
from skyframe.data.read import read_series
from skyframe.data.shard import MISSING
from skyframe.data.transport import Client
from skyframe.spec import InputError, Window
from tests.data.cubes import tiny_cube
from tests.object_server import Fault, ServerProcess

RESULTS = Path(__file__).parent / "results"
WINDOW = Window("tiny", 0, 0, 640)
CHUNK = (4, 0, 0, 0)
SHARD = "s2/values/c/0/0/0/0"

BACKENDS: dict[str, Callable[[Cube], Cube]] = {"own": lambda cube: cube, "zarr": by_zarr}

STORED = {
    "chunk missing": r"s2/values: shard .* holds 11 chunks, the manifest says 12",
    "shard missing": r"s2/values: shard .* its file is missing",
    "shard truncated": r"s2/values: shard .* fails its checksum: it was truncated or altered",
    "zero-length shard": r"s2/values: shard .* has 0 bytes, expected at least",
    "bit flip in a chunk": r"s2/values: chunk \(4, 0, 0, 0\) .* fails its checksum",
    "bit flip in the index": r"s2/values: shard .* index that fails its checksum",
    "chunk does not decode": r"s2/values: chunk \(4, 0, 0, 0\) .* does not decode",
}
"""Damage that lies in the store, and what readers say."""

NETWORK = {
    "status 500": "500",
    "status 503": "503",
    "status 429": "429",
    "timeout": "hang",
    "truncated body": "truncate",
    "connection reset": "reset",
    "wrong content length": "short_length",
    "another range": "other_range",
    "bit flip": "flip",
    "not found": "404",
}
"""Faults of the way, and their names in tests/object_server.py."""


def hurt(cube: Path, kind: str) -> None:
    """Do one kind of damage to the s2 values of a tiny cube."""
    file = cube / SHARD
    raw = bytearray(file.read_bytes())
    layout = open_cube(cube).manifest.arrays["s2/values"].layout
    rows = int(np.prod(layout.chunks_per_shard))
    split = len(raw) - rows * 16 - 4
    index = np.frombuffer(bytes(raw[split:-4]), "<u8").reshape(rows, 2).copy()
    row = layout.locate(CHUNK)[1]
    offset, length = (int(n) for n in index[row])
    if kind == "shard missing":
        file.unlink()
        return
    if kind == "shard truncated":
        raw = raw[:-100]
    elif kind == "zero-length shard":
        raw = bytearray()
    elif kind == "bit flip in a chunk":
        raw[offset + length // 2] ^= 0x10
    elif kind == "bit flip in the index":
        raw[-10] ^= 0x10
    elif kind == "chunk does not decode":
        raw[offset : offset + length] = _with_crc(bytes([7]) * (length - 4))
    elif kind == "chunk missing":
        index[row] = MISSING
        raw = raw[:split] + _with_crc(index.tobytes())
    file.write_bytes(raw)


def _with_crc(payload: bytes) -> bytes:
    return payload + int(google_crc32c.value(payload)).to_bytes(4, "little")


def outcome(cube: Cube, backend: str, whole: Path) -> str:
    """What reading a damaged cube ends in: `whole` (the right values), `error: ...`, or SILENT."""
    expected = read_series(open_cube(whole), WINDOW)["s2"].values
    try:
        got = read_series(BACKENDS[backend](cube), WINDOW)["s2"].values
    except InputError as error:
        return f"error: {error}"
    return "whole" if np.array_equal(got, expected) else "SILENT"


def _short(text: str) -> str:
    return " ".join(text.split()).partition("; ")[0].replace("|", "/")[:150]


def matrix(folder: Path) -> list[tuple[str, str, str, str]]:
    """Kind, reader, place and outcome of every cell."""
    tiny_cube(folder / "whole.zarr", names=("s2",))
    rows = []
    with ServerProcess(folder, hang_s=1.5) as server:
        client = Client(attempts=3, timeout_s=0.5, backoff_s=0.02)
        for number, kind in enumerate(STORED):
            shutil.copytree(folder / "whole.zarr", folder / f"{number}.zarr")
            hurt(folder / f"{number}.zarr", kind)
            for backend in BACKENDS:
                for place, url in (("local", str(folder / f"{number}.zarr")), ("http", f"{server.url}/{number}.zarr")):
                    cube = open_cube(url, client=client)
                    rows.append((kind, backend, place, outcome(cube, backend, folder / "whole.zarr")))
        for kind, fault in NETWORK.items():
            for backend in BACKENDS:
                for times, name in ((1, "once"), (1 << 30, "always")):
                    server.set()
                    cube = open_cube(f"{server.url}/whole.zarr", client=client)
                    server.set(Fault("s2/values/c", fault, times))
                    rows.append((f"{kind}, {name}", backend, "http", outcome(cube, backend, folder / "whole.zarr")))
    return [
        (kind, backend, place, _short(what.replace(server.url, "http://server"))) for kind, backend, place, what in rows
    ]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = matrix(Path(folder))
        rows = [(*row[:3], row[3].replace(folder, "")) for row in rows]
    silent = [row for row in rows if row[3] == "SILENT"]
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    lines = [
        f"# Damage matrix, {today}",
        "",
        "`python -m benchmarks.damage`: a cube of six dates, damage in `s2/values`, read whole. `own` is the reader of",
        "training, `zarr` is plain zarr-python behind the same checks. `whole` means that the right values came after",
        f"a retry. Silent outcomes: {len(silent)} of {len(rows)}.",
        "",
        "| damage | reader | from | outcome |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    path = RESULTS / f"{today}_damage.md"
    path.write_text("\n".join(lines) + "\n")
    print("\n".join(lines[2:5]), f"\nwrote {path}")
    if silent:
        raise SystemExit(f"silent: {silent}")


if __name__ == "__main__":
    main()
