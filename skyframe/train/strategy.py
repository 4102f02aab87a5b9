"""How ranks share a run: alone, DDP or DeepSpeed stage 0-3, all with one portable form of checkpoint."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.precision import DeepSpeedPrecision
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy, Strategy

from skyframe.config.recipe import TrainConfig
from skyframe.config.skysense import SkySenseRecipe
from skyframe.spec import InputError
from skyframe.train.checkpoint import load_tensors, write_checkpoint
from skyframe.train.deepspeed_config import deepspeed_config
from skyframe.train.guards import all_finite, drop_step
from skyframe.train.store import Reader


def strategy_of(recipe: SkySenseRecipe, num_parameters: int) -> Strategy:
    """The strategy that a recipe names.

    Args:
        recipe: checked recipe.
        num_parameters: trainable parameters, for DeepSpeed's buckets.

    Raises:
        InputError: DeepSpeed with terms that leave parameters without a gradient, or a wrong overlay.
    """
    train = recipe.train
    device = device_of(train)
    if train.strategy == "deepspeed":
        if not recipe.teaches_fusion:
            raise InputError(
                "train.strategy deepspeed: no term reaches the fusion, expected a gradient for every parameter; use "
                "train.strategy=ddp, or let a term reach it (loss.alpha above 0 and fused among loss.sources)"
            )
        return _deepspeed(deepspeed_config(recipe, num_parameters, device.type == "cuda"), device, _patience(train))
    if train.strategy == "ddp" or train.devices * train.num_nodes > 1:
        # Buffers are not broadcast: the system keeps them equal itself, and a paper-sized prototype bank would send
        # 839 MB in every forward pass. Unused parameters are searched for only where no term reaches the fusion:
        # otherwise every rank gives every parameter a gradient in every step.
        unused = not recipe.teaches_fusion
        return Ddp(broadcast_buffers=False, find_unused_parameters=unused, timeout=_patience(train))
    return Alone(device)


def device_of(train: TrainConfig) -> torch.device:
    """The kind of device that `train.accelerator` comes to on this machine."""
    if train.accelerator != "cpu" and torch.cuda.is_available():
        return torch.device("cuda", 0)
    if train.accelerator != "cpu" and torch.backends.mps.is_available():
        return torch.device("mps", 0)
    return torch.device("cpu")


class Portable(Strategy):
    """Lets Lightning write and read checkpoints in the form of `skyframe.train.store`, on all ranks together."""

    def said(self) -> str:
        """The strategy in words, for whoever looks into a checkpoint."""
        return "alone"

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Wait until parameters and optimizer lie where they will."""
        return True

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Optimizer states come with the parameters."""
        return False

    def optimizer_step(self, optimizer: Any, closure: Callable[[], Any], model: Any = None, **kwargs: Any) -> Any:
        """Forward and backward passes first; the optimizer steps where all gradients on all ranks are finite."""
        result = closure()
        if not self._gradients_finite():
            return self._dropped(result)
        return super().optimizer_step(optimizer, lambda: result, model, **kwargs)

    def _gradients_finite(self) -> bool:
        assert self.lightning_module is not None
        return all_finite(p.grad for p in self.lightning_module.parameters() if p.grad is not None)

    def _dropped(self, result: Any) -> Any:
        assert self.lightning_module is not None
        drop_step(self.lightning_module.trainer)
        return result

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Nothing: tensors are written from where they lie."""
        return {}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Nothing: tensors are written from where they lie."""
        return {}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write this rank's part; all ranks call it."""
        assert self.lightning_module is not None
        write_checkpoint(Path(filepath), self.lightning_module, self.optimizers[0], checkpoint, self.said())

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """The trainer's state; tensors follow when the module has agreed to it."""
        self.reader = Reader(Path(checkpoint_path))
        return self.reader.state()

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Fill parameters, buffers and optimizer states where they lie."""
        assert self.lightning_module is not None
        load_tensors(self.reader, self.lightning_module, self.optimizers[0])


class Alone(Portable, SingleDeviceStrategy):
    """One process on one device."""


class Ddp(Portable, DDPStrategy):
    """Every rank holds everything; gradients are averaged."""

    def said(self) -> str:
        """The strategy in words."""
        return "ddp"


class Sharded(Portable, DeepSpeedStrategy):
    """DeepSpeed, told that Lightning has already divided the loss by the number of micro-steps."""

    def said(self) -> str:
        """The strategy in words."""
        assert isinstance(self.config, dict)
        return f"deepspeed {self.config['zero_optimization']['stage']}"

    def optimizer_step(self, optimizer: Any, closure: Callable[[], Any], model: Any = None, **kwargs: Any) -> Any:
        """DeepSpeed's engine is asked after every pass, and steps after the last.

        From stage 1 on it drops a step itself where the norm of the gradients over all ranks is not finite: that is no
        option, and they lie where only it looks. At stage 0 they are plain ones, and it would step.
        """
        engine: Any = self.model
        is_last = engine.is_gradient_accumulation_boundary()
        if is_last and engine.zero_optimization_stage() == 0:
            result = closure()
            if not self._gradients_finite():
                engine.zero_grad()
                engine.micro_steps += 1  # which the engine counts as it steps
                return self._dropped(result)
            return DeepSpeedStrategy.optimizer_step(self, optimizer, lambda: result, model, **kwargs)
        result = DeepSpeedStrategy.optimizer_step(self, optimizer, closure, model, **kwargs)
        return self._dropped(result) if is_last and not engine.was_step_applied() else result

    def _setup_model_and_optimizer(self, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        engine, optimizer = super()._setup_model_and_optimizer(*args, **kwargs)
        backward = engine.backward
        engine.backward = lambda loss, **more: backward(loss, **(more | {"scale_wrt_gas": False}))
        return engine, optimizer


class ShardedOnCpu(Sharded):
    """The same over gloo, which Lightning's own strategy refuses."""

    def setup_environment(self) -> None:
        """Without the question for CUDA."""
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        """Without the check of device numbers."""
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    @property
    def root_device(self) -> torch.device:
        """The CPU with a number, which DeepSpeed compares with 0."""
        return torch.device("cpu", 0)


class UncastInputs(DeepSpeedPrecision):
    """Leaves batches as they are: places are float64, and stored pixels become floats in the model."""

    def convert_input(self, data: Any) -> Any:
        """The batch itself."""
        return data


def _patience(train: TrainConfig) -> timedelta:
    """How long a collective may take: longer than the watchdog, which says more, and half an hour at the start."""
    return timedelta(seconds=max(1800.0, 2 * train.guards.hung_s))


def _deepspeed(config: Mapping[str, Any], device: torch.device, patience: timedelta) -> Sharded:
    if device.type == "cuda":
        return Sharded(config=dict(config), timeout=patience)
    os.environ["DS_ACCELERATOR"] = "cpu"  # before DeepSpeed is imported: it looks for a GPU of any maker otherwise
    if shutil.which("ninja") is None:  # a virtual environment's own, where it was not activated
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return ShardedOnCpu(config=dict(config), process_group_backend="gloo", timeout=patience)
