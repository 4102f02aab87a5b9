import numpy as np
import pytest

from skyframe.data.spec_edit import write_statistics
from skyframe.data.statistics import BandStatistics, ModalityStatistics
from skyframe.spec import CubeSpec, InputError

SPEC = """# A head comment.
name: farm
description: >-
  two lines
  of text
modalities:
  # the optical one
  s2:  # Sentinel-2
    kind: series
    bands:
      - {name: B04, wavelength_um: 0.665}
      - {name: B08, wavelength_um: 0.842}
    gsd_m: 10
    mean: [0.1,
           0.2]  # ours
    std:
      - 0.05
      - 0.06
    units: reflectance
    dtype: uint16
    scale: 1.0e-4  # of Level-2A
    revisit_days: 5

  s1:
    kind: series
    bands: [{name: VV}]
    gsd_m: 10
    units: dB
    dtype: int16
    scale: 0.01
labels:
  mean: {gsd_m: 10, dtype: uint8}
"""


def found(name, **bands):
    made = [BandStatistics(b, m, s, (), 0.0, 1.0, 0.0, np.zeros(1, np.float32)) for b, (m, s) in bands.items()]
    return {name: ModalityStatistics(name, "", 1.0, 0.0, 1, tuple(made))}


@pytest.fixture
def spec(tmp_path):
    (tmp_path / "farm.yaml").write_text(SPEC)
    return tmp_path / "farm.yaml"


def test_only_mean_and_std_change(spec):
    measured = found("s2", B04=(0.123456, 0.0456789), B08=(0.3, 0.1)) | found("s1", VV=(-11.0, 3.5))
    assert write_statistics(spec, measured) == ["s2", "s1"]
    old, new = SPEC.splitlines(), spec.read_text().splitlines()
    gone = [line for line in old if line not in new]
    assert gone == ["    mean: [0.1,", "           0.2]  # ours", "    std:", "      - 0.05", "      - 0.06"]
    assert [line for line in new if line not in old] == [
        "    mean: [0.1235, 0.3]", "    std: [0.04568, 0.1]", "    mean: [-11]", "    std: [3.5]",
    ]  # fmt: skip
    assert [line for line in new if line in old] == [line for line in old if line not in gone]
    loaded = CubeSpec.load(spec)
    assert loaded.modality("s2").mean == (0.1235, 0.3) and loaded.modality("s1").std == (3.5,)
    assert [p.name for p in spec.parent.iterdir()] == ["farm.yaml"]
    before = spec.read_text()
    write_statistics(spec, measured)
    assert spec.read_text() == before


def test_what_cannot_be_described_is_left_alone(spec):
    constant, foreign = found("s1", VV=(1.0, 0.0)), found("s3", B01=(1.0, 1.0))
    assert write_statistics(spec, constant | foreign | found("s2", B04=(0.1, 0.1))) == []
    assert spec.read_text() == SPEC


def test_a_form_that_cannot_be_edited_is_refused_whole(spec):
    flow = SPEC.replace(
        SPEC[SPEC.index("  s1:") : SPEC.index("labels:")],
        "  s1: {kind: series, bands: [{name: VV}], gsd_m: 10, units: dB, dtype: int16}\n",
    )
    spec.write_text(flow)
    with pytest.raises(InputError, match=r"farm.yaml: modality s1 is not a block of its own"):
        write_statistics(spec, found("s2", B04=(1.0, 1.0), B08=(1.0, 1.0)) | found("s1", VV=(1.0, 1.0)))
    assert spec.read_text() == flow and [p.name for p in spec.parent.iterdir()] == ["farm.yaml"]


@pytest.mark.parametrize("name", ["simulated_earth", "worldcereal", "treesatai", "gfmap", "presto", "ocean_colour"])
def test_shipped_specs_can_be_edited(tmp_path, name):
    from skyframe.spec import find_yaml

    copy = tmp_path / f"{name}.yaml"
    copy.write_text(find_yaml("data_specs", name).read_text())
    spec = CubeSpec.load(copy)
    measured = {}
    for modality in spec.modalities.values():
        measured |= found(modality.name, **{band: (0.5, 0.25) for band in modality.band_names})
    wanted = [m.name for m in spec.modalities.values() if m.units != "class"]
    assert write_statistics(copy, measured) == wanted
    assert all(set(CubeSpec.load(copy).modality(m).mean) == {0.5} for m in wanted)
