"""Proofs about strategies: the numbers of one process under each of them, and runs that are killed again and again.

Cells and tables of `make prove`; `benchmarks.prove` names them and keeps their answers.
"""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tables import header

WAYS = {
    "alone": [],
    "ddp": ["train.strategy=ddp"],
    **{f"zero{s}": ["train.strategy=deepspeed", f"train.deepspeed.stage={s}"] for s in range(4)},
}
KILLED = WAYS | {f"{way}_async": [*WAYS[way], "train.async_save=true"] for way in ("ddp", "zero2")}
"""Those that are killed: also in saves in the background."""
MICRO = (1, 4)
STEPS = 20
CHAIN = (("zero2", 2, 5), ("zero3", 1, 10), ("ddp", 4, 15), ("zero1", 2, STEPS))
"""One run: strategy, processes, and the least step it is killed at."""
KILLS = 12
"""Of each way on two ranks; every other one inside a save."""
RUN = (
    "views.crop_px=4", "data.window_px=8", "data.frames={s2: 3, s1: 2}", "train.global_batch=8",
    "loss.pixel_rows=4", "loss.num_centres=2", "model.head.outputs=32", "model.fusion.positions=1.0",
    "views.split_dates=false", "views.drop_frames=0.3", "loss.cl=dino", "loss.sources=[]", "loss.centering=ema",
    "loss.teacher_temp_start=0.04", "loss.teacher_temp=0.07", "optim.warmup_steps=2", "optim.clip_norm=0.5",
    "train.log_every=1", "train.checkpoint_every=1", "train.accelerator=cpu",
)  # fmt: skip
"""SkySense with teacher, bank and alignment, ragged in dates, gradients clipped in every step."""


def earth(folder: Path) -> Path:
    """A cube with all sensors, and one with nothing but Sentinel-2, so that one of two ranks sees no SAR."""
    from skyframe.data.synthetic.simulate import simulate

    if not (folder / "optical").is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        common = {"width_m": 1280, "height_m": 640, "seed": 3, "year": 2021, "hr_share": 0.5}
        simulate(folder / "a", climate="oceanic", origin_m=(0.0, 0.0), **common)  # type: ignore[arg-type]
        simulate(folder / "b", climate="continental", origin_m=(0.0, 64000.0), **common)  # type: ignore[arg-type]
        optical_copy(folder / "b", folder / "optical")
    return folder


def optical_copy(cube: Path, out: Path) -> Path:
    """A cube again under another name, with nothing but its Sentinel-2 series."""
    from skyframe.data.cube import open_cube
    from skyframe.data.read import read_series
    from skyframe.data.write import CubeWriter
    from skyframe.spec import Window

    whole = open_cube(cube)
    grid = whole.grid
    only = dataclasses.replace(whole.spec, modalities={"s2": whole.spec.modalities["s2"]}, labels={})
    writer = CubeWriter(out, only, grid, {"from": f"cube {cube.name}"})
    writer.create("s2", whole.days("s2"))
    windows = [Window(cube.name, 0.0, x_m, grid.height_m) for x_m in np.arange(0, grid.width_m, grid.height_m)]
    series = [read_series(whole, window, names=["s2"])["s2"] for window in windows]
    values, valid = (np.concatenate([getattr(s, key) for s in series], -1) for key in ("values", "valid"))
    writer.write("s2", 0, 0, values, valid.astype(np.uint8))
    return writer.finish()


def words(work: Path, name: str, way: str, processes: int, micro: int, *more: str, preset: str = "nano") -> list[str]:
    """Arguments of `skyframe` for one run."""
    folder = earth(work / "earth")
    return [
        "pretrain", "skysense_demo", *RUN, f"model.preset={preset}", f"name={name}", f"train.run_dir={work / 'runs'}",
        f"data.cubes=[{folder}/a,{folder}/optical]", f"train.devices={processes}", f"train.micro_steps={micro}",
        f"train.max_steps={STEPS}", *KILLED[way], *more,
    ]  # fmt: skip


def equality(work: Path, skyframe: Callable[..., None], way: str, processes: int, micro: int) -> dict[str, Any]:
    """Train, keep the losses, and compare the teacher with its closed form in float64."""
    from skyframe.train.progress import read_metrics

    name = f"{way}_{processes}x{micro}"
    run = work / "runs" / name
    shutil.rmtree(run, ignore_errors=True)
    keep = f"train.keep_checkpoints={STEPS}"
    skyframe(*words(work, name, way, processes, micro, keep, "resume=auto", preset="tiny"))
    losses = [row["total"] for row in read_metrics(run)]
    teacher = teacher_error(run)
    shutil.rmtree(run / "checkpoints")
    return {"way": way, "processes": processes, "micro": micro, "losses": losses, "teacher": teacher}


