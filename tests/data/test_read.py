import dataclasses
import multiprocessing

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from skyframe.calendar import DAY_UNKNOWN
from skyframe.data.box import by_zarr
from skyframe.data.cube import Cube, open_cube
from skyframe.data.read import match_bands, read_label, read_series, read_table
from skyframe.data.write import CubeWriter
from skyframe.spec import Band, CubeSpec, Grid, InputError, Modality, Window
from tests.data.cubes import DAYS, S2_BANDS, tiny_cube, tiny_grid, tiny_label, tiny_spec, tiny_values, write_modality

LARGE_M = (3000.0, 2700.0)  # 300 x 270 px: four ragged shards


@pytest.fixture(scope="module")
def cube(tmp_path_factory) -> Cube:
    return tiny_cube(tmp_path_factory.mktemp("read") / "tiny.zarr")


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Cube:
    return tiny_cube(tmp_path_factory.mktemp("read") / "large.zarr", 1, ("s2", "s1"), LARGE_M)


def check(series, name, box, picks=slice(None), seed=0, extent_m=(640.0, 700.0)):
    values, flags = tiny_values(name, seed, extent_m)
    top, bottom, left, right = box
    got = series[name]
    assert got.values.dtype == values.dtype
    assert np.array_equal(got.values, values[picks][:, :, top:bottom, left:right])
    assert np.array_equal(got.valid, flags[picks][:, top:bottom, left:right] == 1)
    assert got.valid.dtype == bool
    assert np.array_equal(got.day, DAYS[name][picks])
    assert got.bands.all()


READERS = {"own": lambda cube: cube, "zarr": by_zarr}

WINDOWS = {
    "one chunk": (640.0, 1280.0, 640.0),
    "four chunks": (0.0, 0.0, 1280.0),
    "unaligned": (330.0, 70.0, 640.0),
    "over four shards": (2300.0, 2240.0, 460.0),
    "ragged corner": (2990.0, 2690.0, 10.0),
    "whole width": (100.0, 0.0, 2700.0),
}


@pytest.mark.parametrize("backend", ["own", "zarr"])
@pytest.mark.parametrize("place", WINDOWS)
def test_reads_exactly_what_was_written(large, place, backend):
    y_m, x_m, size_m = WINDOWS[place]
    series = read_series(READERS[backend](large), Window("large", y_m, x_m, size_m))
    assert set(series) == {"s2", "s1"}
    box = [round(m / 10) for m in (y_m, y_m + size_m, x_m, x_m + size_m)]
    check(series, "s2", box, seed=1, extent_m=LARGE_M)
    check(series, "s1", box, seed=1, extent_m=LARGE_M)


@pytest.mark.parametrize("backend", ["own", "zarr"])
def test_dates_in_any_order_with_repeats(cube, backend):
    picks = {"s2": np.array([5, 0, 3, 3, 1]), "s1": np.array([2])}
    window = Window("tiny", 100, 50, 200, start_day=9000)  # the time range does not bind what is picked by position
    series = read_series(READERS[backend](cube), window, dates=picks)
    assert set(series) == {"s2", "s1"}
    check(series, "s2", (10, 30, 5, 25), picks["s2"])
    check(series, "s1", (10, 30, 5, 25), picks["s1"])


def test_each_modality_has_its_own_pixels_and_dates(cube):
    series = read_series(cube, Window("tiny", 0, 0, 640))
    assert {name: s.values.shape for name, s in series.items()} == {
        "s2": (6, 10, 64, 64),
        "s1": (4, 2, 64, 64),
        "hr": (1, 3, 512, 512),
        "weather": (120, 2, 1, 1),
    }
    check(series, "hr", (0, 512, 0, 512))
    assert series["s2"].day.tolist() == [8000, 8005, 8005, 8020, 8033, 8100]
    assert not series["s2"].valid[3, :, :35].any()


def test_time_range_is_half_open(cube):
    series = read_series(cube, Window("tiny", 0, 0, 640, start_day=8005, end_day=8033))
    check(series, "s2", (0, 64, 0, 64), slice(1, 4))
    check(series, "s1", (0, 64, 0, 64), slice(1, 3))
    assert "hr" not in series
    assert series["weather"].day.tolist() == list(range(8005, 8033))


