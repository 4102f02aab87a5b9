"""The script of a job as text: a pure function of recipe, cluster and options."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from skyframe.launch.cluster import Cluster

RENDEZVOUS = """\
# All ranks meet at the first node, under the address by which SLURM itself reaches it: names need not resolve. The
# search for a free port begins at a place of this job's own (each task of an array has a job id of its own), so that
# jobs which share a node do not meet each other.
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
MASTER_ADDR=$(scontrol --oneliner show node "${nodes[0]}" | sed -n 's/.* NodeAddr=\\([^ ]*\\).*/\\1/p')
MASTER_PORT=$((12000 + SLURM_JOB_ID * 7 % 18000))
while (exec 3<>"/dev/tcp/$MASTER_ADDR/$MASTER_PORT") 2>/dev/null; do MASTER_PORT=$((MASTER_PORT + 1)); done
export MASTER_ADDR MASTER_PORT
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}"
echo "$(date '+%F %T') job $SLURM_JOB_ID start ${SLURM_RESTART_COUNT:-0} on $SLURM_JOB_NODELIST," \\
    "ranks meet at $MASTER_ADDR:$MASTER_PORT"
"""

STEP = """\
export SKYFRAME_VERDICT={verdict}
rm -f "$SKYFRAME_VERDICT"
code=0
srun --kill-on-bad-exit=1 --cpu-bind=cores --cpus-per-task="$SLURM_CPUS_PER_TASK" --open-mode=append"""

END = """\
# srun tells the greatest code of all processes; one that ended by its own word has left it, and the nodes it blames.
bad=""
if [ -s "$SKYFRAME_VERDICT" ]; then read -r code bad <"$SKYFRAME_VERDICT"; fi
echo "$(date '+%F %T') job $SLURM_JOB_ID ended with code $code"
"""

EXCLUDE = """\
# Nodes that the preflight names are left out from now on, by a job in this one's place.
if [ -n "$bad" ]; then
    tr , "\\n" <<<"$bad" >>{bad_nodes}
    bad=$(sort -u {bad_nodes} | paste -sd,)
    next=$(sbatch --parsable --exclude="$bad" --dependency="afterany:$SLURM_JOB_ID" {script}) || exit "$code"
    echo "$next" >{next_job}
    echo "job $next goes on in this one's place, without $bad"
fi
"""

RESTART = """\
# 0: done. 2: wrong input, 130: interrupted, both would only come again. 75: the run saved itself and left, or a process
# stood still. 128 and more: killed. Any other error may pass in a run that has worked before, that is, has saved once.
# What keeps ending at one checkpoint ends for good. SLURM itself starts a job again that was preempted or lost a node.
at=$(cat {latest} 2>/dev/null || echo none)
if [[ ! $code =~ ^(0|2|130)$ && ($code -eq 75 || $code -ge 128 || $at != none) ]]; then
    echo "$at" >>{ends}
    count=$(grep -cxF "$at" {ends})
    if [ "$count" -le {max_restarts} ]; then
        echo "queued again from checkpoint $at ($count of {max_restarts} from there)"
        scontrol requeue "$SLURM_JOB_ID"
        sleep 60 # until SLURM ends this script
    fi
    echo "not queued again: {max_restarts} restarts from checkpoint $at did not help"
fi
"""


SCRIPT, NEXT = "script.sh", "next_job"
"""Files of a launch: what was submitted, and the job that a job has put in its own place."""


@dataclass(frozen=True)
class Job:
    """What a script is rendered for; every path is absolute."""

    name: str  # the recipe's
    recipe: Path  # as kept with the run
    run: Path  # the run's folder
    folder: Path  # where relative paths of the recipe begin
    num_nodes: int
    python: str  # the interpreter that launches
    after: str = ""  # job id that must have ended well before
    signal: str = "USR2"  # that the run takes for "save and leave"


def render(job: Job, cluster: Cluster) -> str:
    """The script that `sbatch` reads, or bash where the executor is local.

    Args:
        job: what runs, and where it writes.
        cluster: a checked cluster file.

    Returns:
        A bash script, which may be read, kept and submitted again by hand.
    """
    command = [shlex.quote(word) for word in ("-m", "skyframe", "pretrain", str(job.recipe), "resume=auto")]
    if cluster.executor == "local":
        parts = [f"#!/bin/bash\n# {job.name} on this machine\nset -eo pipefail\ncd {quoted(job.folder)}\n"]
        parts += [*surroundings(cluster), "export PYTHONUNBUFFERED=1\n"]
        return "\n".join([*parts, f"exec {interpreter(job, cluster)} {' '.join(command)}\n"])
    parts = [
        "#!/bin/bash\n" + "".join(f"#SBATCH {line}\n" for line in _directives(job, cluster)),
        "set -eo pipefail\n",
        *surroundings(cluster),
        RENDEZVOUS,
        *scratch(cluster),
        _step(job, cluster, " ".join(command)),
        _end(job, cluster),
    ]
    return "\n".join(parts)


def logs(run: Path) -> Path:
    """The folder of a run's logs: <job>_script.log, and <job>_rank<r>.log of every process."""
    return run / "slurm"


