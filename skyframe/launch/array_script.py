"""The scripts of an array as text: one element of it, all elements on SLURM or on this machine, and the last step."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace

from skyframe.launch.cluster import Cluster
from skyframe.launch.script import (
    Job,
    contained,
    interpreter,
    quoted,
    resources,
    scratch,
    surroundings,
    word,
)

TRY_AGAIN = 75
"""Exit code of a process that another start may help."""

MOST_TASKS = 1000
"""Tasks of one job array that SLURM takes as it comes (MaxArraySize 1001); with more elements a task does several."""

BAD_NEWS = "^(error: |[A-Za-z_.]+(Error|Exception))"

FINISH = "finish"
"""In place of a number: the step that follows when all elements are done."""

ELEMENT = """\
# One element: its log is <k>.log. <k>.result holds its exit code and the number of the launch, below the last error.
# What is done is not done again; what failed in this launch is not tried again when SLURM starts the job anew. A
# process that says so ({try_again}) or was killed (128 and more) is tried {tries} times; one that is told to end leaves
# its element to the next start.
note() {{
    printf '%s\\n' "$2 {launch}" "$3" >"$folder/$1.writing"
    mv "$folder/$1.writing" "$folder/$1.result"
}}
element() {{
    local k=$1 code= launch= item= name= from said
    if [ -f "$folder/$k.result" ]; then read -r code launch <"$folder/$k.result"; fi
    if [ "$code" = 0 ]; then return 0; fi
    if [ "$launch" = {launch} ] && [ "$code" != running ]; then return "$code"; fi
    if [ "$k" != {finish} ]; then item=$(sed -n "${{k}}p" "$folder/items"); fi
    name=$(basename -- "$item")
    note "$k" running ""
    for try in $(seq {tries}); do
        from=$(stat -c %s "$folder/$k.log" 2>/dev/null || echo 0)
        echo "$(date '+%F %T') element $k, launch {launch}, try $try on $(hostname): $item" >>"$folder/$k.log"
        code=0
        "$2" "$item" "$name" >>"$folder/$k.log" 2>&1 </dev/null || code=$?
        if [ "$code" -eq 130 ] || [ "$code" -eq 143 ]; then
            {told}exit "$code"
        fi
        if [ "$code" -ne {try_again} ] && [ "$code" -lt 128 ]; then break; fi
    done
    said=""
    if [ "$code" -ne 0 ]; then
        said=$(tail -c "+$((from + 1))" "$folder/$k.log" | grep -aE '{bad}' | tail -n 1) || true
        if [ -z "$said" ]; then said=$(tail -n 1 "$folder/$k.log"); fi
    fi
    note "$k" "$code" "$said"
    return "$code"
}}
"""

TASK = """\
worst=0
for k in $(seq "$SLURM_ARRAY_TASK_ID" {stride} {count}); do element "$k" work || worst=$?; done
exit "$worst"
"""

HERE = """\
for k in $(seq {count}); do
    while [ "$(jobs -rp | wc -l)" -ge {at_once} ]; do wait -n || true; done
    element "$k" work &
