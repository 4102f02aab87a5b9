"""A share of the labelled training items, stratified by what is in them; smaller shares lie in larger ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skyframe.evaluate.datasets.check import units_of
from skyframe.evaluate.datasets.dataset import Dataset, Item, naming
from skyframe.randomness import hash64
from skyframe.spec import InputError

BINS = 3
"""Of the share of an item that a class covers; none at all is a bin of its own."""


def few_labels(dataset: Dataset, items: Sequence[Item], share: float, seed: int) -> list[Item]:
    """`ceil(share n)` of n items, in their order.

    Items whose classes cover alike (in thirds, as in PANGAEA) stand together in a list, in an order drawn by the
    seed, and are taken evenly over it: so every kind of item keeps its share as nearly as the number allows. PANGAEA
    takes at least one of each kind, which may be many more items than the share says; we never do.

    Args:
        dataset: whose items are read where their classes are not known without pixels.
        items: of one part.
        share: above 0 and at most 1.
        seed: of the draw; equal seeds give nested shares.

    Raises:
        InputError: a share out of range, or an item that cannot be read.
    """
    if not 0 < share <= 1:
        raise InputError(f"{dataset.name}: label share {share:g}, expected a number above 0 and at most 1")
    if share == 1 or not items:
        return list(items)
    kinds = [tuple(_bins(dataset, item).tolist()) for item in items]
    order = sorted(range(len(items)), key=lambda i: (kinds[i], hash64(seed, "label_share", items[i].key)))
    taken = spread_order(len(items))[: math.ceil(share * len(items))]
    return [items[i] for i in sorted(order[k] for k in taken)]


def _bins(dataset: Dataset, item: Item) -> NDArray[np.int64]:
    """Per class: 0 where the item has none of it, else which third of the item it covers (1 to 3)."""
    known = item.label if dataset.kind in ("scene", "multilabel") else None
    if dataset.kind == "regression":
        return np.zeros(1, np.int64)
    if known is None:
        with naming(dataset, item):
            units = units_of(dataset, dataset.read(item))
    else:
        units = dict.fromkeys([known] if isinstance(known, int | np.integer) else known, 1)  # type: ignore[assignment]
    counts = np.array([units.get(c, 0) for c in range(len(dataset.classes))], np.float64)
    return np.ceil(BINS * counts / max(counts.sum(), 1)).astype(np.int64)


def spread_order(num: int) -> list[int]:
    """0..num-1 in an order of which every beginning is spread evenly: by their binary digits read backwards."""
    bits = max(1, (num - 1).bit_length())
    mirrored = (int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits))
    return [i for i in mirrored if i < num]
