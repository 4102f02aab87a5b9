"""A real, private SLURM on this machine: munged, slurmctld and one slurmd per node, with a key and ports of its own.

Everything lies in a short folder under the system's temporary one, and every process is a child in the foreground: it
ends by its id, or with the process that started it. Nodes n1, n2, ... are this machine under other ports. They own more
CPUs and GPUs than there are (nobody binds to them), so that files written for real clusters are read as they stand.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ACCOUNTANTS = ("slurmdbd", "sacct", "sacctmgr", "mariadbd", "mariadb-install-db")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
SEARCH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
LIVING = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "STAGE_OUT")
FEATURES = "a100,h100,nvme"
URGENT = "urgent"
"""The partition whose jobs preempt those of the others, which have half a minute to save."""
PARTITIONS = ("debug", "a100", "h100", "cpu", URGENT)

CONF = """
ClusterName=mini
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge/sock
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmdSpoolDir={root}/spool/%n
StateSaveLocation={root}/state
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/slurmd-%n.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=100000,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
JobRequeue=1
JobAcctGatherType=jobacct_gather/none
{accounting}
JobCompType=jobcomp/filetxt
JobCompLoc={root}/log/jobcomp.txt
SlurmdTimeout=10
SlurmctldTimeout=10
InactiveLimit=0
KillWait=5
MinJobAge={age}
OverTimeLimit=0
UnkillableStepTimeout=30
PropagateResourceLimits=NONE
GresTypes=gpu
"""


NO_ACCOUNTING = "AccountingStorageType=accounting_storage/none"
ACCOUNTING = """AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStoragePass={root}/munge/sock"""
DATABASE = """
AuthType=auth/munge
AuthInfo=socket={root}/munge/sock
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
PidFile={root}/slurmdbd.pid
LogFile={root}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={storage}
StorageUser=root
"""


@dataclass
class MiniSlurm:
    """A running cluster. `env` is for processes that talk to it; tests end nothing but what they started."""

    root: Path
    nodes: tuple[str, ...]
    env: dict[str, str]
    daemons: dict[str, subprocess.Popen] = field(default_factory=dict)  # "munged", "slurmctld", "n1", ...

    def run(self, *command: str, timeout_s: float = 60) -> str:
        """What a command prints; a test's failure, with its words, where it fails."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=timeout_s)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def show(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says, by name: JobState, Restarts, Reason, NodeList, ExitCode, ..."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETING, COMPLETED, FAILED, TIMEOUT, CANCELLED, NODE_FAIL, ..."""
        return self.show(job)["JobState"]

    def wait(self, job: str, *states: str, timeout_s: float = 120) -> str:
        """The first of some states that a job is in (none: any that is final); a test's failure after the time."""
        end = time.monotonic() + timeout_s
        while True:
            state = self.state(job)
            if state in states or (not states and state not in LIVING):
                return state
            assert time.monotonic() < end, f"job {job} is {state} after {timeout_s:.0f} s: {self.show(job)}"
            time.sleep(0.1)

    def release(self, job: str, restarts: int = 1, timeout_s: float = 60) -> None:
        """Start a requeued job now, as SLURM holds it for two minutes: once it waits for that restart (the first, ...),
        since no such word is taken while it still completes."""
        end = time.monotonic() + timeout_s
        while (
            (shown := self.show(job))["JobState"] != "PENDING"
            or int(shown["Restarts"]) < restarts
            or _left(self, f"SLURM_JOB_ID={job}")  # a late end of the former start would be that of the next
        ):
            assert time.monotonic() < end, f"job {job} does not wait for restart {restarts}: {shown}"
            time.sleep(0.1)
        time.sleep(1.2)  # a node refuses what was allowed in the very second in which it ended the job
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now")

    def rank(self, job: str, rank: int) -> int:
        """The process of a rank that trains."""
        marks = (f"SLURM_JOB_ID={job}", f"SLURM_PROCID={rank}")
        for pid in _left(self, *marks):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if b"pretrain" in words and words[0].endswith(b"python"):
                    return pid
        raise AssertionError(f"job {job} has no rank {rank} that trains")

    def kill_node(self, node: str) -> None:
        """End a node's slurmd at once; its tasks go on until the controller notices, after about 25 s."""
        self.daemons[node].kill()
        self.daemons[node].wait()

    def start_node(self, node: str) -> None:
        """Start a node's slurmd, at first or again."""
        self.daemons[node] = _start(self, "slurmd", "-D", "-N", node)

    def wait_idle(self, timeout_s: float = 30) -> None:
        """Until every node is idle."""
        end = time.monotonic() + timeout_s
        while self._idle() != len(self.nodes):
            assert time.monotonic() < end, f"nodes are not idle after {timeout_s:.0f} s\n{self._words()}"
            time.sleep(0.05)

    def _idle(self) -> int:
        asked = ("sinfo", "-h", "-N", "-p", "debug", "-t", "idle", "-o", "%N")
        return len(subprocess.run(asked, env=self.env, capture_output=True, text=True).stdout.split())

    def _words(self) -> str:
        return "\n".join(f"{p.name}: {p.read_text()[-1500:]}" for p in sorted((self.root / "log").glob("*.log")))


