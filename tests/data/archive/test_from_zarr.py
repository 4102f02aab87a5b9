import pickle
from multiprocessing import get_context

import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

from skyframe.data.cube import CLEAR, CLOUD, NODATA, SHADOW, find_cubes, open_cube
from skyframe.data.plan import WindowPlan
from skyframe.data.read import read_flags, read_series
from skyframe.spec import METRES_PER_DEGREE, InputError, Window
from tests.data.archive.archives import (
    BANDS,
    DATES,
    HEIGHT,
    SCL,
    WIDTH,
    classes,
    coordinates,
    per_band,
    pixels,
    put,
    spec,
    write,
)


def windows(num=12, side=32):
    """Random corners in pixels, the cube's own corners among them."""
    draw = np.random.default_rng(1)
    corners = [(0, 0), (HEIGHT - side, WIDTH - side)]
    return corners + [(int(draw.integers(HEIGHT - side)), int(draw.integers(WIDTH - side))) for _ in range(num)]


def check(cube, values, dates=None):
    """Every window holds the very values, whatever lies beneath."""
    draw = np.random.default_rng(2)
    for row, column in windows():
        picks = draw.integers(0, DATES, 6) if dates is None else dates
        window = Window(cube.name, row * 10.0, column * 10.0, 320.0)
        got = read_series(cube, window, dates={"s2": picks})["s2"]
        assert got.values.dtype == values.dtype.newbyteorder("=")
        assert np.array_equal(got.values, values[picks][..., row : row + 32, column : column + 32])
        assert got.valid.all() and got.bands.all()


V2 = {
    "zlib": {"compressors": numcodecs.Zlib(1)},
    "gzip": {"compressors": numcodecs.GZip(1)},
    "zstd": {"compressors": numcodecs.Zstd(1)},
    "blosc": {"compressors": numcodecs.Blosc("zstd", 3, numcodecs.Blosc.BITSHUFFLE)},
    "bz2": {"compressors": numcodecs.BZ2(1)},
    "lz4": {"compressors": numcodecs.LZ4()},
    "none": {"compressors": None},
    "delta": {"compressors": numcodecs.Zlib(1), "filters": [numcodecs.Delta("<u2")]},
    "fortran": {"compressors": numcodecs.Blosc("lz4"), "order": "F"},
}


@pytest.mark.parametrize("codec", V2)
def test_version_2_of_any_codec(tmp_path, codec):
    values = pixels()
    check(per_band(tmp_path, 2, values, **V2[codec]), values)


V3 = {
    "blosc": {"compressors": BloscCodec(cname="lz4")},
    "gzip": {"compressors": GzipCodec()},
    "zstd, crc": {"compressors": [ZstdCodec(), Crc32cCodec()]},
    "big endian": {"serializer": BytesCodec(endian="big"), "compressors": None},
    "transposed": {"filters": TransposeCodec(order=(2, 0, 1)), "compressors": ZstdCodec()},
    "sharded": {"shards": (8, 80, 100), "compressors": [BloscCodec(cname="lz4"), Crc32cCodec()]},
    "sharded zstd": {"shards": (4, 120, 100), "compressors": ZstdCodec()},
}


@pytest.mark.parametrize("codec", V3)
def test_version_3_of_any_codec(tmp_path, codec):
    values = pixels()
    check(per_band(tmp_path, 3, values, **V3[codec]), values)


@pytest.mark.parametrize("dtype", [">f4", "<i2", "uint8"])
def test_number_types(tmp_path, dtype):
    values = (pixels() % 250).astype(dtype)
    check(per_band(tmp_path, 2, values, inline=spec(np.dtype(dtype).name)), values)


@pytest.mark.parametrize("dims", [("time", "band", "y", "x"), ("y", "x", "time", "band"), ("band", "time", "x", "y")])
def test_stacked_in_any_order_of_axes(tmp_path, dims):
    values = pixels()
    root = zarr.create_group(tmp_path / "made.zarr", zarr_format=3)
    order = [("time", "band", "y", "x").index(dim) for dim in dims]
    put(root, "all", values[:, ::-1].transpose(order), dims, chunks=tuple(7 if d == "time" else 45 for d in dims))
    put(root, "band", np.array([ord(b[-1]) for b in BANDS[::-1]]), ("band",))
    coordinates(root)
    named = {band: str(ord(band[-1])) for band in BANDS}
    check(open_cube(write(tmp_path, {"array": "all", "bands": named}, store="made.zarr")), values)
    ordered = {"array": "all", "band_order": list(BANDS[::-1]), "mask": {"nodata": []}}
    check(open_cube(write(tmp_path, ordered, store="made.zarr")), values)


