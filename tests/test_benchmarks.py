"""What the reader's benchmark times: every contestant gives the same pixels; medians and ratios by hand."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.material import CODECS, material, write_stores
from benchmarks.measure import Turn, cpu_ratio, interleave, rate, ratio
from benchmarks.metadata import count
from benchmarks.metadata import page as metadata_page
from benchmarks.ours import BATCH, array_reader, decoders, limit, series_reader, training_loader, training_reads
from benchmarks.reader_table import Run, page
from benchmarks.rivals import FILE_RIVALS, STORE_RIVALS


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    rng = np.random.default_rng(3)
    values = rng.integers(1, 5000, (6, 10, 192, 320)).astype(np.uint16)
    np.save(folder / "source.npy", values)
    flags = np.ones((6, 192, 320), np.uint8)
    write_stores(folder, values, flags, np.arange(8000, 8060, 10, dtype=np.int32))
    return material(folder, values, 3, 4)


def same(read, found, picks):
    return all(np.array_equal(read(n), found.expected(picks[n % len(picks)])) for n in range(len(picks) + 1))


def test_windows_are_what_they_are_called(tiny):
    for aligned, straddling in zip(tiny.aligned, tiny.straddling, strict=True):
        assert aligned.row % 64 == 0 == aligned.column % 64
        assert straddling.row % 64 and straddling.row + 64 <= 192
        assert straddling.column % 64 and straddling.column + 64 <= 320
        assert len(set(aligned.dates.tolist())) == 4


@pytest.mark.parametrize("codec", CODECS)
def test_the_limit_decodes_the_sample_itself(tiny, codec):
    for name, decode in decoders().items():
        for with_flags in (False, True):
            assert same(limit(tiny, tiny.aligned, codec, decode, with_flags), tiny, tiny.aligned), name


def test_the_limit_of_a_straddling_window_decodes_four_chunks_a_date(tiny):
    jobs = []
    limit(tiny, tiny.straddling, "lz4", jobs.append, False)(0)
    limit(tiny, tiny.straddling, "lz4", jobs.append, True)(0)
    assert [len(job) for job in jobs] == [4 * 4, 4 * 4 + 4]  # six dates of flags lie in one chunk
    assert [size for *_, size in jobs[1]] == [2 * 10 * 64 * 64] * 16 + [6 * 64 * 64] * 4


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("reader", [array_reader, series_reader])
def test_our_readers(tiny, codec, reader):
    assert same(reader(tiny, tiny.aligned, codec), tiny, tiny.aligned)
    assert same(reader(tiny, tiny.straddling, codec), tiny, tiny.straddling)


def test_our_loader(tiny):
    alone, read = training_reads(tiny, "lz4"), training_loader(tiny, "lz4", 0)
    assert np.array_equal(read(0)[:3], np.stack([alone(number) for number in range(3)]))
    assert read(1).shape == (BATCH, 4, 10, 64, 64)


EXTRA = {"tensorstore", "zarrs", "xbatcher", "webdataset", "imagecodecs"}


def same_where_installed(make, tiny, *arguments):
    """A rival of the extra `bench` that is not here must say so by its module's name: the table then names it."""
    try:
        contestant = make(tiny, tiny.aligned, *arguments)
    except ModuleNotFoundError as missing:
        return missing.name in EXTRA
    return same(contestant, tiny, tiny.aligned)


@pytest.mark.filterwarnings("ignore")  # they are the rivals' own
@pytest.mark.parametrize("name", STORE_RIVALS)
def test_rivals_on_the_store(tiny, name):
    assert same_where_installed(STORE_RIVALS[name], tiny, "zstd")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in FILE_RIVALS if "litdata" not in name])  # it takes half a minute
def test_rivals_on_files(tiny, name):
    assert same_where_installed(FILE_RIVALS[name], tiny)


def test_turns_alternate_and_the_first_round_does_not_count():
    order, prepared = [], []
    contestants = {"a": lambda n: order.append(("a", n)), "b": lambda n: order.append(("b", n))}
    turns = interleave(contestants, 2, 0.0, start=5, before={"b": lambda: prepared.append(len(order))})
    assert order == [("a", 5), ("b", 5), ("b", 6), ("a", 6), ("a", 7), ("b", 7)]
    assert prepared == [1, 2, 5]
    assert [len(found) for found in turns.values()] == [2, 2]


FAST, SLOW = (
    [Turn(100.0, 10.0), Turn(90.0, 11.0), Turn(50.0, 10.0)],
    [Turn(50.0, 20.0), Turn(30.0, 22.0), Turn(25.0, 10.0)],
)


def test_medians_and_ratios_within_a_round():
    assert rate(FAST) == 90.0
    assert ratio(FAST, SLOW) == 2.0
    assert cpu_ratio(FAST, SLOW) == 2.0