def test_weather_is_the_cell_at_the_centre(cube):
    values, _ = tiny_values("weather")  # 2 x 2 cells of 350 m
    for (y_m, x_m), (row, column) in {(0, 0): (0, 0), (0, 360): (0, 1), (340, 0): (1, 0), (340, 360): (1, 1)}.items():
        got = read_series(cube, Window("tiny", y_m, x_m, 300), names=["weather"])["weather"]
        assert np.array_equal(got.values[:, :, 0, 0], values[:, :, row, column])
        assert got.valid.shape == (120, 1, 1)


def test_bands_come_in_the_order_of_the_spec(cube):
    own = tiny_spec()
    wanted = dataclasses.replace(own.modality("s2"), bands=tuple(map(Band, ("B12", "B01", "B02"))))
    spec = CubeSpec("canonical", "", {"s2": wanted, "s1": own.modality("s1")})
    series = read_series(cube, Window("tiny", 0, 0, 320), spec)
    values = tiny_values("s2")[0][:, :, :32, :32]
    assert set(series) == {"s2", "s1"}
    assert series["s2"].bands.tolist() == [True, False, True]
    assert np.array_equal(series["s2"].values[:, 0], values[:, 9])
    assert np.array_equal(series["s2"].values[:, 2], values[:, 0])
    assert not series["s2"].values[:, 1].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": "1"}, "s2 has units 'reflectance', the spec expects '1'"),
        ({"scale": 1.0}, "s2 has scale 0.0001, the spec expects 1.0"),
        ({"offset": -0.1}, "s2 has offset 0.0, the spec expects -0.1"),
        ({"dtype": "int16"}, "s2 has dtype 'uint16', the spec expects 'int16'"),
        ({"gsd_m": 20.0}, "s2 has gsd_m 10.0, the spec expects 20.0"),
        ({"bands": (Band("red"),)}, "s2 has bands B02, .* none of the spec's red"),
    ],
)
def test_contradictions_of_spec_and_cube(cube, change, message):
    stored = cube.spec.modality("s2")
    with pytest.raises(InputError, match=f"cube tiny: {message}"):
        match_bands(cube, stored, dataclasses.replace(stored, **change))
    spec = CubeSpec("canonical", "", {"s2": dataclasses.replace(stored, **change)})
    with pytest.raises(InputError, match=message):
        read_series(cube, Window("tiny", 0, 0, 640), spec)


def test_equal_bands_need_no_matching(cube):
    stored = cube.spec.modality("s2")
    assert match_bands(cube, stored, None) is None
    assert match_bands(cube, stored, stored) is None
    reverse = dataclasses.replace(stored, bands=tuple(map(Band, S2_BANDS[::-1])))
    assert match_bands(cube, stored, reverse).tolist() == list(range(9, -1, -1))


def test_absent_modalities_are_absent_keys(cube):
    window = Window("tiny", 0, 0, 640)
    terrain = Modality("terrain", "static", (Band("elevation_m"),), 10.0, "m", "float32")
    spec = CubeSpec("canonical", "", {**tiny_spec().modalities, "terrain": terrain})
    assert set(read_series(cube, window, spec)) == {"s2", "s1", "hr", "weather"}
    assert set(read_series(cube, window, spec, names=["terrain", "s1"])) == {"s1"}
    assert read_series(cube, window, names=["s1"], dates={"s1": np.zeros(0, int)}) == {}
    with pytest.raises(InputError, match="no modality 's22'"):
        read_series(cube, window, spec, names=["s22"])


