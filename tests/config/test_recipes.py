"""Recipes: every shipped one loads, presets fill in, and each kind of mistake is one clear sentence."""

from pathlib import Path

import pytest
import yaml

from skyframe.config import PRESETS, dump_recipe, load_recipe, overlay, recipe_from_tree
from skyframe.spec import InputError

RECIPES = sorted(Path("recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_loads_and_opens_with_a_letter(path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    head = path.read_text().split("system:")[0].split("base:")[0]
    assert "paper" in head and "command" in head


def test_the_resolved_recipe_loads_to_itself():
    recipe = load_recipe("skysense_demo", ["seed=3"])
    again = recipe_from_tree(yaml.safe_load(dump_recipe(recipe)), "saved")
    assert again == recipe and again.seed == 3


def test_preset_fills_and_the_recipe_wins():
    recipe = load_recipe("skysense_demo", ["model.preset=nano", "model.fusion.num_layers=5"])
    assert recipe.model.fusion.num_layers == 5
    assert recipe.model.aligned_dims == PRESETS["skysense"]["nano"]["aligned_dims"] == 64


def test_base_overlays_parent_lists_are_replaced():
    assert load_recipe("skysense_s2s1").data.modalities == ("s2", "s1")
    assert load_recipe("skysense_s2s1").loss == load_recipe("skysense_demo").loss


def test_paper_recipe_holds_the_sheets_integers():
    recipe = load_recipe("skysense_paper")
    hr, s2 = recipe.model.encoders["hr"], recipe.model.encoders["s2"]
    assert (hr.embed_dims, hr.depths, hr.num_heads) == (352, (2, 2, 18, 2), (8, 16, 32, 64))
    assert (s2.embed_dims, s2.depths, s2.num_heads, s2.patch_px) == (1024, (24,), (16,), 4)
    assert recipe.train.global_batch == 240 and recipe.train.max_steps == 875_000
    assert recipe.data.regions.num_regions == 4096 and recipe.model.geo.num_prototypes == 100


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.max_step=5", "unknown key 'max_step'; did you mean 'max_steps'?"),
        ("sytem=x", "unknown key 'sytem'; did you mean 'system'?"),
        ("model.preset=tinny", "did you mean 'tiny'?"),
        ("data.frames.s2=many", "data.frames.s2: expected int, got 'many'"),
        ("loss.cl=simclr", "'simclr' is not one of 'dino', 'infonce'"),
        ("train.global_batch=15", None),
        ("train.global_batch=0", "train.global_batch is 0, expected at least 1"),
        ("data.frames.s2=0", "data.frames.s2 is 0, expected at least 1"),
        ("data.cubes=[]", "data.cubes is empty"),
        ("data.modalities=[]", "data.modalities is empty"),
        ("views.crop_px=999", "views.crop_px 999 is larger than data.window_px"),
        ("loss.granularity=[pixel]", "loss.granularity ['pixel']"),
        ("loss.sources=[s3]", "loss.sources ['s3']"),
        ("optim.lr=-1", "optim.lr is -1.0, expected a positive number"),
        ("train.max_steps", "has no '=', expected key=value"),
        ("data.modalities=[s2,radar]", "modality 'radar' has no encoder"),
        ("train.devices=7", "is not a multiple of 7 ranks"),
    ],
)
def test_mistakes_are_one_sentence(override, sentence):
    if sentence is None:
        assert load_recipe("skysense_demo", [override]).train.global_batch == 15
        return
    with pytest.raises(InputError) as error:
        load_recipe("skysense_demo", [override])
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_recipe_names_the_shipped_ones():
    with pytest.raises(InputError, match=r"no file 'skysense_dmo'.*did you mean 'skysense_demo'"):
        load_recipe("skysense_dmo")


def test_broken_yaml_and_wrong_system(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("system: [skysense\n")
    with pytest.raises(InputError, match="not valid YAML"):
        load_recipe(bad)
    bad.write_text("system: skysence\n")
    with pytest.raises(InputError, match=r"system 'skysence' is not one of skysense; did you mean 'skysense'"):
        load_recipe(bad)


def test_a_recipe_may_stand_on_a_parent_beside_it_but_not_on_itself(tmp_path):
    (tmp_path / "a.yaml").write_text("base: b.yaml\nname: a\ntrain: {max_steps: 7}\n")
    (tmp_path / "b.yaml").write_text("base: skysense_demo.yaml\nname: b\noptim: {warmup_steps: 3}\n")
    recipe = load_recipe(tmp_path / "a.yaml")
    assert (recipe.name, recipe.train.max_steps, recipe.optim.warmup_steps) == ("a", 7, 3)
    assert recipe.model.preset == load_recipe("skysense_demo").model.preset
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(InputError, match=r"a.yaml: is its own base by way of a.yaml, b.yaml; remove one base:"):
        load_recipe(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"b.yaml: not valid YAML"):
        load_recipe(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a=[1", r"override 'a=\[1' cannot be applied \(while parsing a flow sequence\)"),
        ("a.c.x=3", r"override 'a.c.x=3' cannot be applied"),
        ("a.b=${nowhere}", r"Interpolation key 'nowhere' not found; write \$ as a plain value"),
    ],
)
def test_overrides_that_cannot_be_applied_are_one_sentence(override, message):
    with pytest.raises(InputError, match=message) as error:
        overlay({"a": {"b": 1, "c": [1, 2]}}, [override], "x")
    assert "\n" not in str(error.value)


def test_overlay_reads_yaml_values():
    tree = overlay({"a": {"b": 1, "c": [1, 2]}}, ["a.b=1e-3", "a.c=[7]", "a.d=true"], "x")
    assert tree == {"a": {"b": 0.001, "c": [7], "d": True}}
