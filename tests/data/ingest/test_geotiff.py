import numpy as np
import pytest
import rasterio
import xarray as xr
import yaml

from skyframe.data.cube import open_cube
from skyframe.data.ingest import ingest
from skyframe.data.ingest.geotiff import pattern_of
from skyframe.spec import InputError
from tests.data.ingest.archive import LEFT, TARGET, TOP, write_tiff

MODALITY = {"kind": "series", "gsd_m": 10, "units": "reflectance", "dtype": "uint16", "scale": 1e-4}
SPEC = {
    "name": "own",
    "description": "two bands",
    "modalities": {"ms": MODALITY | {"bands": [{"name": "red"}, {"name": "nir"}]}},
}
AREA = {"crs": TARGET, "bbox_m": [LEFT, TOP - 600, LEFT + 600, TOP]}
BITS = {"nodata": [{"first": 0}], "cloud": [{"first": 4}], "shadow": [{"first": 7, "width": 2, "at_least": 3}]}


def write_query(here, pattern="{track}/{date}_{band}.tif", layer=None, area=AREA, **more):
    layer = {"scale": 1e-4, "nodata": 0} | (layer or {})
    tree = {"folder": "scenes", "pattern": pattern, "area": area, "layers": {"ms": layer}} | more
    (here / "scenes.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    (here / "spec.yaml").write_text(yaml.safe_dump(SPEC, sort_keys=False))
    return "geotiff", here / "scenes.yaml", here / "cube.zarr", here / "spec.yaml"


def write_scene(folder, name, red, nir):
    for band, value in (("red", red), ("nir", nir)):
        write_tiff(folder / "scenes" / f"{name}_{band}.tif", np.full((60, 60), value, np.uint16))


def layer_of(path, modality):
    whole = xr.open_zarr(path, group=modality, mask_and_scale=False)
    return whole["values"].values, whole["valid"].values


def test_dates_tracks_and_days_by_hand(tmp_path):
    for name, red in (("p1/20210601", 100), ("p2/20210601", 200), ("p1/2021-06-03T101500", 300), ("p1/20220101", 9)):
        write_scene(tmp_path, name, red, 1000)
    words = write_query(tmp_path, datetime="2021-01-01/2021-12-31")
    cube = open_cube(ingest(*words))
    values, flags = layer_of(cube.path, "ms")
    assert cube.days("ms").tolist() == [7822, 7822, 7824] and flags.min() == 1
    assert values[:, :, 30, 30].tolist() == [[100, 1000], [200, 1000], [300, 1000]]
    assert [d["track"] for d in cube.manifest.source["dates"]["ms"]] == ["p1", "p2", "p1"]


def test_one_file_of_many_bands(tmp_path):
    pixels = np.stack([np.full((60, 60), v, np.uint16) for v in (700, 800, 900)])
    write_tiff(tmp_path / "scenes" / "a_2021-06-01.tif", pixels)
    words = write_query(tmp_path, "a_{date}.tif", {"assets": {"red": "3", "nir": "1"}})
    assert layer_of(ingest(*words), "ms")[0][0, :, 0, 0].tolist() == [900, 700]
    words = write_query(tmp_path, "a_{date}.tif", {"assets": {"red": "4", "nir": "1"}})
    with pytest.raises(InputError, match=r"red for ms: block .*the raster has 3 bands, expected a band 4"):
        ingest(*words[:2], tmp_path / "b.zarr", words[3])


def test_patterns_by_hand():
    found = pattern_of("*/LC08_{track}???_{date}_{band}.TIF", "a").fullmatch("x/LC08_014031_20180106_B1.TIF")
    assert found and found.groupdict() == {"track": "014", "date": "20180106", "band": "B1"}
    twice = pattern_of("{date}/{date}_{band}.tif", "a")
    assert twice.fullmatch("20210101/20210101_a.tif") and not twice.fullmatch("20210101/20210102_a.tif")
    for pattern, message in (
        ("{dat}_{band}.tif", "names {dat}, .*did you mean 'date'"),
        ("{band}.tif", "has no {date}"),
    ):
        with pytest.raises(InputError, match=message):
            pattern_of(pattern, "a")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folder": "elsewhere"}, "folder 'elsewhere' is not there"),
        ({"pattern": "{date}.tif"}, "no file under .*scenes follows"),
        ({"datetime": "1999-01-01/1999-12-31"}, "no file under"),
        ({"layer": {"assets": {"nir": "nri"}}}, "ms wants band nri, the scene has only nir, red; did you mean 'nir'"),
        ({"pattern": "{track}/{date}_red.tif"}, "takes 'red' from a file of many bands, expected the number of a band"),
        ({"area": {"crs": TARGET, "bbox_m": [0, 0, 600, 600]}}, "ms: no scene touches the area"),
        ({"layer": {"nodata": 100}}, "ms has no data, all 3600 pixels in 1 dates are missing"),
    ],
)
def test_folders_that_are_refused(tmp_path, changes, message):
    write_scene(tmp_path, "p1/20210601", 100, 1000)
    with pytest.raises(InputError, match=message):
        ingest(*write_query(tmp_path, **changes))
    assert not (tmp_path / "cube.zarr").exists()


