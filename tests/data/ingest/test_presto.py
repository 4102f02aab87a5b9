import numpy as np
import pytest
import xarray as xr

from skyframe.data.cube import open_cube
from skyframe.data.datamodule import CubeDataModule
from skyframe.data.ingest import ingest
from skyframe.data.ingest.presto import place_in_time
from skyframe.data.plan import WindowPlan
from skyframe.data.quicklook import describe, draw
from skyframe.data.read import read_label, read_series
from skyframe.data.views import make_views
from skyframe.geography import place_of
from skyframe.spec import CubeSpec, InputError, Window
from skyframe.train.run import pretrain
from tests.data.ingest.arrays import write_points
from tests.system.batches import nano_recipe


def site(number):
    return Window("", 10.0 * number, 0.0, 10.0)


def test_common_dates_by_hand():
    """Site 0: Nov, Dec, Jan. Site 1: Oct, Nov twice. Site 2: Dec, Feb (none in January), Mar."""
    days, slots = place_in_time(np.array([[10, 11, 0], [9, 10, 10], [11, 1, 2]]), "a")
    first = {name: int(day) for name, day in zip("ONDJFM", (639, 670, 700, 731, 762, 790), strict=True)}
    assert days.tolist() == [first[m] for m in "ONNDJFM"]  # 2001-10-01 is day 639
    assert slots.tolist() == [[1, 3, 4], [0, 1, 2], [3, 5, 6]]
    with pytest.raises(InputError, match="expected 0 to 11"):
        place_in_time(np.array([[1, 12]]), "a")


def test_units_places_and_gaps_by_hand(tmp_path):
    folder = write_points(tmp_path / "npy", months=[[6, 7, 8], [7, 8, 9]])
    cube = open_cube(ingest("presto", folder, tmp_path / "a.zarr"))
    first, second = read_series(cube, site(0)), read_series(cube, site(1))
    assert first["s2"].values.shape == (4, 11, 1, 1)
    assert first["s2"].valid[:, 0, 0].tolist() == [True, True, True, False]
    assert second["s2"].valid[:, 0, 0].tolist() == [False, True, True, True]
    assert second["s2"].values[1, :, 0, 0].tolist() == [1010 + 100 * i for i in range(11)]
    assert first["s1"].values[0, :, 0, 0].tolist() == [-1050, -1725]
    assert second["weather"].values[1, :, 0, 0] == pytest.approx([11.0, 2.0])
    assert first["terrain"].values[0, :, 0, 0].tolist() == [300.0, 1.5]
    assert first["dynamic_world"].values[0, 0, 0, 0] == 4
    assert [int(read_label(cube, "severity", site(i))[0, 0]) for i in (0, 1)] == [1, 2]
    assert place_of(cube.grid, 15.0, 5.0).tolist() == [41.0, -99.0]
    assert "2 sites of one pixel" in str(describe(cube).title)
    assert draw(cube, tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    plain = xr.open_zarr(cube.path, group="s2", consolidated=False)
    assert plain["latitude"].values.tolist() == [40.0, 41.0] and plain["longitude"].values.tolist() == [-100.0, -99.0]


def test_ndvi_is_left_out_and_changing_terrain_is_refused(tmp_path):
    folder = write_points(tmp_path / "npy")
    assert all("ndvi" not in m.band_names for m in CubeSpec.load("presto").modalities.values())
    values = np.load(folder / "s1_s2_era5_srtm.npy")
    values[1, 2, 15] += 1
    np.save(folder / "s1_s2_era5_srtm.npy", values)
    with pytest.raises(InputError, match="terrain: changes with time, expected one value a site"):
        ingest("presto", folder, tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"latlon": np.zeros((2, 2))}, r"latlon has shape \(2, 2\), expected \(3, 2\)"),
        ({"latlon": np.full((3, 2), 100.0)}, "latitude before longitude"),
        ({"month": np.zeros((3, 2), int)}, "expected .sites, records, 18."),
        ({"s1_s2_era5_srtm": np.zeros((3, 3, 17))}, "expected .sites, records, 18."),
        ({"target": np.zeros(2, int)}, r"target has shape \(2,\), expected \(3,\)"),
        ({"is_test": None}, "is_test.npy: no such file"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, changes, sentence):
    folder = write_points(tmp_path / "npy", **changes)
    with pytest.raises(InputError, match=sentence):
        ingest("presto", folder, tmp_path / "a.zarr")
    assert not list(tmp_path.glob("a.zarr*"))


