"""`skyframe pretrain`: train a recipe, and go on after an interruption."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from skyframe.commands import OVERRIDES


@click.command()
@click.argument("recipe")
@OVERRIDES
def pretrain(recipe: str, overrides: tuple[str, ...]) -> None:
    """Train a recipe; `resume=auto` continues where the run stopped.

    SIGUSR2 (or `train.survival.signal`) and SIGTERM save the run after the step that is under way and end it with exit
    code 75, at which the script of `skyframe launch` queues its job again.
    """
    from skyframe.config import dump_recipe, load_recipe
    from skyframe.train.signals import EXIT, Left, listening
    from skyframe.train.verdict import leave_verdict

    resume = next((o.removeprefix("resume=") for o in overrides if o.startswith("resume=")), "no")
    loaded = load_recipe(recipe, [o for o in overrides if not o.startswith("resume=")])
    with listening(loaded.train.survival.signal):  # before the imports that take seconds
        from skyframe.dist import is_leader
        from skyframe.train.run import pretrain as run

        leader = is_leader()
        if leader:
            click.echo(dump_recipe(loaded))
        scorer = None
        if loaded.train.evaluate.every and loaded.train.evaluate.how == "here":
            from skyframe.commands.scoring import TeacherScorer

            scorer = TeacherScorer(loaded)
        try:
            folder = run(loaded, resume=resume, show=leader, scorer=scorer)
        except Left as left:
            leave_verdict(EXIT)
            _end(EXIT, str(left) if leader else "")
    if leader:
        click.echo(f"run in {folder}")


def _end(code: int, sentence: str) -> NoReturn:
    """End this process at once: reader processes and threads may not hold up what a launcher waits for."""
    if sentence:
        click.echo(sentence, err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
