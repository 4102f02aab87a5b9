"""The LightningModule: batches of views in, weighted sum of named terms out. What thinks lives in the system."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from skyframe.config.skysense import SkySenseRecipe
from skyframe.data.photometric import photometric
from skyframe.data.views import make_views
from skyframe.geography import RegionIndex
from skyframe.randomness import Draw, hash64
from skyframe.sample import Batch
from skyframe.spec import InputError, Modality, plain
from skyframe.system import SYSTEMS


class PretrainModule(pl.LightningModule):
    """One system under training."""

    def __init__(self, recipe: SkySenseRecipe, modalities: dict[str, Modality], regions: RegionIndex) -> None:
        super().__init__()
        self.recipe = recipe
        self.canonical, self.regions = modalities, regions
        self.system = SYSTEMS[recipe.system](recipe, modalities, regions)
        self.terms: dict[str, Tensor] = {}  # last pass, for the log

    def training_step(self, windows: Batch, batch_idx: int) -> Tensor:
        """Views and their photometric changes on the device, then the system's terms and their weighted sum."""
        views = make_views(windows, self.recipe.views, self.recipe.data.window_px, self.recipe.seed)
        changed = tuple(
            photometric(
                v,
                self.canonical,
                self.recipe.views,
                Draw(hash64(self.recipe.seed, "photometric", i), (v.epoch << 40) + v.index),
            )
            for i, v in enumerate(views)
        )
        terms = self.system.losses(changed)
        weights = self.system.weights()
        total = torch.stack([weights[name] * value for name, value in terms.items()]).sum()
        self.terms = {name: value.detach() for name, value in terms.items()} | {"total": total.detach()}
        return total

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Schedules inside the system follow the share of optimizer steps done."""
        self.system.set_progress(self.trainer.global_step / self.recipe.train.max_steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What the exporter needs beside the weights, so that it never opens a cube."""
        checkpoint["modalities"] = {name: plain(dataclasses.asdict(m)) for name, m in self.canonical.items()}
        checkpoint["regions"] = self.regions.to_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on where the spec or the cubes changed in between: the run would be two runs in one.

        Raises:
            InputError: a modality's description or the regions differ from those the run was started with.
        """
        for name, modality in self.canonical.items():
            now, then = plain(dataclasses.asdict(modality)), checkpoint["modalities"].get(name, {})
            for key in (k for k in now if now[k] != then.get(k)):
                raise InputError(
                    f"spec {self.recipe.data.spec}: {name} has {key} {now[key]}, the run was started with "
                    f"{then.get(key)}; restore the spec to resume, or choose another name="
                )
        if self.regions.to_dict() != checkpoint["regions"]:
            data = self.recipe.data
            given = f"cubes: {', '.join(data.cubes)}" if data.cubes else f"catalogue: the rows of {data.catalogue}"
            raise InputError(
                f"data.{given} make other regions than when the run was started, "
                "expected the same cubes to resume; restore them, or choose another name="
            )

    def configure_optimizers(self) -> Any:
        """AdamW without decay on norms, biases and tokens; warm-up, then cosine, per optimizer step."""
        optim, train = self.recipe.optim, self.recipe.train
        trainable = [(n, p) for n, p in self.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for n, p in trainable if _decays(n, p)], "weight_decay": optim.weight_decay},
            {"params": [p for n, p in trainable if not _decays(n, p)], "weight_decay": 0.0},
        ]
        offloaded = (
            train.strategy == "deepspeed" and train.deepspeed.offload != "none"
        )  # steps on the CPU, in one kernel
        betas = (optim.betas[0], optim.betas[1])
        optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=betas, fused=True if offloaded else None)
        floor = optim.min_lr / optim.lr

        def scale(step: int) -> float:
            if step < optim.warmup_steps:
                return (step + 1) / optim.warmup_steps
            share = (step - optim.warmup_steps) / max(1, train.max_steps - optim.warmup_steps)
            return floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, share))) / 2

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _decays(name: str, parameter: torch.nn.Parameter) -> bool:
    """Weight decay is for matrices; norms, biases, tokens and tables are left alone."""
    return parameter.ndim >= 2 and not any(k in name for k in ("cls_token", "pos_embed", "dates.", "logit_scale"))
