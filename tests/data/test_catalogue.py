"""Catalogues of real cubes: what a row says, adding to one, damage; and plans that open nothing."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skyframe.calendar import day_of
from skyframe.data import listing
from skyframe.data.catalogue import Catalogue, Settings
from skyframe.data.cube import CLEAR, CLOUD, SHADOW
from skyframe.data.listing import list_cubes
from skyframe.data.plan import WindowPlan
from skyframe.data.split import SplitRule
from skyframe.data.table import CubeSet, table_of
from skyframe.data.where import read_where
from skyframe.geography import equal_area_cell, place_of
from skyframe.spec import InputError
from tests.data.catalogues import tiny_at
from tests.data.cubes import DAYS, tiny_cube, tiny_values
from tests.data.test_plan import fake_cube

NEW_YEAR = 8036  # 2022-01-01


def rows(path):
    return Catalogue(path).read().to_pylist()


def chosen(path, text):
    catalogue = Catalogue(path)
    names = catalogue.column("cube")
    return [f"{names[n]}" for n in np.flatnonzero(catalogue.rows(read_where(text)))]


def test_a_row_by_hand(tmp_path):
    """All dates of `s2` lie in 2021 and 2022: 8000..8033 before new year, 8100 after it."""
    import datetime

    assert day_of(datetime.date(2022, 1, 1)) == NEW_YEAR
    cube = tiny_cube(tmp_path / "cubes" / "tiny.zarr")
    done = list_cubes(tmp_path / "c.parquet", [str(tmp_path / "cubes" / "*")])
    assert (done.num_cubes, done.num_rows, done.num_read, done.num_kept) == (1, 2, 1, 0)
    first, second = rows(tmp_path / "c.parquet")
    assert (first["year"], first["start_day"], first["end_day"]) == (2021, NEW_YEAR - 365, NEW_YEAR)
    assert (second["year"], second["start_day"], second["end_day"]) == (2022, NEW_YEAR, NEW_YEAR + 365)
    assert (first["first_day"], first["last_day"]) == (8000, 8033) and second["last_day"] == 8100
    assert first["cube"] == "tiny" and first["spec"] == first["source"] == "tiny" and first["weight"] == 1
    assert first["labels"] == ["landcover"] and first["split"] == "train"
    assert first["modalities"] == ["s2", "s1", "weather"] and second["modalities"] == ["s2", "s1", "hr", "weather"]
    flags = tiny_values("s2")[1]
    for row, some in ((first, flags[:5]), (second, flags[5:])):
        seen = np.isin(some, (CLEAR, CLOUD, SHADOW)).sum()
        assert row["s2.cloud"] == pytest.approx((some == CLOUD).sum() / seen)
        assert row["s2.clear"] == pytest.approx((some == CLEAR).mean())
    assert first["cloud"] == max(first["s2.cloud"], first["s1.cloud"])
    assert first["clear"] == min(first["s2.clear"], first["s1.clear"])
    assert first["hr.dates"] is None and second["hr.dates"] == 1 and second["hr.written"] == b""
    assert first["weather.dates"] == (DAYS["weather"] < NEW_YEAR).sum() and first["weather.cloud"] is None
    lat, lon = place_of(cube.grid, 320.0, 350.0)
    assert (first["lat"], first["lon"]) == pytest.approx((lat, lon))
    assert first["region"] == equal_area_cell(lat, lon, 4294.0)
    corners = np.array([place_of(cube.grid, y, x) for y in (0, 640) for x in (0, 700)])
    assert first["south"] == pytest.approx(corners[:, 0].min()) and first["east"] == pytest.approx(corners[:, 1].max())


def test_one_row_for_all_days(tmp_path):
    tiny_cube(tmp_path / "tiny")
    list_cubes(tmp_path / "c.parquet", [str(tmp_path / "tiny")], Settings("whole"))
    (row,) = rows(tmp_path / "c.parquet")
    assert row["year"] == 0 and row["s2.dates"] == 6 and (row["first_day"], row["last_day"]) == (8000, 8100)
    with pytest.raises(InputError, match="has a row per whole, --period year would mix the two"):
        list_cubes(tmp_path / "c.parquet", [str(tmp_path / "tiny")], Settings("year"))


def test_dates_choose_shards_where_a_shard_is_a_date(tmp_path, monkeypatch):
    """Imagery finer than 2 m has a shard per date: what was written in another year does not count."""
    tiny_at(tmp_path / "a", names=("hr",), days={"hr": [8040]})
    list_cubes(tmp_path / "c.parquet", [str(tmp_path / "a")])
    assert [(r["year"], r["hr.written"], r["hr.cloud"] is None) for r in rows(tmp_path / "c.parquet")] == [
        (2022, b"", False)
    ]


def test_unchanged_cubes_are_not_read_again(tmp_path, monkeypatch):
    for n in range(3):
        tiny_at(tmp_path / f"c{n}", 10_000.0 * n)
    out, all_of_them = tmp_path / "c.parquet", [str(tmp_path / "c?")]
    list_cubes(out, all_of_them[:1])
    before = rows(out)
    counted = []
    real = listing.rows_of
    monkeypatch.setattr(listing, "rows_of", lambda cube, *rest: counted.append(cube.name) or real(cube, *rest))
    told = []
    assert list_cubes(out, all_of_them, progress=lambda *a: told.append(a)).num_kept == 3
    assert counted == [] and rows(out) == before and told[-1] == (3, 3)
    import shutil

    shutil.rmtree(tmp_path / "c1")
    tiny_at(tmp_path / "c1", 50_000.0)
    tiny_at(tmp_path / "c3", 70_000.0)
    done = list_cubes(out, all_of_them, source="other", weight=0.5)
    assert sorted(counted) == ["c1", "c3"] and (done.num_read, done.num_kept) == (2, 2)
    after = rows(out)
    assert {r["source"] for r in after} == {"other"} and {r["weight"] for r in after} == {0.5}
    assert {r["x0_m"] for r in after if r["cube"] == "c1"} == {550_000.0}
    tiny_at(tmp_path / "more" / "d", 90_000.0)
    list_cubes(out, [str(tmp_path / "more" / "d")])
    assert {(r["cube"], r["source"]) for r in rows(out)} == {(f"c{n}", "other") for n in range(4)} | {("d", "tiny")}


def test_an_interrupted_start_goes_on(tmp_path, monkeypatch):
    for n in range(4):
        tiny_at(tmp_path / f"c{n}", 10_000.0 * n)
    out, counted, real = tmp_path / "c.parquet", [], listing.rows_of

    def breaks(cube, *rest):
        if cube.name == "c3":
            raise KeyboardInterrupt
        return real(cube, *rest)

    monkeypatch.setattr(listing, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(listing, "rows_of", breaks)
    with pytest.raises(KeyboardInterrupt):
        list_cubes(out, [str(tmp_path / "c?")])
    assert not out.exists() and len(Catalogue(tmp_path / "c.parquet.partial")) == 6
    monkeypatch.setattr(listing, "rows_of", lambda cube, *rest: counted.append(cube.name) or real(cube, *rest))
    assert list_cubes(out, [str(tmp_path / "c?")]).num_cubes == 4
    assert counted == ["c3"] and sorted(p.name for p in tmp_path.glob("c.parquet*")) == ["c.parquet"]


def test_conditions_on_a_real_catalogue(tmp_path):
    tiny_cube(tmp_path / "full")
    tiny_at(tmp_path / "radar", 10_000.0, ("s1",))
    list_cubes(tmp_path / "c.parquet", [str(tmp_path / "full"), str(tmp_path / "radar")])
    out = tmp_path / "c.parquet"
    assert chosen(out, "year == 2022") == ["full", "radar"]
    assert chosen(out, "has('s1') and not has('s2')") == ["radar", "radar"]
    assert chosen(out, "s2.dates == 5 and spec == 'tiny'") == ["full"]
    assert chosen(out, "labelled('landcover') and has('hr')") == ["full"]
    assert chosen(out, "s2.cloud <= 1") == ["full", "full"]
    with pytest.raises(InputError, match=r"no column 's2\.written'"):
        chosen(out, "s2.written == 1")


def test_split_of_real_cubes_and_duplicates(tmp_path):
    for n, name in enumerate(("a", "b", "c", "d", "e", "f")):
        tiny_at(tmp_path / name, 9_000.0 * n)
    tiny_at(tmp_path / "a_again", 0.0)
    tiny_at(tmp_path / "a_other_dates", 0.0, days={"s2": [8000, 8001]})
    out = tmp_path / "c.parquet"
    rule = SplitRule(0.4, 0.3, 0.3, cell_km2=150, buffer_m=0, seed=2)
    list_cubes(out, [str(tmp_path / "?"), str(tmp_path / "a_*")], Settings("year", rule))
    parts = {r["cube"]: r["split"] for r in rows(out)}
    assert parts["a"] == parts["a_again"] == parts["a_other_dates"] and len(set(parts.values())) >= 2
    assert Catalogue(out).duplicates() == [["a", "a_again"]]
    assert Catalogue(out).settings.split == rule
    list_cubes(out, [str(tmp_path / "?")])
    assert {r["cube"]: r["split"] for r in rows(out)} == parts, "the rule is kept in the file"


def damaged(path, how):
    content = path.read_bytes()
    if how == "page":  # the first column's values, the footer being whole
        path.write_bytes(content[:60] + bytes(b ^ 255 for b in content[60:400]) + content[400:])
    else:
        path.write_bytes({"truncated": content[:-200], "text": b"cube,year\n", "empty": b""}[how])


@pytest.mark.parametrize("how", ["truncated", "text", "empty"])
def test_damaged_catalogues(tmp_path, how):
    tiny_at(tmp_path / "a")
    list_cubes(tmp_path / "c.parquet", [str(tmp_path / "a")])
    damaged(tmp_path / "c.parquet", how)
    with pytest.raises(InputError, match="is no Parquet file, or a truncated one"):
        Catalogue(tmp_path / "c.parquet")


def test_a_damaged_page(tmp_path):
    tiny_at(tmp_path / "a")
    list_cubes(tmp_path / "c.parquet", [str(tmp_path / "a")])
    damaged(tmp_path / "c.parquet", "page")
    with pytest.raises(InputError, match=r"c.parquet: is damaged \("):
        Catalogue(tmp_path / "c.parquet").read()


def test_wrong_catalogues(tmp_path):
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="holds no catalogue of format 1, got None"):
        Catalogue(tmp_path / "other.parquet")
    with pytest.raises(InputError, match=r"no such catalogue, expected a Parquet file; did you mean 'other.parquet'"):
        Catalogue(tmp_path / "others.parquet")
    with pytest.raises(InputError, match="catalogue: nothing at"):
        list_cubes(tmp_path / "c.parquet", [str(tmp_path / "*.zarr")])
    tiny_at(tmp_path / "x" / "a")
    tiny_at(tmp_path / "y" / "a", 5000.0)
    with pytest.raises(InputError, match="are both called 'a', expected different folder names"):
        list_cubes(tmp_path / "c.parquet", [str(tmp_path / "x" / "a"), str(tmp_path / "y" / "a")])
    with pytest.raises(InputError, match="--weight: got nan"):
        list_cubes(tmp_path / "c.parquet", [str(tmp_path / "x" / "a")], weight=float("nan"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.parquet", "x", "y"]


def test_a_plan_from_a_catalogue_is_that_of_the_cubes(tmp_path):
    cubes = [tiny_cube(tmp_path / "a"), tiny_at(tmp_path / "b", 10_000.0, ("s1",))]
    list_cubes(tmp_path / "c.parquet", [str(tmp_path / "?")], Settings("whole"))
    listed, opened = Catalogue(tmp_path / "c.parquet").table(), table_of(cubes)
    for name, layer in opened.layers.items():
        for field in dataclasses.fields(layer):
            got, expected = (getattr(t.layers[name], field.name) for t in (listed, opened))
            if field.name == "bits":
                got, expected = got.data, expected.data
            assert np.array_equal(got, expected, equal_nan=field.name != "kind"), (name, field.name)
    plans = [WindowPlan(t, 160, 160, seed=3, slots=2, names=["s2", "s1"]) for t in (listed, opened)]
    assert len(plans[0]) == 2 * (4 * 4)
    assert [plans[0].at(1, p) for p in range(32)] == [plans[1].at(1, p) for p in range(32)]
    assert CubeSet(listed)["b"].path == cubes[1].path
    assert np.allclose(plans[0].places(10), plans[1].places(10))


def test_windows_of_a_year_keep_its_days(tmp_path):
    tiny_cube(tmp_path / "a")
    list_cubes(tmp_path / "c.parquet", [str(tmp_path / "a")])
    plan = WindowPlan(Catalogue(tmp_path / "c.parquet").table(), 320, 320, seed=0, slots=1)
    spans = [(w.start_day, w.end_day) for w, _ in (plan.at(0, p) for p in range(len(plan)))]
    assert sorted(set(spans)) == [(NEW_YEAR - 365, NEW_YEAR), (NEW_YEAR, NEW_YEAR + 365)]
    assert len(spans) == 8 and spans.count(spans[0]) == 4


def test_a_cube_without_shards_of_a_year_leaves_no_windows():
    table = table_of([fake_cube("a", 2 * 2560.0, ("s2", "hr"), {"s2": {(0, 0)}, "hr": {(1, 1)}})])
    assert WindowPlan(table, 640, 640, 0, 1, names=["s2"]).num_windows == 16
    assert WindowPlan(table, 640, 640, 0, 1, names=["hr"]).num_windows == 16
