"""GEO-Bench v2 read from tiny containers, whole and damaged, through the package that its authors use."""

import dataclasses
import sys
import types
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from skyframe.calendar import day_of
from skyframe.evaluate.benchmarks import open_dataset
from skyframe.evaluate.benchmarks.geobench2 import ABOUT
from skyframe.evaluate.datasets.check import check_dataset
from skyframe.spec import InputError
from tests.evaluate.layouts.geobench2 import SIDE_PX, write_geobench2

pytest.importorskip("tacoreader", reason="GEO-Bench v2 is read through tacoreader, an optional package")


@pytest.mark.parametrize("name", sorted(ABOUT))
def test_every_data_set_is_read_from_its_container(tmp_path: Path, name: str) -> None:
    write_geobench2(tmp_path / name / f"geobench_{name}.tortilla", name)
    dataset = open_dataset(f"gb2-{name.replace('_', '-')}", tmp_path)
    report = check_dataset(dataset)
    assert report.problems == () and [len(dataset.part(p)) for p in ("train", "val", "test")] == [2, 2, 2]
    num, about = len(dataset.classes), ABOUT[name]
    units = 1 if about.kind == "multilabel" else SIDE_PX**2 - (1 if any(h > 0 for h in about.hidden) else 0)
    expected: dict[int, int] = {}
    for n in (2, 5):
        expected[n % num] = expected.get(n % num, 0) + units
    assert report.units["test"] == expected
    sample = dataset.read(dataset.items[3])
    assert sample.place.tolist() == [53.0, 5.0]
    for modality, m in about.modalities.items():
        values = sample.series[modality].values
        assert values[0, :, 0, 0].tolist() == [30.0 + k for k in range(len(m.bands))]


def test_a_series_has_its_days(tmp_path: Path) -> None:
    write_geobench2(tmp_path / "geobench_pastis.tortilla", "pastis")
    series = open_dataset("gb2-pastis", tmp_path)
    s2 = series.read(series.items[0]).series["s2"]
    assert s2.day.tolist() == [day_of(date(2019, 1, 2)), day_of(date(2019, 2, 28))]
    assert s2.values[:, 0, 0, 0].tolist() == [0.0, 1.0]


def test_parts_belong_together_and_a_lost_one_is_told(tmp_path: Path) -> None:
    for k in range(3):
        write_geobench2(tmp_path / f"geobench_pastis.{k:04d}.part.tortilla", "pastis", 3, 3 * k, parts=3)
    whole = open_dataset("gb2-pastis", tmp_path)
    assert len(whole.items) == 9 and whole.problems == ()
    (tmp_path / "geobench_pastis.0001.part.tortilla").unlink()
    lame = open_dataset("gb2-pastis", tmp_path)
    assert len(lame.items) == 6 and "part 0001 of 3 is missing" in lame.problems[0]


def test_a_damaged_copy_tells_each_fault(tmp_path: Path) -> None:
    path = write_geobench2(tmp_path / "geobench_caffe.tortilla", "caffe")
    whole = path.read_bytes()
    spot = whole.index(b"II*\0", 200)
    path.write_bytes(whole[:spot] + bytes(200) + whole[spot + 200 :])
    told = check_dataset(open_dataset("gb2-caffe", tmp_path)).problems
    assert len(told) == 1 and "file 0 of id0 cannot be read" in told[0]
    path.write_bytes(whole[: len(whole) // 2])
    dataset = open_dataset("gb2-caffe", tmp_path)
    assert dataset.items == () and "not a readable tortilla" in dataset.problems[0]
    path.write_bytes(b"PK" + whole[2:])
    assert "not a readable tortilla" in open_dataset("gb2-caffe", tmp_path).problems[0]


def test_labels_that_are_none_and_masks_that_say_more_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_geobench2(tmp_path / "geobench_benv2.tortilla", "benv2")
    write_geobench2(tmp_path / "geobench_pastis.tortilla", "pastis")
    for name in ("benv2", "pastis"):
        fewer = dataclasses.replace(ABOUT[name], classes=ABOUT[name].classes[:4])
        monkeypatch.setitem(ABOUT, name, fewer)
    told = open_dataset("gb2-benv2", tmp_path).problems
    assert len(told) == 2 and "id4 is labelled 'Pastures', which is none of its 4 classes" in told[0]
    pastis = open_dataset("gb2-pastis", tmp_path)
    with pytest.raises(InputError, match="mask of id5 holds 5 to 19, expected classes to 3"):
        pastis.read(pastis.items[5])


def test_without_the_package_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_geobench2(tmp_path / "geobench_caffe.tortilla", "caffe")
    monkeypatch.setitem(sys.modules, "tacoreader", None)
    assert "pip install 'tacoreader>=0.5,<0.6'" in open_dataset("gb2-caffe", tmp_path).problems[0]
    monkeypatch.setitem(sys.modules, "tacoreader", types.ModuleType("tacoreader"))
    assert "does not read tortillas, expected 0.5" in open_dataset("gb2-caffe", tmp_path).problems[0]
    with pytest.raises(InputError, match=r"gb2-flair2: no geobench_flair2\.tortilla in"):
        open_dataset("gb2-flair2", tmp_path)


def test_pixels_below_the_first_class_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_geobench2(tmp_path / "geobench_flair2.tortilla", "flair2")
    monkeypatch.setitem(ABOUT, "flair2", dataclasses.replace(ABOUT["flair2"], first=2))
    dataset = open_dataset("gb2-flair2", tmp_path)
    with pytest.raises(InputError, match="mask of id0 holds 1 to 1, expected classes to 12"):
        dataset.read(dataset.items[0])
    assert set(np.unique(dataset.read(dataset.items[1]).targets["mask"])) == {0}
