"""One micro-step on the meta device: what it would compute, hold and send, counted without computing anything."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as td
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True)
class Sent:
    """One collective of a step: `bytes` is the size of the whole result on a rank."""

    kind: str  # all_reduce, all_gather, reduce_scatter, broadcast
    bytes: int


class Ledger(TorchDispatchMode):
    """Counts floating-point operations, and bytes held beyond the tensors it was told of, while it is entered.

    Works on any device, so that the counts on the meta device can be compared with those of a real step.

    Args:
        known: tensors that are there anyway (parameters, gradients, buffers).
    """

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.flops = 0
        self.held = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}
        self._watched: dict[int, Any] = {id(s): s for s in (t.untyped_storage() for t in known)}
        self._seen: dict[Any, tuple[int, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        key = _signature(func, args, kwargs)
        found = None if key is None else self._seen.get(key)
        if found is None:
            out = func(*args, **kwargs)
            formula = flop_registry.get(func._overloadpacket)
            flops = int(formula(*args, **kwargs, out_val=out)) if formula is not None else 0
            if key is not None and all(v.is_meta for v in tree_leaves(out) if isinstance(v, Tensor)):
                self._seen[key] = flops, tree_map_only(Tensor, _form, out)
        else:  # shapes in, shapes out: most layers are alike, and torch works them out slowly
            flops, out = found[0], tree_map_only(_Form, _empty, found[1])
        self.flops += flops
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self._hold(value)
        return out

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._watched:
            return
        size = storage.nbytes()

        def release(_: Any) -> None:
            self.held -= size
            self._watched.pop(key, None)

        self._watched[key] = weakref.ref(storage, release)
        self.held += size
        self.peak = max(self.peak, self.held)


@dataclass(frozen=True)
class _Form:
    """What a meta tensor is."""

    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


def _form(x: Tensor) -> _Form:
    return _Form(x.shape, x.stride(), x.dtype)


def _empty(form: _Form) -> Tensor:
    return torch.empty_strided(form.size, form.stride, dtype=form.dtype, device="meta")


def _signature(func: Any, args: Any, kwargs: Any) -> Any:
    """What decides the result's shape, where an operation makes new meta tensors of meta tensors; else None."""
    schema = func._schema
    if any(a.alias_info is not None for a in (*schema.arguments, *schema.returns)):
        return None
    parts: list[Any] = [func]
    for value in (*args, *kwargs.items()):
        if not _describe(value, parts):
            return None
    return tuple(parts) if any(isinstance(part, _Form) for part in parts) else None


def _describe(value: Any, parts: list[Any]) -> bool:
    if isinstance(value, Tensor):
        parts.append(_form(value))
        return value.is_meta
    if isinstance(value, list | tuple):
        parts.append(len(value))
        return all(_describe(v, parts) for v in value)
    parts.append((type(value), value))
    return True


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


@contextmanager
def standing_for(num_ranks: int) -> Iterator[list[Sent]]:
    """Inside, `torch.distributed` answers as rank 0 of `num_ranks` and sends nothing; yields what would have been sent.

    The result of a collective has the right shape and no meaning, so only meta tensors belong in here.
    """
    sent: list[Sent] = []

    def reduce(tensor: Tensor, *_: Any, **__: Any) -> None:
        sent.append(Sent("all_reduce", tensor.nbytes))

    def gather(parts: list[Tensor], tensor: Tensor, *_: Any, **__: Any) -> None:
        sent.append(Sent("all_gather", tensor.nbytes * len(parts)))

    stand_ins: Mapping[str, Callable[..., Any]] = {
        "is_initialized": lambda: True,
        "get_world_size": lambda *_: num_ranks,
        "get_rank": lambda *_: 0,
        "all_reduce": reduce,
        "all_gather": gather,
    }
    before = {name: getattr(td, name) for name in stand_ins}
    try:
        for name, function in stand_ins.items():
            setattr(td, name, function)
        yield sent
    finally:
        for name, function in before.items():
            setattr(td, name, function)


