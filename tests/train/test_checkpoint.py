"""What a save leaves on disk: LATEST alone is trusted, old and future forms are refused, leftovers are removed."""

from pathlib import Path

import pytest
import torch

from skyframe.spec import InputError
from skyframe.train.checkpoint import latest, load_tensors, read_checkpoint
from skyframe.train.save import Save
from skyframe.train.store import Reader
from tests.distributed import run_ranks


def test_latest_alone_is_trusted(tmp_path):
    assert latest(tmp_path) is None
    (tmp_path / "step_00000009").mkdir()
    assert latest(tmp_path) is None
    (tmp_path / "LATEST").write_text("step_00000003")
    with pytest.raises(InputError, match=r"names step_00000003, which is not in"):
        latest(tmp_path)
    (tmp_path / "LATEST").write_text("step_00000009")
    assert latest(tmp_path) == tmp_path / "step_00000009"


def test_the_single_file_of_format_1_is_refused(tmp_path):
    path = tmp_path / "step_00000001.ckpt"
    path.write_bytes(b"one file")
    (tmp_path / "LATEST").write_text(path.name)
    with pytest.raises(
        InputError, match=r"is a single file, as format 1 was, expected a checkpoint folder of format 2"
    ):
        read_checkpoint(latest(tmp_path))


def stepped(folder):
    """One training step of a small module, saved."""
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    Save(folder, module, optimizer, {"global_step": 1, "state_dict": {}}, "alone").finish()
    return module, optimizer


def test_parameters_moments_step_and_rate_come_back(tmp_path):
    module, optimizer = stepped(tmp_path / "step")
    other = torch.nn.Linear(3, 2)
    fresh = torch.optim.AdamW(other.parameters(), lr=7.0)
    load_tensors(Reader(tmp_path / "step"), other, fresh)
    assert torch.equal(module.weight, other.weight) and fresh.param_groups[0]["lr"] == 0.1
    for a, b in zip(module.parameters(), other.parameters(), strict=True):
        assert all(torch.equal(optimizer.state[a][k], fresh.state[b][k]) for k in ("step", "exp_avg", "exp_avg_sq"))
    assert read_checkpoint(tmp_path / "step")["optimizer"] == {"step": 1, "lr": [0.1]}


def _one_disk_is_full(rank, world, folder):
    if rank == 1:
        Path(folder, "step").mkdir()
        Path(folder, "step", "rank_00001.safetensors").mkdir()  # cannot be written over
    torch.distributed.barrier()
    try:
        stepped(Path(folder) / "step")
    except InputError as error:
        return str(error)
    return ""


def test_where_one_rank_cannot_write_all_ranks_fail_with_its_reason(tmp_path):
    said = run_ranks(_one_disk_is_full, str(tmp_path))
    assert said[0] == said[1] and "the checkpoint could not be written (rank 1:" in said[0]
    assert not (tmp_path / "step" / "index.json").exists()
