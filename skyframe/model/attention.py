"""Pieces that encoders share: patch projection, attention over rows, feed-forward, drop path, seeded weights.

Tokens are batch-first and contiguous, and a layer works on flat rows `[S, D]`: sequences stand one after the other and
`groups` says how many there are of which length. So frames of one size and fusion sequences of many lengths take the
same path, nothing is padded, and every linear map is one matrix product.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from skyframe.randomness import Draw, hash64
from skyframe.spec import InputError

Groups = Sequence[tuple[int, int]]
"""(number of sequences, rows of each) in the order in which they stand."""


class PatchEmbed(nn.Module):
    """Square patches to tokens: a strided convolution written as one matrix product.

    An input that is no multiple of the patch is padded with zeros at the bottom and right.
    """

    def __init__(self, in_channels: int, embed_dims: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.weight = nn.Parameter(torch.empty(embed_dims, in_channels, patch_size, patch_size))
        self.bias = nn.Parameter(torch.zeros(embed_dims))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Tokens down and across for an input of `height` x `width` pixels."""
        return -(-height // self.patch_size), -(-width // self.patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` to `[B, N, D]`, row order.

        Raises:
            InputError: not four axes, or another number of bands than the weights were made for.
        """
        bands = self.weight.shape[1]
        if x.ndim != 4 or x.shape[1] != bands:
            raise InputError(
                f"encoder input: expected shape [B, {bands}, H, W], got {list(x.shape)}; "
                "give one image per row with the bands of the modality's spec"
            )
        height, width = x.shape[-2:]
        rows, columns = self.grid(height, width)
        p = self.patch_size
        if (rows * p, columns * p) != (height, width):
            x = functional.pad(x, (0, columns * p - width, 0, rows * p - height))
        patches = rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=p, q=p)
        return functional.linear(patches, self.weight.flatten(1), self.bias)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Softmax attention `[B, heads, N, d]`; which kernel runs depends on device, dtype and grad mode, never the result.

    Torch's fused kernel is slower than plain products when training in bfloat16 on a CPU, and takes its slow path for
    a bias that needs a gradient; elsewhere it is the faster one.

    Args:
        q, k, v: queries, keys, values; keys and values may have another length than queries.
        bias: added to the scores, `[heads, N, N]` or `[B, heads, N, N]`.
        scale: factor on the scores, by default 1 / sqrt(d).
    """
    training = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if training and (bias is not None or (q.device.type == "cpu" and q.dtype == torch.bfloat16)):
        scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1)
        weights = (scores if bias is None else scores + bias).softmax(dim=-1)
        return weights.to(v.dtype) @ v
    mask = None if bias is None else bias.to(q.dtype).expand(q.shape[0], -1, -1, -1)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


class Attention(nn.Module):
    """Multi-head self-attention inside each sequence; one matrix makes queries, keys and values."""

    def __init__(self, dims: int, num_heads: int) -> None:
        super().__init__()
        if dims % num_heads:
            raise InputError(f"attention: width {dims} is not a multiple of {num_heads} heads; change one of the two")
        self.num_heads = num_heads
        self.qkv_weight = nn.Parameter(torch.empty(3 * dims, dims))
        self.qkv_bias = nn.Parameter(torch.zeros(3 * dims))
        self.out = nn.Linear(dims, dims)

    def forward(self, rows: Tensor, groups: Groups, first_only: Tensor | None = None) -> Tensor:
        """Attend inside each sequence.

        Args:
            rows: `[S, D]`, see `Groups`.
            groups: which rows make a sequence.
            first_only: int64 `[P]`, the first row of each sequence: only these ask, all rows answer.

        Returns:
            `[S, D]`, or `[P, D]` with `first_only`.
        """
        dims, heads = rows.shape[-1], self.num_heads
        if first_only is None:
            qkv = functional.linear(rows, self.qkv_weight, self.qkv_bias)
        else:
            kv = functional.linear(rows, self.qkv_weight[dims:], self.qkv_bias[dims:])
            asking = functional.linear(rows.index_select(0, first_only), self.qkv_weight[:dims], self.qkv_bias[:dims])
        answers, start, sequence = [], 0, 0
        for num, length in groups:
            stop = start + num * length
            if first_only is None:
                q, k, v = rearrange(qkv[start:stop], "(p n) (three h d) -> three p h n d", p=num, three=3, h=heads)
            else:
                q = rearrange(asking[sequence : sequence + num], "p (h d) -> p h 1 d", h=heads)
                k, v = rearrange(kv[start:stop], "(p n) (two h d) -> two p h n d", p=num, two=2, h=heads)
            answers.append(rearrange(attend(q, k, v), "p h n d -> (p n) (h d)"))
            start, sequence = stop, sequence + num
        out: Tensor = self.out(answers[0] if len(answers) == 1 else torch.cat(answers))
        return out


