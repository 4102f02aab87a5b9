"""Loading an exported folder is strict: whatever was changed, cut off or left out is one sentence."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import skyframe
from skyframe.export import load_module, random_copy
from skyframe.export.folder import file_sha256
from skyframe.spec import InputError
from tests.system.batches import random_batch, random_sample


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy of the Sentinel-1 encoder to alter."""
    return Path(shutil.copytree(exported / "encoder_s1", tmp_path / "encoder_s1"))


def edit(folder: Path, **changes: Any) -> None:
    """Change entries of contract.json."""
    path = folder / "contract.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """Other weights under a contract that vouches for them."""
    save_file(weights, folder / "model.safetensors")
    edit(folder, weights_sha256=file_sha256(folder / "model.safetensors"))


@pytest.mark.parametrize("name", ["model", "encoder_hr", "encoder_s2", "encoder_s1", "fusion", "geo_context"])
def test_every_folder_loads_by_the_public_name_frozen_and_in_evaluation_mode(exported, name):
    module = skyframe.load_module(str(exported / name))
    assert module.contract.module == name and not module.module.training
    assert not any(p.requires_grad for p in module.parameters())


def test_moving_the_folder_and_renaming_it_changes_nothing(exported, tmp_path):
    moved = shutil.copytree(exported / "encoder_s1", tmp_path / "radar")
    batch = random_batch([random_sample(0)])
    assert torch.equal(load_module(moved).encode(batch).fused, load_module(exported / "encoder_s1").encode(batch).fused)


@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_one_changed_byte_of_the_weights_is_refused(folder, place):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model.safetensors: checksum differs .* changed or cut off; copy it again"):
        load_module(folder)


def test_weights_cut_off_or_absent_are_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="changed or cut off"):
        load_module(folder)
    path.unlink()
    with pytest.raises(InputError, match=r"encoder_s1: no model.safetensors, expected the weights beside"):
        load_module(folder)


def test_a_missing_an_extra_and_a_reshaped_tensor_are_refused_by_name(folder):
    weights = load_file(folder / "model.safetensors")
    name = "encoder.patch.weight"
    for changed, named in (
        ({k: v for k, v in weights.items() if k != name}, name),
        ({**weights, "encoder.zz": torch.zeros(1)}, "encoder.zz"),
        ({**weights, name: weights[name][..., :1].contiguous()}, name),
    ):
        rewrite(folder, changed)
        with pytest.raises(InputError, match=rf"1 tensors do not fit encoder_s1 \(first: {named}\); export the run"):
            load_module(folder)
    rewrite(folder, weights)
    load_module(folder)


def test_weights_that_are_no_safetensors_are_refused(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 64)
    edit(folder, weights_sha256=file_sha256(folder / "model.safetensors"))
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_module(folder)


def test_other_weights_under_a_matching_checksum_are_noticed_by_the_canary(folder):
    weights = load_file(folder / "model.safetensors")
    weights["encoder.patch.weight"] *= 1.001
    rewrite(folder, weights)
    with pytest.raises(InputError, match=r"canary embedding is off by .* of its scale, expected at most 1e-05"):
        load_module(folder)


def test_an_altered_cut_off_incomplete_or_absent_canary_is_refused(folder):
    path = folder / "canary.safetensors"
    whole = load_file(path)
    save_file({**whole, "expected": whole["expected"] + 1e-3 * whole["expected"].abs().max()}, path)
    with pytest.raises(InputError, match=r"canary embedding is off by 1\.0e-03"):
        load_module(folder)
    save_file({**whole, "expected": whole["expected"][:, :-1].contiguous()}, path)
    with pytest.raises(InputError, match="canary embedding is off by inf"):
        load_module(folder)
    save_file({k: v for k, v in whole.items() if k != "expected"}, path)
    with pytest.raises(InputError, match=r"canary.safetensors: holds .*, expected the canary's inputs and its answer"):
        load_module(folder)
    path.write_bytes(b"short")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_module(folder)
    path.unlink()
    with pytest.raises(InputError, match=r"no canary.safetensors, expected the canary beside the weights"):
        load_module(folder)


def test_a_normaliser_edited_by_hand_is_noticed(folder):
    s1 = json.loads((folder / "contract.json").read_text())["modalities"]["s1"]
    edit(folder, modalities={"s1": {**s1, "mean": [m + 1 for m in s1["mean"]]}})
    with pytest.raises(InputError, match="canary embedding is off by"):
        load_module(folder)


def test_a_missing_damaged_future_or_foreign_contract_is_refused(folder):
    path = folder / "contract.json"
    text = path.read_text()
    for broken, message in (
        (text[:-9], r"contract.json: not valid JSON \(.*\); export the run again"),
        ("[]", r"contract format None, expected 1"),
        (text.replace('"format": 1', '"format": 2'), r"contract format 2, expected 1; .* or upgrade skyframe-eo"),
        (text.replace('"frames"', '"frame"'), r"unknown key 'frame'; did you mean 'frames'\?"),
        (text.replace('"module": "encoder_s1"', '"module": "encoder_x"'), r"module 'encoder_x' is not one of model"),
        (text.replace('"num_regions"', '"numregions"'), r"build lacks num_regions"),
    ):
        path.write_text(broken)
        with pytest.raises(InputError, match=message):
            load_module(folder)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not valid JSON"):
        load_module(folder)
    path.unlink()
    with pytest.raises(InputError, match=r"no contract.json, expected a folder written by `skyframe export`"):
        load_module(folder)


def test_a_batch_with_another_number_of_bands_is_refused(folder):
    batch = random_batch([random_sample(0)], ("s1",))
    s1 = batch.series["s1"]
    one = dataclasses.replace(s1, values=s1.values[:, :, :1], bands=s1.bands[:, :1])
    with pytest.raises(InputError, match="1 bands with 2 means"):
        load_module(folder).encode(dataclasses.replace(batch, series={"s1": one}))


def test_a_random_copy_has_the_architecture_and_none_of_the_weights(exported):
    module = load_module(exported / "model")
    fresh, again, other = (random_copy(module, seed) for seed in (0, 0, 1))
    batch = random_batch([random_sample(0)])
    features = [m.encode(batch).fused for m in (module, fresh, again, other)]
    assert features[0].shape == features[1].shape and torch.equal(features[1], features[2])
    assert not torch.allclose(features[0], features[1], atol=1e-2)
    assert not torch.allclose(features[1], features[3], atol=1e-2)
