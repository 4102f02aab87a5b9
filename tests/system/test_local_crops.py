"""Local crops of the high-resolution image: the student's crop answers to the teacher's whole image."""

import dataclasses

import pytest
import torch

from skyframe.data.layout import layouts_for
from skyframe.sample import Batch, collate
from skyframe.spec import InputError
from tests.system.batches import CROP_PX, SPEC, nano_recipe, nano_system, random_sample, views_of, with_values

HR = {"hr": SPEC.modalities["hr"]}
LOCAL_PX = 2


def local_crops(names, number: int = 0) -> Batch:
    """The upper left quarter of fresh random images, one per sample; a sample without `hr` has none."""
    samples = []
    for i, held in enumerate(names):
        made = random_sample(50 + 10 * number + i, [n for n in held if n == "hr"])
        series = {}
        for name, s in made.series.items():
            side = s.values.shape[-1] * LOCAL_PX // CROP_PX
            series[name] = dataclasses.replace(s, values=s.values[..., :side, :side], valid=s.valid[..., :side, :side])
        samples.append(dataclasses.replace(made, series=series, pixel=made.pixel[: LOCAL_PX**2]))
    return collate(samples, layouts_for(HR, {}, LOCAL_PX))


def test_a_local_crop_adds_its_mean_to_the_image_term_and_to_no_other():
    system = nano_system("views.local_crops=2", f"views.local_px={LOCAL_PX}")
    names = [("hr", "s2", "s1"), ("s2", "s1")]
    views, crops = views_of(names), [local_crops(names, n) for n in range(2)]
    with torch.no_grad():
        bare = system.losses(views)
        single = [system.losses((*views, crop)) for crop in crops]
        both = system.losses((*views, *crops))
    added = [terms["hr/img"] - bare["hr/img"] for terms in single]
    assert all(a > 0 for a in added) and added[0] != added[1]
    torch.testing.assert_close(both["hr/img"] - bare["hr/img"], (added[0] + added[1]) / 2)
    assert all(torch.equal(both[k], bare[k]) for k in bare if k != "hr/img")


def test_invalid_pixels_of_a_local_crop_do_not_show():
    system = nano_system("views.local_crops=1", f"views.local_px={LOCAL_PX}")
    names = [("hr", "s2")]
    views, crop = views_of(names), local_crops(names)
    hr = crop.series["hr"]
    valid = hr.valid.clone()
    valid[..., : valid.shape[-1] // 2, :] = False  # the upper two of four positions
    crop = dataclasses.replace(crop, series={"hr": dataclasses.replace(hr, valid=valid)})
    poisoned = with_values(crop, "hr", torch.where(valid[:, :, None], hr.values, 255 - hr.values))
    with torch.no_grad():
        assert system.losses((*views, crop))["hr/img"] == system.losses((*views, poisoned))["hr/img"]


def test_a_sample_without_imagery_adds_nothing():
    system = nano_system("views.local_crops=1", f"views.local_px={LOCAL_PX}")
    names = [("s2", "s1"), ("s2",)]
    views = views_of(names)
    with torch.no_grad():
        assert system.losses((*views, local_crops(names)))["hr/img"] == system.losses(views)["hr/img"] == 0


@pytest.mark.parametrize("without", ["loss.sources=[fused]", "loss.granularity=[pix]", "loss.alpha=0"])
def test_local_crops_that_no_term_would_use_are_refused(without):
    with pytest.raises(InputError, match=r"views.local_crops is 1 but no term uses them"):
        nano_recipe("views.local_crops=1", f"views.local_px={LOCAL_PX}", without)
