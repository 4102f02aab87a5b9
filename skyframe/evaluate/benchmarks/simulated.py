"""Windows of cubes that carry truth layers: land cover, crop type, or any other class map of a simulated Earth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from skyframe.config.contract import Contract
from skyframe.config.evaluate import SimulatedData, TaskConfig
from skyframe.data.cube import Cube
from skyframe.data.read import read_label
from skyframe.evaluate.benchmarks.places import POSITION_GSD_M, layouts_of, open_cubes, read_place
from skyframe.evaluate.feed.features import TEST, TRAIN, VAL, Inputs, Ints, choose_positions, watched
from skyframe.evaluate.protocol import digest
from skyframe.geography import RegionIndex
from skyframe.randomness import generator, hash64
from skyframe.sample import Sample, Series
from skyframe.spec import InputError, Label, Window, did_you_mean

OPTICAL_UM = 3.0
"""Bands below this wavelength (micrometres) see reflected sunlight, which clouds hide."""


def load_simulated(
    data: SimulatedData, contract: Contract, labels: Sequence[str], seed: int, show_progress: bool = True
) -> Inputs:
    """Draw windows, read them and their truth.

    Args:
        data: cubes, counts and window size.
        contract: which modalities, bands and dates the encoder takes.
        labels: truth layers to read.
        seed: of windows, dates and positions.
        show_progress: draw a bar.

    Raises:
        InputError: missing cubes or labels, a cube that contradicts the contract, or too few windows.
    """
    cubes = {
        "train": open_cubes(data.train, contract, "data.simulated.train"),
        "test": open_cubes(data.test, contract, "data.simulated.test"),
    }
    every = cubes["train"] + cubes["test"]
    both = sorted({c.url for c in cubes["train"]} & {c.url for c in cubes["test"]})
    if both:
        raise InputError(f"data.simulated: {', '.join(both)} stands under train and test, expected different cubes")
    classes = {name: _classes(every, name) for name in labels}
    layouts = layouts_of(contract, data.frames, data.window_px)
    regions = RegionIndex.from_dict(contract.regions) if contract.regions else RegionIndex()
    plan = [
        (VAL if is_val else TRAIN, c, w)
        for is_val in (False, True)
        for c, w in plan_windows(cubes["train"], data, seed, is_val)
    ]
    plan += [(TEST, c, w) for c, w in plan_windows(cubes["test"], data, seed, None)]
    samples, truth = [], {name: np.empty((len(plan), data.window_px**2), np.int64) for name in labels}
    for i, (_, cube, window) in enumerate(watched(plan, "reading windows", show_progress)):
        sample = read_place(
            cube, window, contract, layouts, regions, seed, cube.name, round(window.y_m), round(window.x_m)
        )
        samples.append(dataclasses.replace(sample, index=i))
        for name in labels:
            truth[name][i] = _class_map(cube, name, window, data.window_px).ravel()
    blocks = [(c.name, _block(w, data)) for _, c, w in plan]
    return Inputs(
        samples=samples,
        layouts=layouts,
        row=np.arange(len(plan)),
        part=np.array([p for p, _, _ in plan], np.int64),
        cluster=np.unique([f"{name} {y} {x}" for name, (y, x) in blocks], return_inverse=True)[1].astype(np.int64),
        positions=choose_positions(len(plan), data.window_px**2, data.positions, seed),
        truth=truth,
        classes=classes,
        source="simulated " + " ".join(f"{n}:{lay.num_dates}" for n, lay in layouts.items()),
        normaliser=contract.normaliser,
        split=digest([(part, c.name, w.y_m, w.x_m) for part, c, w in plan]),
        side_px=data.window_px,
    )


def plan_windows(
    cubes: Sequence[Cube], data: SimulatedData, seed: int, is_val: bool | None
) -> list[tuple[Cube, Window]]:
    """Windows by seeded hash, spread evenly over cubes and over blocks; every window lies inside one block.

    Args:
        cubes: where.
        data: counts and sizes.
        seed: of the draw; which block is validation does not depend on it.
        is_val: False the training blocks, True the validation blocks, None all blocks (test).
    """
    wanted = data.test_windows if is_val is None else data.val_windows if is_val else data.train_windows
    found: list[tuple[Cube, Window]] = []
    for number, cube in enumerate(cubes):
        share = wanted * (number + 1) // len(cubes) - wanted * number // len(cubes)
        blocks = [b for b in _blocks(cube, data) if is_val is None or is_val == _is_val(cube, b, data)]
        per_side = data.block_px // data.window_px
        if len(blocks) * per_side**2 < share:
            raise InputError(
                f"data.simulated: cube {cube.name} has {len(blocks)} "
                f"{'test' if is_val is None else 'validation' if is_val else 'training'} "
                f"blocks of {data.block_px} px, room for {len(blocks) * per_side**2} windows, expected {share}; ask "
                "for fewer windows or add cubes"
            )
        order = sorted(blocks, key=lambda b: hash64(seed, "block", cube.name, *b))
        for i in range(share):
            y, x = order[i % len(order)]
            place = generator(seed, "window", cube.name, y, x).permutation(per_side**2)[i // len(order)]
            row, column = divmod(int(place), per_side)
            y_px, x_px = y * data.block_px + row * data.window_px, x * data.block_px + column * data.window_px
            size_m = data.window_px * POSITION_GSD_M
            found.append((cube, Window(cube.url, y_px * POSITION_GSD_M, x_px * POSITION_GSD_M, size_m)))
    return found


def _blocks(cube: Cube, data: SimulatedData) -> list[tuple[int, int]]:
    side_m = data.block_px * POSITION_GSD_M
    rows, columns = int(cube.grid.height_m // side_m), int(cube.grid.width_m // side_m)
    return [(y, x) for y in range(rows) for x in range(columns)]


def _is_val(cube: Cube, block: tuple[int, int], data: SimulatedData) -> bool:
    return hash64("split", cube.name, *block) < data.val_share * 2**64


def _block(window: Window, data: SimulatedData) -> tuple[int, int]:
    side_m = data.block_px * POSITION_GSD_M
    return int(window.y_m // side_m), int(window.x_m // side_m)


def _label(cube: Cube, name: str) -> Label:
    if name not in cube.spec.labels:
        known = cube.spec.labels
        raise InputError(
            f"cube {cube.name}: no truth layer {name!r}, expected one of {', '.join(known) or '(it has none)'}"
            f"{did_you_mean(name, known)}; evaluate on a simulated cube or on one ingested with labels"
        )
    label = cube.spec.labels[name]
    if not label.classes:
        raise InputError(
            f"cube {cube.name}: truth layer {name!r} is continuous ({label.units}), expected one with classes"
        )
    return label


def _classes(cubes: Sequence[Cube], name: str) -> tuple[str, ...]:
    found = {c.name: _label(c, name).classes for c in cubes}
    if len(set(found.values())) > 1:
        raise InputError(
            f"truth layer {name!r}: cubes {', '.join(found)} list different classes, expected the same in the same "
            "order"
        )
    return next(iter(found.values()))


def _class_map(cube: Cube, name: str, window: Window, side_px: int) -> Ints:
    """Class numbers `[h, w]` of a window, -1 where the layer says nodata."""
    label = _label(cube, name)
    values = np.asarray(read_label(cube, name, window)).astype(np.int64)
    if values.shape != (side_px, side_px):
        raise InputError(
            f"cube {cube.name}: truth layer {name!r} has {values.shape} pixels in a window of {side_px} positions, "
            "expected one per position of 10 m"
        )
    missing = values < 0 if label.nodata is None else (values == label.nodata) | (values < 0)
    return np.where(missing, -1, values)


# --- variations of a task -----------------------------------------------------------------------------------------


def vary(inputs: Inputs, task: TaskConfig, contract: Contract, seed: int) -> Inputs:
    """The inputs as a task lets the encoder see them: modalities left out, optical dates hidden, regions changed.

    Raises:
        InputError: a modality that the contract does not have.
    """
    for name in task.modalities:
        if name not in contract.modalities:
            raise InputError(
                f"modalities: {name!r} is none of the encoder's "
                f"({', '.join(contract.modalities)}){did_you_mean(name, contract.modalities)}"
            )
    regions = _resolve_regions(inputs, task, contract)
    kept = task.modalities or tuple(contract.modalities)
    optical = {
        n
        for n, m in contract.modalities.items()
        if m.kind == "series" and all((b.wavelength_um or 99.0) < OPTICAL_UM for b in m.bands)
    }
    num_regions = RegionIndex.from_dict(contract.regions).num_regions if contract.regions else 0
    samples, notes = [], []
    for sample, part in zip(inputs.samples, inputs.part[inputs.row], strict=True):
        series = {n: s for n, s in sample.series.items() if n in kept}
        if task.clear_frames is not None:
            left = task.clear_frames
            series = {
                n: _hide(s, left, generator(seed, "clear", sample.index)) if n in optical else s
                for n, s in series.items()
            }
        samples.append(
            dataclasses.replace(sample, series=series, region=_told(sample, regions, part == TEST, num_regions))
        )
    if task.modalities:
        notes.append(f"only {'+'.join(kept)}")
    if task.clear_frames is not None:
        notes.append(f"at most {task.clear_frames} clear optical dates")
    if regions != "place":
        notes.append(f"regions {regions}")
    return dataclasses.replace(inputs, samples=samples, source=", ".join([inputs.source, *notes]))


def _resolve_regions(inputs: Inputs, task: TaskConfig, contract: Contract) -> str:
    """`auto` is `place` where all windows lie in regions of the bank, or none do; otherwise `unseen`.

    A probe that learns from features with region context and is scored on features without it measures that
    difference and nothing else.
    """
    known = {s.region >= 0 for s in inputs.samples}
    mixed = bool(contract.regions) and len(known) > 1
    return task.regions if task.regions != "auto" else "unseen" if mixed else "place"


def _told(sample: Sample, regions: str, is_test: bool, num_regions: int) -> int:
    """The region the encoder is told: `swapped` names test places the region half the bank away.

    The probe still learns from places told rightly, or it would learn to read the wrong prototypes as well.
    """
    if regions == "unseen" or sample.region < 0:
        return -1
    swapped = regions == "swapped" and is_test
    return (sample.region + max(1, num_regions // 2)) % num_regions if swapped else sample.region


def _hide(series: Series, left: int, rng: np.random.Generator) -> Series:
    """Keep at most `left` of the dates on which something is clear, drawn by `rng`; the others count as clouded."""
    clear = np.flatnonzero(series.valid.any((1, 2)))
    kept = rng.permutation(clear)[:left]
    shown: NDArray[np.bool_] = np.isin(np.arange(len(series.day)), kept)
    return dataclasses.replace(series, valid=series.valid & shown[:, None, None])


def targets(inputs: Inputs, label: str, task: TaskConfig) -> Ints:
    """Class of every scored unit, -1 where it is not scored.

    Scene level: the majority class of the window, `[R]`, where it covers at least `min_share` of it. Pixel level:
    the class at the kept positions, `[R, P]`.
    """
    maps = np.where(np.isin(inputs.truth[label], task.ignore), -1, inputs.truth[label])
    if task.level == "pixel":
        return np.take_along_axis(maps, inputs.positions, axis=1)
    num = len(inputs.classes[label])
    counts = np.stack([(maps == c).sum(1) for c in range(num)], 1)
    return np.where(counts.max(1) >= task.min_share * maps.shape[1], counts.argmax(1), -1)
