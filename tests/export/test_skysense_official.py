"""The published layout: golden outputs, strict keys, weights both ways, parameter counts of the published sizes."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from skyframe.export.skysense_official import (
    DEFAULTS,
    OfficialModule,
    build,
    date_table,
    official_date_table,
    split_checkpoint,
    to_official,
)
from skyframe.model.swin import SwinV2
from skyframe.model.temporal import DateEncoding, TemporalFusion
from skyframe.model.vit import ViT
from skyframe.spec import InputError

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "skysense"
# kind, file, tolerance as a share of the largest golden value
FILES = [
    ("hr", "swin_v2", 1e-5),
    ("s2", "vit", 2e-6),
    ("fusion", "temporal_fusion", 1e-5),
    ("up_head", "up_head", 1e-6),  # one sum of 24 products: rounding alone
]


def load_golden(name):
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (not a dict)
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    outputs = [tensors[f"output.{i}"] for i in range(sum(k.startswith("output.") for k in tensors))]
    return config, weights, tensors["input"], outputs


def error(module, x, outputs):
    """Largest difference as a share of the golden output's scale, over all outputs."""
    found = module(x)
    found = found if isinstance(found, list) else [found]
    assert [f.shape for f in found] == [o.shape for o in outputs]
    return max(float((f.detach() - o).abs().max() / o.abs().max()) for f, o in zip(found, outputs, strict=True))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("kind,name,tolerance", FILES)
def test_parity(kind, name, tolerance, grad):
    """Inference and training kernels alike."""
    config, weights, x, outputs = load_golden(name)
    module = build(kind, weights, **config)
    assert module.load_report.missing == () and module.load_report.unexpected == ()
    with torch.set_grad_enabled(grad):
        assert error(module, x, outputs) <= tolerance
        assert isinstance(module(x), list) == (len(outputs) > 1)


@pytest.mark.parametrize("kind,name,tolerance", FILES)
def test_a_perturbed_weight_breaks_parity(kind, name, tolerance):
    """One tensor at a time; every tensor of the small files, every kind of tensor of the large one."""
    config, weights, x, outputs = load_golden(name)
    chosen = list(weights)
    if kind == "hr":
        shown = ("stages.2.blocks.5.", "stages.3.downsample")
        chosen = [k for k in weights if "stages" not in k or k.startswith(shown)]
    for key in chosen:
        changed = weights[key].clone()
        changed.flatten()[0] += 0.2 + 0.2 * changed.abs().max()  # the first row: a query's, where a key's has no effect
        with torch.no_grad():
            assert error(build(kind, {**weights, key: changed}, **config), x, outputs) > tolerance, key


@pytest.mark.parametrize("kind,name,tolerance", FILES)
def test_weights_travel_both_ways_bit_for_bit(kind, name, tolerance):
    config, weights, x, _ = load_golden(name)
    module = build(kind, weights, **config)
    back = to_official(kind, module)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[k], weights[k]) and back[k].is_contiguous() for k in weights)
    again = build(kind, to_official(kind, module.inner), **config)
    first, second = (m(x) if isinstance(m(x), list) else [m(x)] for m in (module, again))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_loading_copies_and_trains():
    config, weights, x, _ = load_golden("vit")
    module = build("s2", weights, **config)
    assert not module.training and module.train() is module
    sum(m.square().sum() for m in module(x)).backward()
    assert all(p.requires_grad and p.grad is not None for p in module.parameters())
    with torch.no_grad():
        module.inner.cls_token.zero_()
    assert weights["cls_token"].any()


@pytest.mark.parametrize(
    "kind,config,count",
    [
        ("hr", {}, 655_079_632),
        ("hr", {"out_indices": [3]}, 655_074_704),
        ("s2", {}, 302_738_432),
        ("s1", {}, 302_607_360),
        ("fusion", {}, 305_195_008),
        ("up_head", {}, 46_182_400),
    ],
)
def test_parameter_counts_of_the_published_sizes(kind, config, count):
    from skyframe.export.skysense_official import _checked, _construct

    with torch.device("meta"):
        module = _construct(kind, _checked(kind, config))
    assert sum(p.numel() for p in module.parameters()) == count
    assert not list(module.buffers())


def test_date_table_count_and_conversion():
    assert DateEncoding(2816).table[:365].numel() == 1_027_840
    published = torch.randn(1, 365, 4, generator=torch.Generator().manual_seed(0))
    table = date_table(published)
    assert table.shape == (367, 4)
    assert torch.equal(table[:365], published[0]) and torch.equal(table[365], published[0, 364])
    assert not table[366].any()
    assert torch.equal(official_date_table(table), published)
    with pytest.raises(InputError, match=r"expected shape \[1, 365, D\], got \[365, 4\]"):
        date_table(published[0])


