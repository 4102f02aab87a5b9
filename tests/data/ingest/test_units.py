import numpy as np
import pytest

from skyframe.data.ingest.units import (
    amplitude_code_to_db,
    as_unsigned,
    check_plausible,
    flags_of,
    keep_db,
    missing,
    power_to_db,
    to_reflectance,
    to_stored,
)
from skyframe.spec import Band, InputError, Modality


def pixels(*values, dtype):
    """One date, one band, one row."""
    return np.array(values, dtype).reshape(1, 1, 1, -1)


def test_negative_int16_is_a_large_unsigned_value():
    assert as_unsigned(np.array([-1, -25536, 7], np.int16), "x.nc").tolist() == [65535, 40000, 7]
    assert as_unsigned(np.array([-1.5], np.float32), "x.nc").tolist() == [-1.5]


def test_missing_is_65535_or_nan_and_nothing_else():
    assert missing(np.array([65535, 65534, 0], np.uint16)).tolist() == [True, False, False]
    assert missing(np.array([np.nan, 65535.0])).tolist() == [True, False]


def test_amplitude_code_by_hand():
    # 20 log10(1413) - 83 = -19.997; 20 log10(40000) - 83 = 9.041; 65534 is the code's ceiling
    stored, lost = amplitude_code_to_db(pixels(1413, -25536, -2, 0, -1, dtype=np.int16), "x.nc")
    assert stored.ravel().tolist() == [-2000, 904, 1333, 0, 0]
    assert lost.ravel().tolist() == [False, False, False, True, True]
    assert stored.dtype == np.int16


def test_power_by_hand():
    stored, lost = power_to_db(pixels(0.1, 1.0, 0.002, 0.0, -1.0, np.nan, dtype=np.float32))
    assert stored.ravel().tolist() == [-1000, 0, -2699, 0, 0, 0]
    assert lost.ravel().tolist() == [False, False, False, True, True, True]


def test_residue_of_noise_removal_is_missing():
    assert power_to_db(pixels(1.6e-12, 1.1e-5, dtype=np.float32))[1].ravel().tolist() == [True, False]
    assert amplitude_code_to_db(pixels(40, 50, dtype=np.uint16), "x.nc")[1].ravel().tolist() == [True, False]


def test_a_pixel_with_one_polarisation_missing_is_missing():
    both = np.array([[1000, 1000], [0, 1000]], np.uint16).reshape(1, 2, 1, 2)
    assert amplitude_code_to_db(both, "x.nc")[1].ravel().tolist() == [True, False]


def test_reflectance_missing_by_code_by_nan_and_by_all_zero():
    coded = np.array([[-1, 0, 0, 5], [300, 0, 4, -25536]], np.int16).reshape(1, 2, 1, 4)
    stored, lost = to_reflectance(coded, "x.nc")
    assert lost.ravel().tolist() == [True, True, False, False]
    assert stored[0, :, 0].T.tolist() == [[0, 0], [0, 0], [0, 4], [5, 40000]]
    stored, lost = to_reflectance(pixels(123.4, np.nan, 1e6, dtype=np.float32), "x.nc")
    assert stored.ravel().tolist() == [123, 0, 65534] and lost.ravel().tolist() == [False, True, False]


def test_slightly_negative_reflectance_is_dark_and_lower_is_missing():
    stored, lost = to_reflectance(pixels(-0.3, -500.0, -501.0, -np.inf, 7.0, dtype=np.float32), "x.nc")
    assert stored.ravel().tolist() == [0, 0, 0, 0, 7] and lost.ravel().tolist() == [False, False, True, True, False]
    one_band = np.array([[-9999.0, 40.0], [300.0, -20.0]], np.float32).reshape(1, 2, 1, 2)
    stored, lost = to_reflectance(one_band, "x.nc")
    assert lost.ravel().tolist() == [True, False] and stored[0, :, 0].T.tolist() == [[0, 0], [40, 0]]


@pytest.mark.parametrize("convert", [as_unsigned, to_reflectance, amplitude_code_to_db])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8, np.int8, np.uint32, bool])
def test_a_dtype_whose_missing_code_is_unknown_is_refused(convert, dtype):
    with pytest.raises(InputError, match=rf"x\.nc: s2: holds {np.dtype(dtype)}, expected int16 or uint16 .* export it"):
        convert(np.ones((1, 1, 2, 2)).astype(dtype), "x.nc: s2")


def test_flags_of_a_sensor_without_cloud_mask():
    assert flags_of(np.array([[True, False]])).tolist() == [[0, 1]]


@pytest.mark.parametrize(("median", "units"), [(1, "dB"), (2000, "reflectance"), (99999, "m")])
def test_plausible_medians_pass(median, units):
    scale = {"dB": 0.01, "reflectance": 1e-4}.get(units, 1.0)
    check_plausible(pixels(median, median, dtype=np.int64), np.ones((1, 1, 2), np.uint8), scale, units, "x.nc")


def test_implausible_median_names_the_unit_and_ignores_nodata():
    values, flags = pixels(-4000, -4100, 0, dtype=np.int16), np.array([[[1, 1, 0]]], np.uint8)
    with pytest.raises(InputError, match=r"x\.nc: s1: the median is -40\.5 dB, expected -35 to 5"):
        check_plausible(values, flags, 0.01, "dB", "x.nc: s1")
    check_plausible(values, np.zeros_like(flags), 0.01, "dB", "nothing seen")


def test_decibels_are_kept():
    stored, lost = keep_db(np.array([[[[-10.505, np.nan, -55.0]], [[-20.0, -20.0, -20.0]]]]))
    assert stored[0, :, 0].tolist() == [[-1050, 0, 0], [-2000, 0, 0]]  # -1050.5 rounds to even
    assert lost[0, 0].tolist() == [False, True, True]


def test_physical_values_as_stored_ones():
    s2 = Modality("s2", "series", (Band("B04"),), 10.0, "reflectance", "uint16", scale=1e-4)
    stored, lost = to_stored(np.array([[[[0.12345, -0.05, -0.0502, np.nan, 0.0]]]]), s2, "a")
    assert stored[0, 0, 0].tolist() == [1234, 0, 0, 0, 0]  # 1234.5 rounds to even
    assert lost[0, 0].tolist() == [False, False, True, True, False]
    celsius = Modality("t", "series", (Band("t"),), 10.0, "degrees Celsius", "int16", scale=0.01, offset=20.0)
    assert to_stored(np.array([[[[-5.0, 20.0]]]]), celsius, "a")[0].ravel().tolist() == [-2500, 0]
    with pytest.raises(InputError, match=r"a: holds 400 degrees Celsius, expected what int16 holds at scale 0.01 and"):
        to_stored(np.array([[[[400.0]]]]), celsius, "a")
    plain = Modality("h", "static", (Band("h"),), 10.0, "m", "float32")
    assert to_stored(np.array([[[[1e6]]]]), plain, "a")[0].dtype == np.float32