def test_static_layer_lies_in_every_time_range(tmp_path):
    terrain = Modality("terrain", "static", (Band("elevation_m"),), 10.0, "m", "float32")
    writer = CubeWriter(tmp_path / "t.zarr", CubeSpec("t", "", {"terrain": terrain}), tiny_grid(), {})
    values = np.arange(64 * 70, dtype=np.float32).reshape(1, 1, 64, 70)
    write_modality(writer, "terrain", np.array([DAY_UNKNOWN], np.int32), values, np.ones((1, 64, 70), np.uint8))
    cube = open_cube(writer.finish())
    got = read_series(cube, Window("t", 0, 60, 100, start_day=5, end_day=6))["terrain"]
    assert np.array_equal(got.values, values[..., :10, 6:16])
    assert got.day.tolist() == [DAY_UNKNOWN]


def test_partly_covered_window_is_masked(tmp_path):
    spec, grid = tiny_spec(), Grid("EPSG:32631", 660000.0, 5610000.0, 2560.0, 5000.0)
    writer = CubeWriter(tmp_path / "a.zarr", spec, grid, {})
    writer.create("s1", DAYS["s1"])
    writer.write("s1", 256, 0, np.full((4, 2, 244, 256), 7, np.int16), np.ones((4, 244, 256), np.uint8))
    cube = open_cube(writer.finish())
    for backend in ("own", "zarr"):
        got = read_series(READERS[backend](cube), Window("a", 2240, 0, 640))["s1"]
        assert not got.valid[:, :32].any()
        assert not got.values[:, :, :32].any()
        assert got.valid[:, 32:].all()
        assert (got.values[:, :, 32:] == 7).all()
    assert read_series(cube, Window("a", 0, 0, 640)) == {}


def test_bad_windows_and_dates(cube):
    for window in (Window("tiny", 0, 70, 640), Window("tiny", -10, 0, 100)):
        with pytest.raises(InputError, match="leaves the cube"):
            read_series(cube, window)
        with pytest.raises(InputError, match="leaves the cube"):
            read_series(cube, window, CubeSpec("x", "", {"ir": tiny_spec().modality("s1")}))
        with pytest.raises(InputError, match="leaves the cube"):
            read_label(cube, "landcover", window)
    with pytest.raises(InputError, match=r"s2: 105 m is 10.500 pixels of 10 m"):
        read_series(cube, Window("tiny", 0, 0, 105))
    for picks in ([6], [-1], [[0]], [0.5]):
        with pytest.raises(InputError, match="are not positions in its 6 dates"):
            read_series(cube, Window("tiny", 0, 0, 640), dates={"s2": np.array(picks)})


def test_labels_and_tables(cube):
    assert np.array_equal(read_label(cube, "landcover", Window("tiny", 30, 90, 600)), tiny_label()[3:63, 9:69])
    table = read_table(cube, "vehicles")
    assert table["x_m"].tolist() == [10.0, 20.5]
    assert table["class"].dtype == np.int32
    with pytest.raises(InputError, match=r"no label 'landcovr', it has landcover; did you mean 'landcover'"):
        read_label(cube, "landcovr", Window("tiny", 0, 0, 640))
    with pytest.raises(InputError, match="no table 'boxes', it has vehicles"):
        read_table(cube, "boxes")
    with pytest.raises(InputError, match=r"label landcover: 105 m is 10.500 pixels"):
        read_label(cube, "landcover", Window("tiny", 0, 0, 105))


def _sum(cube):
    return int(read_series(cube, Window("large", 330, 70, 640))["s2"].values.sum())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_child_of_a_reading_parent_reads_on_its_own(large, method):
    expected = _sum(large)
    opened = dict(large.reader.pool.opened)
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply_async(_sum, (large,)).get(timeout=60) == expected
    assert large.reader.pool.opened == opened
    assert _sum(large) == expected


class Windows(Dataset):
    def __init__(self, cube):
        self.cube = cube

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return read_series(self.cube, Window("large", index * 100.0, 640.0, 640.0))["s1"].values.astype(np.int32)


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_workers_give_the_same_stream(large, workers):
    here = [batch.numpy() for batch in DataLoader(Windows(large), batch_size=2)]
    there = [b.numpy() for b in DataLoader(Windows(large), batch_size=2, num_workers=workers, timeout=60)]
    assert all(np.array_equal(a, b) for a, b in zip(here, there, strict=True))
