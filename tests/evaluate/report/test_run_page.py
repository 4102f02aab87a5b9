import base64
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from skyframe.data.cube import open_cube
from skyframe.evaluate.datasets.colours import class_colours, data_uri, stretch
from skyframe.evaluate.protocol import append_rows
from skyframe.evaluate.report.run_page import build_report
from skyframe.evaluate.report.scene import pca_colours, scene_pictures
from skyframe.spec import InputError
from tests.evaluate.test_protocol import make_row
from tests.evaluate.worlds import SeasonEncoder, contract, labelled_cube

VOID = {"meta", "img", "br", "link", "line", "circle", "polyline", "i"}


class Page(HTMLParser):
    """Collects tags, addresses and text; raises where tags do not close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses, self.text, self.bold = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]
        if ("class", "best") in attrs:
            self.bold.append("")
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.bold and self.bold[-1] == "":
            self.bold[-1] = data


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    labelled_cube(root / "scene.zarr", 1, 640.0)
    run = root / "run"
    run.mkdir()
    lines = []
    for step in range(10, 501, 10):
        row = {"step": step, "time_s": step / 2, "total": 5.0 - step / 200, "samples_per_s": 31.5, "data_wait_pct": 2.0}
        row |= {"loss/s2/pix": 3.0, "loss/fused/img": 2.0, "loss/align/s2-s1": 1.0, "lr": 1e-3, "ema_momentum": 0.99}
        row |= {"teacher_agreement/fused": 0.9, "effective_rank/fused": 17.0, "feature_std/fused": 0.5}
        lines.append(json.dumps(row))
    (run / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 510, "tot')
    (run / "recipe.yaml").write_text("system: skysense\nname: try<this>\nseed: 7\n")
    (run / "environment.json").write_text(json.dumps({"skyframe": "0.1.0", "torch": "2.13.0"}))
    rows = [
        make_row(encoder="mine", task="crop_type_pixel", value=0.81, lo=0.78, hi=0.84, predictions_sha256="a"),
        make_row(
            encoder="raw_pixels",
            role="raw",
            task="crop_type_pixel",
            value=0.85,
            lo=0.82,
            hi=0.88,
            predictions_sha256="b",
        ),
        make_row(encoder="mine", task="crop_type_pixel", protocol="knn_k5", value=0.7, lo=0.6, hi=0.8),
        make_row(
            encoder="mine", task="crop_type_pixel", protocol="linear", chosen="lr=0.01 standardise=yes pooling=none"
        ),
    ]
    append_rows(root / "results.csv", rows)
    return root


def encoder(world):
    return SeasonEncoder(contract(open_cube(world / "scene.zarr")))


def test_page_is_whole_and_asks_for_nothing_outside_itself(world, tmp_path):
    path = build_report(
        world / "run", tmp_path / "new" / "r.html", encoder(world), world / "scene.zarr", world / "results.csv"
    )
    text = path.read_text()
    page = Page(text)
    assert not page.open
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    assert page.addresses and all(a.startswith("data:image/png;base64,") for a in page.addresses)
    assert "http" not in text and "url(" not in text and "@import" not in text
    assert len(page.addresses) == 4
    assert list(tmp_path.glob("new/*")) == [path]


def test_page_holds_what_a_reader_looks_for(world, tmp_path):
    page = Page(
        build_report(
            world / "run", tmp_path / "r.html", encoder(world), world / "scene.zarr", world / "results.csv"
        ).read_text()
    )
    text = " ".join(page.text)
    for wanted in (
        "try<this>", "seed 7", "torch 2.13.0", "31.5 samples/s", "4 min 10 s", "Weighted sum",
        "Sentinel-2", "Fused", "Alignment", "s2-s1",
        "Teacher/student agreement", "Effective rank of features", "Throughput", "Teacher momentum",
        "Optical, true colour", "Embedding",
        "Land cover, truth", "Prototypes", "cropland", "crop type pixel", "78.0 to 84.0", "Other numbers of neighbours",
        "mine 0.810 is below pixel statistics 0.850", "lr=0.01 standardise=yes pooling=none", "system: skysense",
    ):  # fmt: skip
        assert wanted in " ".join(text.split()), wanted
    assert page.bold == ["85.0", "50.0", "70.0"]


def test_parts_that_are_not_given_are_left_out(world, tmp_path):
    page = Page(build_report(world / "run", tmp_path / "r.html", None, None, None).read_text())
    text = " ".join(page.text)
    assert "A scene" not in text and "Alarms" not in text and "Weighted sum" in text
    assert page.addresses == []


def test_wrong_folders_are_named_and_write_nothing(world, tmp_path):
    with pytest.raises(InputError, match=r"no metrics.jsonl, expected a run folder written by `skyframe pretrain`"):
        build_report(tmp_path, tmp_path / "r.html", None, None, None)
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(InputError, match=r"metrics.jsonl: no row yet"):
        build_report(tmp_path, tmp_path / "r.html", None, None, None)
    with pytest.raises(InputError, match=r"none.csv: no result rows"):
        build_report(world / "run", tmp_path / "r.html", None, None, tmp_path / "none.csv")
    assert not (tmp_path / "r.html").exists()


def test_scene_pictures_show_the_cube_and_the_regions_prototypes(world):
    optical, embedding, truth, prototypes = scene_pictures(encoder(world), world / "scene.zarr", side_px=40)
    assert [p.rgb.shape for p in (optical, embedding, truth, prototypes)] == [(40, 40, 3)] * 4
    cube = open_cube(world / "scene.zarr")
    from skyframe.data.read import read_label
    from skyframe.spec import Window

    whole = Window(str(cube.path), 120.0, 120.0, 400.0)  # the middle of 640 m
    values = read_label(cube, "land_cover", whole)
    for value in np.unique(values):
        assert len(np.unique(truth.rgb[values == value], axis=0)) == 1
    assert {name for name, _ in truth.legend} == {("water", "forest", "cropland")[v] for v in np.unique(values)}
    away = SeasonEncoder(contract())
    assert "lies in no region" in scene_pictures(away, world / "scene.zarr", 16)[3].caption
    away.contract = contract(crop_px=40)
    with pytest.raises(InputError, match=r"cube scene: 640 x 640 m, expected at least 800 m a side"):
        scene_pictures(away, world / "scene.zarr")


def test_overlapping_tiles_blend_to_what_each_position_says(world):
    """An encoder that looks at one position at a time gives the same picture whatever the tiles."""
    small, large = (SeasonEncoder(contract(open_cube(world / "scene.zarr"), crop_px=c)) for c in (4, 10))
    found = [scene_pictures(e, world / "scene.zarr", side_px=20) for e in (small, large)]
    assert abs(found[0][1].rgb.astype(int) - found[1][1].rgb).max() <= 1
    assert (found[0][3].rgb == found[1][3].rgb).all()


def test_embedding_colours_follow_the_features_not_their_scale():
    rng = np.random.default_rng(0)
    dense = np.zeros((8, 8, 6), np.float32)
    dense[:, :4] += rng.normal(size=6)
    dense += rng.normal(0, 0.01, dense.shape)
    colours = pca_colours(dense)
    assert colours.dtype == np.uint8
    assert (abs(colours[:, :4, 0].astype(int).mean() - colours[:, 4:, 0].mean())) > 150
    assert abs(pca_colours(dense * 100).astype(int) - colours).max() <= 1
    assert pca_colours(np.zeros((4, 4, 2), np.float32)).shape == (4, 4, 3)


def test_stretch_colours_and_png():
    ramp = np.linspace(0, 1, 101)[:, None, None].repeat(3, 2)
    ramp[50] = np.nan
    stretched = stretch(ramp)
    assert (stretched[0, 0, 0], stretched[100, 0, 0], stretched[50, 0, 0]) == (0, 255, 128)
    colours = class_colours(["open water", "forest", "deep water", "rock"])
    assert len(np.unique(colours, axis=0)) == 4
    assert colours[1].tolist() == [34, 102, 58]
    image = Image.open(io.BytesIO(base64.b64decode(data_uri(stretched, 2).split(",")[1])))
    assert image.size == (2, 202)


def test_colours_from_the_wheel_keep_away_from_those_by_word():
    names = ["river", "town", *(f"kind {n}" for n in range(10))]
    colours = class_colours(names).astype(float)
    distance = np.linalg.norm(colours[2:, None] - colours[None, :2], axis=-1)
    assert distance.min() > 60 and len(np.unique(colours, axis=0)) == 12
    assert class_colours([]).shape == (0, 3)
