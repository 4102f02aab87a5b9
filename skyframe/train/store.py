"""The portable form of a checkpoint: flat ranges of named tensors in one file per rank, one index, one trainer state.

    step_00000100/
        index.json                 which range of which tensor lies in which file, shapes, dtypes, checksums
        state.pt                   loops, callbacks, data position, schedule; loads with weights_only=True
        rank_00000.safetensors     the ranges that rank 0 wrote, each as a flat tensor
        rank_00001.safetensors     ...

A run of W ranks leaves W + 2 files. Whoever reads takes the ranges it wants, whatever wrote them: the number of ranks,
the strategy and the stage are free.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from skyframe.data.write import sync
from skyframe.spec import InputError
from skyframe.train.shards import Shard

FORMAT = 2
INDEX, STATE = "index.json", "state.pt"
BLOCK = 1 << 22
"""Elements under one checksum: who wants a part of a range reads 16 MB more at most at either end."""

Pieces = list[tuple[str, tuple[int, ...], str, int, int, list[int]]]
"""Name, shape, dtype, first element, number of elements and checksums of each range in a file."""


def snapshot(shards: Sequence[Shard]) -> list[Shard]:
    """The same ranges in host memory of their own, as training goes on over the first."""
    return [replace(s, values=s.values.detach().to("cpu", copy=True).contiguous()) for s in shards]


def write_rank(folder: Path, rank: int, shards: Sequence[Shard]) -> Pieces:
    """Write this rank's file and sync it; returns what is in it.

    Args:
        folder: is there.
        rank: names the file.
        shards: contiguous and in host memory, no two over the same.
    """
    path = folder / rank_file(rank)
    save_file({s.name: s.values for s in shards}, path)
    sync(path)
    return [
        (s.name, s.shape, str(s.values.dtype).removeprefix("torch."), s.start, s.values.numel(), _sums(s.values))
        for s in shards
    ]


def write_index(
    folder: Path,
    pieces: Sequence[Pieces],
    state: Mapping[str, Any],
    aliases: Mapping[str, str],
    about: Mapping[str, Any],
) -> None:
    """Write state and index of all ranks' files, after checking that together they hold every element once.

    Args:
        folder: holds the ranks' files already.
        pieces: what `write_rank` returned, rank by rank.
        state: plain values and small tensors of the trainer.
        aliases: further keys of the same tensors.
        about: step, strategy and world size, for whoever looks in.
    """
    tensors: dict[str, dict[str, Any]] = {}
    for rank, parts in enumerate(pieces):
        for name, shape, dtype, start, count, sums in parts:
            entry = tensors.setdefault(name, {"shape": list(shape), "dtype": dtype, "pieces": []})
            entry["pieces"].append([rank, start, count, sums])
    for name, entry in tensors.items():
        entry["pieces"].sort(key=lambda piece: piece[1])
        ends = [0, *(start + count for _, start, count, _ in entry["pieces"])]
        whole = torch.Size(entry["shape"]).numel()
        if ends[:-1] != [start for _, start, _, _ in entry["pieces"]] or ends[-1] != whole:
            raise ValueError(f"checkpoint: the ranks' ranges of {name} do not make up its {whole} elements")
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    (folder / STATE).write_bytes(buffer.getvalue())
    sync(folder / STATE)
    index = {
        "format": FORMAT,
        **about,
        "block": BLOCK,
        "files": [(folder / rank_file(rank)).stat().st_size for rank in range(len(pieces))],
        "state": google_crc32c.value(buffer.getvalue()),
        "aliases": dict(aliases),
        "tensors": tensors,
    }
    index["crc32c"] = google_crc32c.value(json.dumps(index).encode())
    (folder / INDEX).write_text(json.dumps(index))
    sync(folder / INDEX)


class Reader:
    """An open checkpoint. Everything that is read is compared with its checksum.

    Raises:
        InputError: no folder of this form, another format, or a file that is damaged; the file is named.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            was = "a single file, as format 1 was" if folder.is_file() else "not there"
            raise InputError(
                f"{folder}: is {was}, expected a checkpoint folder of format {FORMAT}; train the run again, or use the "
                "version of skyframe-eo that wrote it"
            )
        try:
            index = json.loads((folder / INDEX).read_text())
            found = index.get("format")
            given = index.pop("crc32c", None)
        except (OSError, ValueError, AttributeError) as error:
            raise InputError(f"{folder / INDEX}: not readable ({type(error).__name__}); {CHOOSE}") from error
        if found != FORMAT:
            raise InputError(
                f"{folder}: checkpoint format {found!r}, expected {FORMAT}; upgrade skyframe-eo or train the run again"
            )
        if given != google_crc32c.value(json.dumps(index).encode()):
            raise InputError(f"{folder / INDEX}: does not match its checksum; {CHOOSE}")
        self.index: dict[str, Any] = index
        self.tensors: dict[str, dict[str, Any]] = index["tensors"]
        self._open: dict[int, Any] = {}

    def state(self) -> dict[str, Any]:
        """The trainer's state."""
        path = self.folder / STATE
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: not readable ({type(error).__name__}); {CHOOSE}") from error
        if google_crc32c.value(content) != self.index["state"]:
            raise InputError(f"{path}: does not match its checksum; {CHOOSE}")
        return dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))

    def fill(self, shards: Iterable[Shard]) -> None:
        """Copy every shard's range into its place; the whole tensor's name and shape must be those that were saved."""
        for s in shards:
            entry = self.tensors.get(s.name)
            if entry is None or tuple(entry["shape"]) != s.shape:
                found = "nothing" if entry is None else f"shape {entry['shape']}"
                raise InputError(
                    f"{self.folder}: holds {found} for {s.name}, expected shape {list(s.shape)}; resume with the run's "
                    "own recipe"
                )
            self._copy(s.name, entry, s.start, s.values)

    def whole(self, name: str) -> Tensor:
        """One tensor in its shape and stored dtype."""
        entry = self.tensors[name]
        out = torch.empty(torch.Size(entry["shape"]).numel(), dtype=getattr(torch, entry["dtype"]))
        self._copy(name, entry, 0, out)
        return out.reshape(entry["shape"])

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and buffers by their keys, whole, on the CPU."""
        names = [name for name in self.tensors if name.startswith("model/")]
        found = {name.removeprefix("model/"): self.whole(name) for name in names}
        return found | {key: found[first] for key, first in self.index["aliases"].items()}

    def _copy(self, name: str, entry: Mapping[str, Any], start: int, out: Tensor) -> None:
        stop = start + out.numel()
        for rank, first, count, sums in entry["pieces"]:
            low, high = max(start, first), min(stop, first + count)
            if low < high:
                block = self.index["block"]
                begin = (low - first) // block
                for number in range(begin, (high - first - 1) // block + 1):
                    at, end = first + number * block, first + min(count, (number + 1) * block)
                    values = self._block(rank, name, at - first, end - first, sums[number])
                    left, right = max(low, at), min(high, end)
                    out[left - start : right - start].copy_(values[left - at : right - at])

    def _block(self, rank: int, name: str, start: int, stop: int, expected: int) -> Tensor:
        path = self.folder / rank_file(rank)
        try:
            if rank not in self._open:
                if path.stat().st_size != self.index["files"][rank]:
                    raise InputError(
                        f"{path}: holds {path.stat().st_size} bytes, expected {self.index['files'][rank]}; {CHOOSE}"
                    )
                self._open[rank] = safe_open(path, "pt")
            values: Tensor = self._open[rank].get_slice(name)[start:stop]
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: not readable ({type(error).__name__}: {error}); {CHOOSE}") from error
        if _sums(values) != [expected]:
            raise InputError(f"{path}: {name} does not match its checksum; {CHOOSE}")
        return values


CHOOSE = "write the name of another step_* folder into LATEST"


def rank_file(rank: int) -> str:
    """Name of a rank's file."""
    return f"rank_{rank:05d}.safetensors"


def _sums(flat: Tensor) -> list[int]:
    return [google_crc32c.value(part.view(torch.uint8).numpy().tobytes()) for part in flat.split(BLOCK) if part.numel()]
