"""Cluster files: those that ship, and wrong ones, each refused in one sentence."""

from pathlib import Path

import pytest
import yaml

from skyframe.launch.cluster import OWN_OPTIONS, Cluster, load_cluster, seconds
from skyframe.spec import InputError
from tests.launch.clusters import cluster_file

ROOT = Path(__file__).resolve().parents[2]
BASE = 'time_limit: "01:00:00"\n'

WRONG = [
    ("partion: a100", "unknown key 'partion'; did you mean 'partition'?"),
    ("time_limit: 24:00:00", "time_limit is the number 86400, expected a text; write it in quotes"),
    ('time_limit: "a day"', "time_limit is 'a day', expected [days-]hours:minutes:seconds"),
    ('time_limit: ""', "time_limit is '', expected [days-]hours:minutes:seconds"),
    ("signal_lead_s: 3600", "signal_lead_s 3600 is not less than the 3600 s of time_limit"),
    ("memory: 480 GB", "memory is '480 GB', expected a size per node such as 480G"),
    ("gpus_per_node: eight", "gpus_per_node: expected int, got 'eight'"),
    ("gpus_per_node: -1", "gpus_per_node is -1, expected 0 or more"),
    ("gpus_per_node: 8\ntasks_per_node: 4", "tasks_per_node is 4 with gpus_per_node 8, expected a process per GPU"),
    ("gpu_type: a100", "gpu_type is 'a100' but gpus_per_node is 0"),
    ("gpu_request: tres", "'tres' is not one of 'gpus-per-node', 'gres', 'none'"),
    ("venv: /v\ncontainer: {kind: pyxis, image: /i.sqsh}", "venv '/v' and container '/i.sqsh' are both given"),
    ("container: {kind: docker, image: x}", "container.kind: 'docker' is not one of 'apptainer', 'pyxis'"),
    ("container: {kind: pyxis}", "container: missing image"),
    ("sbatch: [--gres=gpu:8]", "sbatch line '--gres=gpu:8' is set by gpus_per_node"),
    ("sbatch: [reservation=eo]", "sbatch line 'reservation=eo', expected an option in full"),
    ("env: {NCCL-DEBUG: WARN}", "env.NCCL-DEBUG is no name of a variable"),
    ("env: {NCCL_DEBUG: 1}", "env.NCCL_DEBUG: expected str, got 1"),
    ("env: {A: 'say \"b\"'}", "env.A is 'say \"b\"', expected one line without"),
    ("interface: ^lo", "interface is '^lo', expected names such as ib0"),
    ("modules: cuda", "modules: expected a list, got 'cuda'"),
    ("max_restarts: -1", "max_restarts is -1, expected 0 or more"),
    ("executor: lsf", "'lsf' is not one of 'slurm', 'local'"),
    ("executor: local", "time_limit is for SLURM, but executor is 'local'"),
    ("[a, b]", "expected a mapping of keys, got list"),
    ("time_limit: [", "not valid YAML"),
]


@pytest.mark.parametrize(("text", "words"), WRONG, ids=lambda v: v.splitlines()[0])
def test_a_wrong_file_is_refused_in_one_sentence(tmp_path: Path, text: str, words: str):
    merged = text if "time_limit" in text or text.startswith("[") else BASE + text
    with pytest.raises(InputError) as refused:
        load_cluster(cluster_file(tmp_path, merged))
    sentence = str(refused.value)
    assert words in sentence and sentence.startswith("mini.yaml") and "\n" not in sentence


def test_a_name_that_is_not_there_lists_those_that_are():
    with pytest.raises(InputError, match=r"launch: no file 'exampel_a100'.*did you mean 'example_a100'"):
        load_cluster("exampel_a100")


@pytest.mark.parametrize("path", sorted((ROOT / "launch").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_files_load(path: Path):
    cluster = load_cluster(path)
    assert cluster.tasks == (cluster.gpus_per_node or 1)
    assert path.read_text().startswith("# ")


def test_the_template_explains_every_key():
    text = (ROOT / "launch" / "template.yaml").read_text()
    keys = {line.lstrip("# ").partition(":")[0] for line in text.splitlines()}
    assert set(Cluster.__dataclass_fields__) <= keys
    given = yaml.safe_load(text)
    assert given["max_restarts"] == Cluster().max_restarts and given["signal_lead_s"] == Cluster().signal_lead_s


def test_a_key_of_ones_own_stands_behind_each_refused_option():
    named = {value.split()[0] for value in OWN_OPTIONS.values()} - {"the", "nothing,", "--nodes", "--after"}
    assert named <= set(Cluster.__dataclass_fields__)


@pytest.mark.parametrize(
    ("limit", "expected"), [("00:10:00", 600), ("2-00:00:01", 172801), ("48:00:00", 172800), ("10", 0), ("1:60:00", 0)]
)
def test_seconds_of_a_limit(limit: str, expected: int):
    assert seconds(limit) == expected
