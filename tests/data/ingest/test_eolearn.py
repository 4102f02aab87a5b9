import numpy as np
import pytest

from skyframe.data.cube import open_cube
from skyframe.data.ingest import ingest
from skyframe.data.read import read_flags, read_label, read_series
from skyframe.spec import CubeSpec, InputError, Window
from tests.data.ingest.arrays import write_eopatch, write_scenes

WINDOW = Window("", 0.0, 0.0, 40.0)
NO_SCENES = """
name: ndvi_only
description: NDVI
modalities:
  ndvi: {kind: series, bands: [{name: ndvi}], gsd_m: 10, units: NDVI, dtype: int16, scale: 1.0e-4}
"""


@pytest.fixture
def ndvi_spec(tmp_path):
    (tmp_path / "ndvi_only.yaml").write_text(NO_SCENES)
    return tmp_path / "ndvi_only.yaml"


def test_dates_in_order_two_of_one_day_and_scenes_dated_by_their_ndvi(tmp_path):
    """File dates are December b, July, December a; their NDVI 0.1, 0.2, 0.3; the scenes' 0.2 and 0.1."""
    paths = write_eopatch(tmp_path / "patch"), write_scenes(tmp_path / "scenes.npy")
    cube = open_cube(ingest("eolearn", paths, tmp_path / "a.zarr"))
    assert cube.days("ndvi").tolist() == [5670, 5820, 5820]  # 2015-07-11, twice 2015-12-08
    series = read_series(cube, WINDOW)
    assert series["ndvi"].values[:, 0, 0, 0].tolist() == [2000, 3000, 1000]  # 09:58 stands before 10:02
    assert series["ndvi"].valid.sum() == 3 * 4 * 3 and (read_flags(cube, "ndvi", (0, 5, 3, 4)) == 2).all()
    assert cube.days("s2").tolist() == [5670, 5820]
    assert series["s2"].values[:, 3, 0, 0].tolist() == [1000, 1000]
    assert series["s2"].values[:, 7, 0, 0].tolist() == [1500, 1222]  # 0.1 * 1.2 / 0.8 and 0.1 * 1.1 / 0.9
    assert series["s2"].values[0, :, 1, 1].tolist()[8:] == [800, 900, 1000, 1100, 1200]
    assert series["terrain"].values[0, 0].tolist()[1] == [4, 5, 6, 7] and series["terrain"].valid.all()
    assert (read_label(cube, "land_cover", WINDOW) == 2).all()
    assert (cube.grid.crs, cube.grid.x0_m, cube.grid.y0_m) == ("EPSG:32633", 465000.0, 5079050.0)


def test_gaps_and_invalid_pixels_are_nodata(tmp_path, ndvi_spec):
    ndvi = np.full((3, 5, 4, 1), 0.5, np.float32)
    ndvi[1, 2, 2] = np.nan
    valid = np.ones((3, 5, 4, 1), bool)
    valid[0, 1, 1] = False  # invalid although not cloud
    valid[:, :, 3] = False
    patch = write_eopatch(tmp_path / "patch", data__NDVI=ndvi, mask__IS_VALID=valid)
    cube = open_cube(ingest("eolearn", patch, tmp_path / "a.zarr", ndvi_spec))
    flags = read_flags(cube, "ndvi", (0, 5, 0, 4))
    assert flags[0, 2, 2] == 0 and flags[2, 1, 1] == 0 and (flags == 0).sum() == 2
    assert (flags[:, :, 3] == 2).all() and (flags == 1).sum() == 60 - 15 - 2


def test_bands_inside_the_patch_are_taken(tmp_path):
    bands = np.zeros((3, 5, 4, 13), np.float32) + 0.1 * np.arange(1, 4)[:, None, None, None]
    patch = write_eopatch(tmp_path / "patch", data__BANDS=bands)
    cube = open_cube(ingest("eolearn", patch, tmp_path / "a.zarr"))
    assert read_series(cube, WINDOW)["s2"].values[:, 0, 0, 0].tolist() == [2000, 3000, 1000]


