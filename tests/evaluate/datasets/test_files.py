"""Files that strangers made: what is whole is read, what is hostile or damaged is refused in one sentence."""

import json
import pickle
import resource
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skyframe.evaluate.datasets import files
from skyframe.evaluate.datasets.files import (
    image_size,
    raster_shape,
    read_image,
    read_json,
    read_lines,
    read_npy,
    read_raster,
    read_table,
    read_text,
    read_xml,
)
from skyframe.spec import InputError

BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {new} "{("&" + old + ";") * 10}">' for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
BOMB += "]><a>&i;</a>"
EXTERNAL = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>'


def picture(path: Path, height: int = 40, width: int = 60, **how) -> Path:
    """A picture of noise, which does not compress away."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, **how)
    return path


def raster(path: Path, values: np.ndarray, **how) -> Path:
    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        count, height, width = values.shape
        with rasterio.open(
            path, "w", driver="GTiff", count=count, height=height, width=width, dtype=values.dtype, **how
        ) as file:
            file.write(values)
    return path


def huge_png(path: Path, side: int) -> Path:
    """A valid black picture of `side` x `side` pixels in a file of kilobytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    squeeze = zlib.compressobj(9)
    rows = b"".join(squeeze.compress(bytes(1 + side // 8)) for _ in range(side)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def test_whole_files_are_read(tmp_path):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == np.moveaxis(pixels, -1, 0)).all()
    assert read_image(tmp_path / "a.png", "L").shape == (2, 3)
    assert image_size(tmp_path / "a.png") == (2, 3)
    values = np.arange(2 * 4 * 5, dtype=np.int16).reshape(2, 4, 5)
    raster(tmp_path / "a.tif", values)
    assert (read_raster(tmp_path / "a.tif") == values).all()
    assert read_raster(tmp_path / "a.tif", [2, 1], (1, 2, 3, 2)).tolist() == values[[1, 0], 1:4, 2:4].tolist()
    assert raster_shape(tmp_path / "a.tif") == (2, 4, 5)
    np.save(tmp_path / "a.npy", values)
    assert (read_npy(tmp_path / "a.npy") == values).all()
    (tmp_path / "a.xml").write_text('<a><b n="1">x</b></a>')
    assert read_xml(tmp_path / "a.xml")[0].text == "x"
    (tmp_path / "a.csv").write_text('\ufeffname,n\n"a\nb",1\n')
    assert read_table(tmp_path / "a.csv", ["n", "name"]) == [{"name": "a\nb", "n": "1"}]
    (tmp_path / "a.txt").write_text(" a \n\nb\r\n")
    assert read_lines(tmp_path / "a.txt") == ["a", "b"]


READERS = {
    "x.jpg": read_image, "x.png": read_image, "x.tif": read_raster, "x.npy": read_npy, "x.xml": read_xml,
    "x.json": read_json, "x.csv": lambda p: read_table(p, ["a"]),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_missing_empty_and_foreign_files_are_one_sentence(name, tmp_path):
    path = tmp_path / name
    with pytest.raises(InputError, match="no such file; give the folder"):
        READERS[name](path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="0 bytes, the download broke off; fetch the file again"):
        READERS[name](path)
    path.write_bytes(b"<!doctype html>\n<html>404\xff\n")
    with pytest.raises(InputError, match=r"x\.\w+: no.*fetch the file again") as told:
        READERS[name](path)
    assert "\n" not in str(told.value)
    with pytest.raises(InputError, match="it is no name of a file"):
        READERS[name](tmp_path / ("x" * 300))


@pytest.mark.filterwarnings("ignore:Tag data larger:UserWarning")
@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif", "p.tif", "x.npy"])
def test_cut_off_and_altered_files_never_escape_the_sentence(name, tmp_path):
    """Cut at any place: refused. A bit flipped: refused, or read where the format cannot know."""
    path = tmp_path / name
    read = read_image if name in ("x.jpg", "x.png", "p.tif") else READERS[name]
    if name == "x.tif":
        raster(path, np.random.default_rng(0).integers(0, 999, (2, 64, 64)).astype(np.uint16), compress="deflate")
    elif name == "x.npy":
        np.save(path, np.arange(500))
    else:
        picture(path)
    whole = path.read_bytes()
    assert read(path).size
    for end in {*range(1, 200, 7), len(whole) // 2, len(whole) - 400}:
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"fetch the file again|it is not|cut it into tiles"):
            read(path)
    rng = np.random.default_rng(1)
    for _ in range(150):
        at = int(rng.integers(0, min(len(whole), 2000)))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << int(rng.integers(8)))]) + whole[at + 1 :])
        try:
            assert read(path).ndim
        except InputError as error:
            assert str(path) in str(error)


