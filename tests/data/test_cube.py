import json
import pickle
from datetime import date

import numpy as np
import pytest
import xarray as xr

from skyframe.calendar import DAY_UNKNOWN, date_of
from skyframe.data.cube import Cube, array_layouts, find_cubes, open_cube, whole_pixels
from skyframe.data.manifest import MANIFEST, Manifest
from skyframe.data.write import CubeWriter
from skyframe.spec import Band, CubeSpec, Grid, InputError, Modality, Window
from tests.data.cubes import DAYS, S2_BANDS, tiny_cube, tiny_grid, tiny_label, tiny_spec, tiny_values, write_modality


@pytest.fixture(scope="module")
def cube(tmp_path_factory) -> Cube:
    return tiny_cube(tmp_path_factory.mktemp("cube") / "tiny.zarr")


@pytest.mark.parametrize("name", ["s2", "s1", "hr", "weather"])
def test_plain_xarray_reads_what_was_written(cube, name):
    values, flags = tiny_values(name)
    with xr.open_zarr(cube.path, group=name, mask_and_scale=False) as group:
        assert group["values"].dims == ("day", "band", "y", "x")
        assert group["values"].dtype == values.dtype
        assert np.array_equal(group["values"], values)
        assert np.array_equal(group["valid"], flags)
        assert [str(d)[:10] for d in group["day"].values] == [date_of(d).isoformat() for d in DAYS[name]]
        assert list(group.attrs["bands"]) == list(tiny_spec().modality(name).band_names)


def test_xarray_decodes_units_coordinates_and_crs(cube):
    with xr.open_zarr(cube.path, group="s2") as group:
        assert np.allclose(group["values"][0, :, 0, 0], tiny_values("s2")[0][0, :, 0, 0] * 1e-4)
        assert group["values"].attrs["units"] == "reflectance"
        assert group["y"].values[:2].tolist() == [5609995.0, 5609985.0]
        assert group["x"].values[[0, -1]].tolist() == [660005.0, 660695.0]
        assert group["spatial_ref"].attrs["GeoTransform"] == "660000.0 10.0 0.0 5610000.0 0.0 -10.0"
        assert "UTM zone 31N" in group["spatial_ref"].attrs["crs_wkt"]
        assert group["valid"].attrs["flag_meanings"] == "nodata clear cloud shadow never_written"


def test_datatree_holds_every_group(cube):
    tree = xr.open_datatree(cube.path)
    assert set(tree.children) == {"s2", "s1", "hr", "weather", "truth"}
    assert np.array_equal(tree["truth/landcover/values"], tiny_label())
    assert tree["truth/vehicles/x_m"].values.tolist() == [10.0, 20.5]
    assert tree["s2"].sizes == {"day": 6, "band": 10, "y": 64, "x": 70}


def test_manifest_answers_without_pixels(cube):
    assert cube.name == "tiny"
    assert cube.spec.modalities == tiny_spec().modalities
    assert cube.grid == tiny_grid()
    assert cube.manifest.source == {"kind": "test", "seed": 0}
    assert cube.labels == ("landcover",)
    assert cube.tables == ("vehicles",)
    assert cube.has("s2")
    assert not cube.has("terrain")
    assert cube.days("s2").tolist() == [8000, 8005, 8005, 8020, 8033, 8100]
    assert date_of(8000) == date(2021, 11, 26)
    again = pickle.loads(pickle.dumps(cube))
    assert (again.name, again.manifest.arrays) == (cube.name, cube.manifest.arrays)
    with pytest.raises(InputError, match="no modality 'thermal'"):
        cube.days("thermal")


def test_coverage_of_a_sparse_cube(tmp_path):
    spec, grid = tiny_spec(), Grid("EPSG:32631", 660000.0, 5610000.0, 5120.0, 5120.0)  # hr: 2 x 2 shards of 2560 m
    writer = CubeWriter(tmp_path / "sparse.zarr", spec, grid, {})
    writer.create("hr", DAYS["hr"])
    writer.write("hr", 0, 2048, np.zeros((1, 3, 2048, 2048), np.uint8), np.ones((1, 2048, 2048), np.uint8))
    writer.create("s1", DAYS["s1"])
    sparse = open_cube(writer.finish())
    assert sparse.covers("hr", Window("sparse", 0, 2560, 640))
    assert sparse.covers("hr", Window("sparse", 1920, 2240, 640))  # only its right half
    assert not sparse.covers("hr", Window("sparse", 2560, 2560, 640))
    assert not sparse.covers("hr", Window("sparse", 0, 1920, 640))
    assert not sparse.covers("s1", Window("sparse", 0, 0, 640))  # created, never written
    assert not sparse.covers("s2", Window("sparse", 0, 0, 640))
    assert tuple(sparse.spec.modalities) == ("s1", "hr")