class FeedForward(nn.Module):
    """Two linear maps with an exact (erf) GELU between them."""

    def __init__(self, dims: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(dims, hidden)
        self.down = nn.Linear(hidden, dims)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` to `[..., D]`."""
        out: Tensor = self.down(functional.gelu(self.up(x)))
        return out


class Layer(nn.Module):
    """Pre-norm transformer layer on flat rows: `x + attn(norm1(x))`, then `x + ffn(norm2(x))`."""

    def __init__(self, dims: int, num_heads: int, mlp_ratio: float, norm_eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dims, eps=norm_eps)
        self.attn = Attention(dims, num_heads)
        self.norm2 = nn.LayerNorm(dims, eps=norm_eps)
        self.ffn = FeedForward(dims, round(dims * mlp_ratio))

    def forward(
        self, x: Tensor, groups: Groups, factors: Tensor | None = None, first_only: Tensor | None = None
    ) -> Tensor:
        """One layer.

        Args:
            x: `[S, D]`, see `Groups`.
            groups: which rows make a sequence.
            factors: `[S, 2]` drop-path factors of the two branches per row (`[P, 2]` with `first_only`).
            first_only: int64 `[P]`, first row of each sequence: only these are computed (the last layer of a fusion
                that reads nothing else; exact).

        Returns:
            `[S, D]`, or `[P, D]` with `first_only`.
        """
        attended = self.attn(self.norm1(x), groups, first_only)
        x = x if first_only is None else x.index_select(0, first_only)
        x = x + (attended if factors is None else attended * factors[:, :1])
        fed = self.ffn(self.norm2(x))
        return x + (fed if factors is None else fed * factors[:, 1:])


def drop_factors(drop: Draw | None, layer: int, rate: float, like: Tensor) -> Tensor | None:
    """Drop-path factors of a layer's two residual branches per sample: 0, or 1 / (1 - rate).

    Args:
        drop: stream with one counter per sample; None = no drop path.
        layer: number of the layer, names the stream.
        rate: probability that a branch is dropped.
        like: tensor whose device and dtype the factors take.

    Returns:
        `[B, 2]`, or None where nothing is dropped.
    """
    if drop is None or rate == 0.0:
        return None
    kept = drop.named("layer", layer).uniform(2) >= rate
    return kept.to(device=like.device, dtype=like.dtype) / (1.0 - rate)


def drop_rates(drop_path: float, num_layers: int) -> list[float]:
    """Rate per layer, rising linearly from 0 in the first to `drop_path` in the last."""
    return [drop_path * i / max(1, num_layers - 1) for i in range(num_layers)]


def recompute_activations(module: nn.Module) -> None:
    """Let every encoder and fusion inside store no activations of its layers, see `run`."""
    for part in module.modules():
        if hasattr(part, "recompute"):
            part.recompute = True  # type: ignore[assignment]


def run(layer: Callable[..., Tensor], recompute: bool, *inputs: Any) -> Tensor:
    """Call a layer; with `recompute` its activations are not stored but computed again in the backward pass."""
    if recompute and torch.is_grad_enabled():
        out: Tensor = checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)
        return out
    return layer(*inputs)


def init_normal(parameter: Tensor, std: float, *key: int | str) -> None:
    """Fill with normal numbers cut at two standard deviations, from a generator keyed by `hash64(*key)`."""
    if parameter.is_meta:
        return
    generator = torch.Generator(parameter.device).manual_seed(hash64(*key) >> 1)
    nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std, generator=generator)


def init_weights(module: nn.Module, seed: int) -> None:
    """Initial weights that depend on the seed and each parameter's name alone.

    Matrices (and patch kernels, as the matrices they are) get Xavier's standard deviation, which suits narrow models
    as well as wide ones; tokens and tables of three axes 0.02; biases of linear layers 0; other vectors stay.
    """
    for name, child in module.named_modules():
        if isinstance(child, nn.Linear) and child.bias is not None:
            nn.init.zeros_(child.bias)
        for key, parameter in child.named_parameters(recurse=False):
            if parameter.ndim in (2, 4):
                fan_out, fan_in = parameter.shape[0], parameter[0].numel()
                init_normal(parameter.data, math.sqrt(2.0 / (fan_in + fan_out)), seed, f"{name}.{key}")
            elif parameter.ndim == 3 and key != "logit_scale":
                init_normal(parameter.data, 0.02, seed, f"{name}.{key}")


def precise(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """An fp32 island: autocast off on the tensor's device.

    The meta device has no autocast; what counts a step there follows the CPU's switch.
    """
    return torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False)


def wide(x: Tensor) -> Tensor:
    """`x` in float32 at least: the door of an fp32 island (double stays double)."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
