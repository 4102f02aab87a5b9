"""Every number of a recipe has a rule, and a number outside of it is one sentence."""

import pytest

from skyframe.config import load_recipe
from skyframe.config.ranges import RULES, numbers
from skyframe.spec import InputError


def test_every_number_of_a_recipe_but_the_seed_has_a_rule_and_no_rule_is_without_a_number():
    recipes = [load_recipe("skysense_demo", ["data.cache={path: c, max_gb: 1}"]), load_recipe("skysense_catalogue")]
    patterns = {pattern for recipe in recipes for pattern, _, _ in numbers(recipe)}
    assert patterns - {"seed"} == RULES.keys()


def test_keys_are_the_ones_that_a_user_types():
    found = {key: value for _, key, value in numbers(load_recipe("skysense_demo", ["data.frames={s2: 5}"]))}
    assert found["data.frames.s2"] == 5 and found["optim.betas[1]"] == 0.999
    assert found["model.encoders.hr.depths[2]"] == 2 and "loss.symmetric" not in found


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.devices=0", "skysense_demo: train.devices is 0, expected at least 1"),
        ("data.workers=-1", "data.workers is -1, expected 0 or more"),
        ("loss.student_temp=0", "loss.student_temp is 0.0, expected a positive number"),
        ("views.drop_frames=1", "views.drop_frames is 1.0, expected at least 0 and below 1"),
        ("loss.ema_end=1.1", "loss.ema_end is 1.1, expected a share from 0 to 1"),
        ("loss.alpha=.nan", "loss.alpha is nan, expected 0 or more"),
        ("optim.lr=inf", "optim.lr is inf, expected a positive number"),
        ("optim.betas=[0.9, 1.5]", "optim.betas[1] is 1.5, expected at least 0 and below 1"),
        ("optim.betas=[0.9]", "optim.betas is [0.9], expected two numbers"),
        ("model.encoders.s2.patch_px=0", "model.encoders.s2.patch_px is 0, expected at least 1"),
        ("name=a/b", "name is 'a/b', expected a plain folder name"),
        ("name=..", "name is '..', expected a plain folder name"),
        ("name=''", "name is '', expected a plain folder name"),
    ],
)
def test_numbers_out_of_range_are_one_sentence(override, sentence):
    with pytest.raises(InputError) as error:
        load_recipe("skysense_demo", [override])
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_borders_belong_to_the_range():
    edges = ["loss.ema_end=1", "views.drop_frames=0", "train.threads=0", "model.geo.momentum=0", "loss.beta=0"]
    assert load_recipe("skysense_demo", edges).loss.ema_end == 1.0


def test_a_local_crop_must_fit_only_where_there_is_one():
    assert load_recipe("skysense_demo", ["views.crop_px=2", "views.local_px=4"]).views.crop_px == 2
    with pytest.raises(InputError, match=r"views.local_px 4 is larger than views.crop_px 2"):
        load_recipe("skysense_demo", ["views.crop_px=2", "views.local_px=4", "views.local_crops=1", "loss.sources=[]"])


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["loss.alpha=0", "loss.beta=0"], "leave no term, expected at least one"),
        (["loss.alpha=0", "data.modalities=[s2]"], "loss.beta 0.1 with 1 modalities leave no term"),
        (["loss.granularity=[]", "loss.beta=0"], "with granularity [] and loss.beta 0 with 3 modalities leave no term"),
        (["model.dates=[s2, s3]"], "model.dates ['s2', 's3'], expected some of ['hr', 's1', 's2']"),
    ],
)
def test_rules_between_fields_are_one_sentence(overrides, sentence):
    with pytest.raises(InputError) as error:
        load_recipe("skysense_demo", overrides)
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "reached"),
    [([], True), (["loss.sources=[]"], True), (["loss.sources=[s2]"], False), (["loss.alpha=0"], False)],
)
def test_whether_a_term_reaches_the_fusion(overrides, reached):
    assert load_recipe("skysense_demo", overrides).teaches_fusion is reached
