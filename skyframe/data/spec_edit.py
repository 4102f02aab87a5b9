"""Writing measured mean and std into a spec file: only those lines change, and only as a whole."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from skyframe.data.statistics import ModalityStatistics
from skyframe.spec import CubeSpec, InputError


def write_statistics(path: Path, found: Mapping[str, ModalityStatistics]) -> list[str]:
    """Put the measured mean and std of every band into a spec; comments, order and all else stay.

    The lines `mean:` and `std:` of a modality are replaced, with the comment behind them, which spoke of the old
    numbers; where there are none they follow `units:`. The new file replaces the old one in one step, after it was
    read back.

    Args:
        path: a spec in YAML, modalities in block form.
        found: measured statistics; a modality that lacks a band, or that the spec lacks, is left as it is.

    Returns:
        Names of the modalities that were written.

    Raises:
        InputError: not a spec, or a modality written in a form that cannot be edited line by line.
    """
    text = path.read_text(encoding="utf-8")
    spec, lines, written = CubeSpec.load(path), text.splitlines(), []
    expected = dict(spec.modalities)
    for name, measured in found.items():
        if name not in spec.modalities or spec.modalities[name].units == "class":  # a class number has no mean
            continue
        if [b.name for b in measured.bands] != list(spec.modalities[name].band_names):
            continue
        numbers = {key: [_number(getattr(b, key)) for b in measured.bands] for key in ("mean", "std")}
        if min(numbers["std"]) <= 0:  # a constant band has no spread to divide by
            continue
        lines = _edit(lines, name, numbers, path.name)
        expected[name] = dataclasses.replace(expected[name], mean=tuple(numbers["mean"]), std=tuple(numbers["std"]))
        written.append(name)
    content = "\n".join(lines) + "\n"
    if CubeSpec.from_dict(yaml.safe_load(content), path.name) != dataclasses.replace(spec, modalities=expected):
        raise InputError(
            f"{path.name}: mean and std cannot be put in line by line, expected modalities in block form with keys on "
            "lines of their own; put them in by hand"
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return written


def _number(value: float) -> float:
    """Four significant digits: more would claim what a sample cannot know."""
    return float(f"{value:.4g}")


def _edit(lines: Sequence[str], name: str, numbers: Mapping[str, list[float]], where: str) -> list[str]:
    start, end, indent = _block(lines, name, where)
    block = list(lines[start:end])
    for key in ("mean", "std"):
        block = _without(block, key, indent)
    units = [i for i, line in enumerate(block) if re.match(rf" {{{indent}}}units:", line)]
    if not units:
        raise InputError(f"{where}: modality {name} has no line `units:`, expected one key a line; put them in by hand")
    at = next((i + 1 for i in range(units[0], -1, -1) if block[i].startswith(" " * indent + "units:")), 0)
    after = [i for i, line in enumerate(block) if re.match(rf" {{{indent}}}(dtype|scale|offset|nodata):", line)]
    at = max([at, *(i + 1 for i in after)])
    new = [f"{' ' * indent}{key}: [{', '.join(f'{v:g}' for v in numbers[key])}]" for key in ("mean", "std")]
    return [*lines[:start], *block[:at], *new, *block[at:], *lines[end:]]


def _block(lines: Sequence[str], name: str, where: str) -> tuple[int, int, int]:
    """First and past-the-last line of a modality's keys, and how far they are indented."""
    heads = [i for i, line in enumerate(lines) if re.match(r"modalities:\s*(#.*)?$", line)]
    for number in range(heads[0] + 1 if heads else len(lines), len(lines)):
        line = lines[number]
        if re.match(r"\S", line) and not line.startswith("#"):
            break
        if re.match(rf"\s+{re.escape(name)}:\s*(#.*)?$", line):
            outer = len(line) - len(line.lstrip())
            end = number + 1
            while end < len(lines) and (not lines[end].strip() or _depth(lines[end]) > outer):
                end += 1
            while not lines[end - 1].strip():
                end -= 1
            inner = [_depth(text) for text in lines[number + 1 : end] if not text.strip().startswith("#")]
            if inner:
                return number + 1, end, inner[0]
    raise InputError(
        f"{where}: modality {name} is not a block of its own under modalities:, expected one key a line; put "
        "mean and std in by hand"
    )


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def _without(block: Sequence[str], key: str, indent: int) -> list[str]:
    """The block without one key, over as many lines as its value takes."""
    kept: list[str] = []
    inside = False
    for line in block:
        if re.match(rf" {{{indent}}}{key}:", line):
            inside = True
            continue
        is_more = line.strip() and (_depth(line) > indent or re.match(rf" {{{indent}}}[-\]]", line))
        inside = inside and bool(is_more)
        if not inside:
            kept.append(line)
    return kept