done
wait
worst=0
for k in $(seq {count}); do element "$k" work || worst=$?; done # each says how it ended
"""


@dataclass(frozen=True)
class Work:
    """What the scripts of one launch are rendered for; every path is absolute."""

    job: Job  # name, the array's folder as `run`, where relative paths begin
    number: int  # of the launch
    words: tuple[str, ...]  # of the skyframe command; they may hold {item}, {part} and {name}
    finish: tuple[str, ...]  # words of the last step, or none
    count: int  # elements in all
    wanted: tuple[int, ...]  # those that are not done
    at_once: int  # elements that run at a time; 0 = as many as SLURM likes
    gpus: int  # of an element


def render_array(work: Work, cluster: Cluster) -> str:
    """The script of the elements: one job array, or all of them in the background of this machine.

    Args:
        work: command, elements and folders.
        cluster: a checked cluster file.

    Returns:
        A bash script, which may be read, kept and submitted again by hand.
    """
    begin = _begin(work, cluster, "array")
    does = _function("work", work.words, work, cluster)
    if cluster.executor == "local":
        ends = [HERE.format(count=work.count, at_once=work.at_once or 1)]
        if work.finish:
            ends = [_function("last", work.finish, work, cluster), *ends]
            ends.append(f'if [ "$worst" -eq 0 ]; then element {FINISH} last || worst=$?; fi\n')
        return "\n".join([*begin, does, _element(work, cluster), *ends, 'exit "$worst"\n'])
    return "\n".join([*begin, does, _element(work, cluster), TASK.format(stride=MOST_TASKS, count=work.count)])


def render_finish(work: Work, cluster: Cluster) -> str:
    """The script of the last step on SLURM, which begins when the array has ended well."""
    does = _function("last", work.finish, work, cluster)
    return "\n".join([*_begin(work, cluster, ""), does, _element(work, cluster), f"element {FINISH} last\n"])


def tasks_of(wanted: tuple[int, ...]) -> str:
    """The tasks that elements belong to, as `--array` takes them, such as 1-4,7."""
    tasks = sorted({(k - 1) % MOST_TASKS + 1 for k in wanted})
    runs: list[list[int]] = []
    for task in tasks:
        if runs and runs[-1][1] == task - 1:
            runs[-1][1] = task
        else:
            runs.append([task, task])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _begin(work: Work, cluster: Cluster, kind: str) -> list[str]:
    """From the first line to the folder: what is asked, and what a process finds."""
    folder = f"folder={quoted(work.job.run)}\n"
    if cluster.executor == "local":
        head = f"#!/bin/bash\n# {work.job.name} on this machine\nset -eo pipefail\ncd {quoted(work.job.folder)}\n"
        return [head, *surroundings(cluster), f"export PYTHONUNBUFFERED=1\n{folder}"]
    taken = replace(cluster, gpus_per_node=work.gpus, tasks_per_node=1)
    lines = resources(work.job, taken)
    limit = f"%{work.at_once}" if work.at_once else ""
    lines += [f"--array={tasks_of(work.wanted)}{limit}"] if kind else []
    log = work.job.run / "launch" / str(work.number) / ("%a.log" if kind else f"{FINISH}.log")
    lines += ["--requeue", "--open-mode=append", f"--output={word(str(log))}"]
    if work.job.after and (kind or not work.wanted):
        lines += [f"--dependency=afterok:{work.job.after}", "--kill-on-invalid-dep=yes"]
    return [
        "#!/bin/bash\n" + "".join(f"#SBATCH {line}\n" for line in [*lines, *cluster.sbatch]),
        "set -eo pipefail\n",
        *surroundings(cluster),
        'export PYTHONUNBUFFERED=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}"\n',
        *scratch(cluster),
        folder,
    ]


def _function(name: str, words: tuple[str, ...], work: Work, cluster: Cluster) -> str:
    """The command as a function of an item and its last name."""
    taken = replace(cluster, gpus_per_node=work.gpus)
    said = f"{interpreter(work.job, cluster)} -m skyframe {' '.join(map(_said, words))}"
    if cluster.executor == "slurm":
        step = ('srun --ntasks=1 --cpu-bind=cores --cpus-per-task="$SLURM_CPUS_PER_TASK"', *contained(work.job, taken))
        said = " \\\n        ".join([*step, said])
    return f"{name}() {{\n    {said}\n}}\n"


def _said(text: str) -> str:
    """A word of the command for bash, in which an item stands as it is, whatever it holds."""
    places = {"{item}": '"$1"', "{part}": '"$1"', "{name}": '"$2"'}
    parts = [part for part in re.split(r"(\{item\}|\{part\}|\{name\})", text) if part]
    return "".join(places.get(part) or shlex.quote(part) for part in parts) or "''"


def _element(work: Work, cluster: Cluster) -> str:
    told = "sleep 60 # until SLURM ends this script\n            " if cluster.executor == "slurm" else ""
    tries = cluster.max_restarts + 1
    return ELEMENT.format(try_again=TRY_AGAIN, tries=tries, launch=work.number, finish=FINISH, told=told, bad=BAD_NEWS)