def elastic(work: Path) -> dict[str, Any]:
    """One run on changing ranks under changing strategies, killed in between, beside one process that is left alone."""
    from skyframe.train.checkpoint import latest
    from skyframe.train.progress import read_metrics
    from skyframe.train.store import Reader

    whole, run = work / "runs" / "whole", work / "runs" / "elastic"
    shutil.rmtree(work / "runs", ignore_errors=True)
    keep = f"train.keep_checkpoints={STEPS}"
    start(words(work, whole.name, "alone", 1, 1, keep, preset="tiny")).wait()
    ends = []
    for way, processes, step in CHAIN:
        process = start(words(work, run.name, way, processes, 1, keep, "resume=auto", preset="tiny"))
        if step < STEPS:
            _kill(process, run, step, inside=False, one=False, draw=random.Random(step))
        process.wait()
        newest = latest(run / "checkpoints")
        ends.append(0 if newest is None else int(Reader(newest).index["step"]))
    losses = [[row["total"] for row in read_metrics(r)] for r in (whole, run)]
    readers = [Reader(r / "checkpoints" / f"step_{STEPS:08d}") for r in (whole, run)]
    far = {
        part: max(_relative(*(r.whole(n) for r in readers)) for n in readers[0].tensors if part in n)
        for part in ("bank", "center")
    }
    return {"ends": ends, "losses": losses, "teacher": teacher_error(run), "far": far}


def _relative(a: Any, b: Any) -> float:
    """Norm of the difference of two tensors over that of the first."""
    return float((a.double() - b.double()).norm() / a.double().norm().clamp(min=1e-30))


def teacher_error(run: Path) -> float:
    """Greatest difference between the last teacher and the average of all saved students, in absolute value."""
    from skyframe.config import recipe_from_tree
    from skyframe.data.datamodule import CubeDataModule
    from skyframe.model.teacher import momentum_at
    from skyframe.spec import load_yaml
    from skyframe.train.module import PretrainModule
    from skyframe.train.store import Reader

    recipe = recipe_from_tree(load_yaml(run / "recipe.yaml"), "recipe.yaml")
    data = CubeDataModule(recipe)
    module = PretrainModule(recipe, data.modalities, data.regions)
    parameters = {n for n, _ in module.named_parameters()}
    students = {"system.teacher.": "system.student.", "system.teacher_heads.": "system.heads."}
    pairs = {t: s + t.removeprefix(p) for p, s in students.items() for t in parameters if t.startswith(p)}
    expected = {t: module.state_dict()[t].double() for t in pairs}
    steps = recipe.train.max_steps
    for step in range(1, steps + 1):
        weights = Reader(run / "checkpoints" / f"step_{step:08d}").state_dict()
        m = momentum_at(step / steps, recipe.loss.ema_start, recipe.loss.ema_end)
        expected = {t: m * expected[t] + (1 - m) * weights[s].double() for t, s in pairs.items()}
    return max(float((weights[t].double() - expected[t]).abs().max()) for t in pairs)


def killed(work: Path, way: str, seed: int) -> dict[str, Any]:
    """Kill a run again and again, let it go on each time, and compare its end with that of an uninterrupted one."""

    from skyframe.train.checkpoint import latest
    from skyframe.train.progress import read_metrics
    from skyframe.train.store import Reader

    processes = 1 if way == "alone" else 2
    draw = random.Random(f"{way} {seed}")
    for name in (f"whole_{way}", f"killed_{way}"):
        shutil.rmtree(work / "runs" / name, ignore_errors=True)
    whole, run = work / "runs" / f"whole_{way}", work / "runs" / f"killed_{way}"
    start(words(work, whole.name, way, processes, 1, "resume=auto")).wait()
    kills = []
    for number in range(KILLS):
        inside, one = number % 2 == 0, processes == 2 and draw.random() < 0.5
        before = latest(run / "checkpoints")
        process = start(words(work, run.name, way, processes, 1, "resume=auto"))
        at = min(STEPS - 1, (0 if before is None else int(before.name[5:])) + draw.randint(1, 2))
        hit = _kill(process, run, at, inside, one, draw)
        if not hit:
            raise RuntimeError(f"{run.name}: ended by itself before kill {number + 1}, expected to be running")
        left = sorted(p.name for p in (run / "checkpoints").glob("*.tmp"))
        newest = latest(run / "checkpoints")
        step = 0
        if newest is not None:
            reader = Reader(newest)
            reader.state_dict(), reader.state()  # every byte against its checksum
            step = int(reader.index["step"])
        logged = max((int(r["step"]) for r in read_metrics(run)), default=0)
        kills.append({"one": one, "inside": bool(left), "left": left, "step": step, "lost": logged - step})
    start(words(work, run.name, way, processes, 1, "resume=auto")).wait()
    tensors, equal, far = compared(whole, run, STEPS)
    return {"way": way, "kills": kills, "tensors": tensors, "equal": equal, "far": far}


