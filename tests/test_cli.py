"""The command line: instant help, and wrong input as one sentence with exit code 2 and nothing half-written."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from skyframe.cli import main
from skyframe.spec import CubeSpec
from skyframe.train.checkpoint import latest
from tests.data.cubes import tiny_cube
from tests.data.ingest.archive import WRONG_SEARCHES
from tests.data.ingest.sources import (
    signed,
    treesatai_series,
    worldcereal_variables,
    write_hdf5,
    write_netcdf,
    write_picture,
)
from tests.system.batches import NANO
from tests.wrong_catalogues import WRONG_CATALOGUES
from tests.wrong_files import WRONG_FILES
from tests.wrong_stores import WRONG_STORES

HEAVY = ("torch", "pytorch_lightning", "xarray", "zarr", "deepspeed", "matplotlib", "sklearn", "pyarrow", "pandas")
MONTHS = ("2021-01-01", "2021-02-01", "2021-03-01")


@dataclass(frozen=True)
class Place:
    """A working folder for one wrong input, and things made well beforehand."""

    here: Path
    earth: Path
    run: Path
    exported: Path

    def pretrain(self, *more: str, cubes: str | None = None) -> list[str]:
        """Words that would train for two steps if nothing were wrong."""
        (self.here / "runs").mkdir(exist_ok=True)
        cubes = cubes or f"{self.earth}/a,{self.earth}/b"
        where = [f"data.cubes=[{cubes}]", f"train.run_dir={self.here}/runs", "name=bad"]
        return ["pretrain", "skysense_demo", *NANO, *where, "train.max_steps=2", *more]

    def cube(self) -> Path:
        """A cube of one's own to damage."""
        return Path(shutil.copytree(self.earth / "a", self.here / "cube"))

    def damaged(self, name: str, change: Callable[[bytes], bytes] | None) -> str:
        """A cube the largest shard of whose array is changed, or gone."""
        cube = self.cube()
        shard = max((p for p in (cube / name / "c").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        shard.unlink() if change is None else edit(shard, change)
        return str(cube)

    def worldcereal(self, dates=MONTHS, crs="EPSG:32631", drop=(), **changes) -> list[str]:
        """Words that ingest a small file with some variables replaced or left out."""
        variables = worldcereal_variables(dates=len(dates)) | changes
        kept = {name: values for name, values in variables.items() if name not in drop}
        return ["ingest", "worldcereal", str(write_netcdf(self.here / "a.nc", kept, dates, crs)), "out.zarr"]

    def copied_run(self) -> Path:
        """A finished run of one's own to damage."""
        return Path(shutil.copytree(self.run, self.here / "runs" / "bad"))

    def copied_encoder(self) -> Path:
        """An exported encoder of one's own to damage."""
        return Path(shutil.copytree(self.exported / "encoder_s2", self.here / "encoder_s2"))


def edit(path: Path, change: Callable[[bytes], bytes]) -> Path:
    """Rewrite a file."""
    path.write_bytes(change(path.read_bytes()))
    return path


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    """One bit of every 500th byte, so that every chunk of a shard is hit."""
    return bytes(b ^ (i % 500 == 0) for i, b in enumerate(content))


def future_checkpoint(place: Place) -> list[str]:
    run = place.copied_run()
    path = latest(run / "checkpoints") / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    return ["export", str(run), "out"]


def damaged_checkpoint(place: Place) -> list[str]:
    run = place.copied_run()
    edit(latest(run / "checkpoints") / "rank_00000.safetensors", half)
    return ["export", str(run), "out"]


def missing_shard(place: Place) -> list[str]:
    return place.pretrain("data.workers=1", cubes=place.damaged("s2/values", None))


def gfmap_pair(place: Place) -> list[str]:
    shape = (2, 4, 4)
    bands = (*CubeSpec.load("gfmap").modalities["s2"].band_names, "SCL", "AOT")
    optical = {f"S2-L2A-{b}": signed(np.full(shape, 4 if b == "SCL" else 900)) for b in bands}
    radar = {f"S1-SIGMA0-{b}": signed(np.full(shape, 3000)) for b in ("VV", "VH")}
    write_netcdf(place.here / "s2.nc", optical, MONTHS[:2], "EPSG:32631")
    write_netcdf(place.here / "s1.nc", radar, MONTHS[:2], "EPSG:32632")
    return ["ingest", "gfmap", "s2.nc", "s1.nc", "out.zarr"]


def triple_with_three_bands(place: Place) -> list[str]:
    stem = "Abies_alba_1_1_WEFL_NLF"
    write_hdf5(place.here / f"{stem}.h5", treesatai_series())
    write_picture(place.here / f"{stem}.tif", np.full((3, 304, 304), 90, np.uint8))
    return ["ingest", "treesatai", f"{stem}.h5", f"{stem}.tif", "out.zarr"]


def all_nodata(place: Place) -> list[str]:
    lost = signed(np.full((3, 4, 4), 65535))
    return place.worldcereal(**{"S1-SIGMA0-VV": lost, "S1-SIGMA0-VH": lost})


def lfs_pointer(place: Place) -> list[str]:
    (place.here / "a.nc").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    return ["ingest", "worldcereal", "a.nc", "out.zarr"]


def unfinished_cube(place: Place) -> list[str]:
    place.cube().rename(place.here / "c.zarr.partial")
    return ["inspect", "c.zarr"]


def run_that_is_there(place: Place) -> list[str]:
    words = place.pretrain()
    place.copied_run()
    return words


def run_without_checkpoint(place: Place) -> list[str]:
    run = place.copied_run()
    shutil.rmtree(run / "checkpoints")
    return ["export", str(run), "out"]


def report(place: Place, run: Path, scene: str, results: str = "results.csv") -> list[str]:
    (place.here / "results.csv").write_text("")
    return ["report", str(run), "--encoder", f"{place.exported}/model", "--scene", scene, "--results", results]


def run_folder_of_something_else(place: Place) -> list[str]:
    words = place.pretrain()
    (place.here / "runs" / "bad").mkdir()
    (place.here / "runs" / "bad" / "thesis.txt").write_text("keep")
    return words


def out_of_place(place: Place) -> list[str]:
    (place.here / "out").mkdir()
    return ["export", str(place.run), "out"]


def suite(place: Place, *more: str, encoder: Path | str | None = None, name: str = "quick") -> list[str]:
    data = [f"data.simulated.{part}=[{place.earth}/{cube}]" for part, cube in (("train", "a"), ("test", "b"))]
    return ["evaluate", name, str(encoder or place.exported / "model"), *data, *more]


FEW = ("data.simulated.train_windows=8", "data.simulated.val_windows=8", "data.simulated.test_windows=8")


def sized(place: Place, extent: str) -> list[str]:
    return ["simulate", "new", "--extent", extent]


Wrong = tuple[str, Callable[[Place], list[str]], str]
WRONG: list[Wrong] = [
    *WRONG_FILES,
    # recipes
    ("typo in a recipe key", lambda p: p.pretrain("train.max_step=5"), "did you mean 'max_steps'?"),
    ("wrong type", lambda p: p.pretrain("data.frames.s2=many"), "data.frames.s2: expected int, got 'many'"),
    ("number out of range", lambda p: p.pretrain("optim.lr=-1"), "optim.lr is -1.0, expected a positive number"),
    ("override without =", lambda p: p.pretrain("train.max_steps"), "'train.max_steps' has no '='"),
    ("override that is no YAML", lambda p: p.pretrain("data.frames={s2: [1"), "cannot be applied"),
    ("unknown recipe", lambda p: ["pretrain", "skysense_dmo"], "did you mean 'skysense_demo'?"),
    ("unknown modality", lambda p: p.pretrain("data.modalities=[s2,radar]"), "modality 'radar' has no encoder"),
    ("unknown spec", lambda p: p.pretrain("data.spec=moon"), "data_specs: no file 'moon'"),
    ("heads that do not divide", lambda p: p.pretrain("model.fusion.num_heads=7"), "is not a multiple of 7 heads"),
    ("no cubes match", lambda p: p.pretrain(cubes="nowhere/*"), "data.cubes: nothing at 'nowhere/*'"),
    ("cube that is not there", lambda p: p.pretrain(cubes="nowhere"), "nowhere: no such cube"),
    ("cube kept for scoring", lambda p: p.pretrain(cubes=str(p.cube().rename(p.here / "test_x"))), "are held out"),
    *WRONG_CATALOGUES,
    ("window larger than the cubes", lambda p: p.pretrain("data.window_px=128"), "no window of 1280 m fits"),
    ("more samples than windows", lambda p: p.pretrain("train.global_batch=4096"), "expected at least 4096"),
    ("resume that is neither", lambda p: p.pretrain("resume=maybe"), "'maybe' is not one of 'no', 'auto'"),
    ("run that is there", run_that_is_there, "a run of this name is there already; add resume=auto"),
    ("run folder of something else", run_folder_of_something_else, "holds no recipe.yaml, so it is no run"),
    ("resume of another recipe", lambda p: [*run_that_is_there(p), "seed=9", "resume=auto"], "with another recipe"),
    # stores
    (
        "truncated manifest",
        lambda p: ["inspect", str(edit(p.cube() / "manifest.json", half).parent)],
        "manifest.json is truncated or altered",
    ),
    ("lost chunks", lambda p: ["verify", p.damaged("s2/values", None)], "1 damages, named above, expected none"),
    (
        "future cube format",
        lambda p: [
            "inspect",
            str(edit(p.cube() / "manifest.json", lambda b: b.replace(b'"skyframe": 1', b'"skyframe": 9')).parent),
        ],
        "the cube has format 9",
    ),
    ("unfinished cube", unfinished_cube, "the cube was never finished; run the ingest again"),
    (
        "truncated shard",
        lambda p: p.pretrain(cubes=p.damaged("s2/values", half)),
        "s2/values",
    ),
    (
        "flipped bits in a shard",
        lambda p: p.pretrain(cubes=p.damaged("s1/values", flip)),
        "s1/values",
    ),
    ("missing shard, read by a worker", missing_shard, "s2/values"),
    *WRONG_STORES,
    ("cube of other units", lambda p: p.pretrain(cubes=str(tiny_cube(p.here / "tiny.zarr").path)), "the spec expects"),
    # sources
    ("unknown source kind", lambda p: ["ingest", "worldcerael", "a.nc", "out"], "did you mean 'worldcereal'"),
    ("source that is not there", lambda p: ["ingest", "worldcereal", "a.nc", "out"], "a.nc: no such file"),
    ("missing variable", lambda p: p.worldcereal(drop=("S2-L2A-B08",)), "S2-L2A-B08"),
    ("zero-length dates", lambda p: p.worldcereal(dates=()), "no dates"),
    ("degrees in place of metres", lambda p: p.worldcereal(crs="EPSG:4326"), "EPSG:4326"),
    ("all-nodata source", all_nodata, "s1 has no data, all 48 pixels in 3 dates are missing"),
    ("truncated source", lambda p: [*p.worldcereal()[:2], str(edit(p.here / "a.nc", half)), "out"], "a.nc"),
    ("git-lfs pointer", lfs_pointer, "is a git-lfs or git-annex pointer file"),
    ("pair in two CRS", gfmap_pair, "has crs EPSG:32632, expected EPSG:32631"),
    ("wrong band count", triple_with_three_bands, "3 bands"),
    ("unknown source spec", lambda p: [*p.worldcereal(), "--spec", "moon"], "data_specs: no file 'moon'"),
    ("ingest onto a cube", lambda p: [*p.worldcereal()[:-1], str(p.cube())], "already exists, expected a new path"),
    *WRONG_SEARCHES,
    # simulation
    ("extent that is none", lambda p: sized(p, "ten"), "--extent: got 'ten', expected two numbers such as 10x10"),
    ("extent without size", lambda p: sized(p, "0x1"), "expected at least 10 m a side"),
    ("extent that is no number", lambda p: sized(p, "nanx1"), "--extent: got 'nanx1', expected two numbers"),
    ("unknown climate", lambda p: ["simulate", "new", "--climate", "oceanik"], "did you mean 'oceanic'?"),
    ("share above 1", lambda p: ["simulate", "new", "--hr-share", "2"], "expected a share between 0 and 1"),
    ("simulation onto a cube", lambda p: ["simulate", str(p.cube()), "--extent", "0.64x0.64"], "already exists"),
    # exports, scores, reports
    ("export target that is there", out_of_place, "out: exists already, expected a new folder"),
    ("export of no run", lambda p: ["export", str(p.earth), "out"], "no recipe.yaml, expected a run folder"),
    ("export of a run without checkpoint", run_without_checkpoint, "no checkpoint yet"),
    ("future checkpoint format", future_checkpoint, "checkpoint format 99, expected 2; upgrade skyframe-eo"),
    ("damaged checkpoint", damaged_checkpoint, "write the name of another step_* folder"),
    ("unknown suite", lambda p: suite(p, name="quik"), "did you mean 'quick'?"),
    ("typo in a suite key", lambda p: suite(p, "knn.kk=3"), "unknown key 'kk'"),
    ("encoder folder that is none", lambda p: suite(p, encoder=p.earth), "no contract.json, expected a folder"),
    (
        "future contract format",
        lambda p: suite(
            p,
            encoder=edit(
                p.copied_encoder() / "contract.json", lambda b: json.dumps({**json.loads(b), "format": 9}).encode()
            ).parent,
        ),
        "contract format 9, expected 1",
    ),
    (
        "changed weights",
        lambda p: suite(p, encoder=edit(p.copied_encoder() / "model.safetensors", flip).parent),
        "checksum differs",
    ),
    (
        "scores of a part without features",
        lambda p: suite(p, *FEW, encoder=p.exported / "fusion"),
        "fusion: has no features of its own",
    ),
    ("scores on cubes that are not there", lambda p: suite(p, "data.simulated.test=[nowhere]"), "nowhere"),
    ("report without metrics", lambda p: report(p, p.earth, f"{p.earth}/a"), "no metrics.jsonl, expected a run folder"),
    ("report of half a scene", lambda p: ["report", str(p.run), "--scene", "x"], "--encoder and --scene go together"),
    ("report without a scene", lambda p: report(p, p.run, "nowhere")[:-2], "nowhere: no such cube"),
    ("report without results", lambda p: report(p, p.run, f"{p.earth}/a", "none.csv"), "none.csv: no such file"),
    # the command line itself
    ("unknown command", lambda p: ["pretain"], "No such command 'pretain'"),
    ("unknown option", lambda p: ["simulate", "new", "--extend", "1x1"], "No such option '--extend'"),
    ("missing argument", lambda p: ["export", "run"], "Missing argument 'OUT'; see `skyframe export --help`"),
    ("option of the wrong type", lambda p: ["simulate", "new", "--seed", "abc"], "'abc' is not a valid integer"),
    (
        "picture into no folder",
        lambda p: ["inspect", f"{p.earth}/a", "--picture", "nowhere/a.png"],
        "nowhere/a.png: No such file or directory",
    ),
]


@pytest.fixture
def place(tmp_path, earth, nano_run, exported, monkeypatch) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, earth, nano_run, exported)


def listing(place: Place) -> dict[str, tuple[int, int] | None]:
    """Every folder there is, and every file with its size and time of change."""
    roots = (place.here, place.earth, place.run.parent, place.exported.parent)
    found = (p for root in roots for p in root.rglob("*"))
    return {str(p): None if p.is_dir() else (p.stat().st_size, p.stat().st_mtime_ns) for p in found}


@pytest.mark.parametrize(("words", "sentence"), [w[1:] for w in WRONG], ids=[w[0].replace(" ", "_") for w in WRONG])
def test_wrong_input_is_one_sentence_and_leaves_no_trace(place, words, sentence, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["skyframe", *words(place)])
    before = listing(place)
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    stderr = capfd.readouterr().err
    assert ended.value.code == 2, stderr
    assert stderr.startswith("error: ") and stderr.count("\n") == 1, stderr
    assert sentence in stderr
    after = listing(place)
    assert after.keys() == before.keys()
    assert after == before


def test_the_table_holds_enough_and_no_case_twice():
    assert len(WRONG) >= 40 and len({name for name, _, _ in WRONG}) == len(WRONG)


def start(*words: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "skyframe", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)


@pytest.mark.parametrize("name", ["missing shard, read by a worker", "encoder folder that is none", "pair in two CRS"])
def test_a_real_process_says_the_same(place, name):
    words, sentence = next((words, sentence) for case, words, sentence in WRONG if case == name)
    given = words(place)
    before = listing(place)
    done = start(*given)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert sentence in done.stderr and listing(place) == before


def test_a_refused_name_is_free_for_the_corrected_run(place, monkeypatch):
    """The run folder of a run that never took a step does not stand in the way."""
    words = missing_shard(place)
    monkeypatch.setattr(sys, "argv", ["skyframe", *words])
    with pytest.raises(SystemExit):
        main()
    monkeypatch.setattr(sys, "argv", ["skyframe", *place.pretrain()])
    main()
    assert (place.here / "runs" / "bad" / "checkpoints" / "LATEST").is_file()


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["pretrain", "--help"],
        ["simulate", "--help"],
        ["plan", "--help"],
        ["catalogue", "--help"],
        ["data-check", "--help"],
        ["report", "--help"],
        ["--version"],
    ],
)
def test_help_loads_nothing_heavy(words):
    code = (
        f"import sys; sys.argv=['skyframe', *{words!r}]\n"
        "from skyframe.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print(','.join(m for m in {HEAVY!r} if m in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "" and done.stdout


def test_a_recipe_mistake_needs_no_torch():
    code = (
        "import sys; sys.argv=['skyframe','pretrain','skysense_demo','train.max_step=1']\n"
        "from skyframe.cli import main\n"
        "try: main()\n"
        "except SystemExit as e: print(e.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 False"
    assert done.stderr.count("\n") == 1 and "did you mean 'max_steps'?" in done.stderr