def test_a_file_that_is_no_geotiff(tmp_path):
    (tmp_path / "scenes" / "p1").mkdir(parents=True)
    (tmp_path / "scenes" / "p1" / "20210601_red.tif").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="is a git-lfs or git-annex pointer file"):
        ingest(*write_query(tmp_path))


def test_landsat_8_scenes_of_new_york(shared_dir, tmp_path):
    """19 real scenes on two paths: rows of a path and a day are one date, and pixels agree with the files."""
    folder = shared_dir / "data" / "gdalcubes_R" / "L8NY18"
    if not folder.is_dir():
        pytest.skip(f"Landsat-8 scenes wanted at {folder} are absent")
    optical = {"nodata": 0, "scale": 2e-5, "offset": -0.1, "mask": {"band": "BQA", "bits": BITS}}
    tree = {
        "folder": str(folder),
        "pattern": "*/LC08_L1TP_{track}???_{date}_{band}.TIF",
        "area": {"crs": "EPSG:32618", "bbox_m": [390_000, 4_345_000, 760_000, 4_742_000]},
        "layers": {"oli": optical, "pan": optical, "tirs": optical | {"scale": 3.342e-4, "offset": 0.1}},
    }
    (tmp_path / "scenes.yaml").write_text(yaml.safe_dump(tree))
    cube = open_cube(ingest("geotiff", tmp_path / "scenes.yaml", tmp_path / "ny.zarr", "landsat8"))
    assert len(cube.days("oli")) == 17 and len(set(cube.days("oli").tolist())) == 17
    values, flags = layer_of(cube.path, "oli")
    date = cube.days("oli").tolist().index(6765)  # 2018-07-10
    seen = (flags != 0).mean(axis=(1, 2))
    assert seen[date] == pytest.approx(0.25, abs=0.01)  # one scene of 230 km, turned, in 370 km x 399 km
    assert np.sort(seen)[-2:].tolist() == pytest.approx([0.45, 0.45], abs=0.01)  # two rows in one pass
    (name,) = (p for p in folder.glob("*013032_20180710*/*_B5.TIF"))
    with rasterio.open(name) as source:
        numbers, transform = source.read(1), source.transform
    x, y = 600_000.0, 4_440_000.0  # one pixel of ocean's edge, bilinear between four of the file
    column, row = ~transform * (x + 1500, y - 1500)
    around = numbers[int(row - 1) : int(row + 2), int(column - 1) : int(column + 2)] * 2e-5 - 0.1
    found = values[date, 4, int((cube.grid.y0_m - y) / 3000), int((x - cube.grid.x0_m) / 3000)] * 1e-4
    assert around.min() - 1e-4 <= found <= around.max() + 1e-4
    clear = layer_of(cube.path, "tirs")[0][:, 0][layer_of(cube.path, "tirs")[1] == 1] * 1e-3
    assert 5 < np.median(clear) < 10  # W m-2 sr-1 um-1: 265 to 300 K
