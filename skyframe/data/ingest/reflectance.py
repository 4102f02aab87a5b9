"""From an item's metadata to physical values: the offset of Sentinel-2 L2A, which came with baseline 04.00."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skyframe.data.ingest.query import LayerQuery
from skyframe.spec import InputError

QUANTIFICATION = 1e-4
"""Reflectance of one stored unit of Level-2A."""

BOA_ADD_OFFSET = -1000.0
"""Stored units that Level-2A from baseline 04.00 on (25 January 2022, and all of Collection 1) bears in addition, the
same in every band, so that dark ground may come out under zero. Source: S2 Products Specification Document 15,
BOA_ADD_OFFSET_VALUES_LIST."""

FIRST_OFFSET_BASELINE = 4.0

OFFSET_APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
BASELINES = ("s2:processing_baseline", "processing:version", "sentinel:processing_baseline", "processing:baseline")


def baseline_of(properties: Mapping[str, Any]) -> str:
    """Processing baseline such as "05.09"; empty where the item does not say it."""
    for key in BASELINES:
        if key in properties:
            return str(properties[key])
    product = str(properties.get("s2:product_uri", ""))
    digits = product.split("_")[3][1:] if product.count("_") > 3 else ""
    return f"{digits[:2]}.{digits[2:]}" if len(digits) == 4 and digits.isdigit() else ""


def scale_and_offset(
    item: str, properties: Mapping[str, Any], bands: Mapping[str, Any], layer: LayerQuery, is_optical: bool
) -> tuple[float, float]:
    """How a band's stored values become physical ones.

    The query goes first, then what the archive declares. For Sentinel-2 the pixels' own state goes before the declared
    offset: an archive that took the offset off already still lists it (Earth Search's `raster:bands` say -0.1 beside
    `boa_offset_applied: true`).

    Args:
        item: its id, for the message.
        properties: of the item.
        bands: `scale` and `offset` as the asset declares them, where it does.
        layer: the query's words on it.
        is_optical: a band of Sentinel-2 L2A that holds reflectance.

    Returns:
        Scale and offset: physical value = stored * scale + offset.

    Raises:
        InputError: a Sentinel-2 item that says neither its offset nor its baseline, or two that exclude each other.
    """
    scale = layer.scale if layer.scale is not None else float(bands.get("scale", QUANTIFICATION if is_optical else 1.0))
    if layer.offset is not None:
        return scale, layer.offset
    if not is_optical:
        return scale, float(bands.get("offset", 0.0))
    if layer.boa_offset is not None:
        return scale, layer.boa_offset * scale
    if any(properties.get(key) is True for key in OFFSET_APPLIED):
        return scale, 0.0
    baseline = baseline_of(properties)
    try:
        by_baseline = None if not baseline else BOA_ADD_OFFSET if float(baseline) >= FIRST_OFFSET_BASELINE else 0.0
    except ValueError:
        by_baseline = None
    declared = round(float(bands["offset"]) / scale, 3) if "offset" in bands else None
    if declared is None and by_baseline is None:
        raise InputError(
            f"{item}: says neither its processing baseline nor a band offset, expected one of "
            f"{', '.join((*BASELINES, 'raster:bands'))}, as reflectance depends on it; give boa_offset under layers "
            "(0, or -1000 from baseline 04.00 on)"
        )
    if declared is not None and by_baseline is not None and declared != by_baseline:
        raise InputError(
            f"{item}: declares a band offset of {declared:g} but baseline {baseline}, which has {by_baseline:g}, and "
            f"no {OFFSET_APPLIED[0]}, so its reflectance is ambiguous; give boa_offset under layers (0, or -1000)"
        )
    return scale, (declared if declared is not None else by_baseline or 0.0) * scale
