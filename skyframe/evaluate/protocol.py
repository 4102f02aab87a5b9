"""What evaluation asks of an encoder, what it writes per score (`ResultRow`), and the resumable CSV of rows."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import nn

from skyframe.config.contract import Contract
from skyframe.sample import Batch, Features
from skyframe.spec import InputError

Role = Literal["encoder", "random", "raw", "majority"]


class Encoder(Protocol):
    """Anything that turns a batch into features, in evaluation mode and without gradient.

    An encoder may have `maps(batch, source) -> [[B, D_l, h_l, w_l], ...]`, maps of several depths for heads (see
    `dense.feature_maps`), and `prototype_map(batch) -> int64 [B, N]`, each position's nearest prototype, which the
    report draws. One that uses only a part of its weights names that part in an attribute `variant`, which its hash
    then holds.
    """

    @property
    def contract(self) -> Contract:
        """What the encoder expects: modalities with bands, units and statistics, dates, crop, regions."""
        ...

    def encode(self, batch: Batch) -> Features:
        """Features of a batch in stored units."""
        ...


@dataclass(frozen=True)
class Subject:
    """An encoder under a printed name. `random` is the same architecture with weights never trained."""

    name: str
    encoder: Encoder
    role: Role = "encoder"


@dataclass(frozen=True)
class ResultRow:
    """One score with all that is needed to compare and to repeat it."""

    suite: str
    task: str
    level: str  # what is predicted: scene | pixel | multilabel | boxes | ...
    protocol: str  # knn | knn_k<k> | linear | ... | majority
    metric: str
    value: float  # on the test part; a share in 0..1 but for rmse and mae
    lo: float  # 2.5 % of the bootstrap over test clusters
    hi: float  # 97.5 %
    num_test: int  # rows scored
    num_clusters: int  # independent units resampled
    seed: int
    encoder: str
    role: str
    weights_sha256: str  # over names, shapes and values of the state dict
    source: str  # what was fed
    normaliser: str
    split_sha256: str
    chosen: str  # hyper-parameters chosen on the validation part
    grid: str  # what they were chosen from
    config: str  # JSON of what bears on this row: task, protocol and its numbers
    config_sha256: str  # of `config` and of the data
    predictions_sha256: str  # equal predictions of two encoders are an alarm
    feature_std: float  # spread of the unit-length features over rows, 1 = isotropic, 0 = collapsed
    versions: str
    seconds: float
    peak_memory_mb: float
    log: str

    @property
    def key(self) -> tuple[str, ...]:
        """What makes a row unique; a run skips keys that are there already."""
        parts = (self.config_sha256, self.task, self.protocol, self.metric, self.encoder, self.weights_sha256)
        return (*parts, str(self.seed))


def digest(*values: Any) -> str:
    """Sixteen hex digits over plain values (as JSON), arrays (their bytes) and strings."""
    state = hashlib.sha256()
    for value in values:
        if hasattr(value, "tobytes"):
            state.update(f"{value.dtype}{value.shape}".encode())
            state.update(value.tobytes())
        else:
            state.update(json.dumps(value, sort_keys=True, default=str).encode())
    return state.hexdigest()[:16]


def weights_sha256(encoder: Encoder) -> str:
    """Hash of what makes an encoder itself: its weights and buffers, or class and contract where it has none."""
    if not isinstance(encoder, nn.Module):
        return digest(type(encoder).__name__, dataclasses.asdict(encoder.contract))
    state = hashlib.sha256(str(getattr(encoder, "variant", "")).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        if isinstance(tensor, bytes) or not hasattr(tensor, "detach"):
            continue
        flat = tensor.detach().cpu().contiguous()
        state.update(f"{name}{flat.dtype}{tuple(flat.shape)}".encode())
        state.update(flat.reshape(-1).view(_bytes_of(flat)).numpy().tobytes())
    return state.hexdigest()


def _bytes_of(tensor: Any) -> Any:
    import torch

    return torch.uint8 if tensor.dtype != torch.bool else torch.bool


def read_rows(path: Path) -> list[ResultRow]:
    """Rows of a results file, none where there is no file yet.

    Raises:
        InputError: the columns are another version's.
    """
    if not path.is_file():
        return []
    names = [f.name for f in dataclasses.fields(ResultRow)]
    hints = typing.get_type_hints(ResultRow)
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames is None or list(reader.fieldnames) != names:
            extra = sorted(set(names) ^ set(reader.fieldnames or ()))
            raise InputError(
                f"{path}: columns differ from this version's by {', '.join(extra) or 'their order'}, expected those of "
                "ResultRow; move the file away and evaluate again"
            )
        try:
            return [ResultRow(**{k: hints[k](line[k]) for k in names}) for line in reader]
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{path}: line {reader.line_num} is cut or edited ({error}); delete that line and evaluate again"
            ) from error


def write_parquet(path: Path, rows: Sequence[ResultRow]) -> None:
    """All rows as one Parquet table, written whole."""
    import pyarrow
    from pyarrow import parquet

    part = path.with_suffix(".partial")
    parquet.write_table(pyarrow.Table.from_pylist([dataclasses.asdict(r) for r in rows]), part)
    part.replace(path)


def append_rows(path: Path, rows: Sequence[ResultRow]) -> None:
    """Append rows, with a header line where the file is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in dataclasses.fields(ResultRow)], lineterminator="\n")
        if fresh:
            writer.writeheader()
        for row in rows:
            writer.writerow(dataclasses.asdict(row))
