import dataclasses

import numpy as np
import pytest
import zarr

from skyframe.data.box import by_zarr
from skyframe.data.cube import open_cube
from skyframe.data.integrity import check_cube
from skyframe.data.manifest import MANIFEST
from skyframe.data.read import read_label, read_series, read_table
from skyframe.data.shard import BLOSC_LEVELS, CRC_RESIDUE, MISSING, ArrayLayout, OpenShard, encode_shard
from skyframe.data.store import LocalStore
from skyframe.spec import InputError, Window
from tests.data.cubes import tiny_cube, tiny_values

WINDOW = Window("tiny", 0, 0, 640)
SHARD = "c/0/0/0/0"


@pytest.fixture
def cube(tmp_path):
    return tiny_cube(tmp_path / "tiny.zarr", names=("s2", "weather"))


READERS = {"own": lambda cube: cube, "zarr": by_zarr}


def shard_file(cube, array="s2/values", key=SHARD):
    return cube.path / array / key


def chunk_range(cube, array, chunk):
    """Byte offset and length of a chunk in its shard."""
    record = cube.manifest.arrays[array]
    shard, row = record.layout.locate(chunk)
    raw = shard_file(cube, array, "/".join(("c", *map(str, shard)))).read_bytes()
    size = int(np.prod(record.layout.chunks_per_shard)) * 16 + 4
    return [int(n) for n in np.frombuffer(raw[-size:-4], "<u8").reshape(-1, 2)[row]]


def flip(file, offset):
    raw = bytearray(file.read_bytes())
    raw[offset] ^= 0x10
    file.write_bytes(raw)


def test_whole_cube_has_no_finding(cube):
    seen = []
    assert check_cube(cube, lambda name, done, total: seen.append((name, done, total))) == []
    assert seen[-1][1] == seen[-1][2] == len(seen) == 4 + 1 + 2  # values and valid twice, a label, two columns


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (lambda file: file.unlink(), "is listed in the manifest but its file is missing"),
        (lambda file: file.write_bytes(b""), "has 0 bytes, expected at least the 1540 of its index: it was truncated"),
        (lambda file: file.write_bytes(file.read_bytes()[:-7]), "has an index that fails its checksum"),
        (lambda file: file.write_bytes(file.read_bytes()[:100000]), "has an index that fails its checksum"),
        (lambda file: flip(file, -10), "has an index that fails its checksum"),
    ],
)
@pytest.mark.parametrize("backend", ["own", "zarr"])
def test_damaged_shard(cube, harm, what, backend):
    harm(shard_file(cube))
    with pytest.raises(InputError, match=rf"s2/values: shard c/0/0/0/0 \(chunks from \(0, 0, 0, 0\)\) .* {what}"):
        read_series(READERS[backend](cube), WINDOW)
    (finding,) = check_cube(cube)
    assert finding.startswith("s2/values: shard c/0/0/0/0") and what in finding


