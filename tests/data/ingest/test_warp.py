import numpy as np
import pytest

from skyframe.data.ingest.warp import Box, read_window
from skyframe.spec import InputError
from tests.data.ingest.archive import write_tiff

PIXELS = np.arange(1, 101, dtype=np.uint16).reshape(10, 10)
LEFT, TOP, CRS = 600_000.0, 5_600_000.0, "EPSG:32631"


@pytest.fixture
def raster(tmp_path):
    pixels = PIXELS.copy()
    pixels[0, 0] = 0
    return str(write_tiff(tmp_path / "a.tif", pixels, LEFT, TOP, crs=CRS))


@pytest.mark.parametrize("resampling", ["auto", "nearest", "bilinear", "cubic", "average"])
def test_pixels_that_coincide_are_exact_and_the_rest_is_missing(raster, resampling):
    found = read_window(raster, 1, Box(CRS, LEFT - 10, TOP + 10, 10.0, 12, 12), resampling, 0, "a")
    assert found.dtype == np.float32 and np.isnan(found[1, 1]) and np.isnan(found).sum() == 144 - 99
    assert np.array_equal(found[2:11, 1:11], PIXELS[1:])


def test_coarser_pixels_are_means_of_what_is_there(raster):
    found = read_window(raster, 1, Box(CRS, LEFT, TOP, 20.0, 5, 5), "auto", 0, "a")
    assert found[0, :2] == pytest.approx([(2 + 11 + 12) / 3, (3 + 4 + 13 + 14) / 4])
    nearest = read_window(raster, 1, Box(CRS, LEFT, TOP, 20.0, 5, 5), "nearest", 0, "a")
    assert set(np.unique(nearest[1:])) <= set(PIXELS.ravel().tolist())


def test_finer_pixels_are_bilinear(raster):
    found = read_window(raster, 1, Box(CRS, LEFT + 20, TOP - 20, 5.0, 2, 2), "auto", 0, "a")
    assert found[1, 1] == 23 + 0.25 + 2.5  # a quarter of a pixel right, a quarter down


def test_the_files_own_nodata_and_degrees(tmp_path):
    path = write_tiff(tmp_path / "d.tif", np.full((100, 100), 5, np.uint16), 5.8, 50.6, 0.001, "EPSG:4326", nodata=9)
    found = read_window(str(path), 1, Box("EPSG:32631", 700_000.0, 5_603_000.0, 200.0, 4, 4), "auto", None, "a")
    assert np.unique(found).tolist() == [5.0]
    missing = read_window(str(path), 1, Box("EPSG:32631", 700_000.0, 5_603_000.0, 200.0, 4, 4), "auto", 5, "a")
    assert np.isnan(missing).all()


def test_rasters_that_are_refused(raster, tmp_path):
    box = Box(CRS, LEFT, TOP, 10.0, 4, 4)
    with pytest.raises(InputError, match=r"^x: the raster has 1 bands, expected a band 2"):
        read_window(raster, 2, box, "auto", 0, "x")
    with pytest.raises(InputError, match=r"^x: .*none\.tif cannot be read after 1 try .*start the same command again"):
        read_window(str(tmp_path / "none.tif"), 1, box, "auto", 0, "x")
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(content[:300])  # within its tags, one of which is its nodata
    with pytest.raises(InputError, match=r"cut\.tif cannot be read after 1 try .*tag ignored"):
        read_window(str(tmp_path / "cut.tif"), 1, box, "auto", 0, "x")
    (tmp_path / "cut.tif").write_bytes(content[: len(content) - 5])  # within its pixels
    with pytest.raises(InputError, match=r"cut\.tif cannot be read after 1 try"):
        read_window(str(tmp_path / "cut.tif"), 1, box, "auto", 0, "x")
