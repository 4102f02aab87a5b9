"""What a stranger's pickle holds, found without running it: its opcodes are read, and nothing that it names is called.

A pickle is a small program, and `pickle.load` executes it. Here the opcodes that build plain values are followed by
hand; a class becomes a `Record` of its name, arguments and attributes, and only names that the caller lists may stand
in the file at all. NumPy numbers and arrays and dates are rebuilt from their bytes by our own code.
"""

from __future__ import annotations

import datetime
import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skyframe.spec import InputError

KNOWN = frozenset(
    {
        *((m, n) for m in ("numpy.core.multiarray", "numpy._core.multiarray") for n in ("scalar", "_reconstruct")),
        ("numpy", "dtype"), ("numpy", "ndarray"), ("datetime", "datetime"), ("datetime", "date"),
    }
)  # fmt: skip
"""Names that are rebuilt wherever they stand: numbers, arrays and dates."""
MAX_STEPS = 2_000_000
"""Opcodes of one pickle; a file of benchmark metadata has some hundred."""


@dataclass
class Record:
    """An object of a class that is not loaded: what it was called, made from and filled with."""

    module: str
    name: str
    args: tuple[Any, ...] = ()
    state: Any = None

    def get(self, *names: str) -> Any:
        """The first of some attributes that it has, None without one."""
        held = self.state if isinstance(self.state, dict) else {}
        return next((held[n] for n in names if n in held), None)


@dataclass(frozen=True)
class _Global:
    module: str
    name: str


@dataclass
class _Machine:
    """Stack and memory of the program that a pickle is."""

    allowed: Collection[tuple[str, str]]
    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def since_mark(self) -> list[Any]:
        at = self.marks.pop()
        found, self.stack[at:] = self.stack[at:], []
        return found


class _Refused(Exception):
    """Why a pickle is not followed."""


def read_pickle(data: bytes, where: str | Path, allowed: Collection[tuple[str, str]]) -> Any:
    """The value that a pickle describes.

    Args:
        data: protocol 0 to 5.
        where: the file, for messages.
        allowed: module and name of each class that may stand in it as a `Record`; those of `KNOWN` always may.

    Raises:
        InputError: a name that is not allowed, an opcode that plain data do not need, or a damaged file.
    """
    machine = _Machine(allowed)
    try:
        for count, (opcode, arg, _) in enumerate(pickletools.genops(data)):
            if opcode.name == "STOP":
                return machine.stack.pop()
            if count > MAX_STEPS:
                raise _Refused(f"more than {MAX_STEPS:,} steps")
            step = _STEPS.get(opcode.name)
            if step is None:
                raise _Refused(f"the opcode {opcode.name}")
            step(machine, arg)
    except _Refused as refused:
        raise InputError(
            f"{where}: its pickle holds {refused}, expected plain values and the classes of its benchmark; do not "
            "trust this file, fetch it again from the publisher"
        ) from refused
    except Exception as error:  # a damaged program may fail in any way, but only inside this machine
        raise InputError(f"{where}: its pickle is damaged ({type(error).__name__}); fetch the file again") from error
    raise InputError(f"{where}: its pickle breaks off; fetch the file again")


def _global(machine: _Machine, module: Any, name: Any) -> None:
    if (module, name) not in KNOWN and (module, name) not in machine.allowed:
        raise _Refused(f"the name {str(module)[:60]}.{str(name)[:60]}")
    machine.stack.append(_Global(module, name))


def _global_line(machine: _Machine, arg: str) -> None:
    _global(machine, *arg.split(" ", 1))


def _stack_global(machine: _Machine, _: Any) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    _global(machine, module, name)


def _made(machine: _Machine, _: Any) -> None:
    args, what = machine.stack.pop(), machine.stack.pop()
    if not isinstance(what, _Global) or not isinstance(args, tuple):
        raise _Refused("a call of something that is no class")
    key = what.name if (what.module, what.name) in KNOWN else ""
    if key == "scalar":
        machine.stack.append(_scalar(*args))
    elif key in ("datetime", "date"):
        machine.stack.append(_date(key, *args))
    else:
        machine.stack.append(Record(what.module, what.name, args))


def _build(machine: _Machine, _: Any) -> None:
    state, record = machine.stack.pop(), machine.stack[-1]
    if not isinstance(record, Record):
        raise _Refused("attributes for something that is no object")
    record.state = state
    if record.name == "_reconstruct":
        machine.stack[-1] = array = _array(*state)
        for key, held in machine.memo.items():
            if held is record:
                machine.memo[key] = array


