"""Encoders of others: normalised, asked and placed rightly, loaded strictly from one YAML."""

import dataclasses
import pickle
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from skyframe.calendar import DAY_UNKNOWN, day_of
from skyframe.config.contract import CONTRACT_FORMAT, Contract
from skyframe.config.foreign import load_foreign_config
from skyframe.evaluate.benchmarks import open_dataset
from skyframe.evaluate.feed.fit import fit
from skyframe.evaluate.foreign import Foreign, load_foreign
from skyframe.evaluate.foreign_calls import S1, S2, galileo, plain, presto, timm
from skyframe.evaluate.protocol import Encoder
from skyframe.sample import Batch, SeriesBatch, collate
from skyframe.spec import Band, InputError, Modality
from tests.evaluate.foreign_models import GalileoEncoder, Presto, TinyViT

ROOT = Path(__file__).resolve().parents[2]


def _contract(width: int, *modalities: Modality) -> Contract:
    return Contract(CONTRACT_FORMAT, "foreign", "tiny", {m.name: m for m in modalities}, {}, 8, 0, width)


def _modality(name: str, bands: tuple[str, ...], mean: float = 0.0, std: float = 1.0, gsd_m: float = 10.0) -> Modality:
    kind: Any = "image" if name == "hr" else "series"
    many = len(bands)
    listed = tuple(Band(b) for b in bands)
    return Modality(
        name, kind, listed, gsd_m, "count", "float32", scale=0.1, offset=1.0, mean=(mean,) * many, std=(std,) * many
    )


def _batch(days: list[list[int]] | None = None, place: float = 50.0, **values: Tensor) -> Batch:
    size = len(next(iter(values.values())))
    series = {}
    for name, v in values.items():
        day = torch.tensor(days or [[DAY_UNKNOWN] * v.shape[1]] * size, dtype=torch.int32)
        valid = torch.ones(size, v.shape[1], *v.shape[-2:], dtype=torch.bool)
        series[name] = SeriesBatch(v, valid, day, torch.ones(size, v.shape[2], dtype=torch.bool))
    none = torch.zeros(size, dtype=torch.int64)
    return Batch(series, torch.full((size, 2), place, dtype=torch.float64), none - 1, none, none)


def test_a_vit_with_timms_interface_gets_normalised_images_and_gives_tokens_per_position() -> None:
    torch.manual_seed(0)
    module = TinyViT()
    encoder: Encoder = Foreign(module, _contract(6, _modality("hr", ("red", "green", "blue"), 3.0, 2.0)), timm)
    stored = torch.rand(2, 1, 3, 8, 8) * 50
    features = encoder.encode(_batch(hr=stored))
    tokens = module.forward_features((stored[:, 0] * 0.1 + 1.0 - 3.0) / 2.0)[:, 1:]
    assert features.fused.shape == (2, 64, 6) and features.pooled.shape == (2, 6)
    for position, token in ((0, 0), (3, 0), (4, 1), (8 * 4, 2), (63, 3)):
        torch.testing.assert_close(features.fused[:, position], tokens[:, token])
    torch.testing.assert_close(features.pooled, tokens.mean(1))


def test_an_image_is_resampled_to_the_size_that_the_module_wants() -> None:
    module = TinyViT()
    contract = _contract(6, _modality("hr", ("red", "green", "blue"), gsd_m=2.5))
    stored = torch.full((1, 1, 3, 24, 24), 7.0)
    features = Foreign(module, contract, timm, input_px=16).encode(_batch(hr=stored))
    assert features.fused.shape == (1, 36, 6)  # 24 pixels of 2.5 m are 6 positions
    torch.testing.assert_close(features.fused[0, 0], module.forward_features(torch.full((1, 3, 16, 16), 1.7))[0, 1])


def test_what_is_invalid_is_zero_and_does_not_count() -> None:
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    encoder = Foreign(Mean(), _contract(2, _modality("s2", ("a", "b"), 1.0, 1.0)), plain)
    batch = _batch(s2=torch.tensor([[10.0, 20.0], [30.0, 40.0]]).reshape(1, 2, 2, 1, 1).expand(1, 2, 2, 2, 2).clone())
    batch.series["s2"].valid[0, 1, 0, 0] = False
    batch.series["s2"].valid[0, :, 1, 1] = False
    fused = encoder.encode(batch).fused[0]
    torch.testing.assert_close(fused[:, 0], torch.tensor([1.0, 2.0, 2.0, 0.0]))
    torch.testing.assert_close(encoder.encode(batch).pooled[0], fused[:3].mean(0))
    batch.series["s2"].bands[0, 1] = False
    torch.testing.assert_close(encoder.encode(batch).fused[0, :, 1], torch.zeros(4))


def test_gradients_reach_the_module_where_they_are_wanted() -> None:
    module = TinyViT()
    encoder = Foreign(module, _contract(6, _modality("hr", ("red", "green", "blue"))), timm)
    encoder.encode(_batch(hr=torch.rand(1, 1, 3, 8, 8))).fused.square().sum().backward()
    assert module.patch_embed.weight.grad is not None and bool((module.patch_embed.weight.grad != 0).any())


