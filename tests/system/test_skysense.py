"""SkySense as a whole: gradients, missing modalities, teacher, prototypes, ablations, and two ranks against one."""

import dataclasses
import math

import pytest
import torch

from skyframe.randomness import Draw, hash64
from skyframe.sample import Tokens, widened
from skyframe.spec import InputError
from skyframe.system import pairing
from tests.distributed import run_ranks
from tests.system.batches import CROP_PX, nano_system, random_batch, random_sample, views_of, with_values

ALL = ("hr", "s2", "s1")


def total(system, terms):
    weights = system.weights()
    return torch.stack([weights[k] * v for k, v in terms.items()]).sum()


def test_every_term_is_finite_and_every_trainable_parameter_gets_a_gradient():
    system = nano_system()
    terms = system.losses(views_of([ALL, ALL]))
    expected = {f"{s}/{level}" for s in (*ALL, "fused") for level in ("pix", "obj", "img")} | {
        "align/hr-s2",
        "align/hr-s1",
        "align/s2-s1",
    }
    assert set(terms) == expected == set(system.weights())
    assert all(torch.isfinite(v) and v > 0 for v in terms.values())
    total(system, terms).backward()
    without = [n for n, p in system.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(p.grad is None for p in system.teacher.parameters())
    assert not system.student.geo.bank.requires_grad


def test_no_gradient_reaches_teacher_heads_or_bank_even_if_asked():
    system = nano_system()
    for p in (*system.teacher.parameters(), *system.teacher_heads.parameters()):
        p.requires_grad_(True)
    total(system, system.losses(views_of([ALL, ALL]))).backward()
    assert all(p.grad is None for p in (*system.teacher.parameters(), *system.teacher_heads.parameters()))
    assert not any(n.endswith("bank") for n, _ in system.named_parameters())


@pytest.mark.parametrize("mixed", [[ALL, ("s2",), ("s1",), ("hr",)], [("s2", "s1"), ("hr", "s1"), ("hr", "s2"), ()]])
def test_any_subset_of_modalities_trains_in_one_batch(mixed):
    system = nano_system()
    u, v = views_of(mixed)
    loss = total(system, system.losses((u, v)))
    loss.backward()
    assert torch.isfinite(loss)
    grads = [p.grad for p in system.parameters() if p.requires_grad]
    assert all(g is not None and torch.isfinite(g).all() for g in grads)


def test_values_in_absent_or_invalid_slots_do_not_matter():
    system = nano_system()
    u, v = views_of([("s2",), ("s2", "s1")])
    before = system.losses((u, v))
    system.discard_step()
    changed = []
    for view in (u, v):
        for name in ALL:
            s = view.series[name]
            junk = torch.where(s.valid[:, :, None], s.values, torch.full_like(s.values, 77))
            view = with_values(view, name, junk)
        changed.append(view)
    after = system.losses((changed[0], changed[1]))
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


def test_a_place_where_nothing_is_valid_is_finite_and_constant():
    system = nano_system()
    features = system.encode(random_batch([random_sample(0, ()), random_sample(1, ())]))
    assert torch.isfinite(features.fused).all() and torch.isfinite(features.pooled).all()
    half = features.fused.shape[-1] // 2
    assert torch.allclose(features.fused[0, 0, :half], features.fused[1, -1, :half], atol=1e-6)


def test_missing_sources_are_made_up_for_so_that_samples_weigh_the_same():
    """A sample with only Sentinel-2 has two of four sources, so each of its terms counts double."""
    system = nano_system("loss.beta=0", "loss.granularity=[img]")
    terms = system.losses(views_of([("s2",)]))
    assert terms["hr/img"] == 0 and terms["s1/img"] == 0
    alone = nano_system("loss.beta=0", "loss.granularity=[img]", "loss.sources=[s2]").losses(views_of([("s2",)]))
    assert terms["s2/img"].item() == pytest.approx(2 * alone["s2/img"].item(), rel=1e-3)


def test_identical_towers_and_views_give_the_teachers_entropy():
    system = nano_system(
        "loss.beta=0",
        "loss.teacher_temp=0.1",
        "loss.teacher_temp_start=0.1",
        "loss.student_temp=0.1",
        "loss.granularity=[img]",
    )
    u, _ = views_of([ALL])
    terms = system.losses((u, u))
    t = system.teacher.tokens(u)["s2"]
    means = pairing.frame_mean(t.values, t.valid)
    targets = (system.teacher_heads["s2"](means)[0, :, 0] / 0.1).softmax(-1)
    entropy = -(targets * targets.log()).sum(-1)[t.valid[0].any(-1)].mean()
    assert terms["s2/img"].item() == pytest.approx(float(entropy), rel=1e-4)


def _tokens(values: torch.Tensor) -> Tokens:
    n = CROP_PX * CROP_PX
    return Tokens(values.reshape(1, 1, n, 1), torch.ones(1, 1, n, dtype=torch.bool), torch.zeros(1, 1))


def test_positions_are_paired_by_ground_not_by_index():
    u, v = views_of([ALL])
    flipped = dataclasses.replace(v, pixel=v.pixel.flip(1))
    student = _tokens(torch.arange(CROP_PX * CROP_PX).float())
    teacher = _tokens(student.values.flip(2))
    teacher.valid[0, 0, 0] = False  # shows the ground of the student's last position
    moved = pairing.matched(u, flipped, {"s2": teacher})["s2"]
    assert torch.equal(student.values, moved.values)
    assert not moved.valid[0, 0, -1] and moved.valid[0, 0, :-1].all()


def test_ground_that_the_teacher_does_not_see_makes_no_pair():
    u, v = views_of([ALL])
    moved = dataclasses.replace(v, pixel=v.pixel + CROP_PX)
    n = CROP_PX * CROP_PX
    valid = pairing.matched(u, moved, {"s2": _tokens(torch.zeros(n))})["s2"].valid
    assert valid.sum() == n - CROP_PX and not valid[0, 0, :CROP_PX].any()


def test_split_dates_deal_each_date_to_one_side_in_shares_that_vary():
    system = nano_system("views.split_dates=true", "views.split_least=0.2")
    days = torch.zeros(2000, 40, dtype=torch.int32)
    tokens = {n: Tokens(torch.zeros(2000, 40, 1, 1), torch.ones(2000, 40, 1, dtype=torch.bool), days) for n in ALL}
    own = system._dates(tokens, Draw(3, torch.arange(2000)))
    sides = [pairing.of_side(tokens, own, side) for side in (0, 1)]
    for name in ALL:
        assert (sides[0][name].valid ^ sides[1][name].valid).all()
        share = own[name].float().mean(1)
        assert abs(share.mean() - 0.5) < 0.02
        assert abs(share.std() - math.sqrt(0.6**2 / 12 + 0.22 / 40)) < 0.02, "uniform from 0.2 to 0.8, then coins"
    assert (own["s2"] != own["s1"]).any()
    assert nano_system()._dates(tokens, Draw(3, torch.arange(2000))) == {}


def test_split_dates_hide_a_date_from_the_other_sides_fusion_but_not_from_the_sensors_own_terms():
    system = nano_system("views.split_dates=true")
    u, v = views_of([("s2", "s1")])
    with torch.no_grad():
        s, t = system.student.tokens(u), system.teacher.tokens(v)
        own = system._dates(s, Draw(hash64(system.seed, "drop_path"), (u.epoch << 40) + u.index))
        students = (own["s2"][0] == 0) & (s["s2"].valid & t["s2"].valid)[0].any(-1)
        assert students.any()
        values = widened(v.series["s2"].values).clone()
        values[0, students] += 500
        changed = with_values(v, "s2", values)
        before, after = system.losses((u, v)), system.losses((u, changed))
    assert before["fused/pix"] == after["fused/pix"] and before["fused/img"] == after["fused/img"]
    assert before["s2/pix"] != after["s2/pix"]


def test_fusing_some_positions_is_exact_at_those():
    system = nano_system("model.fusion.positions=0.25")
    u, _ = views_of([ALL, ("s2",)])
    tokens = system.student.tokens(u)
    full, _ = system.student.fuse(tokens)
    some = system._positions(u, Draw(3, u.index))
    assert some.shape == (2, CROP_PX * CROP_PX // 4) and all(len(r.unique()) == len(r) for r in some)
    part, _ = system.student.fuse(pairing.at_positions(tokens, some))
    expected = full.gather(1, some[..., None].expand(-1, -1, full.shape[-1]))
    assert torch.allclose(part, expected, atol=1e-5)
    assert nano_system()._positions(u, Draw(3, u.index)) is None


def test_teacher_centres_and_bank_move_once_per_step_and_absent_regions_stay():
    system = nano_system("loss.ema_start=0.9", "loss.ema_end=0.9")
    bank = system.student.geo.bank.clone()
    teacher = {k: v.clone() for k, v in system.teacher.named_parameters()}
    with torch.no_grad():
        for p in system.student.parameters():
            p.add_(0.01)
    system.losses(views_of([ALL, ALL], regions=[1, 1]))
    assert torch.equal(system.student.geo.bank, bank), "losses alone must not move the bank"
    system.after_step(0.5)
    for name, p in system.teacher.named_parameters():
        assert torch.allclose(
            p, 0.9 * teacher[name] + 0.1 * dict(system.student.named_parameters())[name], atol=1e-7
        ), name
    assert torch.equal(system.student.geo.bank[[0, 2]], bank[[0, 2]])
    assert not torch.equal(system.student.geo.bank[1], bank[1])
    assert system.teacher.geo.bank.data_ptr() == system.student.geo.bank.data_ptr()
    assert system.center_s2.abs().sum() > 0
    assert system.fed.tolist() == [1, 1, 1]


def test_a_discarded_step_leaves_no_trace():
    system = nano_system()
    before = {k: v.clone() for k, v in system.state_dict().items()}
    system.losses(views_of([ALL, ALL]))
    system.discard_step()
    system.losses(views_of([(), ()]))
    system.after_step(1.0)  # momentum 1: the teacher keeps still, and no sample held anything
    for name, value in system.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_bank_keeps_its_scale_over_many_updates():
    system = nano_system("model.geo.momentum=0.9")
    for i in range(60):
        system.losses(views_of([ALL], regions=[0], start=i % 4))
        scale = system._pending_regions[-1][0].norm(dim=-1).mean()
        system.after_step(1.0)
    ratio = float(system.student.geo.bank[0].norm(dim=-1).mean() / scale)
    assert 0.5 < ratio < 1.2


def test_an_unseen_region_gets_no_context():
    system = nano_system()
    features = system.encode(random_batch([random_sample(0, ALL, region=-1), random_sample(0, ALL, region=0)]))
    width = features.fused.shape[-1] // 2
    assert (features.fused[0, :, width:] == 0).all() and (features.fused[1, :, width:] != 0).any()
    assert torch.equal(features.fused[0, :, :width], features.fused[1, :, :width])


@pytest.mark.parametrize(
    ("override", "gone"),
    [
        ("loss.beta=0", "align/"),
        ("loss.alpha=0", "/img"),
        ("loss.granularity=[pix,img]", "/obj"),
        ("loss.sources=[fused]", "s2/"),
        ("data.modalities=[hr,s2]", "s1"),
    ],
)
def test_each_ablation_is_one_override_and_takes_its_terms_away(override, gone):
    assert any(gone in k for k in nano_system().weights())
    system = nano_system(override)
    names = tuple(system.student.spatial)
    terms = system.losses(views_of([names, names], names))
    assert terms and not any(gone in k for k in terms)
    assert set(terms) == set(system.weights())


def test_without_geo_context_features_are_half_as_wide():
    assert nano_system("model.geo.enabled=false").student.num_features * 2 == nano_system().student.num_features
    assert "geo_context" not in nano_system("model.geo.enabled=false").exports()


def test_symmetric_teaching_averages_both_directions():
    u, v = views_of([ALL, ALL])
    one = nano_system("loss.beta=0")
    there, back = one.losses((u, v)), one.losses((v, u))
    both = nano_system("loss.beta=0", "loss.symmetric=true").losses((u, v))
    for name, value in both.items():
        assert value.item() == pytest.approx((there[name].item() + back[name].item()) / 2, rel=1e-4), name


def test_sinkhorn_targets_are_a_choice():
    terms = nano_system("loss.centering=sinkhorn").losses(views_of([ALL, ALL]))
    assert all(torch.isfinite(v) for v in terms.values())


def test_teacher_temperature_warms_up():
    system = nano_system()
    system.set_progress(0.15)
    assert system.teacher_temp == pytest.approx(0.04 + 0.5 * 0.03)
    system.set_progress(0.9)
    assert system.teacher_temp == pytest.approx(0.07)


def test_sides_that_do_not_agree_are_refused():
    system = nano_system()
    batch = random_batch([random_sample(0)])
    s2 = batch.series["s2"]
    cut = dataclasses.replace(s2, values=s2.values[..., :3, :3], valid=s2.valid[..., :3, :3])
    with pytest.raises(InputError, match=r"hr 4 x 4, s2 3 x 3.*32 x the Sentinel side"):
        system.encode(dataclasses.replace(batch, series={**batch.series, "s2": cut}))


def _step(rank: int, world: int, *overrides: str) -> dict[str, torch.Tensor]:
    """One step on this rank's half of four places; rank 1 holds no SAR at all."""
    names = [ALL, ("s2", "s1"), ("hr", "s2"), ("s2",)]
    regions = [0, 1, 1, 2]
    own = range(rank * 4 // world, (rank + 1) * 4 // world)
    u, v = (random_batch([random_sample(i, names[i], regions[i], view=view) for i in own]) for view in range(2))
    system = nano_system(*overrides)
    loss = total(system, system.losses((u, v)))
    loss.backward()
    for p in system.parameters():
        if p.grad is not None:
            if world > 1:
                torch.distributed.all_reduce(p.grad)
            p.grad /= world
    out = {f"grad/{n}": p.grad.clone() for n, p in system.named_parameters() if p.grad is not None}
    system.after_step(0.3)
    out |= {f"state/{n}": b.clone() for n, b in system.named_buffers()}
    value = loss.detach().clone()
    if world > 1:
        torch.distributed.all_reduce(value)
    return out | {"loss": value / world}


SMALL_RECIPES = ("loss.cl=infonce", "loss.sources=[fused]", "views.split_dates=true")


@pytest.mark.parametrize("overrides", [(), SMALL_RECIPES], ids=["dino", "infonce"])
def test_two_ranks_equal_one_with_sar_missing_on_one_of_them(overrides):
    one = _step(0, 1, *overrides)
    for rank, two in enumerate(run_ranks(_step, *overrides)):
        assert two.keys() == one.keys(), rank
        for name, value in one.items():
            error = float((two[name].double() - value.double()).abs().max())
            scale = max(1e-3, float(value.double().abs().max()))
            assert error <= 2e-6 * max(1.0, scale) or error / scale < 2e-5, (rank, name, error)
    assert math.isfinite(float(one["loss"]))
