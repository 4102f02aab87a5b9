"""What real ranks send in one optimizer step of SkySense under DDP; imports no Lightning, so that ranks start fast."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as td
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from skyframe.config import SkySenseRecipe
from skyframe.geography import RegionIndex
from skyframe.sample import Batch
from skyframe.spec import Modality
from skyframe.system.skysense import SkySense


class Passes(nn.Module):
    """The system's weighted sum as a forward pass, which DDP wants."""

    def __init__(self, system: SkySense) -> None:
        super().__init__()
        self.system = system

    def forward(self, *views: Batch) -> Tensor:
        weights = self.system.weights()
        return torch.stack([weights[n] * v for n, v in self.system.losses(views).items()]).sum()


def sent_by_a_step(
    rank: int, world: int, recipe: SkySenseRecipe, modalities: Mapping[str, Modality], views: tuple[Batch, ...]
) -> dict[str, list[tuple[str, int]]]:
    """(kind, bytes of the result) of every collective: of gradients, of the losses, of `after_step`."""
    regions = RegionIndex(boxes=((0.0, 0.0, 1.0, 1.0),) * recipe.data.regions.num_regions)
    model = DistributedDataParallel(Passes(SkySense(recipe, modalities, regions)), broadcast_buffers=False)
    sent: dict[str, list[tuple[str, int]]] = {"gradients": [], "losses": [], "after_step": []}
    phase = "losses"
    reduce, gather = td.all_reduce, td.all_gather

    def watched_reduce(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        sent[phase].append(("all_reduce", tensor.nbytes))
        return reduce(tensor, *args, **kwargs)

    def watched_gather(parts: list[Tensor], tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        sent[phase].append(("all_gather", sum(part.nbytes for part in parts)))
        return gather(parts, tensor, *args, **kwargs)

    def hook(state: Any, bucket: td.GradBucket) -> torch.futures.Future[Tensor]:
        sent["gradients"].append(("all_reduce", bucket.buffer().nbytes))
        done = reduce(bucket.buffer().div_(world), async_op=True).get_future()
        return done.then(lambda f: f.value()[0])

    model.register_comm_hook(None, hook)
    td.all_reduce, td.all_gather = watched_reduce, watched_gather
    model(*views).backward()
    phase = "after_step"
    model.module.system.after_step(0.0)
    return sent