def _directives(job: Job, cluster: Cluster) -> list[str]:
    lines = [
        *resources(job, cluster),
        f"--signal={job.signal}@{cluster.signal_lead_s}",
        "--requeue",
        "--open-mode=append",
    ]
    lines += [f"--output={word(f'{logs(job.run)}/%j_script.log')}"]
    lines += [f"--dependency=afterok:{job.after}", "--kill-on-invalid-dep=yes"] if job.after else []
    return [*lines, *cluster.sbatch]


def resources(job: Job, cluster: Cluster) -> list[str]:
    """What is asked of sbatch; a job named bash or interactive would not be recognised by Lightning as one of SLURM's.

    Args:
        job: name, folders and number of nodes.
        cluster: the rest.
    """
    lines = [
        f"--job-name={word('skyframe-' + job.name)}",
        f"--comment={word(f'skyframe:{job.run}')}",
        f"--chdir={word(str(job.folder))}",
        f"--nodes={job.num_nodes}",
        f"--ntasks-per-node={cluster.tasks}",
        f"--cpus-per-task={cluster.cpus_per_task}",
        *_gpus(cluster),
        f"--time={cluster.time_limit}",
    ]
    named = {"mem": cluster.memory, "partition": cluster.partition, "account": cluster.account}
    named |= {"qos": cluster.qos, "constraint": cluster.constraint}
    lines += [f"--{option}={word(value)}" for option, value in named.items() if value]
    return [*lines, *(["--exclusive"] if cluster.exclusive else [])]


def _gpus(cluster: Cluster) -> list[str]:
    if not cluster.gpus_per_node or cluster.gpu_request == "none":
        return []
    kind = f"{cluster.gpu_type}:" if cluster.gpu_type else ""
    before = "gpu:" if cluster.gpu_request == "gres" else ""
    return [f"--{cluster.gpu_request}={before}{kind}{cluster.gpus_per_node}"]


def surroundings(cluster: Cluster) -> list[str]:
    """Modules, the site's own lines, the environment and variables."""
    lines = [f"module load {' '.join(cluster.modules)}"] if cluster.modules else []
    lines += cluster.setup
    lines += [f'source "{cluster.venv}/bin/activate"'] if cluster.venv else []
    env = dict(cluster.env)
    if cluster.interface:
        env = {"NCCL_SOCKET_IFNAME": cluster.interface, "GLOO_SOCKET_IFNAME": cluster.interface, **env}
    lines += [f'export {key}="{value}"' for key, value in env.items()]
    return ["".join(f"{line}\n" for line in lines)] if lines else []


def scratch(cluster: Cluster) -> list[str]:
    """The node's own folder for temporary files."""
    if not cluster.scratch:
        return []
    make = 'srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 mkdir -p "$TMPDIR"'
    return [f'export TMPDIR="{cluster.scratch}"\n{make}\n']


def _step(job: Job, cluster: Cluster, command: str) -> str:
    """One process per GPU, with its cores; if one dies the others are ended. Each has a log of its own."""
    start = STEP.format(verdict=quoted(logs(job.run)) + '/"$SLURM_JOB_ID"_verdict')
    words = [start, f"--output={quoted(logs(job.run))}/%j_rank%t.log", *contained(job, cluster)]
    return " \\\n    ".join([*words, f"{interpreter(job, cluster)} {command} || code=$?\n"])


def contained(job: Job, cluster: Cluster) -> list[str]:
    """The words between srun and the interpreter that put a process into its image."""
    box = cluster.container
    if box is None:
        return []
    ours = [job.folder] if job.run.is_relative_to(job.folder) else [job.folder, job.run]
    mounts = list(dict.fromkeys([*map(str, ours), *box.mounts]))
    if box.kind == "apptainer":
        nv = ["--nv"] if cluster.gpus_per_node else []
        words = ["apptainer exec", *nv, f'--bind "{",".join(mounts)}"', f"--pwd {quoted(job.folder)}", *box.options]
        return [" ".join([*words, f'"{box.image}"'])]
    both = ",".join(mount if ":" in mount else f"{mount}:{mount}" for mount in mounts)
    workdir = f"--container-workdir={quoted(job.folder)}"
    return [f'--container-image="{box.image}" --container-mounts="{both}" {workdir}', *box.options]


def interpreter(job: Job, cluster: Cluster) -> str:
    """The word that starts Python."""
    if cluster.python:
        return f'"{cluster.python}"'
    return "python" if cluster.venv or cluster.container else quoted(Path(job.python))


def _end(job: Job, cluster: Cluster) -> str:
    """What follows the processes: how they ended, and whether the job is started again."""
    folder, parts = job.recipe.parent, [END]
    if cluster.exclude_bad_nodes:
        places = {"bad_nodes": logs(job.run) / "bad_nodes.txt", "script": folder / SCRIPT, "next_job": folder / NEXT}
        parts.append(EXCLUDE.format(**{name: quoted(path) for name, path in places.items()}))
    if cluster.max_restarts:
        ends = quoted(logs(job.run)) + '/"$SLURM_JOB_ID"_ends.txt'
        latest = quoted(job.run / "checkpoints" / "LATEST")
        parts.append(RESTART.format(latest=latest, ends=ends, max_restarts=cluster.max_restarts))
    return "".join([*parts, 'exit "$code"\n'])


def quoted(path: Path) -> str:
    """A path as a word of the shell."""
    return shlex.quote(str(path))


def word(value: str) -> str:
    """A value in a line of sbatch, in quotes where it needs them."""
    return value if shlex.quote(value) == value else f'"{value}"'