def test_another_width_another_modality_and_tokens_that_make_no_square_are_told() -> None:
    rgb = _modality("hr", ("red", "green", "blue"))
    image = _batch(hr=torch.rand(1, 1, 3, 8, 8))
    with pytest.raises(InputError, match=r"answers \[1, 6, 2, 2\], expected \[B, 5\]"):
        Foreign(TinyViT(), _contract(5, rgb), timm).encode(image)
    with pytest.raises(InputError, match="takes s2, got none of them"):
        Foreign(TinyViT(), _contract(6, dataclasses.replace(rgb, name="s2")), timm).encode(image)
    with pytest.raises(InputError, match="5 tokens of places, expected a square; correct skip_tokens"):
        Foreign(TinyViT(), _contract(6, rgb), lambda m, f, p: timm(m, f, p, skip=0)).encode(image)


def _months(*months: int) -> list[int]:
    return [day_of(date(2020 + m // 12, m % 12 + 1, 15)) for m in months]


def test_presto_sees_months_pixel_by_pixel() -> None:
    module = Presto()
    encoder = Foreign(module, _contract(4, _modality("s2", S2), _modality("s1", S1)), presto)
    s2 = torch.full((2, 3, 10, 2, 2), 10.0)
    s2[:, 1] = 30.0
    batch = _batch([_months(4, 4, 6), _months(11, 12, 13)], s2=s2, s1=torch.full((2, 3, 2, 2, 2), 20.0))
    batch.series["s1"].valid[1, :, 0, 0] = False
    fused = encoder.encode(batch).fused
    # stored 10, 30 -> 2, 4; May is their mean 3, July 2; S1 is 3; the vegetation index of equal bands 0
    first = (10 * 3.0 + 10 * 2.0 + 2 * 3.0 + 2 * 3.0) / 26
    torch.testing.assert_close(fused[0, 0], torch.tensor([first, 50.0, 4.0, 2.0]))
    second = (10 * (2.0 + 4.0 + 2.0) + 6 * 3.0) / 39
    torch.testing.assert_close(fused[1, 1], torch.tensor([second, 50.0, 11.0, 3.0]))
    torch.testing.assert_close(fused[1, 0], torch.tensor([80.0 / 33, 50.0, 11.0, 3.0]))
    assert sorted(module.encoder.rows) == [1, 3, 4]  # rows of equally many hidden tokens


def test_an_encoding_does_not_depend_on_its_neighbours_in_the_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    encoder = Foreign(GalileoEncoder(), _contract(2, _modality("s2", S2)), galileo)
    batch = _batch([_months(0, 5), _months(3, 20)], s2=torch.rand(2, 2, 10, 8, 8, generator=generator))
    both = encoder.encode(batch).fused
    for k in range(2):
        s = batch.series["s2"]
        one = SeriesBatch(s.values[k : k + 1], s.valid[k : k + 1], s.day[k : k + 1], s.bands[k : k + 1])
        row = batch.place[k : k + 1], batch.region[k : k + 1], batch.index[k : k + 1], batch.epoch[k : k + 1]
        torch.testing.assert_close(encoder.encode(Batch({"s2": one}, *row)).fused[0], both[k])


def test_galileo_hides_a_patch_that_was_hardly_seen() -> None:
    encoder = Foreign(GalileoEncoder(), _contract(2, _modality("s2", S2)), lambda m, f, p: galileo(m, f, p, 4))
    s2 = torch.full((1, 2, 10, 8, 8), 10.0)
    batch = _batch([_months(1, 3)], s2=s2)
    batch.series["s2"].valid[0, 0, :3, :4] = False  # three quarters of the first patch in February
    fused = encoder.encode(batch).fused[0].reshape(8, 8, 2)
    ndvi = (0.0 - (0.2892116502999044 - 2 * 0.2720939024500081)) / (4 * 0.2720939024500081)
    assert fused[0, 0, 1] == 3.0 and fused[0, 4, 1] == 2.0  # April alone; the mean of February and April
    torch.testing.assert_close(fused[0, 0, 0], torch.tensor((10 * 2.0 + ndvi) / 13))


# --- from a YAML ----------------------------------------------------------------------------------------------------


def _written(folder: Path, **changes: Any) -> Path:
    shutil.copy(ROOT / "tests/evaluate/foreign_models.py", folder / "model.py")
    entry = {"kind": "image", "gsd_m": 10, "units": "count", "bands": ["red", "green"], "mean": [0, 0], "std": [1, 1]}
    tree = {
        "name": "mine", "file": "model.py", "make": "TinyViT", "args": {"bands": 2}, "width": 6, "call": "timm",
        "weights": "w.pt", "modalities": {"hr": entry},
    }  # fmt: skip
    torch.manual_seed(1)
    torch.save({"model": {f"module.{k}": v for k, v in TinyViT(2).state_dict().items()}}, folder / "w.pt")
    tree |= {"weights_key": "model", "strip": ["module."]}
    (folder / "mine.yaml").write_text(yaml.safe_dump({**tree, **changes}))
    return folder / "mine.yaml"


def test_an_encoder_from_a_yaml_has_the_weights_of_its_file(tmp_path: Path) -> None:
    path = _written(tmp_path)
    encoder = load_foreign(path)
    torch.manual_seed(1)
    expected = TinyViT(2).state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in encoder.module.state_dict().items())
    assert encoder.contract.modalities["hr"].band_names == ("red", "green") and encoder.contract.num_features == 6
    fresh = load_foreign(path, trained=False)
    assert not torch.equal(fresh.module.state_dict()["patch_embed.weight"], expected["patch_embed.weight"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"weights_key": ""}, "model is no weight, expected a state dict; name it by weights_key"),
        ({"weights_key": "net"}, "no key 'net', it has model"),
        ({"strip": []}, "weights do not fit TinyViT .*0 names in common"),
        ({"args": {"bands": 3}}, "1 weights do not fit TinyViT .first: patch_embed.weight; 5 names in common"),
        ({"args": {"depth": 3}}, "TinyViT failed with TypeError"),
        ({"make": "BigViT"}, "BigViT failed with AttributeError"),
        ({"make": "torch.zeros", "args": {"size": [1]}}, "returns Tensor, expected a torch module"),
        ({"file": "none.py"}, "no Python file"),
        ({"weights": "none.pt"}, "no such file, expected the encoder's weights"),
        ({"weights": "model.py"}, "no file of weights alone"),
        ({"call": "clip"}, "call: 'clip' is not one of"),
        ({"call": "presto"}, "hr has bands red, green, expected s1 with VV, VH and s2 with B02"),
        ({"modalities": {}}, "0 modalities"),
        ({"modalities": {"hr": {"kind": "image", "gsd_m": 1, "units": "x", "bands": ["red"]}}}, "has no mean and std"),
        ({"wieghts": "w.pt"}, "unknown key 'wieghts'; did you mean 'weights'"),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        load_foreign(_written(tmp_path, **changes))


def test_weights_with_code_in_them_do_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "trap",)

    path = _written(tmp_path)
    torch.save({"model": Trap()}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="no file of weights alone"):
        load_foreign(path)
    (tmp_path / "w.pt").write_bytes(pickle.dumps(Trap(), protocol=2))
    with pytest.raises(InputError, match="no file of weights alone"):
        load_foreign(path)
    assert not (tmp_path / "trap").exists()


def test_labels_of_ones_own_reach_an_encoder_of_others(tmp_path: Path, earth: Path) -> None:
    tree = {"name": "mine", "task": "scene", "cubes": [str(earth / "a")], "truth": "land_cover", "window_px": 8}
    tree |= {"modalities": ["s2", "s1"], "split": {"block_km": 0.3}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    dataset = open_dataset(str(tmp_path / "mine.yaml"), tmp_path)
    shutil.copy(ROOT / "recipes/encoders/presto.yaml", tmp_path)
    (tmp_path / "single_file_presto.py").write_text((ROOT / "tests/evaluate/foreign_models.py").read_text())
    torch.save(Presto().state_dict(), tmp_path / "default_model.pt")
    encoder = load_foreign(tmp_path / "presto.yaml")
    encoder.contract = dataclasses.replace(encoder.contract, num_features=4)
    fitted = fit(dataset, encoder.contract)
    assert fitted.normaliser == "pretraining"
    samples = [fitted(dataset.read(item)) for item in dataset.items[:3]]
    frames = {n: max(len(s.series[n].day) for s in samples) for n in ("s2", "s1")}
    batch = collate(samples, fitted.layouts(8, frames))
    features = encoder.encode(batch)
    assert features.fused.shape == (3, 64, 4) and bool(features.fused.isfinite().all())
    for k, sample in enumerate(samples):
        assert float(features.fused[k, 0, 1].detach()) == pytest.approx(float(sample.place[0]), rel=1e-5)


@pytest.mark.parametrize("name", ["presto", "galileo_nano"])
def test_the_shipped_encoders_load_with_files_of_their_interface(tmp_path: Path, name: str) -> None:
    shutil.copy(ROOT / f"recipes/encoders/{name}.yaml", tmp_path)
    config = load_foreign_config(tmp_path / f"{name}.yaml")
    text = (ROOT / "tests/evaluate/foreign_models.py").read_text()
    if name == "galileo_nano":
        text += "\n\nclass Encoder(GalileoEncoder):\n    def __init__(self, **_):\n        super().__init__()\n"
    (tmp_path / config.file).write_text(text)
    module: nn.Module = Presto() if name == "presto" else GalileoEncoder()
    torch.save({k: v * 3 for k, v in module.state_dict().items()}, tmp_path / config.weights)
    encoder = load_foreign(tmp_path / f"{name}.yaml")
    assert all(bool((p == 3).all()) for p in encoder.parameters())
    assert encoder.contract.modalities["s2"].band_names == S2 and encoder.contract.num_features == 128