@pytest.fixture(scope="module")
def real(shared_dir, tmp_path_factory):
    folder = shared_dir / "data/presto/algae_blooms/npy"
    return open_cube(ingest("presto", folder, tmp_path_factory.mktemp("presto") / "algae.zarr")), folder


def test_real_points_by_hand(real):
    cube, folder = real
    source = np.load(folder / "s1_s2_era5_srtm.npy")
    months, places = np.load(folder / "month.npy"), np.load(folder / "latlon.npy")
    assert len(cube.grid.places) == 1122 and len(cube.days("s2")) == 29  # 19 months, ten of them twice
    assert place_of(cube.grid, 11215.0, 5.0).tolist() == places[-1].tolist()
    assert (np.diff(months, axis=1) % 12 != 1).any(axis=1).sum() == 149  # records are not all a month apart
    for number in (0, 5, 700, 1121):
        series = read_series(cube, site(number))
        s2, seen = series["s2"], series["s2"].valid[:, 0, 0]
        assert seen.sum() == 12
        assert np.array_equal(s2.values[seen, :, 0, 0], np.rint(source[number, :, 2:13]))
        assert np.abs(series["s1"].values[seen, :, 0, 0] * 0.01 - source[number, :, :2]).max() <= 0.0051
        kelvin = series["weather"].values[seen, 0, 0, 0] + 273.15
        assert np.abs(kelvin - source[number, :, 13]).max() < 1e-4
        calendar = [(np.datetime64("2000-01-01") + int(d)).astype(object).month - 1 for d in s2.day[seen]]
        assert calendar == months[number].tolist()
    severity = [int(read_label(cube, "severity", site(i))[0, 0]) for i in range(0, 1122, 100)]
    assert severity == np.load(folder / "target.npy")[::100].tolist()


def test_ndvi_channel_contradicts_its_name(real):
    """Why it is not taken: it is (B7 - B3) / (B7 + B3)."""
    source = np.load(real[1] / "s1_s2_era5_srtm.npy")
    named, true = ((source[..., a] - source[..., b]) / (source[..., a] + source[..., b]) for a, b in ((7, 3), (8, 4)))
    assert np.abs(named - source[..., 17]).mean() < 1e-4 < 0.09 < np.abs(true - source[..., 17]).mean()


def test_windows_of_one_pixel_are_planned_batched_and_trained_on(tmp_path):
    months = [[(i % 3 + k) % 12 for k in range(12)] for i in range(12)]
    path = ingest("presto", write_points(tmp_path / "npy", months=months), tmp_path / "a.zarr")
    plan = WindowPlan([open_cube(path)], 10.0, 10.0, 0, 4)
    seen = {plan.at(0, i)[1] for i in range(len(plan))}
    assert len(plan) == 12 and seen == set(range(12))
    recipe = nano_recipe(
        f"data.cubes=[{path}]", "data.spec=presto", "data.modalities=[s2,s1]", "data.frames={s2: 14, s1: 14}",
        "data.window_px=1", "data.stride_px=1", "views.crop_px=1", f"train.run_dir={tmp_path}/runs", "name=points",
        "train.max_steps=2",
    )  # fmt: skip
    data = CubeDataModule(recipe)
    windows = next(iter(data.train_dataloader()))
    student, teacher = make_views(windows, recipe.views, 1, recipe.seed)
    assert student.series["s2"].values.shape == (4, 14, 11, 1, 1)
    assert student.series["s2"].valid.sum(dim=(1, 2, 3)).tolist() == [12] * 4
    assert student.place[:, 0].tolist() == [40.0 + i for i in student.index.tolist()]
    assert teacher.pixel is not None and teacher.pixel.shape == (4, 1)
    assert (pretrain(recipe, show=False) / "checkpoints/LATEST").is_file()