def test_rows_from_the_south_dates_out_of_order_and_a_time_in_hours(tmp_path):
    values = pixels()
    root = zarr.create_group(tmp_path / "made.zarr", zarr_format=3)
    shuffled = np.random.default_rng(3).permutation(DATES)
    for number, band in enumerate(BANDS):
        put(root, band, values[shuffled, number, ::-1], ("t", "lat", "lon"), chunks=(4, 40, 50))
    coordinates(root, names=("t", "lat", "lon"), ascending=True)
    root["t"][...] = shuffled * 24 * 5 + 11
    root["t"].attrs.update({"units": "hours since 2021-01-01 00:00:00", "calendar": "proleptic_gregorian"})
    cube = open_cube(write(tmp_path, {"array": "{band}"}, store="made.zarr"))
    assert cube.days("s2").tolist() == list(range(7671, 7671 + 5 * DATES, 5))  # 2021-01-01 is day 7671
    assert (cube.grid.x0_m, cube.grid.y0_m, cube.grid.width_m) == (600_000, 5_600_000, 1700)
    check(cube, values)


@pytest.mark.parametrize("ratio", [1, 2])
def test_flags_from_a_scene_classification(tmp_path, ratio):
    values, layer = pixels(), classes()[:, ::ratio, ::ratio]
    root = zarr.create_group(tmp_path / "made.zarr", zarr_format=3)
    for number, band in enumerate(BANDS):
        put(root, band, values[:, number], ("time", "y", "x"), chunks=(4, 40, 50))
    coordinates(root)
    coarse = {"y": 5_600_000 - (np.arange(layer.shape[1]) + 0.5) * 10 * ratio}
    coarse["x"] = 600_000 + (np.arange(layer.shape[2]) + 0.5) * 10 * ratio
    if ratio == 2:
        for axis, centres in coarse.items():
            put(root, f"scl/{axis}", centres, (axis,))
    name = "SCL" if ratio == 1 else "scl/SCL"
    put(root, name, layer, ("time", "y", "x"), chunks=(9, 30, 30))
    cube = open_cube(write(tmp_path, {"array": "{band}", "mask": {**SCL, "layer": name}}, store="made.zarr"))
    whole = layer.repeat(ratio, 1).repeat(ratio, 2)
    expected = np.full(whole.shape, NODATA, np.uint8)
    for flag, members in ((CLEAR, (4, 5)), (CLOUD, (8, 9)), (SHADOW, (3,))):
        expected[np.isin(whole, members)] = flag
    assert np.array_equal(read_flags(cube, "s2", (21, 90, 33, 101)), expected[:, 21:90, 33:101])
    got = read_series(cube, Window("made", 210.0, 330.0, 320.0))["s2"]
    assert np.array_equal(got.valid, expected[:, 21:53, 33:65] == CLEAR)
    assert np.array_equal(got.values, values[..., 21:53, 33:65])


def test_what_is_not_finite_or_named_or_out_of_range_is_no_data(tmp_path):
    values = pixels("float32")
    values[0, 1, 0, 0], values[1, 0, 0, 1], values[2, 2, 0, 2], values[3, 0, 0, 3] = np.nan, -1, 9000, 50
    entry = {"mask": {"nodata": [-1], "valid_max": 8000, "valid_min": -5}}
    cube = per_band(tmp_path, 3, values, entry=entry, inline=spec("float32"))
    flags = read_flags(cube, "s2", (0, 8, 0, 8))
    lost = np.argwhere(flags != CLEAR).tolist()
    assert lost == [[0, 0, 0], [1, 0, 1], [2, 0, 2]]


