"""Photometric changes: by sample, in stored units, geometry and validity untouched."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from skyframe.config.skysense import ViewsConfig
from skyframe.data.photometric import photometric
from skyframe.randomness import Draw
from skyframe.sample import Batch, SeriesBatch
from skyframe.spec import CubeSpec

SPEC = CubeSpec.load("simulated_earth")


def _batch(value: float, names=("s2", "s1", "hr")) -> Batch:
    series = {}
    for name in names:
        c = len(SPEC.modalities[name].bands)
        side = 64 if name == "hr" else 2
        series[name] = SeriesBatch(
            torch.full((2, 3, c, side, side), value),
            torch.ones(2, 3, side, side, dtype=torch.bool),
            torch.zeros(2, 3, dtype=torch.int32),
            torch.ones(2, c, dtype=torch.bool),
        )
    zeros = torch.zeros(2, dtype=torch.int64)
    return Batch(series, torch.zeros(2, 2, dtype=torch.float64), zeros, torch.tensor([3, 4]), zeros)


def _draw(*samples: int) -> Draw:
    return Draw(7, torch.tensor(samples))


def test_no_strength_changes_nothing():
    batch = _batch(1000.0)
    still = ViewsConfig(gain=0, offset=0, blur=0, solarize=0)
    for name, s in photometric(batch, SPEC.modalities, still, _draw(3, 4)).series.items():
        assert torch.equal(s.values, batch.series[name].values), name


def test_gain_and_offset_stay_in_their_bounds_and_differ_by_frame_and_band():
    views = ViewsConfig(gain=0.1, offset=0.05, blur=0, solarize=0)
    out = photometric(_batch(1000.0), SPEC.modalities, views, _draw(3, 4)).series["s2"].values
    m = SPEC.modalities["s2"]
    bound = 100 + 0.05 * torch.tensor(m.std) / m.scale
    assert ((out - 1000).abs() <= bound.reshape(-1, 1, 1) * 1.0001).all()
    assert len(out[:, :, :, 0, 0].unique()) == 2 * 3 * 10
    assert torch.equal(out[..., 0, 0], out[..., 1, 1])


def test_decibels_get_no_gain():
    views = ViewsConfig(gain=0.5, offset=0, blur=0, solarize=0)
    out = photometric(_batch(-1200.0), SPEC.modalities, views, _draw(3, 4)).series["s1"].values
    assert torch.equal(out, torch.full_like(out, -1200.0))


def test_a_sample_gets_the_same_changes_in_any_batch():
    views = ViewsConfig()
    both = photometric(_batch(90.0), SPEC.modalities, views, _draw(3, 4))
    swapped = photometric(_batch(90.0), SPEC.modalities, views, _draw(4, 3))
    for name in both.series:
        assert torch.equal(both.series[name].values, swapped.series[name].values.flip(0)), name


def test_blur_keeps_the_mean_and_lowers_the_spread():
    batch = _batch(0.0, ("hr",))
    noise = torch.rand(2, 3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    batch = dataclasses.replace(batch, series={"hr": dataclasses.replace(batch.series["hr"], values=noise)})
    only_blur = ViewsConfig(gain=0, offset=0, blur=1, solarize=0)
    soft = photometric(batch, SPEC.modalities, only_blur, _draw(3, 4)).series["hr"].values
    assert soft.std() < 0.5 * noise.std() and abs(float(soft.mean() - noise.mean())) < 1.0


def _images(seed: int) -> Batch:
    """Noise `[2, 3, 3, 64, 64]` as high-resolution images, a third of whose pixels are invalid, the last one wholly."""
    batch, numbers = _batch(0.0, ("hr",)), torch.Generator().manual_seed(seed)
    noise = torch.rand(2, 3, 3, 64, 64, generator=numbers) * 255
    valid = torch.rand(2, 3, 64, 64, generator=numbers) > 1 / 3
    valid[1, 2] = False
    hr = dataclasses.replace(batch.series["hr"], values=noise, valid=valid)
    return dataclasses.replace(batch, series={"hr": hr})


def _changed(batch: Batch, views: ViewsConfig, **fields) -> torch.Tensor:
    series = {"hr": dataclasses.replace(batch.series["hr"], **fields)}
    out = photometric(dataclasses.replace(batch, series=series), SPEC.modalities, views, _draw(3, 4))
    return out.series["hr"].values


@pytest.mark.parametrize("poison", [1e30, -1e30, float("nan")])
@pytest.mark.parametrize("views", [ViewsConfig(gain=0, offset=0, blur=1, solarize=0), ViewsConfig(blur=1, solarize=1)])
def test_what_invalid_pixels_hold_never_reaches_a_valid_one(views, poison):
    batch = _images(0)
    hr = batch.series["hr"]
    seen = hr.valid[:, :, None].expand_as(hr.values)
    poisoned = _changed(batch, views, values=hr.values.where(seen, torch.tensor(poison)))
    assert torch.equal(poisoned[seen], _changed(batch, views)[seen])


def test_blur_is_the_mean_over_valid_neighbours_by_hand():
    batch = _images(1)
    values, valid = torch.zeros(2, 3, 3, 64, 64), torch.ones(2, 3, 64, 64, dtype=torch.bool)
    values[..., 10, 10] = 48.0
    valid[0, :, 10, 11] = False
    only_blur = ViewsConfig(gain=0, offset=0, blur=1, solarize=0)
    soft = _changed(batch, only_blur, values=values, valid=valid)
    assert soft[1, 0, 0, 9:12, 9:12].tolist() == [[3.0, 6.0, 3.0], [6.0, 12.0, 6.0], [3.0, 6.0, 3.0]]
    # the centre of sample 0 lost a neighbour of weight 1/8: 12 / (7/8); its invalid neighbour stays as it was
    assert soft[0, 0, 0, 10, 9:12].tolist() == pytest.approx([6.0, 12 / 0.875, 0.0])


def test_blur_of_wholly_valid_images_is_the_plain_convolution():
    batch = _images(2)
    values = batch.series["hr"].values
    only_blur = ViewsConfig(gain=0, offset=0, blur=1, solarize=0)
    soft = _changed(batch, only_blur, valid=torch.ones(2, 3, 64, 64, dtype=torch.bool))
    kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]).expand(3, 1, 3, 3) / 16
    plain = F.conv2d(F.pad(values.flatten(0, 1), (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    assert torch.equal(soft, plain.reshape(soft.shape))


def test_solarisation_inverts_the_bright_half_only():
    batch = _batch(0.0, ("hr",))
    ramp = torch.arange(256).float().reshape(1, 1, 1, 16, 16).expand(2, 3, 3, 16, 16)
    batch = dataclasses.replace(batch, series={"hr": dataclasses.replace(batch.series["hr"], values=ramp)})
    only_solarize = ViewsConfig(gain=0, offset=0, blur=0, solarize=1)
    out = photometric(batch, SPEC.modalities, only_solarize, _draw(3, 4)).series["hr"].values[0, 0, 0].flatten()
    assert torch.equal(out[:128], torch.arange(128).float())
    assert torch.allclose(out[128:], 255 - torch.arange(128, 256).float(), atol=1e-4)