def test_layout_is_one_chunk_per_date_and_fine_imagery_one_shard_per_date():
    spec, grid = tiny_spec(), tiny_grid()
    values, valid = array_layouts(spec.modality("s2"), 70, grid)
    assert (values.chunk, values.shard) == ((1, 10, 64, 64), (70, 10, 256, 256))
    assert (valid.chunk, valid.shard) == ((35, 64, 64), (70, 256, 256))
    values, valid = array_layouts(spec.modality("hr"), 2, grid)
    assert (values.chunk, values.shard) == ((1, 3, 256, 256), (1, 3, 2048, 2048))
    assert (valid.chunk, valid.shard) == ((1, 256, 256), (1, 2048, 2048))
    assert values.expected_chunks((0, 0, 0, 0)) == 2 * 3  # 512 x 560 px


def test_nothing_opens_before_finish(tmp_path):
    path = tmp_path / "tiny.zarr"
    writer = CubeWriter(path, tiny_spec(), tiny_grid(), {})
    write_modality(writer, "s2", DAYS["s2"], *tiny_values("s2"))
    assert not path.exists()
    with pytest.raises(
        InputError, match=r"only tiny.zarr.partial is there, so the cube was never finished; run the inge"
    ):
        open_cube(path)
    with pytest.raises(InputError, match="a cube that was never finished; run the ingest again"):
        open_cube(tmp_path / "tiny.zarr.partial")
    assert writer.finish() == path
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.zarr"]
    assert {p.name for p in path.iterdir()} == {"s2", "truth", "zarr.json", MANIFEST}


def test_killed_writer_is_resumed(tmp_path):
    path, grid = tmp_path / "a.zarr", tiny_grid((640.0, 5000.0))  # 500 px wide: two shards
    values, flags = tiny_values("s2", extent_m=(640.0, 5000.0))
    first = CubeWriter(path, tiny_spec(), grid, {"file": "x"})
    first.create("s2", DAYS["s2"])
    first.write("s2", 0, 0, values[..., :256], flags[..., :256])
    first.create("s1", DAYS["s1"])
    again = CubeWriter(path, tiny_spec(), grid, {"file": "x"})
    with pytest.raises(InputError, match=r"s2: written to before it was created; call create\('s2', days\) first"):
        again.is_written("s2", 0, 0)
    again.create("s2", DAYS["s2"])
    assert again.is_written("s2", 0, 0)
    assert not again.is_written("s2", 0, 256)
    shard = tmp_path / "a.zarr.partial" / "s2" / "valid" / "c" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:50])  # as after a power loss
    assert not again.is_written("s2", 0, 0)
    with pytest.raises(InputError, match=r"s2/valid: shard c/0/0/0 .* truncated"):
        again.finish()
    again.write("s2", 0, 0, values[..., :256], flags[..., :256])
    again.write("s2", 0, 256, values[..., 256:], flags[..., 256:])
    cube = open_cube(again.finish())
    assert tuple(cube.spec.modalities) == ("s2",)
    with xr.open_zarr(path, group="s2", mask_and_scale=False) as group:
        assert np.array_equal(group["values"], values)


def test_partial_of_another_cube_is_refused(tmp_path):
    CubeWriter(tmp_path / "a.zarr", tiny_spec(), tiny_grid(), {"file": "x"}).create("s2", DAYS["s2"])
    with pytest.raises(InputError, match=r"another unfinished cube \(different source\)"):
        CubeWriter(tmp_path / "a.zarr", tiny_spec(), tiny_grid(), {"file": "y"})
    with pytest.raises(InputError, match=r"different grid"):
        CubeWriter(tmp_path / "a.zarr", tiny_spec(), tiny_grid((640.0, 640.0)), {"file": "x"})
    same = CubeWriter(tmp_path / "a.zarr", tiny_spec(), tiny_grid(), {"file": "x"})
    with pytest.raises(InputError, match="begun with 6 dates, now 4 or other ones"):
        same.create("s2", DAYS["s1"])


def test_existing_cube_is_not_overwritten(cube):
    with pytest.raises(InputError, match="already exists, expected a new path"):
        CubeWriter(cube.path, tiny_spec(), tiny_grid(), {})


