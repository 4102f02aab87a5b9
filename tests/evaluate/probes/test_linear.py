import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from skyframe.config.evaluate import LinearConfig
from skyframe.evaluate.probes.linear import _Adam, _gradient, _logits, _rate, train_heads

CONFIG = LinearConfig(lrs=(1e-3, 1e-2, 1e-1), epochs=40)


def rows(num, seed, scale=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, num)
    centres = np.random.default_rng(9).normal(size=(3, 8))
    mean = ((centres[labels] + rng.normal(0, 1.0, (num, 8))) * scale).astype(np.float32)
    return {"mean": mean, "max": mean + 0.5}, labels


def test_best_head_is_as_good_as_scikit_learn_on_the_same_features():
    (train, labels), (test, truth) = rows(400, 0), rows(400, 1)
    heads = train_heads(train, labels, 3, CONFIG, 64, seed=0)
    scores = (heads.scores(test).argmax(-1) == truth).mean(-1)
    reference = LogisticRegression().fit(train["mean"], labels).score(test["mean"], truth)
    assert scores.shape == (4, 3)
    assert scores.max() >= reference - 0.01


def test_each_head_is_what_it_is_when_trained_alone():
    train, labels = rows(100, 0)
    together = train_heads(train, labels, 3, CONFIG, 32, seed=0)
    for i, lr in enumerate(CONFIG.lrs):
        alone = train_heads({"max": train["max"]}, labels, 3, dataclasses.replace(CONFIG, lrs=(lr,)), 32, seed=0)
        variants = [together.variants.index((s, "max")) for s in (False, True)]
        assert torch.allclose(together.weight[variants, :, i], alone.weight[:, :, 0], atol=1e-5)
        assert str(together.head(variants[1], i)) == f"lr={lr:g} standardise=yes pooling=max"


def test_standardised_heads_do_not_see_the_scale_of_the_features():
    (small, labels), (large, _) = rows(120, 0), rows(120, 0, scale=64.0)
    found = [train_heads(r, labels, 3, CONFIG, 32, 0) for r in ({"mean": small["mean"]}, {"mean": large["mean"]})]
    assert torch.allclose(found[0].weight[1], found[1].weight[1], atol=1e-4)
    assert not torch.allclose(found[0].weight[0], found[1].weight[0], atol=1e-2)


def test_a_feature_that_never_varies_stays_finite():
    labels = np.array([0, 1] * 10)
    constant = np.column_stack([np.full(20, 3.0), labels]).astype(np.float32)
    heads = train_heads({"mean": constant}, labels, 2, CONFIG, 8, 0)
    assert torch.isfinite(heads.weight).all()
    assert (heads.scores({"mean": constant})[1, -1].argmax(-1) == labels).all()


def test_a_feature_that_hardly_varies_in_training_does_not_rule_in_test():
    (train, labels), (test, truth) = rows(300, 0), rows(300, 1)
    nearly = np.random.default_rng(2).normal(1.0, 1e-5, (300, 8)).astype(np.float32)
    heads = train_heads({"mean": np.hstack([train["mean"], nearly])}, labels, 3, CONFIG, 64, seed=0)
    shifted = np.hstack([test["mean"], np.zeros((300, 8), np.float32)])
    plain = train_heads({"mean": train["mean"]}, labels, 3, CONFIG, 64, seed=0).scores({"mean": test["mean"]})
    score = (heads.scores({"mean": shifted})[1].argmax(-1) == truth).mean(-1)
    assert score.max() > (plain[1].argmax(-1) == truth).mean(-1).max() - 0.05


def test_gradient_is_autograds():
    torch.manual_seed(0)
    x, y = torch.randn(2, 5, 4), torch.tensor([0, 2, 1, 1, 0])
    weight, bias = torch.randn(2, 4, 3, 3, requires_grad=True), torch.randn(2, 3, 3, requires_grad=True)
    logits = _logits(x, weight, bias)
    loss = -logits.log_softmax(-1)[:, torch.arange(5), :, y].mean(0).sum()
    loss.backward()
    found = _gradient(x, one_hot(y, 3).float(), weight.detach(), bias.detach(), many=False)
    assert torch.allclose(found[0], weight.grad, atol=1e-6)
    assert torch.allclose(found[1], bias.grad, atol=1e-6)


def test_gradient_of_several_labels_is_autograds():
    torch.manual_seed(0)
    x, y = torch.randn(2, 5, 4), torch.randint(0, 2, (5, 3)).float()
    weight, bias = torch.randn(2, 4, 6, 3, requires_grad=True), torch.randn(2, 6, 3, requires_grad=True)
    wanted = y[None, :, None].expand(2, 5, 6, 3)
    binary_cross_entropy_with_logits(_logits(x, weight, bias), wanted, reduction="none").mean(1).sum().backward()
    found = _gradient(x, y, weight.detach(), bias.detach(), many=True)
    assert torch.allclose(found[0], weight.grad, atol=1e-6)
    assert torch.allclose(found[1], bias.grad, atol=1e-6)


def test_one_head_alone_scores_as_among_the_others():
    train, labels = rows(60, 0)
    heads = train_heads(train, labels, 3, CONFIG, 32, seed=0)
    assert np.allclose(heads.scores(train, only=(2, 1))[0, 0], heads.scores(train)[2, 1], atol=1e-5)


def test_update_is_adamw():
    torch.manual_seed(0)
    start, lrs = torch.randn(4, 2, 3), torch.tensor([1e-2, 1e-1])
    own = _Adam(start.clone())
    theirs = [start[:, i].clone().requires_grad_() for i in range(2)]
    groups = [{"params": [p], "lr": float(lr)} for p, lr in zip(theirs, lrs, strict=True)]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.05)
    for step in range(1, 6):
        grad = torch.randn(4, 2, 3)
        own.update(grad, lrs[:, None], 0.05, step)
        for i, p in enumerate(theirs):
            p.grad = grad[:, i].clone()
        optimizer.step()
    assert torch.allclose(own.value, torch.stack([p.detach() for p in theirs], 1), atol=1e-6)


def test_rate_warms_up_then_falls_to_zero():
    rates = [_rate(s, 100, 0.1) for s in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert 0 <= rates[99] < 1e-3
    assert _rate(0, 1, 0.1) == 1.0
