"""What an encoder accepts: sources that agree with its contract; every contradiction is one sentence."""

import dataclasses
import json

import pytest

from skyframe.config.contract import CONTRACT_FORMAT, Canary, Contract, check_input
from skyframe.spec import Band, CubeSpec, InputError

SPEC = CubeSpec.load("simulated_earth")
S2 = SPEC.modality("s2")


@pytest.fixture
def contract() -> Contract:
    return Contract(
        CONTRACT_FORMAT, "skysense", "model", {n: SPEC.modality(n) for n in ("s2", "s1")}, {"s2": 8, "s1": 4},
        crop_px=8, ratio=0, num_features=192, build={"model": {"preset": "nano"}, "num_regions": 3},
    )  # fmt: skip


def test_a_contract_survives_its_file(contract, tmp_path):
    contract.save(tmp_path)
    assert Contract.load(tmp_path) == contract
    assert Contract.load(tmp_path).canary == Canary("canary.safetensors", 1e-5)
    tree = json.loads((tmp_path / "contract.json").read_text())
    assert tree["modalities"]["s2"]["mean"] == list(S2.mean) and tree["format"] == CONTRACT_FORMAT


def test_the_training_sensor_fewer_bands_another_order_and_other_statistics_are_accepted(contract):
    check_input(contract, S2)
    check_input(contract, dataclasses.replace(S2, bands=S2.bands[::-1], mean=(), std=()))
    check_input(contract, dataclasses.replace(S2, bands=S2.bands[2:5], mean=(0.5,) * 3, std=(1.0,) * 3))
    check_input(contract, dataclasses.replace(S2, bands=(*S2.bands[:2], Band("B01")), mean=(), std=()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"units": "DN"}, r"model: s2 has units 'DN', expected 'reflectance'; ingest the source with the spec"),
        ({"scale": 1.0}, r"model: s2 has scale 1.0, expected 0.0001"),
        ({"offset": -0.1}, r"model: s2 has offset -0.1, expected 0.0"),
        ({"gsd_m": 20.0}, r"model: s2 has gsd_m 20.0, expected 10.0"),
        (
            {"bands": (Band("red"), Band("nir")), "mean": (), "std": ()},
            r"s2 bands red, nir are none of those .*B02, B03",
        ),
        ({"name": "s22"}, r"model: takes no modality 's22'; expected s2, s1; did you mean 's2'\?"),
    ],
)
def test_a_source_that_contradicts_the_contract_is_refused(contract, change, message):
    with pytest.raises(InputError, match=message):
        check_input(contract, dataclasses.replace(S2, **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": CONTRACT_FORMAT + 1}, r"contract format 2, expected 1; export with this version, or upgrade"),
        ({"num_features": "many"}, r"num_features: expected int, got 'many'"),
        ({"sensor": "s2"}, r"unknown key 'sensor'"),
    ],
)
def test_a_file_that_does_not_fit_the_schema_is_refused(contract, tmp_path, change, message):
    contract.save(tmp_path)
    path = tmp_path / "contract.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=message):
        Contract.load(tmp_path)
