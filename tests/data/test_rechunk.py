import numpy as np
import pytest

from skyframe.data.cube import open_cube
from skyframe.data.integrity import check_cube
from skyframe.data.read import read_flags, read_label, read_series, read_table
from skyframe.data.rechunk import rechunk
from skyframe.data.write import CubeWriter
from skyframe.spec import InputError, Window
from tests.data.archive.archives import HEIGHT, WIDTH, per_band
from tests.data.cubes import tiny_cube


class Killed(Exception):
    """Stands for a process that ends in the middle."""


def test_archive_as_a_cube_is_the_same_bit_for_bit(tmp_path):
    archive = per_band(tmp_path, 2, chunks=(4, 40, 50))
    (tmp_path / "made.zarr" / "B04" / "0.1.1").unlink()
    cube = open_cube(rechunk(archive, tmp_path / "new.zarr"))
    whole = (0, HEIGHT, 0, WIDTH)
    assert np.array_equal(read_flags(cube, "s2", whole), read_flags(archive, "s2", whole))
    for x_m in (0.0, 200.0):
        window = Window("made", 0.0, x_m, 1500.0)
        mine, theirs = (read_series(c, window)["s2"] for c in (cube, archive))
        assert np.array_equal(mine.values, theirs.values) and np.array_equal(mine.valid, theirs.valid)
        assert np.array_equal(mine.day, theirs.day)
    assert check_cube(cube) == []
    assert cube.manifest.source["kind"] == "rechunk" and cube.grid == archive.grid


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_cube_with_labels_and_tables(tmp_path, codec):
    cube = tiny_cube(tmp_path / "tiny.zarr")
    told = []
    again = open_cube(rechunk(cube, tmp_path / "again.zarr", codec, lambda done, total: told.append((done, total))))
    assert again.spec == cube.spec and told[-1][0] == told[-1][1] == len(told)
    assert again.manifest.arrays["s2/values"].layout.codec == codec
    window = Window("tiny", 0.0, 0.0, 640.0)
    mine, theirs = read_series(again, window), read_series(cube, window)
    for name in ("s2", "s1", "hr", "weather"):
        assert np.array_equal(mine[name].values, theirs[name].values)
        assert np.array_equal(mine[name].valid, theirs[name].valid)
    assert np.array_equal(read_label(again, "landcover", window), read_label(cube, "landcover", window))
    assert {k: v.tolist() for k, v in read_table(again, "vehicles").items()} == {
        k: v.tolist() for k, v in read_table(cube, "vehicles").items()
    }


def test_goes_on_where_it_was(tmp_path, monkeypatch):
    cube = tiny_cube(tmp_path / "tiny.zarr")

    def kill(done, total):
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        rechunk(cube, tmp_path / "new.zarr", progress=kill)
    assert not (tmp_path / "new.zarr").exists()
    with pytest.raises(InputError, match="different codec"):
        rechunk(cube, tmp_path / "new.zarr", "zstd")
    written, write = [], CubeWriter.write
    monkeypatch.setattr(CubeWriter, "write", lambda self, *a: (written.append(a[:3]), write(self, *a)))
    told = []
    rechunk(cube, tmp_path / "new.zarr", progress=lambda done, total: told.append(total))
    assert len(written) == told[-1] - 2
    assert check_cube(open_cube(tmp_path / "new.zarr")) == []


def test_damage_stops_it_and_leaves_no_cube(tmp_path):
    archive = per_band(tmp_path, 2, entry={"mask": {"nodata": []}})
    (tmp_path / "made.zarr" / "B04" / "0.1.1").write_bytes(b"")
    with pytest.raises(InputError, match=r"B04: chunk \(0, 1, 1\) .* is empty"):
        rechunk(archive, tmp_path / "new.zarr")
    assert not (tmp_path / "new.zarr").exists()