def test_static_layer_without_date(tmp_path):
    terrain = Modality("terrain", "static", (Band("elevation_m"),), 10.0, "m", "float32")
    writer = CubeWriter(tmp_path / "t.zarr", CubeSpec("t", "", {"terrain": terrain}), tiny_grid(), {})
    days = np.array([DAY_UNKNOWN], np.int32)
    write_modality(writer, "terrain", days, np.ones((1, 1, 64, 70), np.float32), np.ones((1, 64, 70), np.uint8))
    writer.finish()
    with xr.open_zarr(tmp_path / "t.zarr", group="terrain") as group:
        assert np.isnat(group["day"].values).all()


def test_empty_table(tmp_path):
    writer = CubeWriter(tmp_path / "t.zarr", tiny_spec(), tiny_grid(), {})
    writer.create("s2", DAYS["s2"])
    writer.write_table("boxes", {"x": np.zeros(0), "y": np.zeros(0)})
    writer.finish()
    assert xr.open_zarr(tmp_path / "t.zarr", group="truth/boxes").sizes == {"row": 0}


BLOCK = {"y_px": 0, "x_px": 0, "values": np.ones((6, 10, 64, 70), np.uint16), "flags": np.ones((6, 64, 70), np.uint8)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": BLOCK["values"][:5]}, r"values \[5, 10, 64, 70\] .* expected \[6, 10, h, w\]"),
        ({"values": BLOCK["values"][:, :9]}, r"values \[6, 9, 64, 70\]"),
        ({"flags": BLOCK["flags"][:, :9]}, r"flags \[6, 9, 70\]"),
        ({"values": BLOCK["values"].astype(np.int16)}, "values are int16 and flags uint8, expected uint16 and uint8"),
        ({"flags": BLOCK["flags"] > 0}, "flags bool"),
        ({"flags": BLOCK["flags"] * 7}, r"flags hold \[7\], expected only 0, 1, 2, 3, 255"),
        ({"y_px": 64}, "rows or columns 64 to 128 of 64, expected to begin at a multiple of 256"),
        ({"values": BLOCK["values"][..., :9], "flags": BLOCK["flags"][..., :9]}, "rows or columns 0 to 9 of 70"),
    ],
)
def test_bad_blocks(tmp_path, change, message):
    writer = CubeWriter(tmp_path / "a.zarr", tiny_spec(), tiny_grid(), {})
    writer.create("s2", DAYS["s2"])
    with pytest.raises(InputError, match=message):
        writer.write("s2", **(BLOCK | change))
    assert not writer.is_written("s2", 0, 0)


def test_clear_pixel_must_be_finite(tmp_path):
    writer = CubeWriter(tmp_path / "a.zarr", tiny_spec(), tiny_grid(), {})
    values, flags = tiny_values("weather")
    values[3, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match=r"weather: block at row 0, column 0: a clear pixel is not a finite number"):
        write_modality(writer, "weather", DAYS["weather"], values, flags)
    flags[3, 0, 0] = 0
    write_modality(writer, "weather", DAYS["weather"], values, flags)


@pytest.mark.parametrize(
    ("days", "message"),
    [
        (np.zeros(0, np.int32), r"days has shape \(0,\) .* at least one date"),
        (np.array([5.0, 6.0]), "dtype float64"),
        (np.array([5, 7, 6], np.int32), "days fall at position 2, expected rising order"),
    ],
)
def test_bad_days(tmp_path, days, message):
    with pytest.raises(InputError, match=message):
        CubeWriter(tmp_path / "a.zarr", tiny_spec(), tiny_grid(), {}).create("s2", days)


def test_bad_truth_and_bad_place(tmp_path):
    writer = CubeWriter(tmp_path / "a.zarr", tiny_spec(), tiny_grid(), {})
    with pytest.raises(InputError, match="no such label, only landcover"):
        writer.write_label("landcovr", tiny_label())
    with pytest.raises(InputError, match=r"got uint8 \[70, 64\], expected uint8 \[64, 70\]"):
        writer.write_label("landcover", tiny_label().T)
    with pytest.raises(InputError, match=r"columns have \[1, 2\] rows"):
        writer.write_table("t", {"a": np.zeros(1), "b": np.zeros(2)})
    with pytest.raises(InputError, match="expected numbers"):
        writer.write_table("t", {"a": np.array(["x"])})
    with pytest.raises(InputError, match="no modality 's3'"):
        writer.create("s3", DAYS["s2"])
    with pytest.raises(InputError, match="no modality was created"):
        writer.finish()
    with pytest.raises(InputError, match="is not projected"):
        CubeWriter(tmp_path / "b.zarr", tiny_spec(), Grid("EPSG:4326", 5.0, 50.0, 1.0, 1.0), {})
    assert not (tmp_path / "b.zarr.partial").exists()


