import numpy as np
import pytest

from skyframe.data.ingest.aerial import band_index, read_picture, resample
from skyframe.spec import Band, InputError, Modality
from tests.data.ingest.sources import write_picture


def hr(gsd_m=0.3125):
    return Modality("hr", "image", tuple(map(Band, ("red", "green", "blue", "nir"))), gsd_m, "reflectance", "uint8")


def test_footprint_is_the_middle_60_m_and_bands_are_reordered(tmp_path):
    pixels = np.zeros((4, 304, 304), np.uint8)
    pixels[:] = np.array([140, 90, 80, 70], np.uint8)[:, None, None]  # nir, green, blue, red
    pixels[:, :2] = pixels[:, -2:] = pixels[:, :, :2] = pixels[:, :, -2:] = 255  # 0.4 m outside the footprint
    picture = read_picture(write_picture(tmp_path / "a.tif", pixels))
    assert picture.grid.crs == "EPSG:25832"
    assert (picture.grid.x0_m, picture.grid.y0_m, picture.grid.width_m) == (565643.0, 5770980.0, 60.0)
    values, flags = resample(hr(), picture)
    assert values.shape == (1, 4, 192, 192) and (flags == 1).all()
    assert values[0, :, 96, 96].tolist() == [70, 90, 80, 140]
    assert values[0].reshape(4, -1).std(axis=1).max() == 0  # nothing of the rim bleeds in


def test_means_are_weighted_by_area(tmp_path):
    """0.3125 m over 0.2 m: the first pixel is 0.2 of source pixel 2 and 0.1125 of source pixel 3."""
    pixels = np.zeros((4, 304, 304), np.uint8)
    pixels[:] = (np.arange(304) % 2 * 160 + 20).astype(np.uint8)  # columns 20, 180, 20, 180 ...
    values, _ = resample(hr(), read_picture(write_picture(tmp_path / "a.tif", pixels)))
    assert values[0, 0, 0, 0] == round((0.2 * 20 + 0.1125 * 180) / 0.3125)
    assert values[0, 0, :, 0].std() == 0


def test_black_is_nodata(tmp_path):
    pixels = np.full((4, 304, 304), 9, np.uint8)
    pixels[:, 100:150, 100:150] = 0
    _, flags = resample(hr(0.5), read_picture(write_picture(tmp_path / "a.tif", pixels)))
    assert flags.shape == (1, 120, 120) and 300 < (flags == 0).sum() <= 400


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((3, 304, 304), {}, r"a\.tif: has 3 bands of uint8, expected 4 of uint8 \(nir, green, blue, red\)"),
        ((4, 304, 290), {}, "covers 58 x 60.8 m, expected at least 60 m each way"),
        ((4, 304, 304), {"crs": None}, "has no CRS, so the place is unknown"),
        ((4, 304, 304), {"crs": "EPSG:4326"}, "not projected"),
    ],
)
def test_pictures_that_are_refused(tmp_path, shape, options, message):
    path = write_picture(tmp_path / "a.tif", np.ones(shape, np.uint8), **options)
    with pytest.raises(InputError, match=message):
        read_picture(path)


def test_truncated_picture(tmp_path):
    path = write_picture(tmp_path / "a.tif", np.ones((4, 304, 304), np.uint8))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"a\.tif: cannot be read as TIFF"):
        read_picture(path)


def test_unknown_band():
    with pytest.raises(InputError, match="hr has no band swir, expected some of nir, red"):
        band_index("swir", ("nir", "red"), hr())
