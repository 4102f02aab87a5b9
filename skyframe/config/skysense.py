"""Recipe schema and presets of SkySense. Values that no paper gives carry `# ours`.

Source: SkySense (arXiv 2312.10115) as laid down in the module table of its code release.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from skyframe.config.recipe import Recipe, check_recipe
from skyframe.spec import InputError


@dataclass(frozen=True)
class ViewsConfig:
    """Two views of one place: the student takes the first, the teacher the second."""

    crop_px: int = 16  # s: side of a view on the 10 m grid; the high-resolution side is 32 s
    geometry: Literal["shared", "overlap"] = (
        "shared"  # ours: same window, or two shifted crops matched where they overlap
    )
    flips: Literal["none", "shared", "independent"] = (
        "shared"  # ours: an element of the square's symmetry group per place or per view
    )
    local_crops: int = 0  # ours: further high-resolution crops, student only, image level only
    local_px: int = 4  # ours: side of a local crop on the 10 m grid
    jitter_days: int = 5  # ours: acquisition dates move by up to this many days, per frame and view
    split_dates: bool = False  # ours: student and teacher fuse different dates; the terms of single sensors see all
    split_least: float = 0.2  # ours: the share of dates that falls to one side is drawn from this to 1 - this
    drop_frames: float = 0.0  # ours: probability that a view hides a frame; the two views hide different ones
    gain: float = 0.1  # ours: per frame and band, values times 1 +- gain
    offset: float = 0.1  # ours: per frame and band, values plus +- offset standard deviations
    blur: float = 0.5  # ours: probability of Gaussian blur of the high-resolution image
    solarize: float = 0.2  # ours: probability of solarisation of the high-resolution image


@dataclass(frozen=True)
class EncoderConfig:
    """One spatial encoder. ViT has one stage: `depths` and `num_heads` hold one number each."""

    encoder: str  # a name in model.ENCODERS
    embed_dims: int  # width of the first stage (Swin doubles it per stage)
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    patch_px: int = 4
    window_px: int = 8  # Swin only
    extra_norm_every: int = 6  # Swin only: a norm on the stream after every n-th block of a stage
    train_px: int = 64  # ViT only: image side of the position table
    norm_eps: float = 1e-5
    drop_path: float = 0.0


@dataclass(frozen=True)
class FusionConfig:
    """The temporal and modal transformer over one position's tokens."""

    embed_dims: int
    num_layers: int
    num_heads: int
    drop_path: float = 0.0
    chunk: int = 4096  # ours: positions per pass, bounds memory
    positions: float = 1.0  # ours: share of a view's positions fused per training pass, drawn anew; exact at those


@dataclass(frozen=True)
class GeoConfig:
    """Region prototypes and how they learn."""

    enabled: bool = True
    num_prototypes: int = 100
    dims: int = 512  # ours
    momentum: float = 0.99  # ours
    eps: float = 0.05  # ours
    iterations: int = 3  # ours


@dataclass(frozen=True)
class HeadConfig:
    """Self-distillation head, one per source, shared by the three granularities."""  # ours

    hidden: int = 2048
    bottleneck: int = 256
    outputs: int = 65536


@dataclass(frozen=True)
class ModelConfig:
    """Modules by integers; `preset` fills what the recipe leaves out."""

    preset: str
    aligned_dims: int  # width of every modality's tokens before fusion
    encoders: dict[str, EncoderConfig]
    fusion: FusionConfig
    geo: GeoConfig
    head: HeadConfig
    dates: tuple[str, ...] = ()  # modalities that get the date encoding; empty = all
    date_std: float = 0.5  # ours: initial spread of the date table's seasonal harmonics (the released code starts at 0)


@dataclass(frozen=True)
class LossConfig:
    """Terms and their weights; a weight of 0 is not computed."""

    alpha: float = 1.0  # multi-granularity contrastive
    beta: float = 0.1  # cross-modal alignment; quoted at second hand, unverified
    granularity: tuple[str, ...] = ("pix", "obj", "img")
    sources: tuple[str, ...] = ()  # of the contrastive terms: modalities and "fused"; empty = all
    cl: Literal["dino", "infonce"] = "dino"  # ours; the tiny recipes take infonce, as it learns faster
    symmetric: bool = False  # ours: also teach with the views exchanged
    student_temp: float = 0.1  # ours
    teacher_temp: float = 0.07  # ours, after the warm-up
    teacher_temp_start: float = 0.04  # ours
    teacher_temp_warmup: float = 0.3  # ours: share of the run
    centering: Literal["ema", "sinkhorn"] = "ema"  # ours
    center_momentum: float = 0.9  # ours
    sinkhorn_iterations: int = 3  # ours
    pixel_rows: int = 64  # ours: positions per frame that enter the pixel term
    num_centres: int = 16  # ours: objects per frame
    object_eps: float = 0.05  # ours
    object_iterations: int = 3  # ours
    object_rounds: int = 3  # ours
    align_temp: float = 0.07  # ours
    align_dims: int = 256  # ours
    ema_start: float = 0.996  # ours
    ema_end: float = 1.0  # ours


