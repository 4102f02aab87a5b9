import numpy as np
import pytest

from skyframe.calendar import DAY_UNKNOWN
from skyframe.data.cube import open_cube
from skyframe.data.ingest import ingest
from skyframe.data.ingest.treesatai import genus_of, products_key
from skyframe.data.read import read_label, read_series
from skyframe.spec import InputError, Window
from tests.data.ingest.sources import treesatai_series, write_hdf5, write_picture, write_treesatai

EVERYWHERE = Window("", 0.0, 0.0, 60.0)


def test_triple_by_hand(tmp_path):
    """Dates are sorted, the two orbits merge into one series by time, and power becomes dB."""
    series_path, _ = write_treesatai(tmp_path)
    cube = open_cube(ingest("treesatai", series_path, tmp_path / "a.zarr"))
    series = read_series(cube, EVERYWHERE)
    assert series["hr"].values[0, :, 0, 0].tolist() == [70, 90, 80, 140] and series["hr"].day.tolist() == [DAY_UNKNOWN]
    assert series["s2"].day.tolist() == [7306, 7311]  # the file holds them the other way round
    assert series["s2"].values[:, :, 0, 0].tolist() == [list(range(200, 210)), list(range(100, 110))]
    # S1A descending 05:33 and S1A ascending 17:08 of one day, then S1B descending
    assert series["s1"].day.tolist() == [7307, 7307, 7310]
    assert series["s1"].values[:, 0, 0, 0].tolist() == [-1000, -1000, -2000]
    assert [p.split("_")[4][9:11] for p in cube.manifest.source["s1_products"]] == ["05", "17", "05"]
    assert cube.manifest.source["s1_products"][1].endswith("orbit 117")
    assert read_label(cube, "genus", EVERYWHERE).tolist() == [[0]] and cube.manifest.source["genus"] == "Abies"


@pytest.mark.parametrize(
    ("snow", "cloud", "clear"), [(0.0, 1e-10, True), (49.0, 9.9, True), (50.0, 0.0, False), (0.0, 10.0, False)]
)
def test_float_masks_are_thresholded_never_compared_with_zero(tmp_path, snow, cloud, clear):
    write_treesatai(tmp_path, treesatai_series(snow, cloud))
    cube = open_cube(ingest("treesatai", next(tmp_path.glob("*.tif")), tmp_path / "a.zarr"))
    valid = read_series(cube, EVERYWHERE)["s2"].valid
    assert valid[0].all() and valid[1].all() == valid[1].any() == clear


def test_a_cloud_that_the_masks_miss(tmp_path):
    datasets = treesatai_series()
    datasets["sen-2-data"][0, 0, 2, 3] = 3000
    series_path, _ = write_treesatai(tmp_path, datasets)
    valid = read_series(open_cube(ingest("treesatai", series_path, tmp_path / "a.zarr")), EVERYWHERE)["s2"].valid
    assert np.argwhere(~valid).tolist() == [[1, 2, 3]]


def without(name):
    return lambda d: d.pop(name)


def changed(name, change):
    return lambda d: d.update({name: change(d[name])})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("sen-2-masks"), r"no dataset sen-2-masks, expected .*found sen-1-asc-data"),
        (without("sen-1-des-products"), "no dataset sen-1-des-products"),
        (changed("sen-2-data", lambda v: v[:, :9]), r"sen-2-data has shape \(2, 9, 6, 6\), expected \(2, 10, 6, 6\)"),
        (changed("sen-2-data", lambda v: v[:1]), r"sen-2-data has shape \(1, 10, 6, 6\), expected \(2, 10, 6, 6\)"),
        (changed("sen-1-asc-data", lambda v: v[..., :5]), r"sen-1-asc-data has shape \(1, 2, 6, 5\)"),
        (changed("sen-2-products", lambda v: np.array(["a", "b"], object)), "'a' is not a Sentinel-1"),
        (changed("sen-2-data", lambda v: v.astype(np.int32)), r"sen-2-data: holds int32, expected int16 or uint16"),
        (changed("sen-1-asc-data", np.zeros_like), None),
    ],
)
def test_damaged_series(tmp_path, damage, message):
    datasets = treesatai_series()
    damage(datasets)
    series_path, _ = write_treesatai(tmp_path, datasets)
    if message is None:  # one empty pass is masked, not refused
        cube = open_cube(ingest("treesatai", series_path, tmp_path / "a.zarr"))
        assert read_series(cube, EVERYWHERE)["s1"].valid[:, 0, 0].tolist() == [True, False, True]
        return
    with pytest.raises(InputError, match=message):
        ingest("treesatai", series_path, tmp_path / "a.zarr")
    assert not list(tmp_path.glob("*.zarr*"))


