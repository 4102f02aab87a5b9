"""From a run to module folders: complete, equal to the teacher, all or nothing, and frank about what never trained."""

from pathlib import Path
from typing import Any

import pytest
import torch

from skyframe.config.contract import Contract
from skyframe.config.skysense import SkySenseRecipe
from skyframe.data.datamodule import CubeDataModule
from skyframe.export import export_run, load_module
from skyframe.export import run as export_file
from skyframe.geography import RegionIndex
from skyframe.spec import InputError
from skyframe.system import SkySense
from skyframe.train.checkpoint import read_checkpoint
from skyframe.train.run import load_run, pretrain
from tests.system.batches import CROP_PX, SPEC, nano_recipe, random_batch, random_sample

MODULES = ["encoder_hr", "encoder_s1", "encoder_s2", "fusion", "geo_context", "model"]
FILES = ["README.md", "canary.safetensors", "contract.json", "model.safetensors"]


def loaded(run: Path) -> tuple[dict[str, Any], SkySenseRecipe]:
    recipe, checkpoint = load_run(run)
    return read_checkpoint(checkpoint), recipe


@pytest.fixture(scope="module")
def system(nano_run: Path) -> SkySense:
    """The system as training left it."""
    checkpoint, recipe = loaded(nano_run)
    data = CubeDataModule(recipe)
    made = SkySense(recipe, data.modalities, data.regions)
    made.load_state_dict({k.removeprefix("system."): v for k, v in checkpoint["state_dict"].items()})
    return made.eval()


def test_an_export_is_one_folder_per_module_and_nothing_else(exported):
    assert sorted(p.name for p in exported.iterdir()) == MODULES
    for folder in exported.iterdir():
        assert sorted(p.name for p in folder.iterdir()) == FILES
    assert not exported.with_name("nano.partial").exists()


def test_weights_that_come_out_are_the_teachers_bit_by_bit(exported, system):
    differs = 0
    for name, module in system.exports().items():
        out, own = load_module(exported / name).module.state_dict(), module.state_dict()
        assert out.keys() == own.keys() and own
        assert [k for k in own if not torch.equal(out[k], own[k])] == [], name
        differs += sum(not torch.equal(out[k], v) for k, v in system.student.state_dict().items() if k in out)
    assert differs > 0, "teacher and student are equal, so the test could not tell them apart"


def test_features_that_come_out_are_the_teachers_bit_by_bit(exported, system):
    batch = random_batch([random_sample(0, region=1), random_sample(1, ("s2",), region=0), random_sample(2, (), -1)])
    out, own = load_module(exported / "model").encode(batch), system.encode(batch)
    assert torch.equal(out.fused, own.fused) and torch.equal(out.pooled, own.pooled)
    assert out.fused.shape == (3, CROP_PX**2, load_module(exported / "model").contract.num_features)
    assert torch.equal(load_module(exported / "model").prototype_map(batch), system.teacher.prototype_map(batch))


@pytest.mark.parametrize("name", ["hr", "s2", "s1"])
def test_a_single_encoder_works_alone_and_takes_only_its_own_modality(exported, system, name):
    module = load_module(exported / f"encoder_{name}")
    batch = random_batch([random_sample(0), random_sample(1, ())], (name,))
    features = module.encode(batch)
    assert torch.equal(features.fused, system.teacher.encoders[name].encode(batch).fused)
    assert features.fused.shape == (2, CROP_PX**2, module.contract.num_features)
    assert features.fused[0].abs().sum() > 0 and not features.fused[1].any() and torch.isfinite(features.pooled).all()
    assert list(module.contract.modalities) == [name]
    other = "s1" if name != "s1" else "s2"
    with pytest.raises(InputError, match=rf"encoder_{name}: the batch has no '{name}', only {other}"):
        module.encode(random_batch([random_sample(0)], (other,)))


def test_parts_without_features_say_so(exported):
    batch = random_batch([random_sample(0)])
    with pytest.raises(InputError, match=r"fusion: has no features of its own, expected `model` or an `encoder_"):
        load_module(exported / "fusion").encode(batch)
    with pytest.raises(InputError, match=r"encoder_s2: has no prototypes, expected the `model` folder"):
        load_module(exported / "encoder_s2").prototype_map(batch)