def test_chunks_that_are_absent_are_masked_never_valid_looking(tmp_path):
    cube = per_band(tmp_path, 2)
    (tmp_path / "made.zarr" / "B04" / "0.1.1").unlink()  # dates 0 to 3, rows 40 to 79, columns 50 to 99
    expected = np.ones((DATES, HEIGHT, WIDTH), np.uint8)
    expected[:4, 40:80, 50:100] = NODATA
    assert np.array_equal(read_flags(cube, "s2", (0, HEIGHT, 0, WIDTH)), expected)
    got = read_series(cube, Window("made", 300.0, 400.0, 320.0))["s2"]
    assert np.array_equal(got.valid, expected[:, 30:62, 40:72] == CLEAR)


def test_chunk_absent_from_a_shard_is_masked(tmp_path):
    values = pixels()
    values[:4, 1, 40:80, 50:100] = 0  # zarr-python leaves out what is all fill
    cube = per_band(tmp_path, 3, values, shards=(8, 80, 100), entry={"mask": {"nodata": []}})
    assert (read_flags(cube, "s2", (40, 80, 50, 100))[:4] == NODATA).all()
    assert (read_flags(cube, "s2", (0, 40, 0, 50)) == CLEAR).all()


DAMAGE = {
    "cut short": lambda b: b[: len(b) // 2],
    "empty": lambda b: b"",
    "garbage": lambda b: bytes(len(b)),
}


@pytest.mark.parametrize(
    ("codec", "kind"),  # where nothing is compressed and nothing is checked, garbage is pixels
    [(c, k) for c in ("zlib", "blosc", "none", "zstd") for k in DAMAGE if (c, k) != ("none", "garbage")],
)
def test_damaged_chunk_is_an_error_that_names_it(tmp_path, codec, kind):
    cube = per_band(tmp_path, 2, **V2[codec])
    file = tmp_path / "made.zarr" / "B04" / "0.1.1"
    file.write_bytes(DAMAGE[kind](file.read_bytes()))
    with pytest.raises(InputError, match=r"B04: chunk \(0, 1, 1\) in .*made.zarr"):
        read_series(cube, Window("made", 500.0, 600.0, 320.0))


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_shard_is_an_error_that_names_it(tmp_path, kind):
    cube = per_band(tmp_path, 3, shards=(8, 80, 100))
    file = tmp_path / "made.zarr" / "B04" / "c" / "0" / "0" / "0"
    file.write_bytes(DAMAGE[kind](file.read_bytes()))
    with pytest.raises(InputError, match=r"B04: shard B04/c/0/0/0 in .* no whole index"):
        read_series(cube, Window("made", 500.0, 600.0, 320.0))


def test_flipped_bits_under_a_checksum_are_an_error(tmp_path):
    cube = per_band(tmp_path, 3, compressors=[ZstdCodec(), Crc32cCodec()])
    file = tmp_path / "made.zarr" / "B04" / "c" / "0" / "1" / "1"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"B04: chunk \(0, 1, 1\) .* does not decode .*its checksum fails"):
        read_series(cube, Window("made", 500.0, 600.0, 320.0))


def _child(cube, queue):
    queue.put(read_series(cube, Window("made", 0.0, 0.0, 320.0))["s2"].values)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_forked_and_spawned_children_read_the_same(tmp_path, method):
    cube = per_band(tmp_path, 3, shards=(8, 80, 100))
    mine = read_series(cube, Window("made", 0.0, 0.0, 320.0))["s2"].values  # handles are open now
    context = get_context(method)
    queue = context.Queue()
    child = context.Process(target=_child, args=(cube, queue))
    child.start()
    assert np.array_equal(queue.get(timeout=60), mine)
    child.join(60)
    assert child.exitcode == 0
    again = pickle.loads(pickle.dumps(cube))
    assert np.array_equal(read_series(again, Window("made", 0.0, 0.0, 320.0))["s2"].values, mine)


def test_handles_stay_bounded(tmp_path):
    cube = per_band(tmp_path, 2, chunks=(1, 16, 16))
    cube.reader.pool.limit = 20
    for row, column in windows():
        read_series(cube, Window("made", row * 10.0, column * 10.0, 320.0))
    assert len(cube.reader.pool.opened) == 20


