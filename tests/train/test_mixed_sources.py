"""Training on cubes of three makers side by side: other bands, other dates and missing modalities in one batch."""

import math

import torch

from skyframe.config import load_recipe
from skyframe.data.cube import open_cube
from skyframe.data.datamodule import CubeDataModule
from skyframe.data.ingest import ingest
from skyframe.data.views import make_views
from skyframe.sample import Batch
from skyframe.train.module import PretrainModule
from skyframe.train.progress import read_metrics
from skyframe.train.run import pretrain
from tests.data.ingest.sources import MONTHS, worldcereal_variables, write_netcdf, write_treesatai
from tests.train.runs import watch_batches, weights

SIZE = ("model.preset=nano", "data.frames={s2: 3, s1: 2}", "data.stride_px=40", "loss.num_centres=2")
RUN = ("train.max_steps=2", "train.global_batch=6", "train.log_every=1")


def cubes_of_three_makers(earth, folder):
    """A simulated cube, a strip of series without imagery and without B8A, and a 60 m triple; 8 + 3 + 1 windows."""
    sources = folder / "sources"
    sources.mkdir()
    series = write_netcdf(sources / "a.nc", worldcereal_variables(12, 100), MONTHS)
    strip = ingest("worldcereal", series, folder / "worldcereal")
    triple = ingest("treesatai", write_treesatai(sources)[0], folder / "treesatai")
    assert not open_cube(strip).has("hr") and len(open_cube(triple).spec.modality("hr").bands) == 4
    return [earth / "a", strip, triple]


def check_what_a_view_holds(view: Batch, i: int, cube: str) -> None:
    """Sample `i` of a batch: the simulated cube may be cloudy, and only half of it has imagery."""
    bands = {name: s.bands[i].tolist() for name, s in view.series.items()}
    valid = {name for name, s in view.series.items() if s.valid[i].any()}
    assert bands["s2"] == [True] * 7 + [cube != "worldcereal"] + [True] * 2, "B8A is the eighth"
    if cube == "worldcereal":
        assert valid == {"s2", "s1"} and bands["hr"] == [False] * 3
    if cube == "treesatai":
        assert valid == {"hr", "s2", "s1"} and bands["hr"] == [True] * 3, "its near infrared is left out"


def test_the_mixed_recipe_trains_on_every_window_of_every_cube(earth, tmp_path, monkeypatch):
    cubes = cubes_of_three_makers(earth, tmp_path)
    where = [f"data.cubes=[{','.join(map(str, cubes))}]", f"train.run_dir={tmp_path / 'runs'}"]
    recipe = load_recipe("skysense_mixed", [*SIZE, *RUN, *where])
    data = CubeDataModule(recipe)
    at = [data.plan.at(0, position) for position in range(len(data.plan))]
    cube_of = {index: window.cube for window, index in at}
    begun = PretrainModule(recipe, data.modalities, data.regions).system.student.geo.bank
    passes = watch_batches(monkeypatch)
    run = pretrain(recipe, show=False)

    seen = []
    for windows in passes:
        student, teacher = make_views(windows, recipe.views, recipe.data.window_px, recipe.seed)
        for i, index in enumerate(student.index.tolist()):
            seen.append((cube_of[index], index))
            check_what_a_view_holds(student, i, cube_of[index])
            check_what_a_view_holds(teacher, i, cube_of[index])
    assert len(set(seen)) == len(seen) == 12
    assert [sum(name == cube for cube, _ in seen) for name in ("a", "worldcereal", "treesatai")] == [8, 3, 1]
    assert any(len({cube_of[i] for i in windows.index.tolist()}) > 1 for windows in passes)

    rows = read_metrics(run)
    assert [r["step"] for r in rows] == [1, 2] and all(math.isfinite(v) for r in rows for v in r.values())
    assert all(r["loss/fused/img"] > 0 for r in rows)
    stored = weights(run)
    assert all(torch.isfinite(v).all() for v in stored.values())
    moved = (stored["system.student.geo.bank"] != begun).any(-1).all(-1)
    visited = torch.cat([windows.region for windows in passes]).unique()
    assert len(visited) > 1 and moved.nonzero().flatten().tolist() == visited.tolist()
    assert stored["system.fed"].tolist() == [1, 1, 1]