@dataclass(frozen=True)
class SkySenseRecipe(Recipe):
    """A SkySense pretraining run."""

    views: ViewsConfig = field(default_factory=ViewsConfig)
    model: ModelConfig = field(kw_only=True)
    loss: LossConfig = field(default_factory=LossConfig)

    def check(self, where: str) -> None:
        """Rules between fields; raises InputError."""
        check_recipe(self, where)
        views, data, model = self.views, self.data, self.model
        if views.crop_px > data.window_px:
            raise InputError(
                f"{where}: views.crop_px {views.crop_px} is larger than data.window_px {data.window_px}; enlarge the "
                "window"
            )
        if views.local_crops and "hr" not in data.modalities:
            raise InputError(
                f"{where}: views.local_crops is {views.local_crops} but data.modalities has no 'hr' to cut them "
                "from; set it to 0"
            )
        sources = {*data.modalities, "fused"}
        taught = set(self.loss.sources) or sources
        if views.local_crops and not ("hr" in taught and "img" in self.loss.granularity and self.loss.alpha):
            raise InputError(
                f"{where}: views.local_crops is {views.local_crops} but no term uses them, expected 'hr' among "
                "loss.sources, 'img' in loss.granularity and loss.alpha above 0; set it to 0, or loss.sources=[]"
            )
        if views.local_crops and views.local_px > views.crop_px:
            raise InputError(f"{where}: views.local_px {views.local_px} is larger than views.crop_px {views.crop_px}")
        for name in data.modalities:
            if name not in model.encoders:
                raise InputError(f"{where}: modality {name!r} has no encoder; describe one under model.encoders.{name}")
        known = {"pix", "obj", "img"}
        if not set(self.loss.granularity) <= known:
            raise InputError(
                f"{where}: loss.granularity {list(self.loss.granularity)}, expected some of {sorted(known)}"
            )
        if not set(self.loss.sources) <= sources:
            raise InputError(f"{where}: loss.sources {list(self.loss.sources)}, expected some of {sorted(sources)}")
        if not set(model.dates) <= set(data.modalities):
            raise InputError(f"{where}: model.dates {list(model.dates)}, expected some of {sorted(data.modalities)}")
        contrastive = self.loss.alpha != 0 and self.loss.granularity
        if not contrastive and (self.loss.beta == 0 or len(data.modalities) < 2):
            raise InputError(
                f"{where}: loss.alpha {self.loss.alpha:g} with granularity {list(self.loss.granularity)} and loss.beta "
                f"{self.loss.beta:g} with {len(data.modalities)} modalities leave no term, expected at least one; "
                "alignment needs two modalities"
            )

    @property
    def teaches_fusion(self) -> bool:
        """Whether any term reaches fusion, dates and region context; alignment alone compares sensors before fusion."""
        reached = not self.loss.sources or "fused" in self.loss.sources
        return bool(self.loss.alpha != 0 and self.loss.granularity and reached)


def _swin(dims: int, depths: list[int], heads: list[int], drop_path: float = 0.0) -> dict[str, Any]:
    return {"encoder": "swin_v2", "embed_dims": dims, "depths": depths, "num_heads": heads, "drop_path": drop_path}


def _vit(
    dims: int, layers: int, heads: int, patch_px: int = 4, train_px: int = 64, drop_path: float = 0.0
) -> dict[str, Any]:
    return {
        "encoder": "vit",
        "embed_dims": dims,
        "depths": [layers],
        "num_heads": [heads],
        "patch_px": patch_px,
        "train_px": train_px,
        "drop_path": drop_path,
    }


def _model(
    aligned: int, hr: dict[str, Any], series: dict[str, Any], fusion: list[Any], geo: list[int], head: list[int]
) -> dict[str, Any]:
    return {
        "aligned_dims": aligned,
        "encoders": {"hr": hr, "s2": series, "s1": series},
        "fusion": dict(zip(("embed_dims", "num_layers", "num_heads", "drop_path"), fusion, strict=True)),
        "geo": dict(zip(("num_prototypes", "dims"), geo, strict=True)),
        "head": dict(zip(("hidden", "bottleneck", "outputs"), head, strict=True)),
    }


PRESETS: dict[str, dict[str, Any]] = {
    # nano: point series and very small crops
    "nano": _model(
        64, _swin(8, [1, 1, 2, 1], [1, 2, 4, 8]), _vit(64, 2, 4, 2, 16), [96, 2, 4, 0.0], [16, 32], [128, 32, 256]
    ),
    # tiny: the demo, minutes on two cores
    "tiny": _model(
        128, _swin(16, [1, 1, 2, 1], [1, 2, 4, 8]), _vit(128, 2, 4, 2, 16), [256, 2, 4, 0.0], [32, 64], [256, 64, 512]
    ),
    "small": _model(
        384,
        _swin(48, [2, 2, 6, 2], [3, 6, 12, 24], 0.1),
        _vit(384, 6, 6, drop_path=0.1),
        [384, 6, 6, 0.1],
        [64, 128],
        [1024, 256, 4096],
    ),
    "base": _model(
        1024,
        _swin(128, [2, 2, 18, 2], [4, 8, 16, 32], 0.2),
        _vit(768, 12, 12, drop_path=0.1),
        [768, 12, 12, 0.1],
        [100, 256],
        [2048, 256, 16384],
    ),
    # paper: the sheet's integers (Swin V2-Huge, two ViT-L, 24 fusion layers)
    "paper": _model(
        2816,
        _swin(352, [2, 2, 18, 2], [8, 16, 32, 64], 0.2),
        _vit(1024, 24, 16, drop_path=0.3),
        [1024, 24, 16, 0.3],
        [100, 512],
        [2048, 256, 65536],
    ),
}
