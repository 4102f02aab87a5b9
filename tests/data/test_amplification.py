import pytest

from skyframe.data.amplification import Cost, gains, gains_table
from skyframe.data.cube import open_cube
from skyframe.data.rechunk import rechunk
from tests.data.archive.archives import BANDS, DATES, per_band, write
from tests.data.archive.test_from_scenes import scenes
from tests.data.cubes import tiny_cube


def test_of_chunks_by_hand(tmp_path):
    """Windows of 50 x 50 px at whole multiples of 50, chunks of 9 dates x 50 x 50: each of 3 bands is one chunk."""
    archive = per_band(tmp_path, 2, chunks=(9, 50, 50))
    (gain,) = gains(archive, window_px=50, num_dates=3)
    used = 3 * len(BANDS) * 50 * 50 * 2
    assert gain.now == Cost(3, 3, 3 * 9 * 50 * 50 * 2, used)
    assert gain.now.amplification == pytest.approx(DATES / 3)
    assert gain.seconds > 0 and gain.seconds_after > 0


def test_of_shards_counts_files_once(tmp_path):
    archive = per_band(tmp_path, 3, chunks=(1, 50, 50), shards=(9, 150, 200))
    (gain,) = gains(archive, window_px=50, num_dates=3)
    assert (gain.now.chunks, gain.now.files) == (9, 3)
    assert gain.now.amplification == 1.0


def test_of_files(tmp_path):
    scenes(tmp_path)
    (gain,) = gains(open_cube(write(tmp_path, {"array": "{band}"}, scenes="items.json")), window_px=64, num_dates=4)
    assert (gain.now.chunks, gain.now.files) == (12, 12) and gain.now.amplification == 1.0


def test_rechunking_gives_what_was_foretold(tmp_path):
    archive = per_band(tmp_path, 2, chunks=(9, 50, 50))
    (before,) = gains(archive, window_px=64, num_dates=3)
    (after,) = gains(open_cube(rechunk(archive, tmp_path / "new.zarr")), window_px=64, num_dates=3)
    assert after.now == before.after == after.after
    assert after.now.amplification < before.now.amplification


def test_table_has_every_modality(tmp_path):
    found = gains(tiny_cube(tmp_path / "tiny.zarr"))
    assert [g.name for g in found] == ["s2", "s1", "hr", "weather"]
    assert gains_table(found).row_count == 4