def _dtype(record: Any) -> np.dtype[Any]:
    """Numbers and fixed texts; never Python objects."""
    if not isinstance(record, Record) or record.name != "dtype" or not record.args:
        raise _Refused("a number without a type")
    made = np.dtype(str(record.args[0]))
    if made.kind not in "biufSU":
        raise _Refused(f"an array of {made}")
    order = record.state[1] if isinstance(record.state, tuple) else "="
    return made.newbyteorder("<" if order == "<" else ">" if order == ">" else "=")


def _scalar(dtype: Any, data: Any) -> Any:
    kind = _dtype(dtype)
    return np.frombuffer(_bytes(data), kind, 1)[0].item()


def _array(_version: int, shape: tuple[int, ...], dtype: Any, fortran: bool, data: Any) -> NDArray[np.generic]:
    kind = _dtype(dtype)
    flat = np.frombuffer(_bytes(data), kind)
    return flat.reshape(shape, order="F" if fortran else "C")


def _date(kind: str, data: Any, *_zone: Any) -> datetime.date:
    made = datetime.datetime(1, 1, 1) if kind == "datetime" else datetime.date(1, 1, 1)
    packed = _bytes(data)
    year, month, day = packed[0] * 256 + packed[1], packed[2] & 127, packed[3]
    if not isinstance(made, datetime.datetime):
        return datetime.date(year, month, day)
    hour, minute, second = packed[4:7]
    return datetime.datetime(year, month, day, hour, minute, second, int.from_bytes(packed[7:10], "big"))


def _bytes(data: Any) -> bytes:
    if not isinstance(data, bytes):
        raise _Refused("a number without bytes")
    return data


def _push(machine: _Machine, arg: Any) -> None:
    machine.stack.append(arg)


def _constant(value: Any) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(value)


def _mark(machine: _Machine, _: Any) -> None:
    machine.marks.append(len(machine.stack))


def _tuple(count: int) -> Callable[[_Machine, Any], None]:
    def step(machine: _Machine, _: Any) -> None:
        at = len(machine.stack) - count
        if at < 0:
            raise _Refused("a tuple of nothing")
        machine.stack[at:] = [tuple(machine.stack[at:])]

    return step


def _collect(kind: Callable[[list[Any]], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(kind(machine.since_mark()))


def _pairs(values: list[Any]) -> dict[Any, Any]:
    return dict(zip(values[::2], values[1::2], strict=True))


def _append(machine: _Machine, _: Any) -> None:
    value = machine.stack.pop()
    _holder(machine, list).append(value)


def _appends(machine: _Machine, _: Any) -> None:
    values = machine.since_mark()
    _holder(machine, list).extend(values)


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _holder(machine, dict)[key] = value


def _set_items(machine: _Machine, _: Any) -> None:
    values = machine.since_mark()
    _holder(machine, dict).update(_pairs(values))


def _holder(machine: _Machine, kind: type) -> Any:
    if not isinstance(machine.stack[-1], kind):
        raise _Refused(f"entries for something that is no {kind.__name__}")
    return machine.stack[-1]


def _memoize(machine: _Machine, _: Any) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _put(machine: _Machine, arg: int) -> None:
    machine.memo[arg] = machine.stack[-1]


def _recall(machine: _Machine, arg: int) -> None:
    machine.stack.append(machine.memo[arg])


def _pop(machine: _Machine, _: Any) -> None:
    machine.stack.pop()


def _nothing(machine: _Machine, _: Any) -> None:
    pass


_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), _nothing),
    **dict.fromkeys(
        (
            *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
            *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
        ),
        _push,
    ),
    "NONE": _constant(None),
    "NEWTRUE": _constant(True),
    "NEWFALSE": _constant(False),
    "MARK": _mark,
    "EMPTY_TUPLE": _constant(()),
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "TUPLE": _collect(tuple),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "LIST": _collect(list),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "DICT": _collect(_pairs),
    "APPEND": _append,
    "APPENDS": _appends,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "POP": _pop,
    "MEMOIZE": _memoize,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _recall),
    "GLOBAL": _global_line,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _made,
    "NEWOBJ": _made,
    "BUILD": _build,
}
"""What each opcode does; one that is not here is refused: persistent ids, extensions, INST, OBJ and their like."""
