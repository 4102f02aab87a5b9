"""Archives that strangers made: unpacked whole, or refused before anything is written."""

import stat
import zipfile
from collections import namedtuple

import pytest

from skyframe.evaluate.datasets import archive as module
from skyframe.evaluate.datasets.archive import unpack, unpack_all
from skyframe.spec import InputError


def zipped(path, members, compress=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compress) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def link(name):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info


def test_a_whole_archive_is_unpacked_once(tmp_path):
    zipped(tmp_path / "a.zip", {"set/train/1.txt": "one", "set/empty/": "", "set/two\nlines.txt": "2"})
    assert unpack_all(tmp_path) == [tmp_path / "a.zip"]
    made = tmp_path / "set" / "train" / "1.txt"
    assert made.read_text() == "one" and (tmp_path / "set" / "two\nlines.txt").read_text() == "2"
    made.write_text("two")  # of the same size: left alone
    (tmp_path / "set" / "two\nlines.txt").unlink()
    unpack_all(tmp_path)
    assert made.read_text() == "two" and (tmp_path / "set" / "two\nlines.txt").read_text() == "2"


@pytest.mark.parametrize(
    "name", ["../out.txt", "a/../../out.txt", "/tmp/out.txt", "C:/out.txt", "C:\\out.txt", "..\\out.txt", "\\out.txt"]
)
def test_members_that_lead_out_of_the_folder_are_refused(name, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    zipped(root / "a.zip", {"fine.txt": "x", name: "x"})
    with pytest.raises(InputError, match="leads out of its folder, expected plain files below it; do not trust"):
        unpack_all(root)
    assert [p.name for p in root.iterdir()] == ["a.zip"] and [p.name for p in tmp_path.iterdir()] == ["root"]


def test_links_are_refused(tmp_path):
    zipped(tmp_path / "a.zip", {link("door"): "/etc", "door/passwd": "x"})
    with pytest.raises(InputError, match=r"member 'door' is a link, expected plain files"):
        unpack_all(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_a_bomb_is_refused_by_what_it_says(tmp_path):
    zipped(tmp_path / "a.zip", {"zeros": bytes(10_000_000)})
    with pytest.raises(InputError, match=r"would grow from [\d,]+ to 10,000,000 bytes, expected at most 200 times"):
        unpack_all(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_a_bomb_that_lies_stops_at_what_it_said(tmp_path):
    """The sizes in the header are forged: no more than them is ever written."""
    path = zipped(tmp_path / "a.zip", {"zeros": bytes(1_000_000)})
    data = path.read_bytes()
    assert data.count((1_000_000).to_bytes(4, "little")) == 2
    path.write_bytes(data.replace((1_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    with pytest.raises(InputError, match=r"not a readable zip archive .Bad CRC-32"):
        unpack_all(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_no_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    zipped(tmp_path / "a.zip", {"a": "x" * 500})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(100))
    with pytest.raises(InputError, match=r"would take 500 bytes, 100 are free in .*make room first"):
        unpack_all(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("damage", ["cut", "flipped", "no zip", "empty"])
def test_damaged_archives_leave_no_half_file(damage, tmp_path):
    path = zipped(tmp_path / "a.zip", {"a.txt": "first " * 50, "b.txt": bytes(range(256)) * 20})
    data = path.read_bytes()
    at = data.index(b"b.txt") + 60
    path.write_bytes(
        {"cut": data[:-30], "flipped": data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :], "no zip": b"hello"}.get(
            damage, b""
        )
    )
    with pytest.raises(InputError, match=r"a.zip: (not a readable zip archive|0 bytes).*fetch the file again"):
        unpack(path, tmp_path)
    assert not (tmp_path / "b.txt").exists() and not list(tmp_path.glob("*.partial"))


def test_an_encrypted_archive_is_one_sentence(tmp_path):
    path = zipped(tmp_path / "a.zip", {"a.txt": "x"})
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag in the local header, and the one in the central directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"a.zip: not a readable zip archive \(File .*encrypted"):
        unpack_all(tmp_path)
    assert not (tmp_path / "a.txt").exists()
