"""Recipes: strict YAML over dataclasses. `load_recipe` reads `system:` first and picks the schema from `SCHEMAS`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from skyframe.config.recipe import Recipe
from skyframe.config.skysense import PRESETS as SKYSENSE_PRESETS
from skyframe.config.skysense import SkySenseRecipe
from skyframe.spec import InputError, build, did_you_mean, find_yaml, load_yaml, plain

SCHEMAS: dict[str, type[SkySenseRecipe]] = {"skysense": SkySenseRecipe}
"""System name -> recipe schema; the same keys as `system.SYSTEMS`."""

PRESETS = {"skysense": SKYSENSE_PRESETS}
"""System name -> model presets: what `model.preset` fills in where a recipe says nothing."""

__all__ = ["PRESETS", "SCHEMAS", "Recipe", "dump_recipe", "load_recipe", "overlay", "read_tree", "recipe_from_tree"]


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> SkySenseRecipe:
    """Read a recipe, overlay it on its `base:`, apply `key=value` overrides and check every field.

    Raises:
        InputError: file, key, type or rule, of the recipe or of the suite that scores it; one sentence that names the
            place.
    """
    tree = read_tree("recipes", name_or_path)
    where = Path(str(name_or_path)).name
    recipe = recipe_from_tree(overlay(tree, overrides, where), where)
    if recipe.train.evaluate.every:
        from skyframe.config.evaluate import load_suite  # which imports this file

        load_suite(recipe.train.evaluate.suite, recipe.train.evaluate.overrides)
    return recipe


def recipe_from_tree(tree: Any, where: str) -> SkySenseRecipe:
    """Check plain values against the schema of their system."""
    if not isinstance(tree, Mapping):
        raise InputError(f"{where}: expected a mapping of keys, got {type(tree).__name__}")
    system = tree.get("system")
    if system not in SCHEMAS:
        raise InputError(
            f"{where}: system {system!r} is not one of {', '.join(SCHEMAS)}{did_you_mean(str(system), SCHEMAS)}"
        )
    model = tree.get("model")
    if isinstance(model, Mapping):
        preset = model.get("preset")
        presets = PRESETS[system]
        if preset not in presets:
            raise InputError(
                f"{where}: model.preset {preset!r} is not one of "
                f"{', '.join(presets)}{did_you_mean(str(preset), presets)}"
            )
        tree = {**tree, "model": merge(presets[preset], model)}
    recipe: SkySenseRecipe = build(SCHEMAS[system], tree, where)
    recipe.check(where)
    return recipe


def read_tree(folder: str, name_or_path: str | Path) -> dict[str, Any]:
    """A YAML file as plain values, overlaid on the parent that its `base:` names (beside it, or shipped)."""
    chain: list[Path] = []
    trees: list[dict[str, Any]] = []
    wanted: str | Path | None = name_or_path
    while wanted is not None:
        path = find_yaml(folder, str(wanted))
        if path in chain:
            raise InputError(
                f"{path.name}: is its own base by way of {', '.join(p.name for p in chain)}; remove one base:"
            )
        tree = load_yaml(path)
        if not isinstance(tree, dict):
            raise InputError(f"{path.name}: expected a mapping of keys, got {type(tree).__name__}")
        chain.append(path)
        wanted = tree.pop("base", None)
        if wanted is not None and (path.parent / str(wanted)).is_file():
            wanted = path.parent / str(wanted)
        trees.append(tree)
    merged: dict[str, Any] = {}
    for tree in reversed(trees):
        merged = merge(merged, tree)
    return merged


def overlay(tree: dict[str, Any], overrides: Sequence[str], where: str) -> dict[str, Any]:
    """Apply `dotted.key=value` overrides to plain values; values are read as YAML, so `[a, b]` is a list.

    Raises:
        InputError: an override that is not key=value, or that does not fit the values there.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    merged = OmegaConf.create(tree)
    for item in overrides:
        if "=" not in item:
            raise InputError(f"{where}: override {item!r} has no '=', expected key=value such as train.max_steps=100")
        try:
            merged.merge_with_dotlist([item])
        except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"{where}: override {item!r} cannot be applied ({reason}); check key and value") from error
    try:
        plain = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise InputError(f"{where}: {str(error).splitlines()[0]}; write $ as a plain value without braces") from error
    assert isinstance(plain, dict)
    return {str(k): v for k, v in plain.items()}


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML, saved with the run and never changed after."""
    return yaml.safe_dump(plain(dataclasses.asdict(recipe)), sort_keys=False)


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of `top` over those of `base`, mappings key by key."""
    merged = dict(base)
    for key, value in top.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
