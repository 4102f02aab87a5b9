import dataclasses
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from skyframe.calendar import DAY_UNKNOWN
from skyframe.data.ingest.scenes import Asset, Sampling, Scene, block_px, passes, scene_layer, to_stored, touches
from skyframe.data.ingest.warp import Box, read_window
from skyframe.spec import Band, Grid, InputError, Modality
from tests.data.ingest.archive import LEFT, TARGET, TOP, write_tiff

NOON = datetime(2021, 6, 1, 12, tzinfo=UTC)
S2 = Modality("s2", "series", (Band("B04"),), 10.0, "reflectance", "uint16", 1e-4)
BOUNDS = (LEFT, TOP - 1000, LEFT + 1000, TOP)


def scene(name, minutes=0.0, crs=TARGET, track="a", baseline="05.09", href="", bounds=BOUNDS):
    when = NOON + timedelta(minutes=minutes)
    return Scene(name, when, {"B04": Asset(href, 1, 1e-4, 0.0, 0.0)}, bounds, crs, track, baseline)


def ids(groups):
    return [[s.id for s in group] for group in groups]


def test_a_pass_is_one_date_two_tracks_are_two():
    found = passes([scene("c", 100), scene("b", 0.4), scene("a"), scene("d", 0.2, track="b")], TARGET)
    assert ids(found) == [["a", "b"], ["d"], ["c"]]  # 100 minutes later: another pass of one day


def test_a_pass_that_crosses_midnight_stays_one():
    assert ids(passes([scene("a", 719.9), scene("b", 720.1)], TARGET)) == [["a", "b"]]


def test_own_zone_comes_first_then_the_higher_baseline():
    found = passes([scene("a", crs="EPSG:32632"), scene("b", baseline="02.14"), scene("c")], TARGET)
    assert ids(found) == [["c", "b", "a"]]


def test_touches_by_hand():
    assert touches((0, 0, 2, 2), (1, 1, 3, 3)) and not touches((0, 0, 2, 2), (2, 0, 4, 2))


def test_blocks_grow_with_memory_and_never_fall_under_a_shard():
    ten = dataclasses.replace(S2, bands=tuple(Band(f"B{i}") for i in range(10)))
    per_pixel = 100 * 21 + 4 * 10 * 64  # 100 dates stored, four threads at work
    enough_mb = (per_pixel * 512**2 + 100 * 20 * 256**2) / 1e6  # and one shard being encoded
    assert block_px(ten, 100, enough_mb + 0.01, 4) == 512
    assert block_px(ten, 100, enough_mb - 1, 4) == 256
    assert block_px(ten, 1, 1e6, 4) == 1024
    with pytest.raises(InputError, match=r"one block of 256 x 256 pixels x 100 dates x 10 bands needs 436 MB"):
        block_px(ten, 100, 200, 4)


def test_overlaps_are_filled_in_order_and_far_scenes_are_not_opened(tmp_path):
    left, right = np.full((100, 100), 1000, np.uint16), np.full((100, 100), 3000, np.uint16)
    left[:, 60:] = 0
    write_tiff(tmp_path / "left.tif", left)
    write_tiff(tmp_path / "right.tif", right)
    scenes = [
        scene("a", href=str(tmp_path / "left.tif")),
        scene("b", href=str(tmp_path / "right.tif")),
        scene("c", href="nowhere.tif", bounds=(LEFT + 5000, TOP - 1000, LEFT + 6000, TOP)),
    ]
    layer = scene_layer(S2, Grid(TARGET, LEFT, TOP, 1000, 1000), passes(scenes, TARGET), Sampling(), 200, 2)
    values, flags = layer.read(0, 0, 100, 100)
    assert layer.days.tolist() == [7822] and values.shape == (1, 1, 100, 100) and flags.min() == 1
    assert (values[0, 0, :, :60] == 1000).all() and (values[0, 0, :, 60:] == 3000).all()


def test_static_layers_have_one_date_without_a_day(tmp_path):
    path = write_tiff(tmp_path / "dem.tif", np.full((100, 100), 7, np.uint16))
    terrain = Modality("terrain", "static", (Band("B04"),), 10.0, "m", "float32")
    scenes = [dataclasses.replace(scene(n, m), assets={"B04": Asset(str(path))}) for n, m in (("a", 0), ("b", 9999))]
    layer = scene_layer(terrain, Grid(TARGET, LEFT, TOP, 1000, 1000), passes(scenes, TARGET), Sampling(), 100, 1)
    values, flags = layer.read(0, 0, 100, 100)
    assert layer.days.tolist() == [DAY_UNKNOWN] and np.unique(values).tolist() == [7.0] and flags.min() == 1


@pytest.mark.parametrize("resampling", ["auto", "cubic", "average", "nearest"])
def test_a_pixel_does_not_depend_on_its_block(tmp_path, resampling):
    draw = np.random.Generator(np.random.PCG64(0))
    path = write_tiff(
        tmp_path / "a.tif", draw.integers(1, 9999, (300, 300)).astype(np.uint16), crs="EPSG:32632", nodata=0
    )
    box = Box("EPSG:32632", LEFT + 100, TOP - 100, 15.0, 128, 128)
    whole = read_window(str(path), 1, box, resampling, None, "a")
    parts = [
        read_window(
            str(path),
            1,
            dataclasses.replace(box, left_m=box.left_m + x * 15, top_m=box.top_m - y * 15, height=64, width=64),
            resampling,
            None,
            "a",
        )
        for y in (0, 64)
        for x in (0, 64)
    ]
    assert np.isfinite(whole).all()
    assert np.array_equal(whole, np.block([parts[:2], parts[2:]]))


def test_units_by_hand():
    def stored(modality, values, power=True):
        found, lost = to_stored(np.array(values, np.float64)[None, None], modality, power, "a")
        return found[0, 0].tolist(), lost[0].tolist()

    assert stored(S2, [0.1, -0.04, 0.0, -0.06, np.nan]) == ([1000, 0, 0, 0, 0], [False, False, False, True, True])
    s1 = Modality("s1", "series", (Band("VV"),), 10.0, "dB", "int16", 0.01)
    assert stored(s1, [0.1, 0.0, np.nan]) == ([-1000, 0, 0], [False, True, True])
    assert stored(s1, [-12.34], power=False) == ([-1234], [False])
    coarse = dataclasses.replace(s1, dtype="float32", scale=1.0)
    assert stored(coarse, [0.1, 0.0]) == ([-10.0, 0.0], [False, True])
    thermal = Modality("t", "series", (Band("B10"),), 10.0, "W", "uint16", 1e-3)
    assert stored(thermal, [7.6544, np.nan]) == ([7654, 0], [False, True])
    with pytest.raises(InputError, match=r"a: stored values run from -1000 to -1000, expected 0 to 65535 of uint16"):
        stored(thermal, [-1.0])
