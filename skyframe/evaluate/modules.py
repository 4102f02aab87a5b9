"""Which modules to deploy: every subset of one model's modules scored as one table, features computed once.

A subset is some of the modalities, with or without the fusion transformer and with or without the region context.
Without fusion a modality's features are its spatial encoder's, averaged over dates; those of several modalities stand
side by side.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor, nn

from skyframe.config.contract import Contract
from skyframe.config.evaluate import Suite
from skyframe.evaluate.feed.features import Group
from skyframe.evaluate.measures.measure import paired_difference
from skyframe.evaluate.protocol import Encoder, ResultRow, Subject
from skyframe.evaluate.record import measure_of_row
from skyframe.evaluate.suite import Outcome, evaluate
from skyframe.model.factorised import FactorisedEncoder, masked_mean
from skyframe.sample import Batch, Features
from skyframe.spec import InputError


@dataclass(frozen=True)
class Parts:
    """Which modules an answer comes from."""

    modalities: tuple[str, ...]
    fusion: bool
    context: bool

    @property
    def name(self) -> str:
        """Such as `s2+s1 fused, context`."""
        how = "" if not self.fusion else " fused, context" if self.context else " fused"
        return "+".join(self.modalities) + how


class PartsEncoder(nn.Module):
    """One subset of a model's modules as an encoder of its own."""

    def __init__(self, model: FactorisedEncoder, contract: Contract, parts: Parts) -> None:
        super().__init__()
        self.model, self.contract, self.parts = model, contract, parts
        self.variant = parts.name

    def encode(self, batch: Batch) -> Features:
        """Features of this subset alone."""
        return encode_parts(self.model, batch, [self.parts])[0]


@dataclass(frozen=True)
class ModulesTable:
    """Scores of every subset, and what each differs by from the whole."""

    outcome: Outcome
    parts: tuple[Parts, ...]  # the last is the whole
    differences: dict[tuple[str, str, str, str], tuple[float, float, float]]  # by task, protocol, metric, subset


def parts_of(model: FactorisedEncoder) -> tuple[Parts, ...]:
    """Every subset of a model's modules, the whole last."""
    names = tuple(model.encoders)
    made = []
    for count in range(1, len(names) + 1):
        for chosen in itertools.combinations(names, count):
            made += [Parts(chosen, False, False), Parts(chosen, True, False)]
            made += [Parts(chosen, True, True)] if model.geo is not None else []
    return tuple(made)


@torch.no_grad()
def encode_parts(model: FactorisedEncoder, batch: Batch, parts: Sequence[Parts]) -> list[Features]:
    """Features of several subsets; each spatial encoder runs once."""
    needed = {n for p in parts for n in p.modalities}
    alone: dict[str, tuple[Tensor, Tensor]] = {}
    tokens = {}
    for name, encoder in model.encoders.items():
        if name in needed:
            raw, flags = encoder(batch.series[name])
            alone[name] = encoder.over_dates(batch.series[name], raw, flags)
            tokens[name] = model.aligned_tokens(name, raw, batch.series[name])
    fused: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}
    made = []
    for p in parts:
        if p.fusion:
            if p.modalities not in fused:
                fused[p.modalities] = model.fuse({n: tokens[n] for n in p.modalities})
            values, valid = fused[p.modalities]
            full = model.with_context(values, batch.region) if p.context else values
            made.append(Features(full, masked_mean(full, valid), context_dims=full.shape[-1] - values.shape[-1]))
        else:
            full = torch.cat([alone[n][0] for n in p.modalities], -1)
            valid = torch.stack([alone[n][1] for n in p.modalities]).any(0)
            made.append(Features(full, masked_mean(full, valid)))
    return made


def evaluate_modules(suite: Suite, encoder: Encoder, out_dir: Path, data: Path | None = None) -> ModulesTable:
    """Score every subset of an exported model's modules by a suite's probes.

    Raises:
        InputError: not a whole model, or whatever `evaluate` refuses.
    """
    model = getattr(encoder, "module", None)
    if not isinstance(model, FactorisedEncoder):
        raise InputError(
            f"--modules: {encoder.contract.module} is one module, expected a whole model; give the `model` folder of "
            "an export"
        )
    parts = parts_of(model)
    subjects = [Subject(p.name, PartsEncoder(model, encoder.contract, p)) for p in parts]
    group = Group(tuple(s.name for s in subjects), lambda batch: encode_parts(model, batch, parts))
    outcome = evaluate(suite, subjects, out_dir, data=data, group=group)
    return ModulesTable(outcome, parts, _differences(outcome.rows, parts[-1].name, suite.bootstrap))


def _differences(
    rows: Sequence[ResultRow], whole: str, resamples: int
) -> dict[tuple[str, str, str, str], tuple[float, float, float]]:
    """Paired differences to the whole, of the first seed."""
    seed = min((r.seed for r in rows), default=0)
    of_whole = {(r.task, r.protocol, r.metric): r for r in rows if r.encoder == whole and r.seed == seed}
    found = {}
    for row in rows:
        key = (row.task, row.protocol, row.metric)
        if row.role == "encoder" and row.encoder != whole and row.seed == seed and key in of_whole:
            pair = measure_of_row(row), measure_of_row(of_whole[key])
            found[(*key, row.encoder)] = paired_difference(*pair, row.metric, resamples, seed)
    return found


def modules_table(table: ModulesTable) -> Table:
    """One line per subset, one column per task, protocol and metric: score, and in brackets the difference to the whole
    with its 95 % interval."""
    rows = [r for r in table.outcome.rows if r.role == "encoder" and not r.protocol.startswith("knn_")]
    seed = min((r.seed for r in rows), default=0)
    values = {(r.task, r.protocol, r.metric, r.encoder): r.value for r in rows if r.seed == seed}
    columns = list(dict.fromkeys(key[:3] for key in values))
    shown = Table("modules", *("\n".join(c) for c in columns), title="test scores, % (difference to all modules)")
    for p in table.parts:
        cells = []
        for c in columns:
            value, apart = values.get((*c, p.name)), table.differences.get((*c, p.name))
            text = "-" if value is None else f"{100 * value:.1f}"
            if apart is not None:
                text += f" ({100 * apart[0]:+.1f} \\[{100 * apart[1]:+.1f}, {100 * apart[2]:+.1f}])"
            cells.append(text)
        shown.add_row(p.name, *cells)
    return shown
