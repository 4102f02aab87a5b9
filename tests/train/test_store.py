"""The portable form: any ranks' ranges come back to any other ranks, and every damage is named."""

import json
import random

import pytest
import torch

from skyframe.spec import InputError
from skyframe.train import store
from skyframe.train.shards import Shard
from skyframe.train.store import Reader, snapshot, write_index, write_rank

TABLE = torch.arange(10, dtype=torch.float32)
FLAGS = torch.tensor([[True, False, True]])


def two_ranks(folder, state=None):
    """Rank 0 holds 4 elements of the table, rank 1 the others and all flags."""
    folder.mkdir()
    first = [Shard("model/table", (2, 5), 0, TABLE[:4], "part")]
    second = [
        Shard("model/table", (2, 5), 4, TABLE[4:], "part"),
        Shard("model/flags", (1, 3), 0, FLAGS.view(-1), "part"),
    ]
    pieces = [write_rank(folder, rank, snapshot(shards)) for rank, shards in enumerate((first, second))]
    about = {"step": 7, "world_size": 2, "strategy": "Ddp"}
    write_index(folder, pieces, state or {"global_step": 7}, {"table_again": "table"}, about)
    return folder


def test_ranges_of_two_ranks_are_read_in_any_other_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "BLOCK", 3)  # blocks of rank 1: 4-6, 7-9
    reader = Reader(two_ranks(tmp_path / "step"))
    assert [len(p[3]) for p in reader.tensors["model/table"]["pieces"]] == [2, 2]
    for low in range(10):
        for high in range(low + 1, 11):
            out = torch.full((high - low,), -1.0)
            reader.fill([Shard("model/table", (2, 5), low, out, "part")])
            assert out.tolist() == list(range(low, high))
    found = reader.state_dict()
    assert sorted(found) == ["flags", "table", "table_again"]
    assert torch.equal(found["table_again"], TABLE.reshape(2, 5)) and torch.equal(found["flags"], FLAGS)
    assert reader.state() == {"global_step": 7}
    assert sorted(p.name for p in (tmp_path / "step").iterdir()) == [
        "index.json", "rank_00000.safetensors", "rank_00001.safetensors", "state.pt",
    ]  # fmt: skip


def test_a_value_is_cast_to_where_it_goes(tmp_path):
    out = torch.zeros(10, dtype=torch.float64)
    Reader(two_ranks(tmp_path / "step")).fill([Shard("model/table", (2, 5), 0, out, "copy")])
    assert torch.equal(out, TABLE.double())


def test_ranges_that_leave_a_hole_or_overlap_are_never_written(tmp_path):
    for parts in ([(0, 4), (5, 10)], [(0, 6), (5, 10)], [(0, 9)]):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        shards = [[Shard("model/t", (10,), low, TABLE[low:high], "part")] for low, high in parts]
        pieces = [write_rank(folder, rank, snapshot(s)) for rank, s in enumerate(shards)]
        with pytest.raises(ValueError, match=r"ranges of model/t do not make up its 10 elements"):
            write_index(folder, pieces, {}, {}, {})
        assert not (folder / "index.json").exists()


def test_another_shape_or_an_unknown_name_is_refused(tmp_path):
    reader = Reader(two_ranks(tmp_path / "step"))
    with pytest.raises(InputError, match=r"holds shape \[2, 5\] for model/table, expected shape \[5, 2\]"):
        reader.fill([Shard("model/table", (5, 2), 0, torch.zeros(10), "part")])
    with pytest.raises(InputError, match=r"holds nothing for model/new, expected shape \[1\]"):
        reader.fill([Shard("model/new", (1,), 0, torch.zeros(1), "part")])


@pytest.mark.parametrize("name", ["rank_00000.safetensors", "rank_00001.safetensors", "state.pt", "index.json"])
def test_every_flipped_bit_is_noticed_by_the_file_it_lies_in(tmp_path, name):
    folder = two_ranks(tmp_path / "step")
    path, content = folder / name, (folder / name).read_bytes()
    draw = random.Random(name)
    for bit in [draw.randrange(8 * len(content)) for _ in range(40)] + [8 * len(content) - 5]:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(damaged))
        try:
            reader = Reader(folder)
            found = (reader.state_dict(), reader.state())
        except InputError as error:
            assert str(path) in str(error) or str(folder) in str(error), bit
        else:  # a bit of the header that means nothing, such as its padding
            assert torch.equal(found[0]["table"], TABLE.reshape(2, 5)) and found[1] == {"global_step": 7}, bit
            assert name.startswith("rank"), bit
    for size in (0, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            reader = Reader(folder)
            reader.state_dict(), reader.state()
    path.unlink()
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        reader = Reader(folder)
        reader.state_dict(), reader.state()


def test_a_later_format_is_refused(tmp_path):
    folder = two_ranks(tmp_path / "step")
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**index, "format": 3}))
    with pytest.raises(InputError, match=r"checkpoint format 3, expected 2; upgrade skyframe-eo"):
        Reader(folder)
    with pytest.raises(InputError, match=r"is not there, expected a checkpoint folder"):
        Reader(tmp_path / "none")
