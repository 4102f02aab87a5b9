"""A ledger of operations and of bytes held, on any device."""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


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
        self._makes: dict[Any, bool] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        makes = self._makes.get(func)
        if makes is None:
            makes = self._makes[func] = _makes(func)
        key = _signature(func, args, kwargs) if makes else None
        found = None if key is None else self._seen.get(key)
        if found is None:
            out = func(*args, **kwargs)
            formula = flop_registry.get(func._overloadpacket)
            flops = int(formula(*args, **kwargs, out_val=out)) if formula is not None else 0
            if key is not None and all(v.is_meta for v in tree_leaves(out) if isinstance(v, Tensor)):
                self._seen[key] = flops, _form(out)
        else:  # shapes in, shapes out: most layers are alike, and torch works them out slowly
            flops, out = found[0], _empty(found[1])
        self.flops += flops
        for value in [out] if isinstance(out, Tensor) else tree_leaves(out):
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


class _Form(NamedTuple):
    """What a meta tensor is."""

    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


def _form(out: Any) -> Any:
    if isinstance(out, Tensor):
        return _Form(out.shape, out.stride(), out.dtype)
    return [_form(v) for v in out] if isinstance(out, list) else tuple(map(_form, out)) if _is_tuple(out) else out


def _empty(form: Any) -> Any:
    if isinstance(form, _Form):
        return torch.empty_strided(form.size, form.stride, dtype=form.dtype, device="meta")
    return (
        [_empty(f) for f in form] if isinstance(form, list) else tuple(map(_empty, form)) if _is_tuple(form) else form
    )


def _is_tuple(value: Any) -> bool:
    return type(value) is tuple


def _makes(func: Any) -> bool:
    """Whether an operation makes new tensors, and writes into none."""
    schema = func._schema
    return all(a.alias_info is None for a in (*schema.arguments, *schema.returns))


def _signature(func: Any, args: Any, kwargs: Any) -> Any:
    """What decides the result's shape, where all tensors are on the meta device; else None."""
    parts: list[Any] = [func]
    given = (*args, *kwargs.items()) if kwargs else args
    for value in given:
        if not _describe(value, parts):
            return None
    return tuple(parts) if any(type(part) is _Form for part in parts) else None


def _describe(value: Any, parts: list[Any]) -> bool:
    if isinstance(value, Tensor):
        parts.append(_Form(value.shape, value.stride(), value.dtype))
        return value.is_meta
    if isinstance(value, list | tuple):
        parts.append(len(value))
        return all(_describe(v, parts) for v in value)
    parts.append((type(value), value))
    return True
