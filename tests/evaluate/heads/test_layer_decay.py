import pytest
import torch
from torch import nn

from skyframe.config.heads import HeadTraining
from skyframe.evaluate.heads.layer_decay import distances, parameter_groups, tunable_names
from skyframe.model.factorised import FactorisedEncoder
from skyframe.spec import InputError
from tests.system.batches import REGIONS, SPEC, nano_recipe


@pytest.fixture(scope="module")
def model() -> FactorisedEncoder:
    recipe = nano_recipe()
    return FactorisedEncoder({n: SPEC.modalities[n] for n in ("hr", "s2")}, recipe.model, REGIONS.num_regions, seed=1)


def test_depths_of_a_whole_model_by_hand(model):
    found, fused = distances(model), len(model.fusion.layers)
    swin, vit = model.encoders["hr"].encoder, model.encoders["s2"].encoder
    blocks, layers = sum(len(s.blocks) for s in swin.stages), len(vit.layers)
    assert found[f"fusion.layers.{fused - 1}.norm1.weight"] == 1 and found["fusion.layers.0.norm1.weight"] == fused
    assert found["fusion.proj.weight"] == found["dates.table"] == fused + 1
    assert found[f"spatial.s2.encoder.layers.{layers - 1}.attn.qkv_weight"] == fused + 2
    assert found["spatial.s2.encoder.patch.weight"] == found["spatial.s2.encoder.pos_embed"] == fused + layers + 2
    assert found["spatial.hr.encoder.stages.0.blocks.0.norm1.weight"] == fused + 1 + blocks
    assert found["spatial.hr.encoder.patch.weight"] == fused + 2 + blocks
    first_of_two = blocks - len(swin.stages[0].blocks)
    assert found["spatial.hr.encoder.stages.1.downsample.reduction.weight"] == fused + 1 + first_of_two
    assert {d for n, d in found.items() if ".norms." in n} == {fused + 2}


def test_depths_of_one_encoder_start_at_the_head(model):
    found = distances(model.encoders["s2"])
    layers = len(model.encoders["s2"].encoder.layers)
    assert found[f"encoder.layers.{layers - 1}.ffn.up.bias"] == 1
    assert found["encoder.patch.bias"] == layers + 1
    assert distances(nn.Linear(2, 2)) == {"weight": 1, "bias": 1}


def test_groups_share_out_rate_and_decay(model):
    encoder, head = model.encoders["s2"], nn.Linear(3, 2)
    config = HeadTraining(encoder="tunable", layer_decay=0.5, weight_decay=0.1)
    groups = parameter_groups(head, encoder, tunable_names(encoder, config), config)
    placed = {id(p): g for g in groups for p in g["params"]}
    layers = len(encoder.encoder.layers)

    def of(parameter: torch.Tensor) -> tuple[float, float]:
        return placed[id(parameter)]["share"], placed[id(parameter)]["weight_decay"]

    assert of(head.weight) == (1.0, 0.1) and of(head.bias) == (1.0, 0.0)
    assert of(encoder.encoder.layers[-1].ffn.up.weight) == (0.5, 0.1)
    assert of(encoder.encoder.patch.weight) == (0.5 ** (layers + 1), 0.1)
    assert of(encoder.encoder.pos_embed) == (0.5 ** (layers + 1), 0.0)
    assert len(placed) == len(list(encoder.parameters())) + 2


def test_what_may_train(model):
    assert tunable_names(model, HeadTraining()) == []
    every = tunable_names(model, HeadTraining(encoder="tunable"))
    assert every and not [n for n in every if n.startswith("geo.")]
    fusion = tunable_names(model, HeadTraining(encoder="tunable", tunable=("fusion", "dates")))
    assert {n.split(".")[0] for n in fusion} == {"fusion", "dates"}
    with pytest.raises(InputError, match="expected one of align, dates, fusion"):
        tunable_names(model, HeadTraining(encoder="tunable", tunable=("head",)))
