"""Batches in memory that is used again: equal to fresh ones, never overwritten while anything refers to them."""

import gc
import os
import pickle

import numpy as np
import pytest
import torch

from skyframe.data.datamodule import CubeDataModule
from skyframe.data.slabs import PER_WORKER, Parcel, Slabs
from skyframe.sample import Layout, Sample, Series
from tests.system.batches import nano_recipe

LAYOUTS = {"s2": Layout(3, 2, 4, "uint16"), "w": Layout(2, 1, 1, "float32")}


def sample(fill, dates=2):
    values = np.full((dates, 2, 4, 4), fill, np.uint16)
    valid, day = np.ones((dates, 4, 4), bool), np.arange(dates, dtype=np.int32) + fill
    return Sample({"s2": Series(values, valid, day, np.ones(2, bool))}, np.array([1.0, fill]), 3, index=fill, epoch=7)


def written(slabs, fills, reader=0):
    slab = slabs.take(reader)
    assert slab is not None
    buffers = slabs.buffers(slab, len(fills))
    for i, fill in enumerate(fills):
        buffers.put(i, sample(fill))
    return Parcel(slab, len(fills), buffers.damage)


def test_a_piece_is_free_again_when_its_last_tensor_goes():
    slabs = Slabs(2, 2, LAYOUTS)
    parcel = written(slabs, [5, 6], reader=1)
    assert parcel.slab == PER_WORKER
    batch = slabs.open(parcel)
    part = batch.series["s2"].values[1:][0]  # a view of a view
    del batch
    gc.collect()
    assert [slabs.take(1) for _ in range(PER_WORKER)] == [*range(PER_WORKER + 1, 2 * PER_WORKER), None]
    assert part.unique().tolist() == [0, 6] and part.dtype == torch.uint16
    del part
    gc.collect()
    assert slabs.take(1) == PER_WORKER


def test_what_was_there_before_shows_nowhere():
    slabs = Slabs(1, 2, LAYOUTS)
    first = written(slabs, [40_000, 40_000])
    slabs.give_back(first.slab)
    again = written(slabs, [1])  # a smaller batch, and without weather
    assert again.slab == first.slab
    batch = slabs.open(again)
    assert batch.size == 1 and batch.place.tolist() == [[1.0, 1.0]] and batch.epoch.tolist() == [7]
    assert batch.series["s2"].values[0, :, 0, 0, 0].tolist() == [1, 1, 0]
    assert batch.series["s2"].valid[0, :, 0, 0].tolist() == [True, True, False]
    assert batch.series["s2"].day.tolist() == [[1, 2, np.iinfo(np.int32).min]]
    assert not batch.series["w"].valid.any() and not batch.series["w"].bands.any()
    assert not batch.series["w"].values.any()


def test_a_child_writes_what_its_parent_reads():
    slabs = Slabs(1, 1, LAYOUTS)
    child = os.fork()
    if child == 0:
        os._exit(written(slabs, [9]).slab)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert slabs.take(0) == 1  # the child's piece is in use here too
    assert slabs.open(Parcel(0, 1, [])).index.tolist() == [9]


def test_slabs_are_not_pickled():
    with pytest.raises(TypeError, match="inherited by fork"):
        pickle.dumps(Slabs(1, 1, LAYOUTS))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_are_kept_stay_as_they_were(earth, workers):
    """More batches than there are pieces, all of them held: those without a piece come in memory of their own."""
    words = f"data.cubes=[{earth}/a]", f"data.workers={workers}", f"train.max_steps={3 * PER_WORKER}"
    loader = CubeDataModule(nano_recipe(*words)).train_dataloader()
    kept = list(loader)
    assert len({batch.series["s2"].values.data_ptr() for batch in kept}) == len(kept)
    loader.dataset.slabs = None
    for number, positions in enumerate(loader.batch_sampler):
        fresh = loader.dataset.__getitems__(positions)
        assert torch.equal(kept[number].index, fresh.index)
        for name in fresh.series:
            for key in ("values", "valid", "day", "bands"):
                assert torch.equal(getattr(kept[number].series[name], key), getattr(fresh.series[name], key))