def compared(whole: Path, run: Path, step: int) -> tuple[int, int, float]:
    """Tensors of two runs' checkpoints of a step: how many, how many are bit-equal, the greatest difference."""
    import torch

    from skyframe.train.store import Reader

    ends = [Reader(r / "checkpoints" / f"step_{step:08d}") for r in (whole, run)]
    names = [n for n in ends[0].tensors if not n.startswith("random/")]
    far = max(float((ends[0].whole(n).double() - ends[1].whole(n).double()).abs().max()) for n in names)
    return len(names), sum(torch.equal(ends[0].whole(n), ends[1].whole(n)) for n in names), far


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    """The command line in a session of its own, so that all its ranks can be killed at once."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "skyframe", *arguments]
    return subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def _kill(process: subprocess.Popen[bytes], run: Path, step: int, inside: bool, one: bool, draw: random.Random) -> bool:
    """SIGKILL at a random moment after a step, or at the first sight of a save; False where nothing ran any more."""
    from skyframe.train.progress import read_metrics

    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if inside and any((run / "checkpoints").glob("step_*.tmp")) and _reached(run, step):
            time.sleep(draw.uniform(0, 0.01))
            break
        if not inside and any(r["step"] >= step for r in read_metrics(run)):
            time.sleep(draw.uniform(0, 1.5))
            break
    victim = draw.choice([*_children(process.pid), process.pid]) if one else None
    was_running = process.poll() is None
    if was_running:
        os.kill(victim, signal.SIGKILL) if victim is not None else os.killpg(process.pid, signal.SIGKILL)
    if one:
        time.sleep(1.0)  # the other rank notices, or waits; SLURM ends it then
        if process.poll() is None or _alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return was_running


def _reached(run: Path, step: int) -> bool:
    return any(int(p.stem[5:]) >= step for p in (run / "checkpoints").glob("step_*.tmp"))


def _children(pid: int) -> list[int]:
    """Ranks that the first one started beside itself; the runs have no reader processes."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def equality_table(answers: list[dict[str, Any]]) -> str:
    """Greatest relative difference of the loss from one process at equal micro-steps, and the teacher's error."""
    alone = {a["micro"]: a["losses"] for a in answers if a["way"] == "alone"}
    lines = header("Every strategy against one process", {a["commit"] for a in answers})
    lines += [
        f"SkySense tiny, {STEPS} steps of 8 samples, fp32, gloo; clipped in every step, ragged dates, one cube without "
        "SAR. Loss: greatest |difference| / |loss of one process|. Teacher: greatest |difference| from the average of "
        "all students in float64.",
        "",
        "| strategy | processes | micro_steps | loss | teacher |",
        "|---|---|---|---|---|",
    ]
    for a in sorted(answers, key=lambda a: (list(WAYS).index(a["way"]), a["processes"], a["micro"])):
        if a["micro"] in alone:
            pairs = zip(a["losses"], alone[a["micro"]], strict=True)
            loss = max(abs(x - y) / abs(y) for x, y in pairs)
            lines.append(f"| {a['way']} | {a['processes']} | {a['micro']} | {loss:.1e} | {a['teacher']:.1e} |")
    return "\n".join(lines) + "\n"


def elastic_table(answers: list[dict[str, Any]]) -> str:
    """Where each part of the chain ended, and what its whole differs in from one process."""
    (a,) = answers
    whole, chain = a["losses"]
    loss = max(abs(x - y) / abs(x) for x, y in zip(whole, chain, strict=True))
    lines = header("One run on changing ranks and strategies", {a["commit"]})
    lines += [
        f"SkySense tiny, {STEPS} steps of 8 samples, fp32, gloo; each part but the last ended by SIGKILL of all ranks. "
        "Beside one process that was left alone.",
        "",
        "| part | strategy | processes | newest save at its end |",
        "|---|---|---|---|",
        *(
            f"| {n + 1} | {way} | {p} | {end} |"
            for n, ((way, p, _), end) in enumerate(zip(CHAIN, a["ends"], strict=True))
        ),
        "",
        f"Greatest relative difference of the loss of a step: {loss:.1e}. Greatest difference of the teacher from the "
        f"average of all students in float64: {a['teacher']:.1e}. At the end, norm of the difference over the norm: "
        f"prototype bank {a['far']['bank']:.1e}, centres {a['far']['center']:.1e}.",
    ]
    return "\n".join(lines) + "\n"


def killed_table(answers: list[dict[str, Any]]) -> str:
    """Kills by way, what was lost, and the end compared with that of an uninterrupted run."""
    lines = header("Runs killed by SIGKILL", {a["commit"] for a in answers})
    lines += [
        f"{STEPS} steps, a save in each. Inside a save: a folder under a temporary name was left on disk. After each "
        "kill LATEST was opened and every byte compared with its checksum. Lost: logged steps after the newest save. "
        "Equal: tensors bit-equal at the end to those of an uninterrupted run; far: greatest difference of the others.",
        "",
        "| strategy | kills | of one rank | inside a save | most steps lost | equal | far |",
        "|---|---|---|---|---|---|---|",
    ]
    for a in answers:
        kills = a["kills"]
        one, inside, lost = (
            sum(k["one"] for k in kills),
            sum(k["inside"] for k in kills),
            max(k["lost"] for k in kills),
        )
        ends = f"{a['equal']} of {a['tensors']} | {a['far']:.1e}"
        lines.append(f"| {a['way']} | {len(kills)} | {one} | {inside} | {lost} | {ends} |")
    return "\n".join(lines) + "\n"
