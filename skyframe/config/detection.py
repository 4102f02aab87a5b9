"""How a detection head is built, trained and asked. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DetectionConfig:
    """One anchor-free head on an encoder's maps. Lengths are pixels of the data set's first modality."""

    width: int = 128  # channels of the pyramid and of the towers; FCOS has 256
    convs: int = 2  # layers of each tower; FCOS has 4
    strides: tuple[int, ...] = (8, 16, 32)  # of the pyramid's levels; an object of 8 strides or less goes to the first
    epochs: int = 24
    batch: int = 8  # tiles per step
    lr: float = 1e-3  # ours: AdamW at batch 8, a frozen encoder
    weight_decay: float = 0.05
    warmup: float = 0.1  # share of the steps; half a cosine follows
    tile_px: int = 800  # side of the squares that images are cut into, rounded to whole positions
    overlap_px: int = 200  # least overlap of neighbouring tiles
    cache_gb: float = 2.0  # maps of a frozen encoder that are kept; 0 = computed anew each epoch, of flipped tiles
    least_score: float = 0.05  # detections below it are not looked at
    candidates: int = 1000  # best of a tile that go into suppression
    most_overlap: float = 0.6  # of two detections of a class; beyond it the worse one goes
    most_overlap_oriented: float = 0.1  # as usual on DOTA, where objects of one class hardly overlap
    per_image: int = 2000  # best of an image that are kept