def test_scenes_of_another_patch_or_none(tmp_path):
    patch = write_eopatch(tmp_path / "patch")
    with pytest.raises(InputError, match=r"no data/BANDS.npy and no .npy of scenes was named"):
        ingest("eolearn", patch, tmp_path / "a.zarr")
    other = write_scenes(tmp_path / "other.npy", ndvi=(0.2, 0.15))
    with pytest.raises(InputError, match=r"other.npy: scene 1: its NDVI is that of 0 acquisitions .*off by 0.05\)"):
        ingest("eolearn", (patch, other), tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr.partial").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mask__IS_VALID": np.ones((3, 5, 5, 1), bool)}, "IS_VALID has 5 x 5 pixels, expected 5 x 4"),
        ({"data__NDVI": np.zeros((2, 5, 4, 1), np.float32)}, r"data/NDVI has shape \(2, 5, 4, 1\), expected \(3, y, x"),
        ({"dates": []}, "timestamps.json has no dates"),
        ({"dates": {"a": 1}}, "timestamps.json holds a dict, expected a list"),
        ({"crs": "urn:ogc:def:crs:EPSG::4326"}, "EPSG:4326.*not projected"),
        ({"pixel_m": 9.0}, "5 pixels over 45.00 m are 9.0000 m each, expected 10 m"),
        ({"mask__IS_VALID": None}, "IS_VALID.npy: no such file"),
    ],
)
def test_patches_that_do_not_fit(tmp_path, ndvi_spec, changes, sentence):
    patch = write_eopatch(tmp_path / "patch", **changes)
    with pytest.raises(InputError, match=sentence):
        ingest("eolearn", patch, tmp_path / "a.zarr", ndvi_spec)
    assert not list(tmp_path.glob("a.zarr*"))


def test_pointer_files_and_pickles_are_refused(tmp_path, ndvi_spec):
    patch = write_eopatch(tmp_path / "patch")
    (patch / "data/NDVI.npy").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(InputError, match="git-lfs or git-annex pointer"):
        ingest("eolearn", patch, tmp_path / "a.zarr", ndvi_spec)
    np.save(patch / "data/NDVI.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match=r"NDVI.npy: cannot be read"):
        ingest("eolearn", patch, tmp_path / "a.zarr", ndvi_spec)


@pytest.fixture(scope="module")
def real(shared_dir, tmp_path_factory):
    folder = shared_dir / "data/eo-learn"
    paths = folder / "TestEOPatch", folder / "REFERENCE_SCENES.npy"
    return open_cube(ingest("eolearn", paths, tmp_path_factory.mktemp("eolearn") / "karst.zarr")), folder


def test_real_patch_by_hand(real):
    cube, folder = real
    days = cube.days("ndvi")
    assert len(days) == 68 and (days == 5820).sum() == 2  # two acquisitions on 2015-12-08
    assert days[0] == 5670 and days[-1] == 6565  # 2015-07-11, 2017-12-22
    assert cube.days("s2").tolist() == [5670, 5690, 5710, 5720, 5730]  # 11 and 31 July, 20 and 30 August, 9 September
    assert (cube.grid.width_m, cube.grid.height_m) == (1000.0, 1010.0)
    assert cube.grid.x0_m == pytest.approx(465180.79, abs=0.01) and cube.grid.y0_m == pytest.approx(
        5080254.76, abs=0.01
    )
    window = Window("", 10.0, 0.0, 1000.0)
    series, ndvi = read_series(cube, window), np.load(folder / "TestEOPatch/data/NDVI.npy")[..., 0]
    assert np.abs(series["ndvi"].values[:, 0] * 1e-4 - ndvi[:, 1:]).max() < 5.1e-5
    assert 1 - series["ndvi"].valid.mean() == pytest.approx(np.load(folder / "TestEOPatch/mask/CLM.npy")[:, 1:].mean())
    scenes = np.load(folder / "REFERENCE_SCENES.npy")[[4, 1, 0, 3, 2], 1:]
    assert np.abs(series["s2"].values * 1e-4 - np.moveaxis(scenes, -1, 1)).max() < 5.1e-5
    red, near = (
        series["s2"].values[:, CubeSpec.load("eolearn").modality("s2").band_names.index(b)] for b in ("B04", "B08")
    )
    assert np.abs((near - red.astype(float)) / (near + red.astype(float)) - ndvi[:5, 1:]).max() < 2e-3
    values, counts = np.unique(read_label(cube, "land_cover", window), return_counts=True)
    assert values.tolist() == [0, 1, 2, 3, 4, 8] and counts[2] / 10_000 == pytest.approx(0.75, abs=0.01)
    assert series["terrain"].values.min() >= 664 and series["terrain"].values.max() == 801
