"""A node that would spoil a run is named, and nothing waits for ever; on real processes and real ports."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.multiprocessing as mp
from click.testing import CliRunner

from skyframe.cli import cli
from skyframe.spec import InputError
from skyframe.train import node_facts
from skyframe.train.meeting import Place, place_of
from skyframe.train.node_facts import Facts, misfits, within
from skyframe.train.preflight import Found, check_nodes, summary
from tests.system.batches import nano_recipe
from tests.train.runs import overrides

LIMIT_S = 12.0
SAME = {"skyframe": "0.1.0", "commit": "c0ffee", "torch": "2.13.0", "python": "3.11.7"}


def facts(node: str, rank: int, **more) -> Facts:
    return Facts(node, rank, **{"versions": SAME, "gpus": ["H100 80 GiB"], "free_gb": {"runs": 900.0}, **more})


def test_the_odd_node_is_named_with_what_the_others_have():
    alike = [facts("n1", 0), facts("n2", 1), facts("n3", 2)]
    assert misfits(alike, {0: 0.0, 1: 0.4, 2: -0.4}) == []
    old = [facts("n1", 0, versions=SAME | {"torch": "2.4.0"}), *alike[1:]]
    assert misfits(old, {}) == [("n1", "torch is 2.4.0, expected 2.13.0 as on the others; install the same there")]
    lacking = [*alike[:2], facts("n3", 2, gpus=["H100 80 GiB", "H100 80 GiB"])]
    (only,) = misfits(lacking, {})
    assert only == ("n3", "its GPUs are 2 x H100 80 GiB, expected 1 x H100 80 GiB as on the others")
    full = [*alike[:2], facts("n3", 2, free_gb={"runs": 900.0, "cache": 0.25})]
    assert misfits(full, {}) == [("n3", "cache has 0.25 GB free, expected at least 2 GB; make room there")]
    (late,) = misfits(alike, {1: -61.2})
    assert late == ("n2", "its clock is 61 s behind, expected at most 5 s from rank 0's; set it by NTP")
    two = [facts("n1", 0), facts("n2", 1, problem="its cubes: gone"), facts("n2", 2, problem="its cubes: gone")]
    assert misfits(two, {2: 9.0}) == [("n2", "its cubes: gone")]


def test_work_that_never_ends_is_said_so():
    assert within(lambda: None, 5.0) == ""
    assert within(lambda: time.sleep(60), 0.1) == "no answer within 0 s"

    def refuse() -> None:
        raise InputError("cube x:  gone")

    assert within(refuse, 5.0) == "cube x: gone"


def test_the_commit_is_the_one_that_git_names():
    asked = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(node_facts.__file__).parent, capture_output=True, text=True
    )
    assert node_facts.commit() == (asked.stdout.strip()[:12] or "none")


def test_bandwidth_by_hand_and_the_line_of_a_run():
    found = Found(
        [facts("n1", 0), facts("n1", 1), facts("n2", 2), facts("n2", 3)], {0: 0.0, 2: -0.25}, {1: 0.001, 64: 0.032}
    )
    assert found.gb_per_s(64) == pytest.approx(2 * 3 / 4 * 0.064 / 0.032)
    assert summary(found) == (
        "preflight: 2 nodes alike, 4 ranks; clocks within 0.25 s; all-reduce of 1 MB at 1.50 GB/s, 64 MB at 3.00 GB/s"
    )


def test_the_place_of_a_process_is_what_its_launcher_says(monkeypatch):
    for name in [n for n in os.environ if n.startswith(("SLURM_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    job = {"PROCID": 5, "NTASKS": 8, "LOCALID": 1, "NTASKS_PER_NODE": 4, "JOB_NAME": "run", "JOB_ID": 12}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setenv("MASTER_ADDR", "n1")
    monkeypatch.setenv("MASTER_PORT", "12345")
    assert place_of(2) == Place(5, 8, 1, "n1", 12345)
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")
    monkeypatch.setenv("NODE_RANK", "1")
    assert place_of(2) == Place(1, 2, 0, "n1", 12345)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert place_of(2) is None


def _rank(rank: int, port: int, fault: str, folder: str, words: list[str]) -> None:
    """One node of two, whose second has a fault; writes how it ended."""
    os.environ.update(SLURMD_NODENAME=f"n{rank + 1}", GLOO_SOCKET_IFNAME="lo")
    bad, begun = rank == 1, time.monotonic()
    recipe = nano_recipe(*words) if words else None
    if bad and fault == "version":
        node_facts.torch.__version__ = "2.4.0"
    if bad and fault == "disk":
        node_facts.shutil.disk_usage = lambda path: shutil._ntuple_diskusage(10**12, 10**12 - 10**8, 10**8)
    if bad and fault == "clock":
        clock = time.time
        time.time = lambda: clock() + 100
    if bad and fault == "network":
        os.environ["GLOO_SOCKET_IFNAME"] = "nowhere0"
    if bad and fault == "absent":
        return
    if bad and fault == "frozen":
        time.sleep(60)
    place = Place(rank, 2, 0, "127.0.0.1", port)
    try:
        found = check_nodes(recipe, place, LIMIT_S)
        said = "fits" if bad else summary(found)
    except (InputError, SystemExit) as error:
        said = str(error)
    (Path(folder) / f"said{rank}").write_text(f"{time.monotonic() - begun:.1f}\n{said}")
    os._exit(0)


def two_nodes(folder: Path, fault: str = "", words: tuple[str, ...] = (), wait: int = 2) -> list[str]:
    """What each of two processes said, of which the second has a fault; none takes longer than its limit."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    ranks = [context.Process(target=_rank, args=(r, port, fault, str(folder), list(words))) for r in range(2)]
    for process in ranks:
        process.start()
    for process in ranks[:wait]:
        process.join(timeout=90)
    for process in ranks:
        if process.is_alive():
            process.kill()
            process.join()
    texts = [(folder / f"said{r}").read_text().split("\n", 1) for r in range(wait)]
    assert all(float(seconds) < 30 for seconds, _ in texts), texts
    return [said for _, said in texts]


