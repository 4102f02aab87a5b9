"""Distillation head: cosines with unit directions, in float32."""

import torch
from torch.nn import functional

from skyframe.model.heads import DistillationHead


def test_logits_are_cosines_with_the_directions():
    head = DistillationHead(6, 16, 4, 10, seed=1)
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    logits = head(x)
    expected = functional.cosine_similarity(head.mlp(x)[..., None, :], head.last, dim=-1)
    assert logits.shape == (2, 3, 10) and torch.allclose(logits, expected, atol=1e-6)
    assert torch.allclose(head.embed(x).norm(dim=-1), torch.ones(2, 3), atol=1e-6)
    assert torch.allclose(logits, head.embed(x) @ head.directions().T, atol=1e-6)


def test_length_of_the_last_layer_has_no_say():
    head = DistillationHead(6, 16, 4, 10)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    before = head(x)
    head.last.data *= 7.0
    assert torch.allclose(head(x), before, atol=1e-6)
    head(x)[:, 0].sum().backward()
    assert abs((head.last.grad * head.last).sum(-1)).max() < 1e-5  # no gradient along the length


def test_float32_after_the_bottleneck_under_autocast():
    head = DistillationHead(6, 16, 4, 10)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(x)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, head(x), atol=0.05)


def test_seed_decides_the_weights():
    one, same, other = (DistillationHead(6, 16, 4, 10, seed=s) for s in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.last, other.last)
