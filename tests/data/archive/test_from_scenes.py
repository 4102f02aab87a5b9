import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from rasterio.windows import Window as RasterWindow

from skyframe.data.cube import CLEAR, NODATA, open_cube
from skyframe.data.read import read_flags, read_series
from skyframe.spec import InputError, Window
from tests.data.archive.archives import BANDS, SCL, classes, cog, items, pixels, spec, write

DATES = 4


def scenes(folder, layer=None, **profile):
    """One file per date and band, and of the classes where they are given; the ItemCollection that lists them."""
    values, listed = pixels(profile.get("dtype", "uint16")), []
    for t in range(DATES):
        files = {band: f"t{t}/{band}.tif" for band in BANDS}
        for number, band in enumerate(BANDS):
            cog(folder / files[band], values[t, number : number + 1], **profile)
        if layer is not None:
            files["SCL"] = f"t{t}/SCL.tif"
            cog(folder / files["SCL"], layer[t : t + 1], gsd=20.0)
        listed.append(files)
    items(folder, listed)
    return values[:DATES]


PROFILES = {
    "deflate": {"predictor": 2},
    "zstd": {"compress": "zstd", "predictor": 2},
    "lzw": {"compress": "lzw", "predictor": 2},
    "no compression": {"compress": "none"},
    "big file": {"BIGTIFF": "YES"},
    "big endian": {"ENDIANNESS": "BIG", "predictor": 2},
    "COG": {"driver": "COG", "tiled": None, "blockxsize": None, "blockysize": None, "blocksize": 64},
}


@pytest.mark.parametrize("profile", PROFILES)
def test_files_behind_stac_equal_rasterio(tmp_path, profile):
    options = {key: value for key, value in PROFILES[profile].items()}
    scenes(tmp_path, **options)
    cube = open_cube(write(tmp_path, {"array": "{band}"}, scenes="items.json"))
    assert cube.days("s2").tolist() == [7671, 7676, 7681, 7686]
    draw = np.random.default_rng(0)
    for _ in range(8):
        row, column = int(draw.integers(118)), int(draw.integers(138))
        dates = draw.integers(0, DATES, 5)
        got = read_series(cube, Window(cube.name, row * 10.0, column * 10.0, 320.0), dates={"s2": dates})["s2"]
        for at, t in enumerate(dates):
            for number, band in enumerate(BANDS):
                with rasterio.open(tmp_path / f"t{t}" / f"{band}.tif") as file:
                    wanted = file.read(1, window=RasterWindow(column, row, 32, 32))
                assert np.array_equal(got.values[at, number], wanted)
        assert got.valid.all()


def test_floats_by_the_third_predictor(tmp_path):
    values = np.random.default_rng(4).normal(0, 1, (1, 150, 170)).astype(np.float32)
    cog(tmp_path / "a.tif", values, predictor=3)
    items(tmp_path, [{"B02": "a.tif"}])
    inline = spec("float32", bands=[{"name": "B02"}])
    cube = open_cube(write(tmp_path, {"array": "{band}"}, inline, scenes="items.json"))
    assert np.array_equal(read_series(cube, Window("made", 0.0, 0.0, 1280.0))["s2"].values[0, 0], values[0, :128, :128])


@pytest.mark.parametrize("interleave", ["pixel", "band"])
def test_bands_of_one_file(tmp_path, interleave):
    values = pixels()[:1]
    cog(tmp_path / "a.tif", values[0, ::-1], interleave=interleave, predictor=2)
    items(tmp_path, [{"image": "a.tif"}])
    entry = {"array": "image", "band_order": list(BANDS[::-1])}
    cube = open_cube(write(tmp_path, entry, scenes="items.json"))
    assert np.array_equal(read_series(cube, Window("made", 100.0, 70.0, 640.0))["s2"].values, values[..., 10:74, 7:71])


def test_coarser_classes_lacking_bands_and_nodata(tmp_path):
    layer = classes()[:DATES, ::2, ::2]
    values = scenes(tmp_path, layer, nodata=0)
    listing = json.loads((tmp_path / "items.json").read_text())
    del listing["features"][2]["assets"]["B04"]
    (tmp_path / "items.json").write_text(json.dumps(listing))
    cube = open_cube(write(tmp_path, {"array": "{band}", "mask": SCL}, scenes="items.json"))
    flags = read_flags(cube, "s2", (11, 99, 20, 101))
    clear = np.isin(layer, (4, 5)).repeat(2, 1).repeat(2, 2)[:, 11:99, 20:101]
    clear[2] = False
    assert (flags[2] == NODATA).all()
    assert np.array_equal(flags == CLEAR, clear)
    assert np.array_equal(read_series(cube, Window("made", 0.0, 0.0, 640.0))["s2"].values[0], values[0, :, :64, :64])