def test_two_nodes_that_fit_time_their_network(earth, tmp_path):
    first, second = two_nodes(tmp_path, words=tuple(overrides(earth, tmp_path, "r")))
    assert first.startswith("preflight: 2 nodes alike, 2 ranks; clocks within 0.") and "64 MB at " in first
    assert second == "fits"


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("version", "node n2: torch is 2.4.0, expected "),
        ("clock", "node n2: its clock is 100 s ahead, expected at most 5 s from rank 0's; set it by NTP"),
    ],
)
def test_a_node_unlike_the_others_is_named_by_the_first(tmp_path, fault, sentence):
    first, second = two_nodes(tmp_path, fault)
    assert sentence in first and second == "2"


def test_a_full_disk_is_named(earth, tmp_path):
    first, second = two_nodes(tmp_path, "disk", tuple(overrides(earth, tmp_path, "r")))
    assert first == f"node n2: {tmp_path} has 0.10 GB free, expected at least 2 GB; make room there" and second == "2"


def test_a_node_whose_network_does_not_reach_the_others_is_named(tmp_path):
    first, _ = two_nodes(tmp_path, "network")
    assert first.startswith("node n2: no all-reduce with the others, expected one within 12 s") and "nowhere0" in first


def test_a_process_that_stands_still_is_named(tmp_path):
    (first,) = two_nodes(tmp_path, "frozen", wait=1)
    assert first.startswith("rank 1: no word at 127.0.0.1:")


def test_a_taken_port_is_said_so():
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=rf"rank 0: port {port} of 127.0.0.1 is taken, expected it free"):
            check_nodes(None, Place(0, 2, 0, "127.0.0.1", port), 5.0)


def test_a_port_at_which_nobody_answers_is_said_so_and_waits_no_longer_than_told(monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "n2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        begun = time.monotonic()
        with pytest.raises(InputError, match=rf"n2, rank 1: port {port} of 127.0.0.1 does not answer within 1 s"):
            check_nodes(None, Place(1, 2, 0, "127.0.0.1", port), 2.0)
        assert time.monotonic() - begun < 20


def test_the_command_looks_at_this_machine_alone_and_refuses_a_cube_that_is_not_there(earth, tmp_path, monkeypatch):
    for name in [n for n in os.environ if n.startswith(("SLURM_", "TORCHELASTIC_"))]:
        monkeypatch.delenv(name)
    words = overrides(earth, tmp_path, "r")
    done = CliRunner().invoke(cli, ["preflight", "skysense_demo", *words])
    assert done.exit_code == 0 and "preflight: 1 node alike" in done.output and "python" in done.output
    refused = CliRunner().invoke(cli, ["preflight", "skysense_demo", *words, "data.cubes=[nowhere]"])
    assert isinstance(refused.exception, InputError) and "its cubes: nowhere: no such cube" in str(refused.exception)


@pytest.mark.xdist_group("slurm")
def test_srun_starts_it_on_every_node_and_names_them(slurm):
    env = {**slurm.env, "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "COLUMNS": "120"}
    command = ["srun", "-N2", "--ntasks-per-node=1", "--kill-on-bad-exit=1", "--job-name=look", sys.executable]
    done = subprocess.run([*command, "-m", "skyframe", "preflight"], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and "preflight: 2 nodes alike, 2 ranks" in done.stdout, done.stderr
    assert "│ n1 " in done.stdout and "│ n2 " in done.stdout
    slurm.wait_idle()