def test_a_huge_picture_is_refused_from_its_header(tmp_path):
    path = huge_png(tmp_path / "a.png", 30_000)
    assert path.stat().st_size < 200_000
    assert image_size(path) == (30_000, 30_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"30000 x 30000 pixels, expected at most 160,000,000.*cut it into tiles"):
        read_image(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # KiB; decoded it takes 2.7 GB
    assert Image.MAX_IMAGE_PIXELS is not None  # Pillow's own bound stands for everybody else


def test_a_huge_tiled_raster_is_read_by_windows_in_bounded_memory(tmp_path):
    """30,000 x 30,000 pixels that are mostly absent on disk; measured in a process of its own."""
    import rasterio
    from rasterio.windows import Window

    path = tmp_path / "a.tif"
    shape = {"height": 30_000, "width": 30_000, "count": 3, "dtype": "uint8"}
    tiled = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "sparse_ok": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", driver="GTiff", **shape, **tiled) as file:
            file.write(np.full((3, 64, 64), 7, np.uint8), window=Window(29_900, 29_900, 64, 64))
    with pytest.raises(InputError, match=r"30000 x 30000 pixels in 3 bands at once.*cut it into tiles"):
        read_raster(path)
    script = f"""
import resource, sys
from pathlib import Path
import rasterio
from skyframe.evaluate.datasets.files import read_raster
path = Path({str(path)!r})
read_raster(path, window=(0, 0, 8, 8))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for top in range(0, 30_000 - 1024, 7000):
    assert read_raster(path, window=(top, top, 1024, 1024)).shape == (3, 1024, 1024)
assert int(read_raster(path, window=(29_890, 29_890, 100, 100)).max()) == 7
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100_000  # KiB; the whole is 2.7 GB


def test_a_raster_in_one_block_is_not_decoded_for_a_small_window(tmp_path, monkeypatch):
    path = raster(tmp_path / "a.tif", np.zeros((1, 300, 300), np.uint8), blockysize=300, compress="deflate")
    monkeypatch.setattr(files, "MAX_PIXELS", 10_000)
    with pytest.raises(InputError, match=r"4 x 4 pixels in 1 bands at once, in blocks of 90,000"):
        read_raster(path, window=(0, 0, 4, 4))


@pytest.mark.parametrize(
    ("bands", "window", "sentence"),
    [
        ([3], None, "2 bands, expected at least 3; it is not the file"),
        ([0], None, "2 bands, expected at least 0"),
        ([], (2, 0, 3, 3), "4 x 5 pixels, expected the window of 3 x 3 from 2, 0 on inside"),
        ([], (-1, 0, 3, 3), "expected the window"),
    ],
)
def test_bands_and_windows_that_are_not_there(bands, window, sentence, tmp_path):
    path = raster(tmp_path / "a.tif", np.zeros((2, 4, 5), np.uint8))
    with pytest.raises(InputError, match=sentence):
        read_raster(path, bands, window)


def test_a_raster_that_only_names_other_files_is_not_followed(tmp_path):
    """GDAL's virtual format is XML under any name; it could read any file or address."""
    secret = raster(tmp_path / "secret.tif", np.ones((1, 4, 4), np.uint8))
    source = f'<SimpleSource><SourceFilename relativeToVRT="0">{secret}</SourceFilename></SimpleSource>'
    band = f'<VRTRasterBand dataType="Byte" band="1">{source}</VRTRasterBand>'
    (tmp_path / "a.tif").write_text(f'<VRTDataset rasterXSize="4" rasterYSize="4">{band}</VRTDataset>')
    with pytest.raises(InputError, match=r"a.tif: not a readable raster"):
        read_raster(tmp_path / "a.tif")


class Trap:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["object array", "pickle", "claims a terabyte", "deep header"])
def test_hostile_arrays_run_nothing_and_take_no_memory(kind, tmp_path):
    path, made = tmp_path / "a.npy", tmp_path / "made"
    if kind == "object array":
        np.save(path, np.array([Trap(made)], object), allow_pickle=True)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Trap(made)))
    else:
        shape = "(1000000000000,)" if kind.startswith("claims") else "(" * 5000 + "1" + ")" * 5000
        header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(12_000)[:-1] + b"\n"
        path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64))
    with pytest.raises(InputError, match=r"a.npy: not a readable array of numbers"):
        read_npy(path)
    assert not made.exists()


@pytest.mark.parametrize("text", [BOMB, EXTERNAL, "<a>", "<a></b>", "just words", "<a>" * 10, "<a>\0</a>"])
def test_hostile_and_broken_xml(text, tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"a.xml: not (XML of plain elements|text).*fetch the file again"):
        read_xml(path)


@pytest.mark.parametrize("text", ["a=1", '{"a": 1', "[" * 100_000, "[" + "9" * 5000 + "]", '{"a": "\0"}'])
def test_text_that_claims_to_be_json(text, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"a.json: not (valid JSON|text).*fetch the file again"):
        read_json(path)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("b,c\n1,2\n", "no column a, got b, c; it is not the file that its name says"),
        ("a,b\n1,2\n3\n", "line 3 has too few columns, expected 2"),
        ("a,b\n1,2,3\n", "line 2 has too many columns, expected 2"),
        ("a,b\n1,\x002\n", "not text .a NUL byte at character 6."),
        ('a\n"' + "x" * 200_000 + '"\n', "not a table .field larger than"),
    ],
)
def test_broken_tables(text, sentence, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_table(path, ["a"])


def test_text_of_any_size_is_not_swallowed(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(["x" * 200]))
    monkeypatch.setattr(files, "MAX_TEXT", 100)
    with pytest.raises(InputError, match="204 bytes, expected text of at most 100"):
        read_json(path)
    (tmp_path / "utf16.txt").write_text("ab", encoding="utf-16")
    with pytest.raises(InputError, match=r"not text .invalid start byte at byte 0."):
        read_text(tmp_path / "utf16.txt")


def test_pictures_read_by_many_threads_leave_no_setting_behind(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    picture(tmp_path / "a.png")
    limit = Image.MAX_IMAGE_PIXELS
    with ThreadPoolExecutor(8) as pool:
        shapes = set(pool.map(lambda _: read_image(tmp_path / "a.png").shape, range(200)))
    assert shapes == {(3, 40, 60)} and limit == Image.MAX_IMAGE_PIXELS
