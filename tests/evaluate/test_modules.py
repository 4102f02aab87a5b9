"""Subsets of a model's modules: one spatial pass, the same features as each subset alone, paired differences."""

import dataclasses

import numpy as np
import pytest
import torch

from skyframe.config.evaluate import DataConfig, LinearConfig, SimulatedData, Suite, TaskConfig
from skyframe.evaluate.modules import PartsEncoder, encode_parts, evaluate_modules, modules_table, parts_of
from skyframe.evaluate.protocol import weights_sha256
from skyframe.export import load_module
from skyframe.sample import Layout, Sample, Series, collate
from skyframe.spec import InputError


@pytest.fixture(scope="module")
def model(exported):
    return load_module(exported / "model")


def batch(contract, side=4):
    rng = np.random.default_rng(0)
    samples = []
    for region in (0, 1):
        series = {}
        for name, m in contract.modalities.items():
            pixels, dates = m.pixels(side * 10.0), 1 if m.kind == "image" else 3
            values = rng.integers(50, 200, (dates, len(m.bands), pixels, pixels)).astype(m.dtype)
            days = np.arange(8000, 8000 + 40 * dates, 40, dtype=np.int32)
            series[name] = Series(values, np.ones((dates, pixels, pixels), bool), days, np.ones(len(m.bands), bool))
        samples.append(Sample(series, np.zeros(2), region))
    layouts = {
        n: Layout(1 if m.kind == "image" else 3, len(m.bands), m.pixels(side * 10.0), m.dtype)
        for n, m in contract.modalities.items()
    }
    return collate(samples, layouts)


def test_every_subset_is_what_it_is_alone_and_each_encoder_runs_once(model):
    given, parts = batch(model.contract), parts_of(model.module)
    assert len(parts) == 7 * 3 and parts[-1].name == "hr+s2+s1 fused, context"
    calls = []
    hooks = [e.register_forward_hook(lambda *_: calls.append(1)) for e in model.module.encoders.values()]
    together = encode_parts(model.module, given, parts)
    for hook in hooks:
        hook.remove()
    assert len(calls) == 3
    by_name = {p.name: f for p, f in zip(parts, together, strict=True)}
    whole = model.encode(given)
    assert torch.allclose(by_name["hr+s2+s1 fused, context"].fused, whole.fused, atol=1e-6)
    assert torch.allclose(by_name["hr+s2+s1 fused, context"].pooled, whole.pooled, atol=1e-6)
    alone = model.module.encoders["s2"].encode(given)
    assert torch.equal(by_name["s2"].fused, alone.fused)
    hidden = {k: dataclasses.replace(s, valid=s.valid & (k == "s2")) for k, s in given.series.items()}
    masked = model.encode(dataclasses.replace(given, series=hidden))
    assert torch.allclose(by_name["s2 fused, context"].fused, masked.fused, atol=1e-5)
    assert by_name["hr+s2"].fused.shape[-1] == sum(model.module.encoders[n].num_features for n in ("hr", "s2"))


def test_subsets_have_hashes_of_their_own(model):
    parts = parts_of(model.module)
    hashes = {weights_sha256(PartsEncoder(model.module, model.contract, p)) for p in parts}
    assert len(hashes) == len(parts)


def test_one_table_with_paired_intervals(model, earth, tmp_path):
    data = SimulatedData((str(earth / "a"),), (str(earth / "b"),), 60, 20, 40, window_px=4, block_px=16)
    data = dataclasses.replace(data, frames={"s2": 3, "s1": 2})
    tasks = {"cover": TaskConfig("simulated", label="land_cover")}
    suite = Suite("m", DataConfig(data), tasks, protocols=("linear",), linear=LinearConfig(epochs=3), bootstrap=50)
    table = evaluate_modules(suite, model, tmp_path)
    rows = {r.encoder: r for r in table.outcome.rows}
    assert {p.name for p in table.parts} | {"raw_pixels", "majority"} == set(rows)
    whole = rows[table.parts[-1].name]
    for p in table.parts[:-1]:
        difference, lo, hi = table.differences["cover", "linear", "accuracy", p.name]
        assert difference == pytest.approx(rows[p.name].value - whole.value)
        assert lo <= difference <= hi
    assert modules_table(table).row_count == 21
    again = evaluate_modules(suite, model, tmp_path)
    assert again.outcome.num_new == 0 and again.differences == table.differences


def test_a_single_module_has_no_subsets(exported, tmp_path):
    suite = Suite("m", tasks={"x": TaskConfig("aid")})
    with pytest.raises(InputError, match=r"--modules: encoder_s2 is one module, expected a whole model"):
        evaluate_modules(suite, load_module(exported / "encoder_s2"), tmp_path)
