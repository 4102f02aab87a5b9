"""Cubes as columns, and cubes opened where they are read."""

import pickle

import numpy as np

from skyframe.data.table import CubeSet, Ragged, Texts, code, table_of
from tests.data.catalogues import tiny_at
from tests.data.test_plan import fake_cube


def test_texts_and_bytes_are_kept_by_row():
    texts = Texts.of(["Weißensee", "", "b", "日本"])
    assert list(texts) == ["Weißensee", "", "b", "日本"] == [texts[n] for n in range(4)]
    kept = Texts(texts.packed.keep(np.array([True, False, False, True])))
    assert list(kept) == ["Weißensee", "日本"] and len(kept) == 2
    assert Ragged.of([b"", b"ab"]).empty.tolist() == [True, False]
    assert code(["x", "y", "x"])[0] == ["x", "y"] and code(["x", "y", "x"])[1].tolist() == [0, 1, 0]


def test_columns_of_cubes_by_hand():
    partly = fake_cube("b", 4 * 2560.0, ("s2", "hr"), {"s2": {(0, 1), (3, 3)}}, corner_m=(700000.0, 100.0))
    table = table_of([fake_cube("a", 1500.0), partly])
    assert list(table.names) == ["a", "b"] and table.width_m.tolist() == [1500, 10240] and table.x0_m[1] == 700000
    assert table.weight.tolist() == [1, 1] and table.sources == ["a", "b"], "the names of their specs"
    s2, hr = table.layers["s2"], table.layers["hr"]
    assert s2.whole.tolist() == [True, False] and hr.whole.tolist() == [False, True]
    assert s2.shard_m.tolist() == [2560, 2560] and hr.there.tolist() == [False, True] and hr.gsd_m[1] == 1.25
    assert np.unpackbits(s2.bits.data).tolist() == [0, 1, *[0] * 13, 1]
    second = table.keep(np.array([False, True]))
    assert len(second) == 1 and second.names[0] == "b" and second.layers["s2"].bits.data.tolist() == [64, 1]


def test_cubes_open_when_read_and_few_stay_open(tmp_path):
    cubes = [tiny_at(tmp_path / f"c{n}", 10_000.0 * n) for n in range(4)]
    opened = CubeSet(table_of(cubes), limit=2)
    assert len(opened) == 4 and list(opened) == ["c0", "c1", "c2", "c3"] and "c9" not in opened
    assert not opened._opened
    first = opened["c0"]
    assert first.path == cubes[0].path and opened["c0"] is first
    for name in ("c1", "c0", "c2"):
        assert opened[name].name == name
    assert list(opened._opened) == ["c0", "c2"], "the least recently used one was let go"
    assert pickle.loads(pickle.dumps(opened))["c3"].grid == cubes[3].grid
