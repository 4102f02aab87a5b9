import dataclasses

import numpy as np
import pytest
import torch

from skyframe.evaluate.feed.baselines import RawPixels
from skyframe.evaluate.protocol import ResultRow, append_rows, digest, read_rows, weights_sha256
from skyframe.spec import InputError
from tests.evaluate.worlds import SeasonEncoder, contract


def make_row(**changes):
    values = {f.name: {"str": "x", "float": 0.5, "int": 3}[f.type] for f in dataclasses.fields(ResultRow)}
    return ResultRow(
        **{
            **values,
            "suite": "t",
            "protocol": "knn",
            "role": "encoder",
            "predictions_sha256": "p",
            "feature_std": 1.0,
            **changes,
        }
    )


def test_rows_survive_the_file_and_append(tmp_path):
    path = tmp_path / "new" / "results.csv"
    assert read_rows(path) == []
    first, second = make_row(value=1 / 3, chosen='lr=0.1, "quoted"'), make_row(seed=4)
    append_rows(path, [first])
    append_rows(path, [second])
    assert read_rows(path) == [first, second]
    assert path.read_text().count("suite,task") == 1


def test_another_versions_columns_and_a_cut_line_are_errors(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("suite,task,score\n")
    with pytest.raises(
        InputError, match=r"results.csv: columns differ from this version's by .*score.*move the file away"
    ):
        read_rows(path)
    path.unlink()
    append_rows(path, [make_row()])
    path.write_text(path.read_text()[:-40])
    with pytest.raises(InputError, match=r"line 2 is cut or edited .*delete that line"):
        read_rows(path)


def test_key_tells_weights_seeds_and_metrics_apart():
    keys = {make_row(**c).key for c in ({}, {"weights_sha256": "b"}, {"seed": 9}, {"metric": "miou"}, {"value": 0.9})}
    assert len(keys) == 4


def test_digest_sees_values_shapes_and_dtypes():
    arrays = [np.zeros(4, np.int16), np.zeros((2, 2), np.int16), np.zeros(2, np.int32), np.ones(4, np.int16)]
    assert len({digest(a) for a in arrays}) == 4
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})


def test_weights_hash_follows_every_weight_and_not_the_contract():
    first, same, other = (SeasonEncoder(contract(weights_sha256="as told"), seed=s) for s in (0, 0, 1))
    assert weights_sha256(first) == weights_sha256(same) != weights_sha256(other)
    with torch.no_grad():
        same.mix[0, 0] += 1e-6
    assert weights_sha256(first) != weights_sha256(same)
    assert weights_sha256(RawPixels(contract())) == weights_sha256(RawPixels(contract()))
    assert weights_sha256(RawPixels(contract())) != weights_sha256(RawPixels(contract(crop_px=9)))


def test_weights_hash_takes_flags_scalars_and_half_precision():
    module = torch.nn.BatchNorm1d(2)
    module.register_buffer("flag", torch.tensor([True]))
    before = weights_sha256(module)
    assert weights_sha256(module.to(torch.bfloat16)) != before
