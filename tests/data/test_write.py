"""Restarts from every kill point of the writer to the same bytes, and pixels that a modality's nodata marks."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

from skyframe.data import write
from skyframe.data.cube import open_cube
from skyframe.data.read import read_series
from skyframe.data.write import DESCRIPTION, CubeWriter
from skyframe.spec import Band, CubeSpec, InputError, Modality, Window
from tests.data import race
from tests.data.cubes import DAYS, tiny_cube, tiny_grid, tiny_spec, tiny_values

NAMES = ("s2", "s1")
STARTED = {"kind": "test", "seed": 0}  # as tiny_cube says it


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    return bytes_of(tiny_cube(tmp_path_factory.mktemp("whole") / "tiny.zarr", names=NAMES).path)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def partial(tmp_path: Path) -> Path:
    return tmp_path / "tiny.zarr.partial"


def kill_before_the_description(monkeypatch, root):
    monkeypatch.setattr(CubeWriter, "_replace", killed)


def kill_inside_the_root_groups(monkeypatch, root):
    def half(root, name):
        zarr.create_group(root, attributes={"skyframe": 1, "spec": name, "Conventions": "CF-1.10"})
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "create_root", half)


def kill_after_the_temporary_folder(monkeypatch, root):
    rmtree = shutil.rmtree

    def remove(folder):
        rmtree(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(write.shutil, "rmtree", remove)


def kill_in_the_flush_of_the_tree(monkeypatch, root):
    monkeypatch.setattr(write, "sync", killed)


def kill_after_the_description_is_gone(monkeypatch, root):
    flush = write.sync
    monkeypatch.setattr(write, "sync", lambda p: flush(p) if (root / DESCRIPTION).exists() else killed())


def kill_at_the_rename(monkeypatch, root):
    replace = write.os.replace
    monkeypatch.setattr(write.os, "replace", lambda a, b: killed() if Path(a) == root else replace(a, b))


def killed(*_):
    raise KeyboardInterrupt


KILLS = (
    kill_before_the_description,
    kill_inside_the_root_groups,
    kill_after_the_temporary_folder,
    kill_in_the_flush_of_the_tree,
    kill_after_the_description_is_gone,
    kill_at_the_rename,
)


@pytest.mark.parametrize("kill", KILLS)
def test_a_killed_writer_starts_again_to_the_same_bytes(tmp_path, monkeypatch, undisturbed, kill):
    path = tmp_path / "tiny.zarr"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kill(patch, partial(tmp_path))
        tiny_cube(path, names=NAMES)
    for whole in (path, partial(tmp_path)):
        with pytest.raises(InputError, match="never finished"):
            open_cube(whole)
    assert bytes_of(tiny_cube(path, names=NAMES).path) == undisturbed
    assert DESCRIPTION not in undisturbed and [p.name for p in tmp_path.iterdir()] == ["tiny.zarr"]


def test_a_resumed_store_has_no_manifest_until_it_is_whole_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kill_at_the_rename(patch, partial(tmp_path))
        tiny_cube(tmp_path / "tiny.zarr", names=NAMES)
    assert write.MANIFEST in bytes_of(partial(tmp_path)) and DESCRIPTION not in bytes_of(partial(tmp_path))
    with pytest.raises(InputError, match=r"another unfinished cube \(different source\)"):
        CubeWriter(tmp_path / "tiny.zarr", tiny_spec(), tiny_grid(), STARTED | {"seed": 1})
    with pytest.raises(InputError, match=r"different grid"):
        CubeWriter(tmp_path / "tiny.zarr", tiny_spec(), tiny_grid((640.0, 640.0)), STARTED)
    CubeWriter(tmp_path / "tiny.zarr", tiny_spec(), tiny_grid(), STARTED)
    assert write.MANIFEST not in bytes_of(partial(tmp_path)) and DESCRIPTION in bytes_of(partial(tmp_path))


def test_a_folder_that_does_not_say_what_it_is(tmp_path):
    zarr.create_group(partial(tmp_path))
    with pytest.raises(InputError, match=r"tiny\.zarr\.partial: holds zarr\.json but no partial\.json, .* delete that"):
        tiny_cube(tmp_path / "tiny.zarr")


def test_a_modality_killed_before_its_days_were_written(tmp_path, undisturbed):
    CubeWriter(tmp_path / "tiny.zarr", tiny_spec(), tiny_grid(), STARTED).create("s2", DAYS["s2"])
    (partial(tmp_path) / "s2" / "day" / "c" / "0").unlink()
    assert bytes_of(tiny_cube(tmp_path / "tiny.zarr", names=NAMES).path) == undisturbed


def coded(nodata: float | None, dtype: str) -> CubeSpec:
    bands = (Band("a"), Band("b"))
    return CubeSpec("coded", "", {"s2": Modality("s2", "series", bands, 10.0, "m", dtype, nodata=nodata)})


@pytest.mark.parametrize(("nodata", "dtype"), [(0, "uint16"), (-9999, "float32"), (-32768, "int16")])
def test_a_clear_pixel_with_nodata_in_every_band_is_refused(tmp_path, nodata, dtype):
    writer = CubeWriter(tmp_path / "a.zarr", coded(nodata, dtype), tiny_grid(), {})
    writer.create("s2", DAYS["s1"])
    values, flags = np.ones((4, 2, 64, 70), dtype), np.ones((4, 64, 70), np.uint8)
    values[1, 0, 2, 3] = nodata  # one band alone: a value
    writer.write("s2", 0, 0, values, flags)
    values[2, :, 5, 6] = nodata
    message = (
        r"s2: block at row 0, column 0: the pixel at date 2, row 5, column 6 is flagged clear but holds nodata "
        rf"\({nodata}\) in every band, expected a value; flag it 0"
    )
    with pytest.raises(InputError, match=message):
        writer.write("s2", 0, 0, values, flags)
    flags[2, 5, 6] = 0
    writer.write("s2", 0, 0, values, flags)


def test_without_nodata_any_value_may_be_clear(tmp_path):
    writer = CubeWriter(tmp_path / "a.zarr", tiny_spec(), tiny_grid(), {})
    writer.create("s2", DAYS["s2"])
    values, flags = tiny_values("s2")
    writer.write("s2", 0, 0, values * 0, flags * 0 + 1)
    assert writer.is_written("s2", 0, 0)


def test_a_cube_whose_nodata_is_nan_is_resumed(tmp_path):
    for _ in range(2):
        writer = CubeWriter(tmp_path / "a.zarr", coded(float("nan"), "float32"), tiny_grid(), {})
        writer.create("s2", DAYS["s1"])
    values, flags = np.full((4, 2, 64, 70), np.nan, np.float32), np.ones((4, 64, 70), np.uint8)
    with pytest.raises(InputError, match="a clear pixel is not a finite number; flag it 0"):
        writer.write("s2", 0, 0, values, flags)


@pytest.mark.parametrize("attempt", range(2))
def test_writers_that_start_at_one_moment_lose_nothing(tmp_path, attempt):
    """Six real processes create the same arrays and write blocks of their own."""
    command = [sys.executable, "-m", "tests.data.race", str(tmp_path / "cube")]
    moment = str(time.time() + 4)
    running = [subprocess.Popen([*command, str(k), "6", moment], stderr=subprocess.PIPE, text=True) for k in range(6)]
    said = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0] * 6, "\n".join(said)
    writer, blocks = race.write_part(tmp_path / "cube", 16, 1)  # writes none
    assert [block for block in blocks if not writer.is_written(*block)] == []
    cube = open_cube(writer.finish())
    series = read_series(cube, Window("cube", 0, 0, 5120))
    assert {name: np.unique(s.values).tolist() for name, s in series.items()} == {f"m{i}": [i + 1] for i in range(4)}