def missing_programs(accounting: bool = False) -> list[str]:
    """Programs of SLURM and munge that this machine lacks."""
    return [name for name in PROGRAMS + ACCOUNTANTS * accounting if shutil.which(name, path=SEARCH) is None]


def need(accounting: bool = False) -> None:
    """Skip the test, by name, on a machine without SLURM; where SKYFRAME_CI is set that is a failure."""
    absent = missing_programs(accounting)
    if absent:
        more = " slurmdbd mariadb-server" if accounting else ""
        packages = f"slurmctld slurmd slurm-client munge{more}"
        sentence = f"{', '.join(absent)} not found: these tests need `apt install {packages}`"
        if os.environ.get("SKYFRAME_CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)


@contextlib.contextmanager
def mini_slurm(
    num_nodes: int = 2, cpus: int = 192, memory_mb: int = 32000, accounting: bool = False
) -> Iterator[MiniSlurm]:
    """Start a cluster, wait until its nodes are idle, and end it with all that ran on it.

    With accounting, `sacct` knows jobs that have left the queue, which they do after two seconds.
    """
    root = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp" if os.path.isdir("/tmp") else None))
    cluster = _describe(root, num_nodes, cpus, memory_mb, accounting)
    try:
        munge = [f"--{key}-file={root}/munge/{key}" for key in ("key", "pid", "log", "seed")]
        cluster.daemons["munged"] = _start(
            cluster, "munged", "--foreground", "--force", f"--socket={root}/munge/sock", *munge
        )
        if accounting:
            _start_accounting(cluster)
        cluster.daemons["slurmctld"] = _start(cluster, "slurmctld", "-D", "-c")
        for node in cluster.nodes:
            cluster.start_node(node)
        cluster.wait_idle()
        yield cluster
    finally:
        _stop(cluster)
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def slurm() -> Iterator[MiniSlurm]:
    """A cluster of two nodes for the whole session. Tests of one group (`xdist_group("slurm")`) share it."""
    need()
    with mini_slurm() as cluster:
        yield cluster


def _describe(root: Path, num_nodes: int, cpus: int, memory_mb: int, accounting: bool) -> MiniSlurm:
    """Folders, key and configuration of a cluster that is not started yet."""
    names = tuple(f"n{i + 1}" for i in range(num_nodes))
    for folder in ("state", "log", "munge", *(f"spool/{n}" for n in names)):
        (root / folder).mkdir(parents=True)
    root.chmod(0o755)
    (root / "munge" / "key").write_bytes(os.urandom(1024))
    (root / "munge" / "key").chmod(0o600)
    (root / "log" / "jobcomp.txt").touch()
    host, ports = socket.gethostname().split(".")[0], _free_ports(num_nodes + 3)
    user, storage, port = getpass.getuser(), ports.pop(), ports.pop()
    books = ACCOUNTING.format(root=root, port=port) if accounting else NO_ACCOUNTING
    lines = [CONF.format(host=host, user=user, root=root, ports=ports, accounting=books, age=2 if accounting else 3600)]
    database = root / "slurmdbd.conf"
    database.write_text(DATABASE.format(root=root, host=host, port=port, user=user, storage=storage))
    database.chmod(0o600)
    for name, port in zip(names, ports[1:], strict=True):
        lines.append(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory={memory_mb} "
            f"Gres=gpu:8 Features={FEATURES} State=UNKNOWN"
        )
    for name in PARTITIONS:
        default = "YES" if name == PARTITIONS[0] else "NO"
        lines.append(
            f"PartitionName={name} Nodes=ALL Default={default} MaxTime=INFINITE State=UP OverSubscribe=NO "
            f"PriorityTier={10 if name == URGENT else 1} GraceTime=30"
        )
    (root / "slurm.conf").write_text("\n".join([*lines, ""]))
    for index in range(8):
        (root / f"gpu{index}").touch()  # a device file each, as slurmd looks for one
    (root / "gres.conf").write_text(f"Name=gpu File={root}/gpu[0-7]\n")
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
    return MiniSlurm(root, names, {**keep, "PATH": SEARCH, "SLURM_CONF": str(root / "slurm.conf")})


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def _start_accounting(cluster: MiniSlurm) -> None:
    """A database of its own, slurmdbd on it, and the cluster's name in it."""
    storage = (cluster.root / "slurmdbd.conf").read_text().partition("StoragePort=")[2].split()[0]
    data = f"--datadir={cluster.root}/data"
    user = f"--user={getpass.getuser()}"
    make = ("mariadb-install-db", "--no-defaults", data, "--auth-root-authentication-method=normal", user)
    subprocess.run(make, env=cluster.env, check=True, capture_output=True)
    where = ("--bind-address=127.0.0.1", f"--port={storage}", f"--socket={cluster.root}/sql", user)
    cluster.daemons["mariadbd"] = _start(cluster, "mariadbd", "--no-defaults", data, *where)
    _until(cluster, "mariadb", "--no-defaults", f"--socket={cluster.root}/sql", "-e", "select 1")
    cluster.daemons["slurmdbd"] = _start(cluster, "slurmdbd", "-D")
    _until(cluster, "sacctmgr", "-i", "add", "cluster", "mini")


def _until(cluster: MiniSlurm, *command: str) -> None:
    end = time.monotonic() + 30
    while (done := subprocess.run(command, env=cluster.env, capture_output=True, text=True)).returncode:
        assert time.monotonic() < end, f"{' '.join(command)}: {done.stdout}{done.stderr}{cluster._words()}"
        time.sleep(0.1)


def _start(cluster: MiniSlurm, *command: str) -> subprocess.Popen:
    """A daemon in the foreground, which ends with this process however that ends."""
    with (cluster.root / "log" / f"{command[0]}.out").open("ab") as log:
        tied = ("setpriv", "--pdeathsig", "KILL", *command)
        return subprocess.Popen(tied, env=cluster.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def _stop(cluster: MiniSlurm) -> None:
    asked = subprocess.run(("scancel", "-u", getpass.getuser()), env=cluster.env, capture_output=True)
    if asked.returncode == 0:
        end = time.monotonic() + 5
        while time.monotonic() < end and subprocess.run(("squeue", "-h"), env=cluster.env, capture_output=True).stdout:
            time.sleep(0.1)
    for daemon in reversed(cluster.daemons.values()):
        daemon.terminate()
    for daemon in cluster.daemons.values():
        try:
            daemon.wait(timeout=5)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    for pid in _left(cluster):  # tasks of a node that was killed
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _left(cluster: MiniSlurm, *more: str) -> list[int]:
    """Processes that were started for this cluster, by the address of its configuration in their environment."""
    words = {w.encode() for w in (f"SLURM_CONF={cluster.env['SLURM_CONF']}", *more)}
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if words <= set((entry / "environ").read_bytes().split(b"\0")) and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found