@pytest.mark.parametrize("array", ["s2/values", "s2/valid", "weather/values"])
def test_flipped_bit_names_array_and_chunk(cube, array):
    chunk = {"s2/values": (4, 0, 0, 1), "s2/valid": (0, 0, 1), "weather/values": (1, 0, 0, 0)}[array]
    offset, length = chunk_range(cube, array, chunk)
    file = shard_file(cube, array, "c/0/0/0/0" if "values" in array else "c/0/0/0")
    flip(file, offset + length // 2)
    message = rf"{array}: chunk \({', '.join(map(str, chunk))}\) .* fails its checksum; the store is damaged"
    with pytest.raises(InputError, match=message):
        read_series(cube, Window("tiny", 0, 60, 640))
    assert [f.split(" in ")[0] for f in check_cube(cube)] == [f"{array}: chunk {chunk}"]
    if array == "s2/values":  # windows and dates that do not need the chunk are fine
        got = read_series(cube, WINDOW, names=["s2"], dates={"s2": np.array([3])})
        assert np.array_equal(got["s2"].values[0], tiny_values("s2")[0][3, :, :, :64])


def test_flipped_bit_through_zarr_python(cube):
    offset, length = chunk_range(cube, "s2/values", (4, 0, 0, 0))
    flip(shard_file(cube), offset + length // 2)
    with pytest.raises(InputError, match=r"s2/values: chunk \(4, 0, 0, 0\) .* fails its checksum"):
        read_series(by_zarr(cube), WINDOW)


def rewrite(cube, *, drop=(), garble=()):
    """The s2 shard with chunks taken out, or replaced by bytes that do not decode, under right checksums."""
    layout = cube.manifest.arrays["s2/values"].layout
    raw = shard_file(cube).read_bytes()
    rows = int(np.prod(layout.chunks_per_shard))
    index = np.frombuffer(raw[-(rows * 16 + 4) : -4], "<u8").reshape(rows, 2).copy()
    body = bytearray(raw[: -(rows * 16 + 4)])
    for chunk in garble:
        offset, length = (int(n) for n in index[layout.locate(chunk)[1]])
        body[offset : offset + length] = with_crc(bytes([7]) * (length - 4))
    for chunk in drop:
        index[layout.locate(chunk)[1]] = MISSING
    shard_file(cube).write_bytes(bytes(body) + with_crc(index.tobytes()))


def with_crc(payload):
    import google_crc32c

    return payload + google_crc32c.value(payload).to_bytes(4, "little")


def recount(cube, array="s2/values"):
    """The manifest that a writer would leave that dropped chunks on purpose."""
    record = cube.manifest.arrays[array]
    counts = {shard: OpenShard(cube.store, record.layout, shard).num_chunks for shard in record.shards}
    arrays = {**cube.manifest.arrays, array: dataclasses.replace(record, shards=counts)}
    manifest = dataclasses.replace(cube.manifest, arrays=arrays)
    (cube.path / MANIFEST).write_text(manifest.to_json())
    return open_cube(cube.path)


def test_lost_chunk_is_counted(cube):
    rewrite(cube, drop=[(4, 0, 0, 0)])
    with pytest.raises(InputError, match=r"s2/values: shard .* holds 11 chunks, the manifest says 12"):
        read_series(cube, WINDOW)


def test_dropped_chunk_that_was_observed_is_an_error(cube):
    rewrite(cube, drop=[(4, 0, 0, 0)])
    again = recount(cube)
    for backend in ("own", "zarr"):
        with pytest.raises(InputError, match=r"s2/values: chunk \(4, 0, 0, 0\) .* is missing although its flags say"):
            read_series(READERS[backend](again), WINDOW)


def test_undecodable_chunk(cube):
    rewrite(cube, garble=[(4, 0, 0, 0)])
    with pytest.raises(InputError, match=r"s2/values: chunk \(4, 0, 0, 0\) .* does not decode"):
        read_series(cube, WINDOW)


def test_swath_that_zarr_python_left_out_reads_as_masked(cube):
    values, flags = tiny_values("s2")
    values[3], flags[3] = 0, 0
    stored = zarr.open_array(cube.path / "s2/values", mode="r+")
    stored[:] = values  # zarr-python drops chunks that hold nothing but the fill value
    zarr.open_array(cube.path / "s2/valid", mode="r+")[:] = flags
    again = recount(recount(cube), "s2/valid")
    assert again.manifest.arrays["s2/values"].shards[(0, 0, 0, 0)] == 10
    for backend in ("own", "zarr"):
        got = read_series(READERS[backend](again), WINDOW)["s2"]
        assert not got.valid[3].any()
        assert np.array_equal(got.values, values[..., :64])
        assert np.array_equal(got.valid, flags[..., :64] == 1)
    assert check_cube(again) == []


def test_truth_may_not_be_missing(cube):
    (cube.path / "truth/landcover/values/c/0/0").unlink()
    with pytest.raises(InputError, match=r"truth/landcover/values: shard c/0/0 .* file is missing"):
        read_label(cube, "landcover", WINDOW)
    flip(cube.path / "truth/vehicles/x_m/c/0", 20)
    with pytest.raises(InputError, match=r"truth/vehicles/x_m: chunk \(0,\) .* fails its checksum"):
        read_table(cube, "vehicles")


def test_metadata_that_contradicts_the_manifest(cube):
    file = cube.path / "s2/values/zarr.json"
    file.write_text(file.read_text().replace("uint16", "int16"))
    (cube.path / "s2/valid/zarr.json").unlink()
    found = check_cube(cube)
    assert len(found) == 2
    assert "s2/values" in found[0] and "'int16'" in found[0]
    assert "s2/valid" in found[1] and "is missing or not readable" in found[1]


def test_shard_of_a_ragged_array_round_trips(tmp_path):
    layout = ArrayLayout("a", (3, 5, 7), (2, 2, 4), (4, 4, 8), "int16", fill=-1)
    assert (layout.shard_grid, layout.chunks_per_shard) == ((1, 2, 1), (2, 2, 2))
    assert [layout.expected_chunks((0, i, 0)) for i in (0, 1)] == [2 * 2 * 2, 2 * 1 * 2]
    assert layout.locate((1, 2, 1)) == ((0, 1, 0), 5)
    assert layout.chunk_at((0, 1, 0), 5) == (1, 2, 1)
    block = np.arange(3 * 1 * 7, dtype=np.int16).reshape(3, 1, 7)
    file = tmp_path / "a/c/0/1/0"
    file.parent.mkdir(parents=True)
    file.write_bytes(encode_shard(layout, block))
    shard = OpenShard(LocalStore(tmp_path), layout, (0, 1, 0), num_chunks=4)
    assert list(shard.chunks()) == [0, 1, 4, 5]
    out = np.empty(layout.chunk, layout.numpy_dtype)
    shard.read_chunk(4, out)
    assert out.tolist() == [[block[2, 0, :4].tolist(), [-1] * 4], [[-1] * 4, [-1] * 4]]
    assert with_crc(b"any") and BLOSC_LEVELS["lz4"] == 5
    import google_crc32c

    assert google_crc32c.value(with_crc(b"any")) == CRC_RESIDUE


def test_coordinates_that_plain_xarray_would_read_wrong(cube):
    zarr.open_array(cube.path / "s2/day", mode="r+")[0] += 1
    (cube.path / "weather/y/c/0").write_bytes(b"torn")
    found = check_cube(cube)
    assert [f.split(": ")[0] for f in found] == ["s2/day", "weather/y"]
    assert "differs from the manifest's dates" in found[0] and "does not read" in found[1]


def test_findings_keep_their_order_on_any_number_of_threads(cube):
    for array in ("s2/values", "weather/values"):
        shard_file(cube, array).unlink()
    assert check_cube(cube, threads=1) == check_cube(cube, threads=4)
    assert len(check_cube(cube, threads=4)) == 2