def test_a_contract_holds_what_the_spec_and_the_recipe_said(exported, nano_run, system):
    contract = Contract.load(exported / "model")
    assert list(contract.modalities) == ["hr", "s2", "s1"]
    assert {n: m for n, m in contract.modalities.items()} == {n: SPEC.modalities[n] for n in contract.modalities}
    assert (contract.crop_px, contract.ratio, contract.frames) == (CROP_PX, 32, {"s2": 3, "s1": 2})
    assert contract.num_features == system.teacher.num_features
    assert RegionIndex.from_dict(contract.regions) == system.regions
    assert Contract.load(exported / "encoder_s1").frames == {"s1": 2}


def test_the_card_names_step_recipe_bands_and_units_and_has_no_warning(exported):
    card = (exported / "encoder_s1" / "README.md").read_text()
    assert card.startswith("# nano / encoder_s1\n") and "from step 2 of recipe `nano`" in card
    assert "| s1 | VV, VH | 10 m | dB (stored x 0.01 + 0) |" in card and "| s2 |" not in card
    assert "Never fed" not in card and 'load_module("encoder_s1")' in card


def test_an_encoder_that_no_sample_fed_is_named_on_every_card(optical_only, tmp_path):
    where = [f"data.cubes=[{optical_only}]", f"train.run_dir={tmp_path}", "name=blind", "train.max_steps=1"]
    checkpoint, recipe = loaded(pretrain(nano_recipe(*where), show=False))
    for folder in export_run(checkpoint, recipe, tmp_path / "out"):
        assert "**Never fed during pretraining: hr, s1.**" in (folder / "README.md").read_text(), folder


def test_a_run_without_a_term_on_the_fusion_says_so_on_every_card(optical_only, tmp_path):
    where = [f"data.cubes=[{optical_only}]", f"train.run_dir={tmp_path}", "name=blind", "train.max_steps=1"]
    checkpoint, recipe = loaded(pretrain(nano_recipe(*where, "loss.sources=[s2]"), show=False))
    for folder in export_run(checkpoint, recipe, tmp_path / "out"):
        assert "**Never fed during pretraining: hr, s1, fusion.**" in (folder / "README.md").read_text(), folder


def test_exporting_twice_gives_the_same_bytes(exported, nano_run, tmp_path):
    again = tmp_path / "again"
    export_run(*loaded(nano_run), again)
    for file in sorted(p.relative_to(exported) for p in exported.rglob("*") if p.is_file()):
        assert (again / file).read_bytes() == (exported / file).read_bytes(), file


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_stands_at_out_is_left_alone(nano_run, tmp_path, kind):
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
        (out / "mine.txt").write_text("keep")
    else:
        out.write_text("keep")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"out: exists already, expected a new folder; choose another name"):
        export_run(*loaded(nano_run), out)
    assert sorted(tmp_path.rglob("*")) == before
    assert (out / "mine.txt" if kind == "folder" else out).read_text() == "keep"


def test_an_export_that_fails_half_way_leaves_nothing(nano_run, tmp_path, monkeypatch):
    cards = []

    def full_disk(*args: Any) -> str:
        cards.append(args)
        if len(cards) == 3:
            raise OSError(28, "No space left on device")
        return "card"

    monkeypatch.setattr(export_file, "_card", full_disk)
    with pytest.raises(OSError, match="No space left"):
        export_run(*loaded(nano_run), tmp_path / "deep" / "out")
    assert len(cards) == 3 and list(tmp_path.rglob("out*")) == []


def test_a_checkpoint_of_another_recipe_is_refused_and_nothing_is_written(nano_run, tmp_path):
    checkpoint, _ = loaded(nano_run)
    with pytest.raises(InputError, match=r"checkpoint: does not fit the recipe .*; use the run's own recipe.yaml"):
        export_run(checkpoint, nano_recipe("model.fusion.embed_dims=64"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_geo_context_has_no_such_folder(earth, tmp_path):
    where = [f"data.cubes=[{earth}/a]", f"train.run_dir={tmp_path}", "name=plain", "train.max_steps=1"]
    run = pretrain(nano_recipe(*where, "data.modalities=[s2,s1]", "model.geo.enabled=false"), show=False)
    folders = export_run(*loaded(run), tmp_path / "out")
    assert sorted(f.name for f in folders) == ["encoder_s1", "encoder_s2", "fusion", "model"]
    module = load_module(tmp_path / "out" / "model")
    assert module.contract.ratio == 0
    with pytest.raises(InputError, match="trained without geo-context"):
        module.prototype_map(random_batch([random_sample(0)], ("s2", "s1")))
