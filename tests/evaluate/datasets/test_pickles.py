"""Pickles of strangers: plain values come back, and no program in them runs."""

import datetime
import functools
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skyframe.evaluate.datasets.pickles import Record, read_pickle
from skyframe.spec import InputError
from tests.evaluate.layouts.geobench1 import authors_classes, filled

NONE: frozenset[tuple[str, str]] = frozenset()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_plain_values_come_back_from_every_protocol(protocol: int) -> None:
    held = {"a": [1, -2, 2**70, 2.5, None, True], ("x", 1): {"empty": (), "list": []}, "text": "é", "three": (1, 2, 3)}
    assert read_pickle(pickle.dumps(held, protocol=protocol), "x.pkl", NONE) == held


def test_numbers_arrays_and_dates_come_back_by_our_own_code() -> None:
    grid = np.arange(6, dtype=">i2").reshape(2, 3)
    when = datetime.datetime(2019, 3, 4, 5, 6, 7, 89)
    held = [np.int64(7), np.float32(0.5), grid, np.asfortranarray(grid), datetime.date(2020, 2, 29), when, grid]
    found = read_pickle(pickle.dumps(held, protocol=4), "x.pkl", NONE)
    assert found[:2] == [7, 0.5] and found[4:6] == held[4:6]
    for k in (2, 3, 6):
        np.testing.assert_array_equal(found[k], grid)


def test_an_object_becomes_a_record_of_its_name_and_attributes() -> None:
    with authors_classes() as classes:
        data = pickle.dumps(filled(classes["Sentinel2"], name="02 - Blue", wavelength=0.49), protocol=4)
    found = read_pickle(data, "x.pkl", {("geobench.dataset", "Sentinel2")})
    assert found == Record("geobench.dataset", "Sentinel2", (), {"name": "02 - Blue", "wavelength": 0.49})
    assert found.get("title", "name") == "02 - Blue" and found.get("title") is None


class _Reduced:
    """Pickles as a call."""

    def __init__(self, *made: Any) -> None:
        self.made = made

    def __reduce__(self) -> Any:
        return self.made


def _hostile(trap: Path) -> dict[str, bytes]:
    """Pickles that would each make the file `trap` if `pickle.load` read them."""
    touch = f"open({str(trap)!r}, 'w').close()"
    path = str(trap).encode()
    shell = f"touch {trap}"

    def made(*call: Any, protocol: int = 4) -> bytes:
        return pickle.dumps(_Reduced(*call), protocol=protocol)

    short = b"\x8c" + bytes([len(path)]) + path
    return {
        "os.system": made(os.system, (shell,)),
        "os.system, protocol 0": made(os.system, (shell,), protocol=0),
        "eval": made(eval, (f"[{touch}]",)),
        "exec": made(exec, (touch,)),
        "open": made(open, (str(trap), "w")),
        "subprocess": made(subprocess.check_call, (["touch", str(trap)],)),
        "partial": made(functools.partial(os.system, shell), ()),
        "getattr": _getattr(shell),
        "nested path": b"\x80\x04\x8c\x10geobench.dataset\x8c\x09os.system\x93\x8c"
        + bytes([len(shell)])
        + shell.encode()
        + b"\x85R.",
        "INST": b"(S'" + shell.encode() + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + shell.encode() + b"'\no.",
        "persistent id": b"\x80\x04" + short + b"Q.",
        "text persistent id": b"P" + path + b"\n.",
        "extension": b"\x80\x02\x82\x01(S'" + shell.encode() + b"'\ntR.",
        "inside a list": pickle.dumps([1, {"label": _Reduced(os.system, (shell,))}]),
        "attributes": made(_Reduced, (1,), {"x": _Reduced(os.system, (shell,))}),
        "unpickle again": made(pickle.loads, (made(os.system, (shell,)),)),
        "object array": pickle.dumps(np.array([_Reduced(os.system, (shell,))], dtype=object)),
        "state of a class": b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93}\x8c\x01x\x8c\x01ysb.",
        "call of a value": b"\x80\x04\x8c\x04open" + short + b"\x85R.",
    }


def _getattr(shell: str) -> bytes:
    text = shell.encode()
    return b"cbuiltins\ngetattr\n(cos\n__dict__\nS'get'\ntR(S'system'\ntR(S'" + text + b"'\ntR."


@pytest.mark.parametrize("name", sorted(_hostile(Path("x"))))
def test_a_hostile_pickle_is_refused_and_nothing_of_it_runs(tmp_path: Path, name: str) -> None:
    trap = tmp_path / "trap"
    with pytest.raises(InputError, match=r"^x\.pkl: its pickle (holds|is damaged).*(fetch it again|fetch the file)"):
        read_pickle(_hostile(trap)[name], "x.pkl", {("geobench.dataset", "Sentinel2")})
    assert not trap.exists()


@pytest.mark.parametrize("name", ["os.system", "eval", "exec", "subprocess", "partial", "INST", "inside a list"])
def test_the_traps_are_real(tmp_path: Path, name: str) -> None:
    trap = tmp_path / "trap"
    code = f"import pickle, sys; pickle.loads(bytes.fromhex({_hostile(trap)[name].hex()!r}))"
    subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, timeout=60)
    assert trap.exists()


CUT: list[Callable[[bytes], bytes]] = [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:-1], lambda b: b[20:]]


@pytest.mark.parametrize("damage", CUT)
def test_a_damaged_pickle_is_one_sentence(damage: Callable[[bytes], bytes]) -> None:
    data = pickle.dumps({"a": list(range(50)), "b": "text" * 10}, protocol=4)
    with pytest.raises(InputError, match=r"^x\.pkl: its pickle .*fetch"):
        read_pickle(damage(data), "x.pkl", NONE)


def test_a_claimed_length_takes_no_memory() -> None:
    claimed = b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"abc."
    with pytest.raises(InputError, match="damaged"):
        read_pickle(claimed, "x.pkl", NONE)
    with pytest.raises(InputError, match="an array of object"):
        read_pickle(pickle.dumps(np.array([1, None], dtype=object), protocol=4), "x.pkl", NONE)
