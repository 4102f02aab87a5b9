"""What a CUDA device does otherwise than the meta device, so that counts there are those of a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_LOWER: frozenset[Any] = frozenset(
    {functional.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, torch.bmm, Tensor.bmm}
    | {torch.einsum, functional.conv2d, functional.scaled_dot_product_attention}
)
_WIDEN: frozenset[Any] = frozenset(
    {functional.layer_norm, functional.softmax, torch.softmax, Tensor.softmax, functional.log_softmax}
    | {functional.cross_entropy, functional.cosine_similarity, torch.logsumexp, Tensor.logsumexp}
    | {torch.exp, Tensor.exp, torch.log, Tensor.log, torch.sum, Tensor.sum, Tensor.norm, torch.norm}
)


class CudaForm(TorchFunctionMode):
    """What a CUDA device would do differently from the meta device: autocast, and attention by a fused kernel.

    Autocast follows the CPU's switch, which `torch.autocast("cpu", torch.bfloat16)` sets and fp32 islands unset. A
    leaf that wants a gradient is copied to bf16 once per pass, as autocast does; `copies` holds these.

    Args:
        fused: attention through the memory-efficient kernel; False leaves it to the device.
    """

    def __init__(self, fused: bool = True) -> None:
        super().__init__()
        self.fused = fused
        self.copies: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_autocast_enabled("cpu"):
            if func in _LOWER:
                args = _mapped(args, self._lowered)
                kwargs = {k: _mapped(v, self._lowered) for k, v in kwargs.items()}
            elif func in _WIDEN:
                args = _mapped(args, _widened)
                kwargs = {k: _mapped(v, _widened) for k, v in kwargs.items()}
        if func is functional.scaled_dot_product_attention and self.fused:
            return _efficient(*args, **kwargs)
        return func(*args, **kwargs)

    @contextmanager
    def where_recomputed(self, system: nn.Module) -> Iterator[None]:
        """Take effect inside modules that run during a backward pass, in which torch leaves every such mode out."""
        depth = 0

        def enter(*_: Any) -> None:
            nonlocal depth
            if depth == 0:
                self.__enter__()
            depth += 1

        def leave(*_: Any) -> None:
            nonlocal depth
            depth -= 1
            if depth == 0:
                self.__exit__(None, None, None)

        handles = [m.register_forward_pre_hook(enter) for m in system.modules()]
        handles += [m.register_forward_hook(leave, always_call=True) for m in system.modules()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _lowered(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            return x
        if not (x.is_leaf and x.requires_grad):
            return x.to(torch.bfloat16)
        found = self.copies.get(id(x))
        if found is None:
            found = self.copies[id(x)] = (x, x.to(torch.bfloat16))
        return found[1]


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)(_mapped(v, change) for v in value)
    return value


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.bfloat16 else x


def _efficient(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    grad = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    out: tuple[Tensor, ...] = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, grad, scale=scale
    )
    return out[0]