def test_zero_dates_and_all_nodata(tmp_path):
    datasets = treesatai_series()
    none = {k: v[:0] for k, v in datasets.items() if k.startswith("sen-2")}
    series_path, _ = write_treesatai(tmp_path, datasets | none)
    with pytest.raises(InputError, match=r"\.h5: a series has no dates \(length 0\)"):
        ingest("treesatai", series_path, tmp_path / "a.zarr")
    write_hdf5(series_path, datasets | {"sen-2-data": np.zeros((2, 10, 6, 6), np.float32)})
    with pytest.raises(InputError, match="s2 has no data, all 72 pixels in 2 dates are missing"):
        ingest("treesatai", series_path, tmp_path / "a.zarr")


def test_files_that_do_not_make_a_triple(tmp_path):
    series_path, aerial_path = write_treesatai(tmp_path)
    other = write_picture(tmp_path / "Picea_abies_1_2_X_NLF.tif", np.ones((4, 304, 304), np.uint8))
    with pytest.raises(InputError, match="are of different samples"):
        ingest("treesatai", [series_path, other], tmp_path / "a.zarr")
    with pytest.raises(InputError, match=r"got Abies.*expected one \.h5 and one \.tif"):
        ingest("treesatai", [aerial_path, other], tmp_path / "a.zarr")
    with pytest.raises(InputError, match=r"Picea_abies_1_2_X_NLF\.h5: no such file, expected a HDF5 file"):
        ingest("treesatai", other, tmp_path / "a.zarr")
    series_path.write_bytes(series_path.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"\.h5: cannot be read as HDF5"):
        ingest("treesatai", series_path, tmp_path / "a.zarr")


def test_genus_and_products_key():
    assert (
        genus_of("Quercus_robur_5_1_WEFL_NLF.tif") == "Quercus"
        and products_key("sen-1-asc-data") == "sen-1-asc-products"
    )
    with pytest.raises(InputError, match=r"oak_1\.tif: begins with 'oak', expected one of Abies, Acer"):
        genus_of("oak_1.tif")


@pytest.fixture(scope="module")
def real(shared_dir, tmp_path_factory):
    path = shared_dir / "data/AnySat/Abies_alba_1_1005_WEFL_NLF.h5"
    cube = open_cube(ingest("treesatai", path, tmp_path_factory.mktemp("treesatai") / "fir.zarr"))
    return cube, read_series(cube, EVERYWHERE)


def test_real_geometry_is_32_to_1(real):
    cube, series = real
    assert series["hr"].values.shape == (1, 4, 192, 192) and series["s2"].values.shape == (146, 10, 6, 6)
    assert (cube.grid.x0_m, cube.grid.y0_m, cube.grid.width_m) == (565643.0, 5770980.0, 60.0)


def test_real_aerial_bands_are_named_rightly(real):
    """A fir canopy: near infrared over green over red, and blue, the colour of shade, varies least."""
    red, green, blue, nir = real[1]["hr"].values[0].reshape(4, -1).astype(float)
    assert nir.mean() > green.mean() > red.mean()
    spread = [band.std() / band.mean() for band in (red, green, blue)]
    assert spread[2] == min(spread)
    assert np.corrcoef(green, red)[0, 1] > np.corrcoef(blue, red)[0, 1]


def test_real_series(real):
    _, series = real
    s1, s2 = series["s1"], series["s2"]
    assert len(s1.day) == 146 and len(np.unique(s1.day)) == 121 and (np.diff(s1.day) >= 0).all()
    vv, vh = (np.median(s1.values[:, i][s1.valid]) * 0.01 for i in (0, 1))
    assert vv == pytest.approx(-9.4, abs=0.1) and vh == pytest.approx(-15.0, abs=0.1)
    assert (~s1.valid).sum() == 2  # two echoes of 1e-12 and less
    summer = np.isin(s2.day, np.arange(7456, 7548))[:, None, None] & s2.valid  # June, July, August 2020
    b02, b04, b08 = (np.median(s2.values[:, i][summer]) * 1e-4 for i in (0, 2, 6))
    assert b02 < 0.06 and b04 < 0.06 and 0.2 < b08 < 0.5
    assert s2.values[:, 0][s2.valid].max() < 3000
