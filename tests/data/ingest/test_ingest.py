import filecmp
import os
import re
import signal
import subprocess
import sys

import pytest
from rich.progress import Progress

from skyframe import cli
from skyframe.data import ingest as package
from skyframe.data.cube import open_cube
from skyframe.data.ingest import SOURCES, ingest
from skyframe.spec import CubeSpec, InputError, find_yaml
from tests.data.ingest.sources import worldcereal_variables, write_netcdf

NUM_BLOCKS = 4 + 4 + 1 + 4  # 300 x 300 pixels in shards of 256: s2, s1, weather, terrain


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    variables = worldcereal_variables(300, 300, dates=2)
    return write_netcdf(tmp_path_factory.mktemp("source") / "a.nc", variables, ("2021-01-01", "2021-02-01"))


@pytest.fixture(scope="module")
def whole(source):
    return ingest("worldcereal", source, source.parent / "whole.zarr")


def files_of(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def assert_same_store(left, right):
    assert files_of(left) == files_of(right)
    assert filecmp.cmpfiles(left, right, files_of(left), shallow=False)[1:] == ([], [])


@pytest.mark.parametrize("stop_after", [1, 5, NUM_BLOCKS])
def test_an_interrupted_ingest_continues_to_the_same_bits(tmp_path, source, whole, stop_after, monkeypatch):
    def stop(done, total, name):
        if done == stop_after:
            raise KeyboardInterrupt

    target = tmp_path / "whole.zarr"
    with pytest.raises(KeyboardInterrupt):
        ingest("worldcereal", source, target, progress=stop)
    with pytest.raises(InputError, match="never finished"):
        open_cube(target)
    with pytest.raises(InputError, match="never finished"):
        open_cube(tmp_path / "whole.zarr.partial")
    written = []
    real_write = package.CubeWriter.write
    monkeypatch.setattr(package.CubeWriter, "write", lambda self, *a: (written.append(a[:3]), real_write(self, *a)))
    ingest("worldcereal", source, target)
    assert len(written) == NUM_BLOCKS - stop_after  # finished blocks are not written again
    assert_same_store(target, whole)


def test_kill_9_and_run_again(tmp_path, source, whole):
    target = tmp_path / "whole.zarr"
    program = (
        "import os, signal, sys\n"
        "from skyframe.data.ingest import ingest\n"
        "kill = lambda done, total, name: os.kill(os.getpid(), signal.SIGKILL) if done == 3 else None\n"
        "ingest('worldcereal', sys.argv[1], sys.argv[2], progress=kill)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, source, target], env=os.environ, check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL and not target.exists()
    ingest("worldcereal", source, target)
    assert_same_store(target, whole)


def test_a_restart_on_another_file_is_refused(tmp_path, source):
    def stop(done, total, name):
        raise KeyboardInterrupt

    target = tmp_path / "a.zarr"
    with pytest.raises(KeyboardInterrupt):
        ingest("worldcereal", source, target, progress=stop)
    variables = worldcereal_variables(300, 300, dates=2, seed=1)
    other = write_netcdf(tmp_path / "a.nc", variables, ("2021-01-01", "2021-02-01"))
    with pytest.raises(InputError, match=r"holds another unfinished cube \(different source\)"):
        ingest("worldcereal", other, target)


def test_progress_by_callable_and_by_rich(tmp_path, source):
    seen = []
    ingest("worldcereal", source, tmp_path / "a.zarr", progress=lambda *tick: seen.append(tick))
    assert [s[0] for s in seen] == list(range(1, NUM_BLOCKS + 1)) and {s[1] for s in seen} == {NUM_BLOCKS}
    assert seen[0][2] == "s2" and seen[-1][2] == "terrain"
    bar = Progress(disable=True)
    ingest("worldcereal", source, tmp_path / "b.zarr", progress=bar)
    assert bar.finished and bar.tasks[0].completed == NUM_BLOCKS and bar.tasks[0].description == "b.zarr terrain"


def test_a_cube_that_is_there_stays(source, whole):
    before = files_of(whole)
    with pytest.raises(InputError, match="already exists"):
        ingest("worldcereal", source, whole)
    assert files_of(whole) == before


def test_unknown_kind_and_unknown_spec(tmp_path, source):
    with pytest.raises(
        InputError, match=r"no source kind 'worldcerael', expected one of worldcereal, .*did you mean 'worldcereal'"
    ):
        ingest("worldcerael", source, tmp_path / "a.zarr")
    with pytest.raises(InputError, match="no file 'nowhere'"):
        ingest("worldcereal", source, tmp_path / "a.zarr", "nowhere")


def test_a_missing_extra_is_named(tmp_path, source, monkeypatch):
    monkeypatch.setattr(package.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"h5py, h5netcdf, rasterio not installed.*pip install 'skyframe-eo\[ingest\]'"
    ):
        ingest("worldcereal", source, tmp_path / "a.zarr")


SHIPPED = {kind: kind for kind in SOURCES if kind not in ("cf", "geotiff")}
SHIPPED |= {"landsat8": "geotiff", "ocean_colour": "cf", "fusets": "cf"}
"""Spec -> the kind that it goes with: of the same name, or, as any folder or file has its own bands, an example."""


@pytest.mark.parametrize(("spec", "kind"), SHIPPED.items())
def test_the_command_in_the_head_of_a_spec_names_its_kind(spec, kind):
    text = find_yaml("data_specs", spec).read_text(encoding="utf-8")
    (command,) = re.findall(r"Ingest: skyframe (ingest .* CUBE(?: --spec \w+)?)", text)
    with cli.ingest.make_context("ingest", command.split()[1:]) as context:
        assert context.params["kind"] == kind and context.params["sources"]
        assert context.params["spec"] == (None if kind == spec else spec)


def test_the_help_has_a_line_for_every_kind():
    lines = [line.split() for line in (cli.ingest.help or "").splitlines()]
    assert set(SOURCES) <= {words[0] for words in lines if len(words) > 2}


@pytest.mark.parametrize("kind", ["eolearn", "presto"])
def test_the_top_of_the_atmosphere_does_not_mix_with_the_ground(kind):
    ours, ground = (CubeSpec.load(name).modality("s2") for name in (kind, "simulated_earth"))
    assert ours.units == "top-of-atmosphere reflectance" != ground.units  # readers refuse another unit


@pytest.mark.parametrize("kind", ["worldcereal", "gfmap", "treesatai", "stac"])
def test_shipped_specs_mix_with_simulated_cubes(kind):
    """What a reader demands of a cube to read it with the canonical spec of a run."""
    spec, canonical = CubeSpec.load(kind), CubeSpec.load("simulated_earth")
    shared = [m for m in spec.modalities if m in canonical.modalities]
    assert "s2" in shared and "s1" in shared
    for name in shared:
        ours, theirs = spec.modalities[name], canonical.modalities[name]
        for key in ("kind", "units", "scale", "offset", "dtype", "gsd_m"):
            assert getattr(ours, key) == getattr(theirs, key), (name, key)
        assert set(ours.band_names) & set(theirs.band_names)
        assert len(ours.mean) == len(ours.std) == len(ours.bands)