@dataclass(frozen=True)
class Rehearsal:
    """What one micro-step of one rank came to."""

    forward_flops: int
    backward_flops: int  # recomputation included
    saved_bytes: int  # held when the forward pass is over, for the backward pass
    peak_bytes: int  # most held at a time beyond parameters, gradients and buffers
    kept_bytes: int  # still held when the backward pass is over: statistics that wait for the optimizer step
    copies_bytes: int  # bf16 copies of fp32 weights that autocast makes, held besides `peak_bytes`
    sent: tuple[Sent, ...]  # by the loss itself, forward and backward
    trained_uses: int  # trainable parameters of every module that ran in the forward pass, once per run
    frozen_uses: int
    trained_calls: int  # runs of these modules
    frozen_calls: int


def rehearse(system: nn.Module, loss: Callable[[], Tensor], bf16: bool, num_ranks: int = 1) -> Rehearsal:
    """Run a loss forward and backward on meta tensors and count.

    Args:
        system: on the meta device; its gradients are made here and taken as held.
        loss: makes the batch and returns the scalar.
        bf16: under autocast to bfloat16, or in float32 throughout.
        num_ranks: ranks that collectives inside the loss see.
    """
    for p in system.parameters():
        p.grad = torch.empty_like(p) if p.requires_grad else None
    known = [*system.parameters(), *system.buffers(), *(p.grad for p in system.parameters() if p.grad is not None)]
    ledger, form, uses = Ledger(known), CudaForm(), _Uses()
    cast: AbstractContextManager[Any] = torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()
    with assumed_whole(), standing_for(num_ranks) as sent, uses.of(system), ledger:
        with form, cast:
            total = loss()
        copies = sum(copy.nbytes for _, copy in form.copies.values())
        forward, saved = ledger.flops, ledger.held - copies
        with form.where_recomputed(system):
            total.backward()  # type: ignore[no-untyped-call]
        del total
        form.copies.clear()
        return Rehearsal(
            forward_flops=forward,
            backward_flops=ledger.flops - forward,
            saved_bytes=saved,
            peak_bytes=ledger.peak - copies,
            kept_bytes=ledger.held,
            copies_bytes=copies,
            sent=tuple(sent),
            trained_uses=uses.trained,
            frozen_uses=uses.frozen,
            trained_calls=uses.trained_calls,
            frozen_calls=uses.frozen_calls,
        )


class _Uses:
    """Parameters of modules each time that they run, which is when ZeRO-3 has to make them whole."""

    def __init__(self) -> None:
        self.trained = self.frozen = self.trained_calls = self.frozen_calls = 0

    @contextmanager
    def of(self, system: nn.Module) -> Iterator[None]:
        """Watch the modules of a system that have parameters of their own."""
        handles = []
        for module in system.modules():
            own = list(module.parameters(recurse=False))
            if own:
                trained = sum(p.numel() for p in own if p.requires_grad)
                frozen = sum(p.numel() for p in own if not p.requires_grad)
                handles.append(module.register_forward_pre_hook(partial(self._count, trained, frozen)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _count(self, trained: int, frozen: int, module: nn.Module, inputs: Any) -> None:
        self.trained, self.frozen = self.trained + trained, self.frozen + frozen
        self.trained_calls, self.frozen_calls = self.trained_calls + bool(trained), self.frozen_calls + (not trained)


def assumed_whole() -> AbstractContextManager[Any]:
    """Inside, every flag of a meta tensor counts as set: all pixels, dates and modalities are there."""
    from torch.fx.experimental import _config

    made: AbstractContextManager[Any] = _config.patch(meta_nonzero_assume_all_nonzero=True)  # type: ignore[attr-defined]
    return made


def wire_bytes(sent: Sent, num_ranks: int) -> int:
    """Bytes that leave each rank in a ring: the whole, for a reduction twice, less its own share."""
    turns = 2 if sent.kind == "all_reduce" else 1
    return math.ceil(turns * sent.bytes * (num_ranks - 1) / num_ranks)