def test_opening_what_is_no_whole_cube(cube, tmp_path):
    text = (cube.path / MANIFEST).read_text()
    with pytest.raises(InputError, match=r"no such cube, expected a folder with manifest.json"):
        open_cube(tmp_path / "none.zarr")
    with pytest.raises(InputError, match=r"did you mean 'tiny.zarr'"):
        open_cube(cube.path.parent / "tyni.zarr")
    folder = tmp_path / "a.zarr"
    folder.mkdir()
    with pytest.raises(InputError, match=r"no manifest.json inside, so this is no cube or it was never finished"):
        open_cube(folder)
    manifest = folder / MANIFEST
    for damaged in (text[: len(text) // 2], text.replace("8020", "8021"), text.replace("crc32c", "crc")):
        manifest.write_text(damaged)
        with pytest.raises(InputError, match="truncated or altered; restore it"):
            open_cube(folder)
    manifest.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="truncated or altered"):
        open_cube(folder)
    manifest.write_text(json.dumps({**json.loads(text), "skyframe": 2}))
    with pytest.raises(InputError, match="the cube has format 2, this version of skyframe reads format 1"):
        open_cube(folder)
    manifest.write_text("[]")
    with pytest.raises(InputError, match="no skyframe format number"):
        open_cube(folder)


def test_manifest_round_trip(cube):
    again = Manifest.from_json(cube.manifest.to_json(), cube.path)
    assert again.arrays == cube.manifest.arrays
    assert (again.spec, again.grid, again.tables) == (cube.spec, cube.grid, cube.manifest.tables)
    assert all(np.array_equal(again.days[n], cube.days(n)) for n in DAYS)


def test_pixel_box_and_its_errors(cube):
    assert cube.pixel_box("s2", Window("tiny", 30, 60, 100)) == (3, 13, 6, 16)
    assert cube.pixel_box("hr", Window("tiny", 30, 60, 100)) == (24, 104, 48, 128)
    assert cube.pixel_box("weather", Window("tiny", 0, 300, 400)) == (0, 1, 1, 2)  # centre 200 m south, 500 m east
    for window, message in (
        (Window("tiny", 0, 70, 640), r"x_m 70 m with size 640 m leaves the cube, expected 0 to 700 m"),
        (Window("tiny", -10, 0, 100), r"y_m -10 m with size 100 m leaves the cube, expected 0 to 640 m"),
        (Window("tiny", 0, 0, 0), r"size 0 m leaves the cube"),
        (Window("tiny", 5, 0, 100), r"s2: 5 m is 0.500 pixels of 10 m"),
    ):
        with pytest.raises(InputError, match=message):
            cube.pixel_box("s2", window)
    assert whole_pixels("a", 30.0, 2.5) == 12
    with pytest.raises(
        InputError, match=r"a: 30 m is 4.286 pixels of 7 m, expected a whole number; use a multiple of 7"
    ):
        whole_pixels("a", 30.0, 7.0)


def test_band_names_are_not_string_arrays(cube):
    layout = cube.manifest.arrays["s2/values"].layout
    assert layout.shape == (6, len(S2_BANDS), 64, 70)
    assert all(record.layout.numpy_dtype.kind in "uif" for record in cube.manifest.arrays.values())


def test_cubes_are_found_by_path_and_glob(tmp_path):
    for name in ("b", "a"):
        tiny_cube(tmp_path / f"{name}.zarr", names=("s1",))
    (tmp_path / "a.zarr.png").write_bytes(b"")
    CubeWriter(tmp_path / "c.zarr", tiny_spec(), tiny_grid(), {})
    assert [c.name for c in find_cubes([f"{tmp_path}/*"])] == ["a", "b"]
    assert [c.name for c in find_cubes([f"{tmp_path}/b.zarr", f"{tmp_path}/a*"])] == ["b", "a"]
    with pytest.raises(InputError, match=r"data.cubes: nothing at '.*x\*', expected finished cubes"):
        find_cubes([f"{tmp_path}/x*"])
    with pytest.raises(InputError, match="2 cubes are called 'a', expected different folder names"):
        find_cubes([f"{tmp_path}/*", f"{tmp_path}/a.zarr"])
    with pytest.raises(InputError, match="the cube was never finished"):
        find_cubes([f"{tmp_path}/c.zarr"])
