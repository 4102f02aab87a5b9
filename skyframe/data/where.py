"""Conditions on the columns of a catalogue: `cloud < 0.3 and year == 2023 and has('s1')`, for all rows at once.

A condition is a Python expression of few kinds, checked node by node and never executed: column names, `s2.dates` for
the column of a modality, numbers, strings, comparisons (also chained), `in [..]`, `and`, `or`, `not`, `has('s1')` for
a modality and `labelled('crop_type')` for a truth layer. A number that a row lacks makes a comparison false.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.spec import InputError, did_you_mean

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
TESTS = {"has": "modality", "labelled": "label"}
EXAMPLE = "\"cloud < 0.3 and year == 2023 and has('s1')\""

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Columns:
    """What a condition may name. Columns are fetched when asked for: numbers float64 with NaN, or texts."""

    names: Sequence[str]
    modalities: Sequence[str]
    labels: Sequence[str]
    fetch: Callable[[str], NDArray[Any]]  # of a name
    has: Callable[[str], Bools]  # of a modality
    labelled: Callable[[str], Bools]  # of a label


@dataclass(frozen=True)
class Where:
    """A condition that was read."""

    text: str
    tree: ast.expr

    def rows(self, columns: Columns) -> Bools:
        """Rows that it holds for `[n]`.

        Raises:
            InputError: a column, modality or label that is not there, or a comparison of text with a number.
        """
        return _truth(self.tree, columns, self.text)


def read_where(text: str) -> Where:
    """Check that a text is a condition.

    Raises:
        InputError: no expression, or one of another kind.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"data.where: {text!r} is no condition, expected one such as {EXAMPLE}; correct it") from error
    _check(tree, text)
    return Where(text, tree)


def _refuse(text: str, part: ast.AST, expected: str) -> InputError:
    shown = ast.unparse(part)
    return InputError(f"data.where: {shown!r} in {text!r} is not allowed, expected {expected}; write e.g. {EXAMPLE}")


def _check(node: ast.expr, text: str) -> None:
    """A truth: comparison, test, and their combinations."""
    if isinstance(node, ast.BoolOp):
        for part in node.values:
            _check(part, text)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        _check(node.operand, text)
    elif isinstance(node, ast.Call):
        named = isinstance(node.func, ast.Name) and node.func.id in TESTS and not node.keywords
        if not (named and len(node.args) == 1 and isinstance(_constant(node.args[0]), str)):
            raise _refuse(text, node, "has('s1') or labelled('crop_type')")
    elif isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        if not any(_column(side) for side in sides):
            raise _refuse(text, node, "a column on one side")
        for op, side in zip(node.ops, node.comparators, strict=True):
            listed = isinstance(op, ast.In | ast.NotIn)
            good = _listed(side) is not None if listed else type(op) in COMPARISONS and _single(side)
            if not good:
                raise _refuse(text, node, "column in ['a', 'b']" if listed else "a column, a number or a text")
        if not _single(node.left):
            raise _refuse(text, node.left, "a column, a number or a text")
    else:
        raise _refuse(text, node, "a comparison")


def _constant(node: ast.expr) -> float | str | None:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _constant(node.operand)
        return None if value is None or isinstance(value, str) else -value
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str) and node.value is not True:
        return None if node.value is False else node.value
    return None


def _listed(node: ast.expr) -> list[float | str] | None:
    if not isinstance(node, ast.List | ast.Tuple):
        return None
    values = [value for value in map(_constant, node.elts) if value is not None]
    return values if len(values) == len(node.elts) else None


def _column(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return None


def _single(node: ast.expr) -> bool:
    return _column(node) is not None or _constant(node) is not None


def _truth(node: ast.expr, columns: Columns, text: str) -> Bools:
    if isinstance(node, ast.BoolOp):
        join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        return reduce(join, [_truth(part, columns, text) for part in node.values])
    if isinstance(node, ast.UnaryOp):
        return ~_truth(node.operand, columns, text)
    if isinstance(node, ast.Call):
        return _test(node, columns, text)
    assert isinstance(node, ast.Compare)
    sides = [node.left, *node.comparators]
    parts = [_compare(*step, columns, text) for step in zip(sides[:-1], node.ops, sides[1:], strict=True)]
    return reduce(np.logical_and, parts)


def _test(node: ast.Call, columns: Columns, text: str) -> Bools:
    assert isinstance(node.func, ast.Name)
    kind, name = node.func.id, str(_constant(node.args[0]))
    known = columns.modalities if kind == "has" else columns.labels
    if name not in known:
        raise InputError(
            f"data.where: no {TESTS[kind]} {name!r} in {text!r}, the catalogue has {', '.join(known) or 'none'}"
            f"{did_you_mean(name, known) or '; correct the name'}"
        )
    return columns.has(name) if kind == "has" else columns.labelled(name)


def _compare(left: ast.expr, op: ast.cmpop, right: ast.expr, columns: Columns, text: str) -> Bools:
    a = _values(left, columns, text)
    choices = _listed(right) if isinstance(op, ast.In | ast.NotIn) else None
    others = choices if choices is not None else [_values(right, columns, text)]
    for other in others:
        if _is_text(a) != _is_text(other):
            shown = f"{ast.unparse(left)} with {ast.unparse(right)}"
            raise InputError(f"data.where: {text!r} compares {shown}, text with a number; correct one of them")
    if choices is not None:
        inside = np.isin(a, np.array(choices, dtype=object if _is_text(a) else float))
        return ~inside & ~_missing(a) if isinstance(op, ast.NotIn) else inside
    found = np.asarray(COMPARISONS[type(op)](a, others[0]), bool)
    return found & ~_missing(a) & ~_missing(others[0])


def _values(node: ast.expr, columns: Columns, text: str) -> Any:
    name = _column(node)
    if name is None:
        return _constant(node)
    if name not in columns.names:
        used = name.partition(".")[0]
        hint = f"; write has({used!r}) for a modality" if used in columns.modalities and "." not in name else ""
        raise InputError(
            f"data.where: no column {name!r} in {text!r}, the catalogue has {', '.join(columns.names)}"
            f"{hint or did_you_mean(name, columns.names) or '; correct the name'}"
        )
    return columns.fetch(name)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype == object)


def _missing(value: Any) -> Any:
    """NaN, which `!=` would call different from everything."""
    return np.False_ if _is_text(value) else np.isnan(value)
