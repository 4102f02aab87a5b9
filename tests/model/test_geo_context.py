"""Geo-context: reading against the formula, unseen regions, no gradient to the bank."""

import math

import pytest
import torch

from skyframe.model.geo_context import GeoContext


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def geo():
    return GeoContext(6, 5, 3, 4, seed=2)


def test_bank_starts_at_unit_norm_from_its_seed(geo):
    assert geo.bank.shape == (5, 3, 4) and geo.bank.dtype == torch.float32
    assert torch.allclose(geo.bank.norm(dim=-1), torch.ones(5, 3), atol=1e-6)
    assert torch.equal(geo.bank, GeoContext(6, 5, 3, 4, seed=2).bank)
    assert not torch.equal(geo.bank, GeoContext(6, 5, 3, 4, seed=3).bank)


def test_read_is_attention_over_the_regions_prototypes(geo):
    fused, region = rand(2, 7, 6), torch.tensor([4, 1])
    context = geo.read(fused, region)
    for b, r in enumerate([4, 1]):
        weights = (geo.query(fused[b]) @ geo.bank[r].T / math.sqrt(4)).softmax(-1)
        assert torch.allclose(context[b], geo.value(weights @ geo.bank[r]), atol=1e-6)
    assert torch.equal(geo(fused, region), torch.cat([fused, context], -1))


def test_unseen_region_has_no_context(geo):
    fused = rand(2, 7, 6)
    both = geo.read(fused, torch.tensor([-1, 2]))
    assert not both[0].any() and both[1].abs().sum() > 0
    assert torch.equal(geo.rows(torch.tensor([3, -1])), geo.bank[[3, 0]])


def test_no_gradient_reaches_the_bank(geo):
    geo(rand(2, 7, 6), torch.tensor([0, 1])).square().sum().backward()
    assert geo.bank.grad is None and not geo.bank.requires_grad
    assert all(p.grad.abs().sum() > 0 for p in geo.parameters())
    assert "bank" in geo.state_dict() and "bank" not in dict(geo.named_parameters())


def test_an_all_unseen_batch_still_gives_every_parameter_a_zero_gradient(geo):
    geo.read(rand(2, 7, 6), torch.tensor([-1, -1])).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in geo.parameters())


def test_project_gives_the_queries_in_their_own_scale_float32_even_in_bfloat16(geo):
    fused = rand(2, 7, 6)
    assert torch.equal(geo.project(fused), geo.query(fused))
    with torch.autocast("cpu", torch.bfloat16):
        assert geo.project(fused).dtype == torch.float32


def test_paper_bank_on_the_meta_device():
    with torch.device("meta"):
        geo = GeoContext(1024, 4096, 100, 512)
        assert geo(torch.empty(2, 256, 1024), torch.zeros(2, dtype=torch.int64)).shape == (2, 256, 2048)
    assert geo.bank.numel() == 209_715_200


def test_nearest_compares_what_departs_from_the_regions_mean_prototype(geo):
    with torch.no_grad():
        geo.query.weight.copy_(torch.eye(4, 6))
        geo.query.bias.zero_()
        geo.bank[2] = torch.tensor([[10.0, 1.0, 0.0, 0.0], [10.0, -0.5, 0.8, 0.0], [10.0, -0.5, -0.8, 0.0]])
    fused = torch.zeros(2, 3, 6)
    fused[:, :, 0] = 30.0  # seen from zero, all of it lies along the common part
    fused[:, :, 1], fused[:, :, 2] = torch.tensor([2.0, -1.0, -1.0]), torch.tensor([0.0, 2.0, -2.0])
    assert geo.nearest(fused, torch.tensor([2, -1])).tolist() == [[0, 1, 2], [-1, -1, -1]]
