"""Optimizer groups: which of an encoder's parameters train, and at what share of the rate by their depth."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from skyframe.config.heads import HeadTraining
from skyframe.spec import InputError


def tunable_names(module: nn.Module, config: HeadTraining) -> list[str]:
    """Parameters of an encoder that training may change: none of a frozen one, by default all but the region context.

    Raises:
        InputError: a beginning of a name that no parameter has.
    """
    if config.encoder == "frozen":
        return []
    names = [n for n, _ in module.named_parameters()]
    if not config.tunable:
        return [n for n in names if not n.startswith("geo.")]
    for start in config.tunable:
        if not any(n.startswith(start) for n in names):
            parts = sorted({n.split(".")[0] for n in names})
            raise InputError(f"tunable: no parameter begins with {start!r}, expected one of {', '.join(parts)} ...")
    return [n for n in names if n.startswith(tuple(config.tunable))]


def parameter_groups(
    head: nn.Module, module: nn.Module, names: Sequence[str], config: HeadTraining
) -> list[dict[str, object]]:
    """Groups for an optimizer, each with its `share` of the rate: the head's is 1.

    Only kernels and matrices decay; norms, biases, tokens and tables do not.
    """
    depth = distances(module)
    known = dict(module.named_parameters())
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in head.parameters():
        found.setdefault((1.0, parameter.ndim >= 2), []).append(parameter)
    for name in names:
        share = config.layer_decay ** depth[name]
        decays = known[name].ndim in (2, 4) and not name.endswith("table")
        found.setdefault((share, decays), []).append(known[name])
    return [
        {"params": parameters, "share": share, "weight_decay": config.weight_decay if decays else 0.0}
        for (share, decays), parameters in found.items()
    ]


def distances(module: nn.Module) -> dict[str, int]:
    """Layers between each parameter of an encoder and the head, 1 for the last layer.

    A ViT of L layers: layer l lies at L - l, patch projection and tables at L + 1. A Swin's blocks are counted through
    its stages, the merge before a stage with the stage's first block, the output norms at 1. In a whole model all of
    that lies beyond the fusion of L' layers, whose entrance (alignment, dates, projection) is at L' + 1 itself; region
    context is at 1. Modules of other architectures lie at 1 altogether.

    Source: Bao et al., BEiT, ICLR 2022; num_layers = 24 of SkySense's iSAID recipe are the blocks of its Swin.
    """
    names = [n for n, _ in module.named_parameters()]
    fused = len({n.split(".")[2] for n in names if n.startswith("fusion.layers.")})
    beyond = fused + 1 if any(n.startswith("fusion.") for n in names) else 0
    blocks: dict[str, dict[tuple[int, ...], int]] = {}
    for name in names:
        if at := _block(name):
            blocks.setdefault(_encoder(name), {})[at] = 0
    for rows in blocks.values():
        rows.update({at: i for i, at in enumerate(sorted(rows))})
    return {n: _distance(n, blocks.get(_encoder(n), {}), fused, beyond) for n in names}


def _distance(name: str, rows: dict[tuple[int, ...], int], fused: int, beyond: int) -> int:
    if name.startswith("fusion.layers."):
        return fused - int(name.split(".")[2])
    if name.startswith(("fusion.", "align.", "dates.")):
        return beyond
    if not rows or name.startswith("geo."):
        return 1
    at = _block(name)
    if at is None and ".norms." in f".{name}":
        return beyond + 1
    if at is None and (merge := re.search(r"stages\.(\d+)\.downsample\.", name)):
        at = (int(merge.group(1)), 0)
    return beyond + (len(rows) + 1 if at is None else len(rows) - rows[at])


def _block(name: str) -> tuple[int, ...] | None:
    if name.startswith("fusion."):
        return None
    if found := re.search(r"stages\.(\d+)\.blocks\.(\d+)\.", name):
        return int(found.group(1)), int(found.group(2))
    found = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
    return (int(found.group(1)),) if found else None


def _encoder(name: str) -> str:
    """The spatial encoder that a parameter belongs to: `spatial.<modality>` of a whole model, or the only one."""
    return ".".join(name.split(".")[:2]) if name.startswith("spatial.") else ""