def test_exactly_the_listed_keys_are_tolerated():
    config, weights, x, _ = load_golden("swin_v2")
    norms = [f"norm{i}.{k}" for i in range(3) for k in ("bias", "weight")]
    given = {k: v for k, v in weights.items() if k not in norms} | {"mask_token": torch.zeros(1, 1, 8)}
    module = build("hr", given, **config)
    assert module.load_report.unexpected == ("mask_token",)
    assert module.load_report.missing == tuple(sorted(norms))
    assert torch.equal(module.inner.norms["1"].weight, torch.ones(16))
    assert not module.inner.norms["1"].bias.any()
    assert torch.equal(module(x)[3], build("hr", weights, **config)(x)[3])
    for key in ("norm3.weight", "stages.0.blocks.0.norm1.bias", "stages.2.blocks.5.norm3.weight"):
        with pytest.raises(InputError, match=f"lacks {key} and has unexpected nothing"):
            build("hr", {k: v for k, v in weights.items() if k != key}, **config)
    with pytest.raises(InputError, match="has unexpected mask_tokens"):
        build("hr", {**weights, "mask_tokens": torch.zeros(1)}, **config)
    vit_config, vit_weights, _, _ = load_golden("vit")
    with pytest.raises(InputError, match="official s2: the state dict lacks nothing and has unexpected mask_token"):
        build("s2", {**vit_weights, "mask_token": torch.zeros(1)}, **vit_config)


def test_one_output_needs_its_norm_alone():
    config, weights, x, outputs = load_golden("swin_v2")
    given = {k: v for k, v in weights.items() if not k.startswith(("norm0", "norm1", "norm2"))}
    module = build("hr", given, **{**config, "out_indices": [3]})
    assert module.load_report.missing == ()
    assert torch.allclose(module(x), outputs[3], atol=1e-5)


def test_errors_name_kind_key_and_shape():
    config, weights, _, _ = load_golden("up_head")
    with pytest.raises(InputError, match="kind 'uphead' is not one of hr, s2, s1, fusion, up_head; did you mean"):
        build("uphead", weights, **config)
    with pytest.raises(InputError, match="unknown key 'up_scal'; did you mean 'up_scale'"):
        build("up_head", weights, in_dim=24, out_dim=16, up_scal=4)
    with pytest.raises(InputError, match=r"decoder.0.weight has shape \[256, 24, 1, 1\], expected \[512, 24, 1, 1\]"):
        build("up_head", weights, in_dim=24, out_dim=32, up_scale=4)
    vit_config, vit_weights, _, _ = load_golden("vit")
    with pytest.raises(InputError, match="output_layout 'B H W C' is not supported, expected 'B C H W'"):
        build("s2", vit_weights, **{**vit_config, "output_layout": "B H W C"})
    with pytest.raises(InputError, match="kind 'hr' does not describe a ViT, expected s2 or s1"):
        to_official("hr", build("s2", vit_weights, **vit_config))
    with pytest.raises(InputError, match="does not describe a Linear, expected a module with an official layout"):
        to_official("s2", nn.Linear(2, 2))


def test_a_whole_checkpoint_comes_apart():
    sources = {"backbone_gep.": "swin_v2", "backbone_s2.": "vit", "fusion.": "temporal_fusion", "head_s2.": "up_head"}
    whole = {"ctpe": torch.zeros(1, 365, 4), "head_s1.decoder.0.bias": torch.zeros(1), "head_gep.x": torch.zeros(2)}
    for prefix, name in sources.items():
        whole |= {prefix + k: v for k, v in load_golden(name)[1].items()}
    parts = split_checkpoint(whole)
    assert set(parts) == {"hr", "s2", "fusion", "head_s2", "head_s1", "head_gep", "ctpe"}
    for kind, part, name in (("hr", "hr", "swin_v2"), ("s2", "s2", "vit"), ("up_head", "head_s2", "up_head")):
        config, _, x, outputs = load_golden(name)
        assert error(build(kind, parts[part], **config), x, outputs) <= 1e-5
    one = split_checkpoint({"ctpe": whole["ctpe"], "cls_token": torch.zeros(1)}, "s2")
    assert set(one) == {"ctpe", "s2"} and set(one["s2"]) == {"cls_token"}
    assert set(split_checkpoint({"backbone.norm3.bias": torch.zeros(1)})["hr"]) == {"norm3.bias"}
    with pytest.raises(InputError, match="key 'cls_token' has none of the prefixes"):
        split_checkpoint({"cls_token": torch.zeros(1)})


def test_our_own_modules_write_the_published_layout():
    vit, swin = ViT(2, 8, 1, 2, table_side=16), SwinV2(3, 8, (1, 1), (1, 2), window_size=4, out_indices=(0, 1))
    fusion = TemporalFusion(6, 8, 1, 2)
    keys = {kind: set(to_official(kind, m)) for kind, m in (("s1", vit), ("hr", swin), ("fusion", fusion))}
    assert "layers.0.attn.attn.in_proj_weight" in keys["s1"] and "porj_linear.bias" in keys["fusion"]
    assert {"stages.1.downsample.reduction.weight", "stages.0.blocks.0.attn.w_msa.cpb_mlp.2.weight"} <= keys["hr"]
    config = {"embed_dims": 8, "num_layers": 1, "num_heads": 2, "in_channels": 2}
    x = torch.randn(1, 2, 24, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(build("s1", to_official("s1", vit), **config)(x), vit.maps(x)[0])


def test_every_kind_has_defaults_and_a_module():
    assert set(DEFAULTS) == {"hr", "s2", "s1", "fusion", "up_head"}
    config, weights, _, _ = load_golden("temporal_fusion")
    assert isinstance(build("fusion", weights, **config), OfficialModule)
