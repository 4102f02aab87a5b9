"""`skyframe follow`: score each checkpoint of a run from a process of its own."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from skyframe.commands import OVERRIDES
from skyframe.spec import InputError

if TYPE_CHECKING:
    from skyframe.config.skysense import SkySenseRecipe
    from skyframe.evaluate.during import Plan


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@OVERRIDES
@click.option("--suite", default="", help="a name in recipes/eval/ or a YAML file; the run's train.evaluate by default")
@click.option("--data", type=click.Path(path_type=Path), default=None, help="folder below which the data sets lie")
@click.option("--once", is_flag=True, help="score what is there now and end")
@click.option("--pause", default=30.0, show_default=True, help="seconds between looks for a new checkpoint")
def follow(run: Path, overrides: tuple[str, ...], suite: str, data: Path | None, once: bool, pause: float) -> None:
    """Score each checkpoint of a run while it trains elsewhere, until its last one is scored.

    Each checkpoint's teacher is exported aside and scored on frozen features; scores go to RUN/evaluation, where
    `skyframe report RUN` draws them against the steps. Overrides are those of the suite. A checkpoint that the run
    removes meanwhile is passed over. Started again it goes on; checkpoints of steps that train.evaluate.every does not
    name are left out.
    """
    from skyframe.config.recipe import EvaluateConfig

    recipe = _recipe_of(run, once, pause)
    named: EvaluateConfig = recipe.train.evaluate
    if suite:
        named = dataclasses.replace(named, suite=suite, overrides=())
    named = dataclasses.replace(named, overrides=(*named.overrides, *overrides), data=str(data or named.data))
    if named.how == "here" and named.every and not once:
        raise InputError(
            f"follow {run}: the run scores itself (train.evaluate.how: here), expected one that leaves it to others; "
            "give --once for what it has left out, or set train.evaluate.how=apart"
        )
    from skyframe.commands.scoring import plan_of

    follower = Follower(run, recipe, plan_of(named))
    while True:
        finished = follower.look()
        if finished or once:
            break
        time.sleep(pause)
    click.echo(f"{follower.num_new} checkpoints scored, scores in {follower.folder / 'scores.jsonl'}")


def _recipe_of(run: Path, once: bool, pause: float) -> SkySenseRecipe:
    """The run's recipe; a run that is launched and still waits in the queue has none yet."""
    from skyframe.config import recipe_from_tree
    from skyframe.spec import load_yaml

    saved = run / "recipe.yaml"
    if not saved.is_file() and (once or not (run / "launch").is_dir()):
        raise InputError(f"{run}: no recipe.yaml, expected a run folder written by `skyframe pretrain`; check the path")
    while not saved.is_file():
        time.sleep(pause)
    return recipe_from_tree(load_yaml(saved), str(saved))


@dataclass
class Follower:
    """What was scored of a run, and what was passed over."""

    run: Path
    recipe: SkySenseRecipe
    plan: Plan
    num_new: int = 0
    passed: set[str] = field(default_factory=set)  # names of checkpoints that could not be read

    def __post_init__(self) -> None:
        from skyframe.evaluate.scores import FOLDER

        self.folder = self.run / FOLDER

    def look(self) -> bool:
        """Score the checkpoints that are there and have no scores, oldest first, as those go first.

        Returns:
            Whether the run's last checkpoint has been dealt with.
        """
        from skyframe.train.checkpoint import kept, latest, step_of

        every, last = self.recipe.train.evaluate.every, self.recipe.train.max_steps
        for checkpoint in kept(self.run / "checkpoints"):
            step = step_of(checkpoint)
            if (every == 0 or step % every == 0 or step == last) and checkpoint.name not in self.passed:
                self._score(checkpoint, step)
        newest = latest(self.run / "checkpoints")
        return newest is not None and step_of(newest) >= last and not self._wanted(newest, last)

    def _wanted(self, checkpoint: Path, step: int) -> bool:
        """Whether a checkpoint has no scores, or older ones: a run that went back saves a step once more."""
        from skyframe.evaluate.scores import RESULTS, step_folder

        if checkpoint.name in self.passed:
            return False
        results = step_folder(self.folder, step) / RESULTS
        try:
            return not results.is_file() or (checkpoint / "index.json").stat().st_mtime > results.stat().st_mtime
        except FileNotFoundError:  # the checkpoint was just removed
            return False

    def _score(self, checkpoint: Path, step: int) -> None:
        if not self._wanted(checkpoint, step):
            return
        from skyframe.evaluate.during import TEACHER, score_baselines, score_step
        from skyframe.evaluate.protocol import Subject
        from skyframe.export import export_run, load_module, random_copy
        from skyframe.train.checkpoint import read_checkpoint
        from skyframe.train.strategy import device_of

        click.echo(f"scoring step {step} ...")
        with tempfile.TemporaryDirectory(prefix="skyframe_follow_") as scratch:
            try:
                export_run(read_checkpoint(checkpoint), self.recipe, Path(scratch) / "export")
            except (InputError, OSError) as error:
                gone = "it was removed while it was read" if not checkpoint.exists() else str(error)
                click.echo(f"warning: step {step} is passed over: {gone}", err=True)
                self.passed.add(checkpoint.name)
                return
            module = load_module(Path(scratch) / "export" / "model").to(device_of(self.recipe.train))
        if not self.num_new:
            random = random_copy(module, self.plan.suite.seeds[0]).to(device_of(self.recipe.train))
            failures = score_baselines(self.plan, Subject("random_init", random, "random"), self.folder).failures
            if failures:
                raise InputError(f"follow {self.run}: {failures[0]}")
        found = score_step(self.plan, Subject(TEACHER, module), self.folder, step)
        for sentence in [*found.failures, *found.suspicions]:
            click.echo(f"warning: step {step}: {sentence}", err=True)
        self.passed |= set() if found.rows else {checkpoint.name}
        self.num_new += bool(found.rows)
