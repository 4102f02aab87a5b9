"""Maps of several depths: what they hold, and that the last is what `encode` returns."""

import pytest
import torch
from einops import rearrange

from skyframe.model.factorised import FactorisedEncoder
from skyframe.model.swin import SwinV2
from skyframe.model.vit import ViT
from skyframe.spec import InputError
from tests.system.batches import REGIONS, SPEC, nano_recipe, random_batch, random_sample

SIDE = 4


@pytest.fixture(scope="module")
def model() -> FactorisedEncoder:
    recipe = nano_recipe()
    return FactorisedEncoder({n: SPEC.modalities[n] for n in ("hr", "s2", "s1")}, recipe.model, REGIONS.num_regions, 7)


@pytest.fixture(scope="module")
def batch():
    return random_batch([random_sample(0), random_sample(1)])


def test_levels_lie_at_the_quarters_of_a_vit_and_at_the_stages_of_a_swin():
    with torch.device("meta"):
        assert ViT(3, 8, 24, 2).levels == (5, 11, 17, 23) and ViT(3, 8, 2, 2).levels == (0, 1)
        swin = SwinV2(3, 8, (1, 1, 2, 1), (1, 1, 2, 2))
    assert swin.levels == (0, 1, 2, 3) and swin.strides == (4, 8, 16, 32)


def test_stages_without_a_norm_of_their_own_are_normed_plainly():
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = SwinV2(3, 8, (1, 1), (1, 1), window_size=4, seed=3)
    every = SwinV2(3, 8, (1, 1), (1, 1), window_size=4, out_indices=(0, 1), seed=3)
    with torch.no_grad():
        for a, b in zip(plain.maps(x, indices=plain.levels), every.maps(x), strict=True):
            torch.testing.assert_close(a, b)
        assert torch.equal(plain.maps(x)[0], plain.maps(x, indices=(0, 1))[1])


@torch.no_grad()
def test_the_last_map_is_what_encode_returns(model, batch):
    for name, sides in (("hr", [32, 16, 8, 4]), ("s2", None), ("s1", None)):
        encoder = model.encoders[name]
        found = encoder.maps(batch)
        assert [m.shape[-1] for m in found] == (sides or [found[0].shape[-1]] * len(found))
        k = SIDE // found[-1].shape[-1]
        spread = found[-1].repeat_interleave(k, 2).repeat_interleave(k, 3)
        torch.testing.assert_close(rearrange(spread, "b d h w -> b (h w) d"), encoder.encode(batch).fused)
    found, fused = model.maps(batch), model.encode(batch).fused
    torch.testing.assert_close(rearrange(found[-1], "b d h w -> b (h w) d"), fused)
    assert [m.shape[-1] for m in found] == [32, 16, 8, 4] and found[-1].shape[1] == model.num_features
    of_s2 = model.maps(batch, "s2")
    torch.testing.assert_close(of_s2[-1], found[-1])
    torch.testing.assert_close(of_s2[0], model.encoders["s2"].maps(batch)[0])
    with pytest.raises(InputError, match="no modality 'dem'"):
        model.maps(batch, "dem")


@torch.no_grad()
def test_maps_of_a_padded_input_cover_exactly_its_positions():
    recipe = nano_recipe("model.encoders.s2.patch_px=4", "views.crop_px=6")
    model = FactorisedEncoder({"s2": SPEC.modalities["s2"]}, recipe.model, REGIONS.num_regions, seed=7).eval()
    batch = random_batch([random_sample(0, ("s2",), crop_px=6)], ("s2",), crop_px=6)
    encoder = model.encoders["s2"]
    found = encoder.maps(batch)
    assert {tuple(m.shape[-2:]) for m in found} == {(6, 6)}
    torch.testing.assert_close(rearrange(found[-1], "b d h w -> b (h w) d"), encoder.encode(batch).fused)