def test_table_of_paths(tmp_path):
    values = scenes(tmp_path)
    rows = [(f"t{t}/{band}.tif", band, f"2021-03-{1 + t:02}T10:00:00") for t in range(DATES) for band in BANDS]
    columns = dict(zip(("path", "band", "datetime"), (list(c) for c in zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "paths.parquet")
    cube = open_cube(write(tmp_path, {"array": "{band}"}, scenes="paths.parquet"))
    assert cube.days("s2").tolist() == [7730, 7731, 7732, 7733]
    assert np.array_equal(read_series(cube, Window("made", 0.0, 0.0, 640.0))["s2"].values, values[..., :64, :64])
    pq.write_table(pa.table({"path": ["a"], "band": ["B02"]}), tmp_path / "paths.parquet")
    with pytest.raises(InputError, match="add datetime"):
        open_cube(write(tmp_path, {"array": "{band}"}, scenes="paths.parquet"))


def test_static_catalogue(tmp_path):
    values = scenes(tmp_path)
    for number, item in enumerate(json.loads((tmp_path / "items.json").read_text())["features"]):
        for asset in item["assets"].values():
            asset["href"] = f"../{asset['href']}"
        (tmp_path / "items").mkdir(exist_ok=True)
        (tmp_path / "items" / f"{number}.json").write_text(json.dumps(item))
    links = [{"rel": "item", "href": f"./items/{t}.json"} for t in range(DATES)]
    (tmp_path / "collection.json").write_text(json.dumps({"type": "Collection", "links": links}))
    cube = open_cube(write(tmp_path, {"array": "{band}"}, scenes="collection.json"))
    assert np.array_equal(read_series(cube, Window("made", 0.0, 0.0, 640.0))["s2"].values, values[..., :64, :64])


def other_crs(folder):
    cog(folder / "t1/B04.tif", pixels()[1, :1], crs="EPSG:32632")


def other_corner(folder):
    cog(folder / "t1/B04.tif", pixels()[1, :1], corner=(600_010, 5_600_000))


def other_type(folder):
    cog(folder / "t1/B04.tif", pixels("int16")[1, :1])


def striped(folder):
    cog(folder / "t0/B02.tif", pixels()[0, :1], tiled=False, blockxsize=None, blockysize=None)


def scaled(folder):
    listing = json.loads((folder / "items.json").read_text())
    listing["features"][0]["assets"]["B02"]["raster:bands"] = [{"scale": 1e-4, "offset": -0.1}]
    (folder / "items.json").write_text(json.dumps(listing))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (other_crs, "t1/B04.tif in .*EPSG:32632 .*expected the grid of the other scenes"),
        (other_corner, "t1/B04.tif in .* list one grid per archive, or ingest the scenes into a cube"),
        (other_type, "t1/B04.tif in .*int16 .*expected the grid of the other scenes, uint16"),
        (striped, "t0/B02.tif in .* in strips, expected tiles"),
        (scaled, "t0/B02.tif: the archive says scale 0.0001 and offset -0.1"),
        (lambda folder: (folder / "t1/B04.tif").unlink(), "t1/B04.tif in .*no such file"),
        (lambda folder: (folder / "t1/B04.tif").write_bytes(b"version https://git-lfs"), "t1/B04.tif .*no readable"),
        (lambda folder: (folder / "items.json").write_text("{}"), "neither Parquet nor STAC JSON"),
    ],
)
def test_scenes_that_do_not_fit(tmp_path, change, sentence):
    scenes(tmp_path)
    change(tmp_path)
    with pytest.raises(InputError, match=sentence):
        open_cube(write(tmp_path, {"array": "{band}"}, scenes="items.json"))


def test_file_that_turns_out_other_than_listed(tmp_path):
    """The grid that STAC states is taken at its word until the file is read."""
    scenes(tmp_path)
    listing = json.loads((tmp_path / "items.json").read_text())
    for item in listing["features"]:
        item["properties"]["proj:code"] = "EPSG:32631"
        for asset in item["assets"].values():
            asset |= {"proj:shape": [150, 170], "proj:transform": [10, 0, 600_000, 0, -10, 5_600_000]}
    (tmp_path / "items.json").write_text(json.dumps(listing))
    other_corner(tmp_path)
    cube = open_cube(write(tmp_path, {"array": "{band}"}, scenes="items.json"))
    assert read_series(cube, Window("made", 0.0, 0.0, 320.0), dates={"s2": np.array([0])})["s2"].valid.all()
    with pytest.raises(InputError, match=r"t1/B04.tif in .* expected the grid of the other scenes"):
        read_series(cube, Window("made", 0.0, 0.0, 320.0))


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_truncated_file_is_an_error(tmp_path, keep):
    scenes(tmp_path, predictor=2)
    cube = open_cube(write(tmp_path, {"array": "{band}"}, scenes="items.json"))
    cube.reader.pool.opened.clear()
    file = tmp_path / "t1/B04.tif"
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    with pytest.raises(InputError, match=r"t1/B04.tif"):
        read_series(cube, Window("made", 860.0, 1060.0, 640.0))


def test_altered_tile_is_an_error(tmp_path):
    scenes(tmp_path, predictor=2)
    cube = open_cube(write(tmp_path, {"array": "{band}"}, scenes="items.json"))
    file = tmp_path / "t1/B04.tif"
    content = bytearray(file.read_bytes())
    content[2000:3000] = bytes(1000)
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"t1/B04.tif: chunk \(0, 0\) in .* does not decode"):
        read_series(cube, Window("made", 0.0, 0.0, 320.0))