def test_page_tells_what_is_below_and_what_is_absent():
    kinds = [
        f"{kind} of the {of}{place}"
        for kind in ("limit",)
        for of in ("array", "series")
        for place in ("", ", straddling")
    ]
    ours = [f"SkyFrame, {of}{place}" for of in ("array", "series") for place in ("", ", straddling")]
    turns = {f"{codec}/{name}": FAST for codec in CODECS for name in kinds}
    turns |= {f"{codec}/{name}": SLOW for codec in CODECS for name in ours}
    turns["lz4/zarr-python, oindex"] = [Turn(1.0, 900.0)] * 3
    loading = {"lz4/read_series alone": FAST, "lz4/DataLoader, 1 workers": SLOW}
    run = Run(
        turns,
        loading,
        {"files/litdata (frozen)": "litdata is not installed"},
        {"lz4": {"x": 9.0}, "zstd": {}},
        (0.0, 1.0),
    )
    text = page([run, run, run], "make bench", "2 rounds")
    assert "| SkyFrame, array | 30 [30, 30] | 0.50 [0.50, 0.50] | 0.50 [0.50, 0.50] | 20.00 |  |" in text
    assert (
        "| zarr-python, oindex | 1.0 [1.0, 1.0] | 0.01 [0.01, 0.01] | 0.01 [0.01, 0.01] | 900.00 | 30 [30, 30] |"
        in text
    )
    assert "| zstd | limit of the array | 0.95 | 0.50 [0.50, 0.50] | below | 0.50 [0.50, 0.50] |" in text
    assert "| lz4 | zarr-python, oindex | 20 | 30 [30, 30] | met | 45.00 [45.00, 45.00] |" in text
    assert "| litdata (frozen) | not run: litdata is not installed |" in text
    assert "| lz4, DataLoader, 1 workers | 30 [30, 30] | 0.50 [0.50, 0.50] |" in text


TRACE = """\
7 openat(AT_FDCWD</w>, "/w/cubes", O_RDONLY|O_DIRECTORY) = 3</w/cubes>
7 getdents64(3</w/cubes>, 0x55 /* 5 entries */, 32768) = 128
7 openat(AT_FDCWD</w>, "cubes/a/manifest.json", O_RDONLY) = 3</w/cubes/a/manifest.json>
8 openat(AT_FDCWD</w>, "/w/cubes/a/s2/values/c/0/0/0/0", O_RDONLY <unfinished ...>
9 newfstatat(AT_FDCWD</w>, "/w/cubes/a/s2", 0x7f, 0) = -1 ENOENT (No such file or directory)
8 <... openat resumed>) = 5</w/cubes/a/s2/values/c/0/0/0/0>
8 newfstatat(5</w/cubes/a/s2/values/c/0/0/0/0>, "", {st_mode=S_IFREG}, AT_EMPTY_PATH) = 0
7 newfstatat(AT_FDCWD</w>, "/w/runs/x/checkpoints/LATEST", 0x7f, 0) = -1 ENOENT (No such file or directory)
7 mkdir("/w/runs/x/checkpoints/step_1.tmp", 0777) = 0
7 rename("/w/runs/x/checkpoints/step_1.tmp", "/w/runs/x/checkpoints/step_1") = 0
7 fsync(6</w/runs/x/checkpoints>) = 0
7 openat(AT_FDCWD</w>, "/etc/hosts", O_RDONLY) = 4</etc/hosts>
7 newfstatat(AT_FDCWD</w>, "{prefix}/lib/torch", 0x7f, 0) = 0
7 write(4</w/runs/x/metrics.jsonl>, "a row", 5) = 5
+++ exited with 0 +++
"""


def test_calls_are_counted_by_what_they_touch(tmp_path):
    (tmp_path / "trace").write_text(TRACE.replace("{prefix}", sys.prefix))
    found = count(tmp_path / "trace", Path("/w/cubes"), Path("/w/runs"))
    assert found == {
        ("cubes", "open"): 2, ("cubes", "readdir"): 1, ("cubes", "stat"): 1,
        ("shards", "open"): 1, ("shards", "fstat"): 1,
        ("run", "stat"): 1, ("environment", "stat"): 1,
        ("checkpoint", "mkdir"): 1, ("checkpoint", "rename"): 1, ("checkpoint", "fsync"): 1,
    }  # fmt: skip


def test_many_ranks_follow_from_three_runs():
    runs = {(1, 1): {("run", "stat"): 10}, (2, 1): {("run", "stat"): 13}, (1, 2): {("run", "stat"): 11}}
    text = metadata_page({key: Counter(counts) for key, counts in runs.items()}, 128, 8)
    assert "| stat | 10 | 3 | 1 | 1,287 |" in text  # 10 + 127 x 3 + 128 x 7 x 1
