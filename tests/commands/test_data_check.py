"""`skyframe data-check` as a user runs it."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from skyframe.cli import main
from skyframe.evaluate.benchmarks import DATASETS

KINDS = [
    "airplane",
    "airport",
    "baseball_diamond",
    "basketball_court",
    "beach",
    "bridge",
    "chaparral",
    "church",
    "circular_farmland",
    "cloud",
    "commercial_area",
    "dense_residential",
    "desert",
    "forest",
    "freeway",
    "golf_course",
    "ground_track_field",
    "harbor",
    "industrial_area",
    "intersection",
    "island",
    "lake",
    "meadow",
    "medium_residential",
    "mobile_home_park",
    "mountain",
    "overpass",
    "palace",
    "parking_lot",
    "railway",
    "railway_station",
    "rectangular_farmland",
    "river",
    "roundabout",
    "runway",
    "sea_ice",
    "ship",
    "snowberg",
    "sparse_residential",
    "stadium",
    "storage_tank",
    "tennis_court",
    "terrace",
    "thermal_power_station",
    "wetland",
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def resisc(root, count=3):
    """RESISC-45's layout, three small images a class."""
    for number, kind in enumerate(KINDS):
        (root / "NWPU-RESISC45" / kind).mkdir(parents=True)
        for n in range(1, count + 1):
            pixels = np.random.default_rng([n, number]).integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(root / "NWPU-RESISC45" / kind / f"{kind}_{n:03d}.jpg")
    for part, n in (("train", 1), ("val", 2), ("test", 3)):
        (root / f"resisc45-{part}.txt").write_text("".join(f"{kind}_{n:03d}.jpg\n" for kind in KINDS))
    return root


def check(monkeypatch, capsys, *words):
    """Exit code, output and error output."""
    monkeypatch.setattr("sys.argv", ["skyframe", "data-check", *map(str, words)])
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    out = capsys.readouterr()
    return code, " ".join(out.out.split()), out.err


def test_a_whole_set_is_told_drawn_and_can_be_scored(here, monkeypatch, capsys):
    code, out, err = check(monkeypatch, capsys, "resisc45", resisc(here / "data"))
    assert (code, err) == (0, "")
    for wanted in (
        "resisc45: scene, 135 items",
        "train (45 items)",
        "135 of 1 x 3 x 16 x 16",
        "drew resisc45.png",
        "resisc45 can be scored",
    ):
        assert wanted in out, out
    with Image.open(here / "resisc45.png") as picture:
        assert picture.size[0] > 400
    code, out, _ = check(monkeypatch, capsys, "resisc45", here / "data", "--quick", "--picture", "p/q.png")
    assert code == 0 and "the other files were not read" in out and (here / "p" / "q.png").is_file()


def test_damage_is_told_one_line_each_with_exit_code_1(here, monkeypatch, capsys):
    root = resisc(here / "data")
    folder = root / "NWPU-RESISC45"
    (folder / "airport" / "airport_001.jpg").write_bytes(b"")
    whole = (folder / "beach" / "beach_003.jpg").read_bytes()
    (folder / "beach" / "beach_003.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "beach" / "odd\n\x1b[2Jname.jpg").write_bytes(whole)
    code, _, err = check(monkeypatch, capsys, "resisc45", root)
    lines = err.splitlines()
    assert code == 1 and all(line.startswith(("problem: resisc45: ", "warning: resisc45: ")) for line in lines)
    assert any("1 of 45 classes are in the test part and not in the training part (airport)" in line for line in lines)
    assert any("airport_001.jpg has 0 bytes" in line for line in lines)
    assert any("odd" in line and "name" in line for line in lines)
    assert any("test item beach/beach_003" in line and "not a readable image" in line for line in lines)
    assert "\x1b" not in err


def test_an_empty_test_part_is_a_problem_and_a_leak_a_warning(here, monkeypatch, capsys):
    root = resisc(here / "data")
    (root / "resisc45-test.txt").write_text("\n")
    code, out, err = check(monkeypatch, capsys, "resisc45", root)
    assert code == 1 and "problem: resisc45: no item in part test" in err and "can be scored" not in out
    (root / "resisc45-test.txt").write_text("".join(f"{kind}_003.jpg\n" for kind in KINDS))
    folder = root / "NWPU-RESISC45" / "airport"
    (folder / "airport_003.jpg").write_bytes((folder / "airport_001.jpg").read_bytes())
    code, out, err = check(monkeypatch, capsys, "resisc45", root)
    assert code == 0 and "can be scored" in out
    assert err.startswith(
        "warning: resisc45: 1 of 45 test items have the very pixels of a training item, such as airport/airport_003"
    )


def test_an_archive_is_unpacked_first_and_a_hostile_one_is_refused(here, monkeypatch, capsys):
    resisc(here / "whole")
    (here / "data").mkdir()
    with zipfile.ZipFile(here / "data" / "set.zip", "w") as file:
        for path in sorted((here / "whole").rglob("*.*")):
            file.write(path, path.relative_to(here / "whole"))
    code, _, err = check(monkeypatch, capsys, "resisc45", here / "data")
    assert code in (1, 2) and "resisc45" in err
    code, out, err = check(monkeypatch, capsys, "resisc45", here / "data", "--unpack")
    assert (code, err) == (0, "") and "unpacked" in out
    with zipfile.ZipFile(here / "data" / "evil.zip", "w") as file:
        file.writestr("../evil.txt", "x")
    code, _, err = check(monkeypatch, capsys, "resisc45", here / "data", "--unpack")
    assert code == 2 and "evil.zip: member '../evil.txt' leads out of its folder" in err
    assert err.count("\n") == 1 and not (here / "evil.txt").exists()


def test_unknown_names_list_all_and_a_missing_folder_is_code_2(here, monkeypatch, capsys):
    code, _, err = check(monkeypatch, capsys, "resisc46", here)
    assert code == 2 and all(name in err for name in DATASETS) and "did you mean" in err and err.count("\n") == 1
    for root in ("nowhere", "file.txt"):
        (here / "file.txt").write_text("x")
        code, _, err = check(monkeypatch, capsys, "resisc45", here / root)
        assert code == 2 and f"no folder {here / root}" in err
    assert not list(here.glob("*.png"))
