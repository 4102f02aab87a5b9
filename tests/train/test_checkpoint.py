"""What a save leaves on disk: LATEST alone is trusted, old and future forms are refused, leftovers are removed."""

import pytest

from skyframe.spec import InputError
from skyframe.train.checkpoint import latest, read_checkpoint


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
