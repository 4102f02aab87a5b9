import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml
from pyproj import Transformer

from skyframe.data.cube import open_cube
from skyframe.data.ingest import ingest, warp
from skyframe.spec import InputError
from tests.data.ingest.archive import LEFT, TARGET, TOP, ask, item, optical, radar, serve, static_catalogue, write_tiff

SPEC = {
    "name": "small",
    "description": "two bands of Sentinel-2, and Sentinel-1",
    "modalities": {
        "s2": {
            "kind": "series",
            "bands": [{"name": "B04"}, {"name": "B11"}],
            "gsd_m": 10,
            "units": "reflectance",
            "dtype": "uint16",
            "scale": 1e-4,
        },
        "s1": {
            "kind": "series",
            "bands": [{"name": "VV"}, {"name": "VH"}],
            "gsd_m": 10,
            "units": "dB",
            "dtype": "int16",
            "scale": 0.01,
        },
    },
}
AREA = {"crs": TARGET, "bbox_m": [LEFT, TOP - 3200, LEFT + 3200, TOP]}
CLASSES = np.full((160, 160), 4)
CLASSES[:40], CLASSES[40:80], CLASSES[80:120] = 0, 9, 3


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Folder and address of an archive of five Sentinel-2 and three Sentinel-1 items."""
    folder = tmp_path_factory.mktemp("archive")
    with serve(folder) as host:
        east, _ = Transformer.from_crs(TARGET, "EPSG:32632", always_xy=True).transform(LEFT + 1600, TOP - 1600)
        old, new = {"s2:processing_baseline": "02.14"}, {"s2:processing_baseline": "05.09"}
        items = [
            optical(folder, host, "old", "2021-06-01T10:40:00Z", (1000, 2000), CLASSES, **old),
            optical(folder, host, "new", "2022-06-01T10:40:00Z", (2000, 3000), **new),
            optical(folder, host, "shifted", "2022-06-06T10:40:00Z", (950, 1700), **new),
            optical(folder, host, "cloudy", "2022-06-11T10:40:00Z", (9, 9), **new, **{"eo:cloud_cover": 95.0}),
            seam(folder, host, east, new),
            radar(folder, host, "up", "2021-06-02T17:00:00Z", 0.1),
            radar(folder, host, "down", "2021-06-02T05:30:00Z", np.linspace(0, 0.32, 320)[None], "descending"),
        ]
        (folder / "items.json").write_text(json.dumps(items))
        yield folder, host


def seam(folder, host, east, properties):
    """The pass of item `new`, as the neighbouring zone's tile holds it: a ramp along zone 31's easting."""
    left, top, rows = round(east / 20) * 20.0 - 4000, TOP + 2000, 800
    there = Transformer.from_crs("EPSG:32632", TARGET, always_xy=True)
    paths = {}
    for band, gsd_m, add in (("B04", 10.0, 0), ("B11", 20.0, 500), ("SCL", 20.0, 0)):
        centres = (np.arange(round(rows * 10 / gsd_m)) + 0.5) * gsd_m
        x, _ = there.transform(*np.meshgrid(left + centres, top - centres))
        pixels = np.full(x.shape, 4, np.uint8) if band == "SCL" else np.rint(1000 + (x - LEFT) + add).astype(np.uint16)
        write_tiff(folder / "seam" / f"{band}.tif", pixels, left, top, gsd_m, "EPSG:32632", nodata=0)
        paths[band] = f"{host}/seam/{band}.tif"
    box = (left, top - rows * 10, left + rows * 10, top)
    more = {"platform": "sentinel-2a", "sat:relative_orbit": 8, "eo:cloud_cover": 1.0} | properties
    return item("seam", "2022-06-20T10:50:10Z", "sentinel-2-l2a", paths, "EPSG:32632", box, **more)


def write_query(folder: Path, host: str, url="api", spec=SPEC, area=AREA, s2=None, s1=None, **more):
    """A search and its spec in a folder of one's own."""
    layers = {
        "s2": {"collection": "sentinel-2-l2a", "max_cloud": 80} | (s2 or {}),
        "s1": {"collection": "sentinel-1-rtc"} | (s1 or {}),
    }
    tree = {"url": f"{host}/{url}", "area": area, "datetime": "2021-01-01/2022-12-31"}
    tree |= {"layers": {name: layers[name] for name in spec["modalities"]}} | more
    (folder / "search.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    return "stac", folder / "search.yaml", folder / "cube.zarr", folder / "spec.yaml"


@pytest.fixture(scope="module")
def cube(archive, tmp_path_factory):
    return open_cube(ingest(*write_query(tmp_path_factory.mktemp("cube"), archive[1])))


def layer_of(cube, modality):
    """Stored values and flags of the whole cube."""
    whole = xr.open_zarr(cube.path, group=modality, mask_and_scale=False)
    return whole["values"].values, whole["valid"].values


def test_reflectance_is_right_whatever_the_baseline(cube):
    values, flags = layer_of(cube, "s2")
    assert cube.days("s2").tolist() == [7822, 8187, 8192, 8206]  # the cloudy item is filtered out
    assert values[0, :, 319, 160].tolist() == [1000, 2000]  # baseline 02.14: as stored
    assert values[1, :, 319, 160].tolist() == [1000, 2000]  # baseline 05.09: 2000 - 1000, 3000 - 1000
    assert values[2, :, 319, 160].tolist() == [0, 700]  # 950 - 1000 = -50, a dark pixel
    assert flags[1].min() == 1 and flags[2].min() == 1


def test_scene_classes_become_flags(cube):
    values, flags = layer_of(cube, "s2")
    assert flags[0, ::80, 160].tolist() == [0, 2, 3, 1]  # classes 0, 9, 3 and 4 of 20 m rows
    assert flags[0, 79:81, 0].tolist() == [0, 2] and values[0, :, :80].max() == 0


def test_a_pass_of_the_neighbouring_zone_is_reprojected(cube):
    values, flags = layer_of(cube, "s2")
    assert flags[3].min() == 1
    easting = (np.arange(320) + 0.5) * 10
    assert np.abs(values[3, 0] - easting).max() <= 1  # ramp of 1 a metre, stored + 1000
    assert np.abs(values[3, 1] - easting - 500).max() <= 1


def test_radar_is_decibels_and_passes_stay_apart(cube):
    values, flags = layer_of(cube, "s1")
    assert cube.days("s1").tolist() == [7823, 7823]
    assert [date["track"] for date in cube.manifest.source["dates"]["s1"]] == [
        "SENTINEL-1A descending",
        "SENTINEL-1A ascending",
    ]
    assert values[1, :, 100, 100].tolist() == [-1000, -2000]  # 10 log10 of 0.1 and 0.01
    assert flags[0, :, 0].max() == 0 and flags[0, :, 1:].min() == 1  # no power, no echo


def test_the_search_went_through_all_pages(archive, cube):
    _, host = archive
    assert ask(f"{host}/seen")["/api/search"] >= 3  # five optical items are two pages, two radar ones a third


def test_a_static_catalogue_gives_the_same_bits(archive, cube, tmp_path):
    folder, host = archive
    static_catalogue(folder, json.loads((folder / "items.json").read_text()))
    again = open_cube(ingest(*write_query(tmp_path, host, "catalog.json")))
    assert_same_layers(again, cube)
    here = open_cube(
        ingest(*write_query(tmp_path, str(folder), "catalog.json")[:2], tmp_path / "b", tmp_path / "spec.yaml")
    )
    assert_same_layers(here, cube)


def assert_same_layers(left, right):
    for modality in ("s2", "s1"):
        for a, b in zip(layer_of(left, modality), layer_of(right, modality), strict=True):
            assert np.array_equal(a, b)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(warp, "RETRY_DELAY_S", 0.01)
    monkeypatch.setitem(warp.GDAL_OPTIONS, "GDAL_HTTP_RETRY_DELAY", "0.01")


@pytest.mark.parametrize(("kind", "times"), [("500", 3), ("500", 9), ("cut", 1), ("cut_tile", 3)])
def test_faults_that_pass_leave_no_trace(archive, cube, tmp_path, impatient, kind, times):
    _, host = archive
    ask(f"{host}/fault?path=/seam/B04.tif&kind={kind}&times={times}")
    assert_same_layers(open_cube(ingest(*write_query(tmp_path, host))), cube)


@pytest.mark.parametrize("kind", ["500", "cut"])
def test_faults_that_stay_are_named_and_the_ingest_continues(archive, cube, tmp_path, impatient, kind):
    _, host = archive
    words = write_query(tmp_path, host)
    ask(f"{host}/fault?path=/up/vh.tif&kind={kind}&times=10000")
    with pytest.raises(
        InputError, match=r"^up: VH for s1: block at row 0, column 0: .*/up/vh\.tif cannot be read after 4"
    ):
        ingest(*words)
    assert not words[2].exists()
    before = ask(f"{host}/seen")["/new/B04.tif"]
    ask(f"{host}/fault?path=/up/vh.tif&kind={kind}&times=0")
    assert_same_layers(open_cube(ingest(*words)), cube)
    if kind == "500":
        assert ask(f"{host}/seen")["/new/B04.tif"] >= before


def test_a_scene_that_is_gone_is_not_tried_again(archive, tmp_path):
    _, host = archive
    words = write_query(tmp_path, host, spec=only("s1"), items="kept.json")
    ingest(*words)
    kept = json.loads((tmp_path / "kept.json").read_text())
    kept["items"]["s1"][0]["assets"]["vv"]["href"] = f"{host}/lost.tif"
    (tmp_path / "kept.json").write_text(json.dumps(kept))
    with pytest.raises(InputError, match=r"lost\.tif cannot be read after 1 try .*404"):
        ingest(*words[:2], tmp_path / "b.zarr", words[3])


def test_signed_addresses(archive, cube, tmp_path, impatient, monkeypatch):
    _, host = archive
    words = write_query(tmp_path, host, spec=only("s1"), items="kept.json", s1={"sign": "planetary_computer"})
    monkeypatch.setenv("VSICURL_PC_SAS_TOKEN_URL", f"{host}/token/")
    ingest(*words, part="1/1")
    shutil.rmtree(tmp_path / "cube.zarr.partial")
    kept = (tmp_path / "kept.json").read_text()
    (tmp_path / "kept.json").write_text(kept.replace(f"{host}/up", f"{host}/signed/up"))
    ask(f"{host}/fault?path=/up/vv.tif&kind=500&times=9")
    signed = open_cube(ingest(*words))
    assert np.array_equal(layer_of(signed, "s1")[0], layer_of(cube, "s1")[0])
    write_query(tmp_path, host, spec=only("s1"), items="kept.json")
    with pytest.raises(InputError, match=r"up: VV for s1: .*/signed/up/vv\.tif cannot be read after 1 try .*403"):
        ingest(*words[:2], tmp_path / "b.zarr", words[3])


def only(*names):
    """The spec with some of its modalities."""
    return SPEC | {"modalities": {name: SPEC["modalities"][name] for name in names}}


def run_parts(words, parts):
    """Several real processes at once, one a part (None: all of it); their exit codes and what they said."""
    _, query, cube, spec = words
    command = [sys.executable, "-m", "skyframe", "ingest", "stac", str(query), str(cube), "--spec", str(spec)]
    running = [
        subprocess.Popen(
            [*command, *(["--part", part] if part else [])], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for part in parts
    ]
    said = [process.communicate(timeout=120)[0] for process in running]
    return [process.returncode for process in running], said


def test_two_processes_write_parts_of_one_cube_and_a_third_run_finishes(archive, cube, tmp_path):
    _, host = archive
    words = write_query(tmp_path, host, memory_mb=40)  # blocks of one shard: eight of them
    codes, said = run_parts(words, ["1/2", "2/2"])
    assert codes == [0, 0], said
    assert not words[2].exists()
    assert "part 1/2 of" in said[0] and ask(f"{host}/seen")
    before = ask(f"{host}/seen")["/new/B04.tif"]
    assert_same_layers(open_cube(ingest(*words)), cube)
    assert ask(f"{host}/seen")["/new/B04.tif"] == before  # nothing was left to read


def test_two_writers_on_the_same_shards_are_safe(archive, cube, tmp_path):
    words = write_query(tmp_path, archive[1], memory_mb=40)
    codes, said = run_parts(words, ["1/1", "1/1"])
    assert codes == [0, 0], said
    assert_same_layers(open_cube(ingest(*words)), cube)


@pytest.mark.parametrize("part", ["0/2", "3/2", "half", "1/0"])
def test_a_part_that_is_none(archive, tmp_path, part):
    with pytest.raises(InputError, match=rf"--part: got '{part}', expected K/N"):
        ingest(*write_query(tmp_path, archive[1]), part=part)


def test_a_part_is_refused_while_the_cube_is_being_finished(archive, tmp_path):
    words = write_query(tmp_path, archive[1], spec=only("s1"))
    partial = ingest(*words, part="1/1")
    assert partial == tmp_path / "cube.zarr.partial"
    (partial / "manifest.json").write_text("{}")
    with pytest.raises(InputError, match="is being finished"):
        ingest(*words, part="1/1")


def test_other_scenes_on_restart_are_named(archive, tmp_path):
    words = write_query(tmp_path, archive[1], spec=only("s1"))
    ingest(*words, part="1/1")
    words = write_query(tmp_path, archive[1], spec=only("s1"), s1={"filter": {"sat:orbit_state": "ascending"}})
    with pytest.raises(
        InputError, match=r"was begun with 2 scenes, now there are 1: 1 gone \(down\); delete that folder"
    ):
        ingest(*words)


def test_a_kept_list_is_read_again_and_belongs_to_its_search(archive, tmp_path):
    words = write_query(tmp_path, archive[1], spec=only("s1"), items="kept.json")
    ingest(*words, part="1/1")
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert [i["id"] for i in kept["items"]["s1"]] == ["down", "up"]
    kept["items"]["s1"].pop()
    (tmp_path / "kept.json").write_text(json.dumps(kept))
    with pytest.raises(InputError, match=r"now there are 1: 1 gone \(up\)"):
        ingest(*words)
    words = write_query(tmp_path, archive[1], spec=only("s1"), items="kept.json", datetime="2021-06-01/2021-06-30")
    with pytest.raises(InputError, match=r"items .*kept\.json was searched with another datetime"):
        ingest(*words)
    (tmp_path / "kept.json").write_text("[]")
    with pytest.raises(InputError, match="is no list that a search wrote"):
        ingest(*words)


def test_a_region_becomes_many_cubes_each_job_takes_whole_ones(archive, cube, tmp_path):
    _, host = archive
    area = {"crs": TARGET, "bbox_m": [LEFT + 1000, TOP - 2000, LEFT + 2000, TOP], "cube_km": 1.28}
    words = write_query(tmp_path, host, area=area)
    folder = ingest(*words, part="2/2")
    assert [p.name for p in sorted(folder.iterdir())] == ["n5597.44_e698.88", "n5598.72_e698.88"]
    ingest(*words)
    assert len(list(folder.iterdir())) == 4
    part = open_cube(folder / "n5598.72_e697.6")
    assert (part.grid.x0_m, part.grid.y0_m) == (697_600.0, 5_600_000.0)
    assert np.array_equal(layer_of(part, "s2")[0], layer_of(cube, "s2")[0][:, :, :128, 60:188])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"datetime": "2023-01-01/2023-02-01"},
            r"layers\.s2 finds no item of sentinel-2-l2a at .* widen area, datetime",
        ),
        (
            {"s2": {"collection": "sentinel-2-l2b"}},
            r"no collection 'sentinel-2-l2b', only .*did you mean 'sentinel-2-l2a'",
        ),
        ({"s2": {"assets": {"B04": "red"}}}, r"old: s2 wants band B04 from asset red, the item has only B04, B11, SCL"),
        ({"s2": {"assets": {"B05": "red"}}}, r"layers\.s2 names band B05, spec small has only B04, B11"),
        ({"s2": {"colection": "a"}}, r"search\.yaml\.layers\.s2: unknown key 'colection'; did you mean 'collection'"),
        ({"s2": {"resampling": "bilinaer"}}, r"resampling: 'bilinaer' is not known.*did you mean 'bilinear'"),
        ({"s2": {"scale": 1.0}}, r"s2: the median is 6.553 reflectance, expected 0 to 1\.5"),
        ({"url": "nothing"}, r"does not answer as a STAC catalogue"),
        ({"area": AREA | {"crs": "EPSG:4326"}}, r"area\.crs: .*EPSG:4326.* is not projected"),
        ({"area": AREA | {"bbox": [5, 50, 6, 51]}}, r"area has bbox and bbox_m of bbox, bbox_m, geometry and tiles"),
        ({"area": {"crs": TARGET, "bbox_m": [0, 0, 3200, 3200]}}, r"finds no item"),
        (
            {"memory_mb": 1},
            r"s2: one block of 256 x 256 pixels x 4 dates x 2 bands needs 36 MB, expected at most memory_mb",
        ),
        ({"threads": 0}, r"threads 0"),
    ],
)
def test_searches_that_are_refused(archive, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        ingest(*write_query(tmp_path, archive[1], **changes))
    assert not list(tmp_path.glob("cube.zarr"))
