"""Evaluation for a run under way: what `train/` asks of a scorer, answered by `evaluate/` and `export/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from skyframe.config.evaluate import load_suite
from skyframe.config.recipe import EvaluateConfig
from skyframe.config.skysense import SkySenseRecipe
from skyframe.evaluate.during import TEACHER, Plan, open_plan, score_baselines, score_step, tasks_of_rank
from skyframe.evaluate.protocol import Subject
from skyframe.evaluate.scores import FOLDER, curves_of, forget_scores, read_scores
from skyframe.export.folder import Exported, random_copy, rebuild
from skyframe.export.run import contract_of
from skyframe.train.module import PretrainModule


def plan_of(config: EvaluateConfig) -> Plan:
    """The suite that a recipe names, its data found.

    Raises:
        InputError: suite or data are wrong.
    """
    return open_plan(load_suite(config.suite, config.overrides), Path(config.data) if config.data else None)


class TeacherScorer:
    """Scores the whole model that an export of this moment would hold; a `Scorer` of `train/evaluate_callback.py`."""

    def __init__(self, recipe: SkySenseRecipe) -> None:
        self.recipe = recipe
        self.folder = Path(recipe.train.run_dir) / recipe.name / FOLDER
        self.plan = plan_of(recipe.train.evaluate)

    @property
    def has_work(self) -> bool:
        """Whether some task is this rank's."""
        return bool(tasks_of_rank(self.plan))

    def steps(self) -> set[int]:
        """Steps in scores.jsonl."""
        return {s.step for s in read_scores(self.folder)}

    def forget(self, after: int) -> None:
        """Drop scores of later steps."""
        forget_scores(self.folder, after)

    def curves(self, step: int) -> Mapping[str, float]:
        """Scores of a step, means over seeds, as `eval/<task>/<protocol>/<metric>`."""
        return curves_of(read_scores(self.folder), step)

    def begin(self, module: PretrainModule, enough: Callable[[], bool], tell: Callable[[str], None]) -> list[str]:
        """Score raw pixels, random weights and the majority class."""
        subject = None
        if self.has_work:
            random = random_copy(self._exported(module), self.plan.suite.seeds[0])
            subject = Subject("random_init", random.to(module.device), "random")
        return score_baselines(self.plan, subject, self.folder, enough, tell).failures

    def score(
        self,
        module: PretrainModule,
        weights: Mapping[str, Tensor],
        step: int,
        enough: Callable[[], bool],
        tell: Callable[[str], None],
    ) -> list[str]:
        """Score the teacher's weights."""
        subject = None
        if self.has_work:
            exported = self._exported(module)
            exported.module.load_state_dict(dict(weights))
            subject = Subject(TEACHER, exported.to(module.device))
        found = score_step(self.plan, subject, self.folder, step, enough, tell)
        return [*found.failures, *found.suspicions]

    def _exported(self, module: PretrainModule) -> Exported:
        """The exported model with weights of its own."""
        model = module.system.exports()["model"]
        contract = contract_of("model", model, self.recipe, module.canonical, module.regions)
        return Exported(rebuild(contract), contract)
