import io

import numpy as np
import pytest
from matplotlib.dates import date2num
from matplotlib.figure import Figure
from rich.console import Console

from skyframe.calendar import DAY_UNKNOWN, date_of
from skyframe.data.cube import open_cube
from skyframe.data.quicklook import _colour, _draw_timeline, _tint, clear_share, describe, draw
from skyframe.data.read import read_flags
from skyframe.data.write import CubeWriter
from tests.data.cubes import DAYS, tiny_cube, tiny_grid, tiny_spec, tiny_values, write_modality


@pytest.fixture(scope="module")
def cube(tmp_path_factory):
    return tiny_cube(tmp_path_factory.mktemp("look") / "tiny.zarr")


def printed(table):
    console = Console(width=250, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_table_says_what_is_there(cube):
    text = printed(describe(cube))
    assert "tiny: 0.7 km x 0.64 km, EPSG:32631" in text
    assert "labels: landcover; tables: vehicles" in text
    (row,) = (line for line in text.splitlines() if "s2 (series)" in line)
    clear = (tiny_values("s2")[1][:, :, :64] == 1).mean()  # its first chunk
    for cell in (
        "B02 B03",
        "10 m",
        "70 x 64",
        "2021-11-26 .. 2022-03-06 (6)",
        "reflectance",
        f"{clear:.0%}",
        "100%",
        "MB",
    ):
        assert cell in row


def test_clear_share_is_that_of_the_flags(cube):
    flags = tiny_values("s2")[1]
    assert np.array_equal(read_flags(cube, "s2", (3, 60, 5, 70)), flags[:, 3:60, 5:70])
    assert clear_share(cube, "weather") == 1.0
    assert clear_share(cube, "s2") == pytest.approx((flags[:, :, :64] == 1).mean())  # its first chunk


def test_picture_is_drawn(cube, tmp_path):
    path = draw(cube, tmp_path / "tiny.png")
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert path.stat().st_size > 50_000


def test_modality_that_was_never_written(tmp_path):
    writer = CubeWriter(tmp_path / "a.zarr", tiny_spec(), tiny_grid(), {})
    writer.create("s1", DAYS["s1"])
    values, flags = tiny_values("s1")
    writer.write("s1", 0, 0, values, flags * 0)  # written, all nodata
    writer.create("s2", DAYS["s2"])
    cube = open_cube(writer.finish())
    text = printed(describe(cube))
    assert [line.split("│")[7].strip() for line in text.splitlines() if "(series)" in line] == ["-", "0%"]
    assert draw(cube, tmp_path / "a.png").exists()


@pytest.mark.parametrize("unknown", [1, 2, 4])
def test_picture_of_dates_that_are_not_known(tmp_path, unknown):
    """A mosaic without a day among dated ones, or several of them, with weather whose days are lost as well."""
    writer = CubeWriter(tmp_path / "a.zarr", tiny_spec(), tiny_grid(), {})
    for name in ("s1", "weather"):
        days, (values, flags) = DAYS[name][:4].copy(), tiny_values(name)
        days[:unknown] = DAY_UNKNOWN
        write_modality(writer, name, days, values[:4], flags[:4])
    cube = open_cube(writer.finish())
    assert draw(cube, tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_timeline_holds_the_known_dates_alone():
    axes = Figure().subplots()
    days, clear = np.array([DAY_UNKNOWN, 8000, 8010, 8020], np.int32), np.array([0.1, 0.2, 0.3, 0.4])
    _draw_timeline(axes, days, clear, np.array([0, 2]))
    drawn = [[(float(x), float(y)) for (x, _), (_, y) in c.get_segments()] for c in axes.collections]
    start = float(date2num(np.datetime64(date_of(8000))))
    assert drawn == [[(start, 0.2), (start + 10, 0.3), (start + 20, 0.4)], [(start + 10, 0.3)]]


def test_colours_by_hand():
    modality = tiny_spec().modality("hr")
    values = np.zeros((1, 3, 1, 101), np.uint8)
    values[0, :, 0] = np.arange(101)
    picture = _colour(modality, values, np.ones((1, 1, 101), bool))
    assert picture.shape == (1, 1, 101, 3)
    assert picture[0, 0, 49, 0] == pytest.approx(0.5 ** (1 / 1.4), abs=1e-3)  # 98 % of 0..100 is 98
    tinted = _tint(np.zeros((1, 1, 4, 3), np.float32), np.array([[[1, 2, 0, 255]]], np.uint8))
    assert np.allclose(tinted[0, 0], [[0, 0, 0], [0.35, 0.1925, 0], [0.85] * 3, [0.85] * 3])
