"""One rank of a run whose throughput is measured; imports no Lightning, so that ranks start fast."""

from collections.abc import Mapping

import torch

from skyframe.config import SkySenseRecipe
from skyframe.geography import RegionIndex
from skyframe.sample import Batch
from skyframe.spec import Modality
from skyframe.system.skysense import SkySense
from skyframe.train.tally import Part
from skyframe.train.throughput import Throughput


def measured(
    rank: int, world: int, recipe: SkySenseRecipe, modalities: Mapping[str, Modality], batches: tuple[Batch, ...]
) -> tuple[dict[Part, list[float]], dict[str, float]]:
    """Counts of one pass, and the row of another, in which rank r waited r half seconds."""
    system = SkySense(recipe, modalities, RegionIndex(boxes=((0.0, 0.0, 1.0, 1.0),) * 4))
    meter = Throughput(recipe, system, torch.device("cpu"), waited_s=1.0)
    own = batches[rank]
    system.losses((own, own))
    _, counts = meter.tally.take(own.size, torch.device("cpu"))
    system.losses((own, own))
    meter.samples += own.size
    return counts, meter.row(waited_s=1.0 + 0.5 * rank)
