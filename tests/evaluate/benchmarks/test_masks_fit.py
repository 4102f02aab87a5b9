"""Every data set of masks becomes input of an encoder of Sentinel-2 and Sentinel-1, on the mask's own grid."""

import numpy as np
import pytest

from skyframe.evaluate.benchmarks import open_dataset
from skyframe.evaluate.feed.fit import fit, training_statistics
from tests.evaluate.layouts.dynamicearthnet import write_dynamicearthnet
from tests.evaluate.layouts.isaid import write_isaid, write_isaid_crops
from tests.evaluate.layouts.oscd import write_oscd
from tests.evaluate.layouts.pastis import write_pastis
from tests.evaluate.layouts.potsdam import write_potsdam
from tests.evaluate.layouts.sen1floods11 import write_sen1floods11
from tests.evaluate.worlds import contract

S2 = "B02+B03+B04+B08"


@pytest.mark.parametrize(
    ("name", "write", "note", "bands", "dates"),
    [
        ("isaid", write_isaid, "rgb>s2:blue+green+red 0.3 m as 10 m by statistics", [1, 1, 1, 0], 1),
        ("isaid", write_isaid_crops, "rgb>s2:blue+green+red 0.3 m as 10 m by statistics", [1, 1, 1, 0], 1),
        ("potsdam", write_potsdam, "rgb>s2:blue+green+red+nir 0.05 m as 10 m by statistics", [1, 1, 1, 1], 1),
        ("pastis-r", write_pastis, f"s2>s2:{S2} s1>s1:VV+VH", [1, 1, 1, 1], 3),
        ("sen1floods11", write_sen1floods11, f"s2>s2:{S2} by statistics s1>s1:VV+VH", [1, 1, 1, 1], 1),
        ("oscd", write_oscd, f"s2>s2:{S2} by statistics", [1, 1, 1, 1], 2),
        ("dynamicearthnet", write_dynamicearthnet, "planet>s2:blue+green+red+nir 3 m as 10 m s1>s1", [1, 1, 1, 1], 6),
        ("dynamicearthnet-change", write_dynamicearthnet, "planet>s2:blue+green+red+nir", [1, 1, 1, 1], 2),
    ],
)
def test_a_sample_in_the_contracts_bands_covers_its_mask(tmp_path, name, write, note, bands, dates):
    dataset = open_dataset(name, write(tmp_path))
    rules = fit(dataset, contract()).matches
    measured = training_statistics(dataset, [n for n, m in rules.items() if m.rule == "dataset"])
    fitted = fit(dataset, contract(), statistics=measured or None)
    assert note in fitted.note
    sample = dataset.read(dataset.part("train")[0])
    series = fitted(sample).series["s2"]
    target = sample.targets.get("mask", sample.targets.get("masks"))
    assert series.values.shape == (dates, 4, *target.shape[-2:])
    assert fitted.label_px(sample) == 1
    assert series.bands.tolist() == [bool(b) for b in bands]
    assert series.valid.mean() > 0.9
    assert np.isfinite(series.values).all()
