import hashlib

import pytest

from skyframe.data.ingest.source import check_file, check_modalities, describe_files, short_crs
from skyframe.spec import CubeSpec, InputError

HDF5 = b"\x89HDF\r\n\x1a\n"
POINTERS = {
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n",
    "annex": b"/annex/objects/MD5E-s1239784--0cc175b9c0f1b6a831c399e269772661.nc\n",
    "annex link": b"../.git/annex/objects/Xk/2f/SHA256E-s99--0cc1.nc/SHA256E-s99--0cc1.nc",
}


def test_magic_is_returned(tmp_path):
    file = tmp_path / "a.nc"
    file.write_bytes(HDF5 + bytes(100))
    assert check_file(file, (b"CDF\x01", HDF5), "netCDF") == HDF5


@pytest.mark.parametrize("kind", POINTERS)
def test_pointer_file(tmp_path, kind):
    file = tmp_path / "a.nc"
    file.write_bytes(POINTERS[kind])
    with pytest.raises(
        InputError, match=r"a\.nc: is a git-lfs or git-annex pointer file of \d+ bytes.*fetch the content"
    ):
        check_file(file, (HDF5,), "netCDF")


def test_absent_and_foreign_files(tmp_path):
    with pytest.raises(InputError, match="no such file, expected a netCDF file"):
        check_file(tmp_path / "b.nc", (HDF5,), "netCDF")
    (tmp_path / "c.nc").write_bytes(b"")
    with pytest.raises(InputError, match=r"c\.nc: begins with b'', expected a netCDF file"):
        check_file(tmp_path / "c.nc", (HDF5,), "netCDF")


def test_files_are_described_by_name_size_and_digest(tmp_path):
    (tmp_path / "a.nc").write_bytes(b"abc")
    assert describe_files("gfmap", [tmp_path / "a.nc"]) == {
        "kind": "gfmap",
        "files": [{"name": "a.nc", "bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}],
    }


def test_crs_is_shortened_and_must_be_projected():
    assert short_crs("EPSG:32631", "a.nc") == "EPSG:32631"
    with pytest.raises(InputError, match=r"a\.nc: .*EPSG:4326.*not projected"):
        short_crs("EPSG:4326", "a.nc")
    with pytest.raises(InputError, match=r"a\.nc: 'nonsense' is not a coordinate reference system"):
        short_crs("nonsense", "a.nc")


def test_a_spec_of_another_kind_is_refused():
    with pytest.raises(InputError, match="spec gfmap: a treesatai source has no modality aerosol, scene_class"):
        check_modalities(CubeSpec.load("gfmap"), "treesatai", ("hr", "s2", "s1"))