def test_plan_and_glob_take_an_archive_as_a_cube(tmp_path):
    per_band(tmp_path)
    (cube,) = find_cubes([f"{tmp_path}/*.yaml"])
    plan = WindowPlan([cube], 320.0, 320.0, seed=0, slots=4)
    assert plan.num_windows == 4 * 5
    series = read_series(cube, plan.at(0, 0)[0])["s2"]
    assert series.values.shape == (DATES, len(BANDS), 32, 32)


def test_real_ocean_colour_equals_xarray(shared_dir, tmp_path):
    store = shared_dir / "data" / "xcube" / "cube-1-250-250.zarr"
    entry = {"ocean": {"array": "{band}"}}
    cube = open_cube(write(tmp_path, {}, "xcube_ocean_colour", crs="", store=str(store.resolve()), modalities=entry))
    assert cube.grid.crs == "EPSG:4326" and cube.grid.unit_m == METRES_PER_DEGREE
    bands = cube.spec.modality("ocean").band_names
    opened = xr.open_zarr(store, chunks=None)[list(bands)]
    draw, gsd_m = np.random.default_rng(0), 278.3
    seen = 0
    for _ in range(20):
        row, column = int(draw.integers(936)), int(draw.integers(1936))
        got = read_series(cube, Window(cube.name, row * gsd_m, column * gsd_m, 64 * gsd_m))["ocean"]
        here = opened.isel(lat=slice(row, row + 64), lon=slice(column, column + 64))
        wanted = here.to_array().values.transpose(1, 0, 2, 3)
        assert np.array_equal(got.values, wanted, equal_nan=True)
        assert np.array_equal(got.valid, np.isfinite(wanted).all(1))
        seen += int(got.valid.sum())
    assert seen > 0


def wrong(tmp_path, change=None, entry=None, inline=None, units="days since 2021-01-01", attrs=None, **top):
    """A description of something that does not fit."""
    root = zarr.create_group(tmp_path / "made.zarr", zarr_format=3)
    for number, band in enumerate(BANDS):
        put(root, band, pixels()[:, number], ("time", "y", "x"), attrs, chunks=(4, 40, 50))
    coordinates(root, units=units)
    if change:
        change(root)
    return write(tmp_path, entry or {"array": "{band}"}, inline, store="made.zarr", **top)


WRONG = {
    "no array": ({"entry": {"array": "{band}_10m"}}, "no array 'B02_10m' in"),
    "dimensions": (
        {"change": lambda r: put(r, "odd", pixels()[0], ("a", "y", "x")), "entry": {"array": "odd"}},
        "dims:",
    ),
    "time without units": ({"units": ""}, "list the dates under dates:"),
    "calendar": ({"change": lambda r: r["time"].attrs.update({"calendar": "360_day"})}, "'360_day'"),
    "scale": ({"attrs": {"scale_factor": 0.001}}, "says scale 0.001 and offset 0, the spec's s2 has scale 0.0001"),
    "offset": ({"attrs": {"scale_factor": 1e-4, "add_offset": -0.1}}, "offset -0.1"),
    "number type": ({"inline": spec("int16")}, "the archive holds uint16, the spec's s2 has dtype int16"),
    "pixel size": ({"inline": spec(gsd_m=20.0)}, "are 10 m, the spec's s2 has gsd_m 20"),
    "mask without meaning": ({"entry": {"array": "{band}", "mask": {"layer": "B02"}}}, "expected both or neither"),
    "unknown key": ({"entry": {"array": "{band}", "masks": {}}}, "did you mean 'mask'?"),
    "both places": ({"scenes": "a.json"}, "give one of the two"),
    "crs": ({"crs": ""}, "give crs: in the description"),
    "uneven": ({"change": lambda r: r["x"].set_basic_selection(5, 1.0)}, "not evenly spaced"),
    "dates": ({"entry": {"array": "{band}", "dates": ["2021-01-01"]}}, "lists 1 dates for 9"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_one_sentence(tmp_path, case):
    changes, sentence = WRONG[case]
    with pytest.raises(InputError) as caught:
        open_cube(wrong(tmp_path, **changes))
    assert sentence in str(caught.value)


def test_fill_value_0_of_version_2_must_be_explained(tmp_path):
    with pytest.raises(InputError, match="fill value 0, which can mean missing or zero"):
        per_band(tmp_path, 2, entry={"mask": {}}, fill_value=0)
