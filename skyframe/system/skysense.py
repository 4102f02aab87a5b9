"""SkySense: multi-granularity self-distillation, cross-modal alignment and region prototypes over a factorised encoder.

Source: SkySense (CVPR 2024, arXiv 2312.10115) section 3. No stage-1 code is public: what the paper leaves open is a
recipe field marked `# ours`, and the tests are the proof.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from skyframe import dist
from skyframe.config.skysense import LossConfig, ModelConfig, SkySenseRecipe, ViewsConfig
from skyframe.geography import RegionIndex
from skyframe.model.attention import recompute_activations
from skyframe.model.factorised import FactorisedEncoder, masked_mean
from skyframe.model.heads import DistillationHead
from skyframe.model.health import agreement, effective_rank, feature_std
from skyframe.model.stem import position_valid
from skyframe.model.teacher import copy_teacher, momentum_at, update_teacher
from skyframe.objective.alignment import alignment
from skyframe.objective.contrastive import (
    centred_targets,
    cross_entropy,
    info_nce,
    object_centres,
    per_sample_mean,
    sample_rows,
    update_center,
)
from skyframe.objective.prototype import prototype_sums, updated_prototypes
from skyframe.objective.sinkhorn import sinkhorn_targets
from skyframe.randomness import Draw, hash64
from skyframe.sample import Batch, Features, Tokens
from skyframe.spec import Modality
from skyframe.system.pairing import at_positions, frame_mean, matched, of_side, take

FUSED = "fused"
LEVELS = ("pix", "obj", "img")


@dataclass(frozen=True)
class Pair:
    """One source's features on both sides, paired by frame and position."""

    student: Tensor  # [B, T, N, D]
    teacher: Tensor  # [B, T, N, D], no gradient
    valid: Tensor  # bool [B, T, N], valid on both sides


class SkySense(nn.Module):
    """Student, EMA teacher, heads, centres and prototype bank.

    The bank is one tensor that student and teacher both read; it and the centres are buffers, outside the optimizer,
    equal on all ranks by explicit collectives in `after_step`.
    """

    fed: Tensor

    def __init__(self, recipe: SkySenseRecipe, modalities: Mapping[str, Modality], regions: RegionIndex) -> None:
        super().__init__()
        self.config: LossConfig = recipe.loss
        self.model_config: ModelConfig = recipe.model
        self.seed = recipe.seed
        self.regions = regions
        self.views: ViewsConfig = recipe.views
        self.sources = tuple(recipe.loss.sources) or (*modalities, FUSED)
        self.student = FactorisedEncoder(modalities, recipe.model, regions.num_regions, hash64(recipe.seed, "encoder"))
        if recipe.train.recompute:
            recompute_activations(self.student)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash64(recipe.seed, "heads") % 2**31)
            head = recipe.model.head
            widths = {**dict.fromkeys(modalities, recipe.model.aligned_dims), FUSED: self.student.num_features}
            self.heads = nn.ModuleDict(
                {
                    s: DistillationHead(
                        widths[s], head.hidden, head.bottleneck, head.outputs, hash64(recipe.seed, "head", s)
                    )
                    for s in self.sources
                    if self.config.alpha > 0
                }
            )
            for made in self.heads.values():  # InfoNCE compares embeddings, without output prototypes
                cast(DistillationHead, made).last.requires_grad_(self.config.cl == "dino")
            self.projectors = nn.ModuleDict(
                {
                    n: nn.Linear(recipe.model.aligned_dims, self.config.align_dims)
                    for n in modalities
                    if self.config.beta > 0 and len(modalities) > 1
                }
            )
        self.teacher: FactorisedEncoder = copy_teacher(self.student)
        self.teacher_heads: nn.ModuleDict = copy_teacher(self.heads)
        self._share_bank()
        for source in self.heads:
            self.register_buffer(f"center_{source}", torch.zeros(len(LEVELS), recipe.model.head.outputs))
        self.register_buffer(
            "fed", torch.zeros(len(modalities), dtype=torch.int32)
        )  # 1 = some sample held this modality
        self.progress = 0.0
        self.momentum = self.config.ema_start  # of the last step, for the log
        self._pending_centres: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        self._pending_regions: list[tuple[Tensor, Tensor]] = []
        self._pending_fed: Tensor | None = None
        self._health: dict[str, Tensor] = {}

    # --- the protocol ---------------------------------------------------------------------------------------------

    def encode(self, batch: Batch) -> Features:
        """The teacher's features: the weights that are exported."""
        with torch.no_grad():
            return self.teacher.encode(batch)

    def losses(self, views: tuple[Batch, ...]) -> dict[str, Tensor]:
        """Terms of one pass.

        Args:
            views: the student's view, the teacher's view, then local high-resolution crops of the student.

        Returns:
            `<source>/<pix|obj|img>` and `align/<a>-<b>`, scalars. Each is the mean over this rank's samples of a mean
            over valid rows; for a sample that lacks sources the remaining ones are scaled up, so that every sample
            weighs the same.
        """
        terms = self._one_direction(views)
        if self.config.symmetric:
            swapped = self._one_direction((views[1], views[0], *views[2:]))
            terms = {k: (v + swapped[k]) / 2 for k, v in terms.items()}
        return terms

    def weights(self) -> dict[str, float]:
        """alpha for the contrastive terms, beta for alignment."""
        named = {f"{s}/{level}": self.config.alpha for s in self.heads for level in self.config.granularity}
        names = list(self.projectors)
        return named | {f"align/{a}-{b}": self.config.beta for i, a in enumerate(names) for b in names[i + 1 :]}

    def set_progress(self, progress: float) -> None:
        """Share of the run that is done: teacher temperature and momentum follow it."""
        self.progress = progress

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the teacher, the centres and the prototypes; all ranks must call it."""
        self.momentum = momentum_at(progress, self.config.ema_start, self.config.ema_end)
        update_teacher(self.student, self.teacher, self.momentum)
        update_teacher(self.heads, self.teacher_heads, self.momentum)
        for (source, level), (total, count) in sorted(self._pending_centres.items()):
            center = getattr(self, f"center_{source}")
            center[level] = update_center(
                center[level], dist.all_sum(total), dist.all_sum(count), self.config.center_momentum
            )
        if self.student.geo is not None:
            features, region = (torch.cat(parts) for parts in zip(*self._pending_regions, strict=True))
            bank, g = self.student.geo.bank, self.model_config.geo
            ids, num, den = prototype_sums(features, region, bank, g.eps, g.iterations)
            bank[ids] = updated_prototypes(bank[ids], num, den, g.momentum)
        if self._pending_fed is not None:
            self.fed = torch.maximum(self.fed, dist.all_max(self._pending_fed))
        self.discard_step()

    def discard_step(self) -> None:
        """Drop what `after_step` would have applied."""
        self._pending_centres.clear()
        self._pending_regions.clear()
        self._pending_fed = None

    def monitors(self) -> dict[str, float]:
        """Teacher agreement, effective rank and spread per source of the last pass, and the teacher's momentum."""
        return {name: float(value) for name, value in self._health.items()} | {"ema_momentum": self.momentum}

    def exports(self) -> dict[str, nn.Module]:
        """The teacher as a whole and in parts."""
        parts: dict[str, nn.Module] = {"model": self.teacher, "fusion": self.teacher.fusion}
        parts |= {f"encoder_{name}": encoder for name, encoder in self.teacher.encoders.items()}
        if self.teacher.geo is not None:
            parts["geo_context"] = self.teacher.geo
        return parts

    # --- one direction: the student learns from the teacher -------------------------------------------------------

    def _one_direction(self, views: tuple[Batch, ...]) -> dict[str, Tensor]:
        u, v = views[:2]
        drop = Draw(hash64(self.seed, "drop_path"), (u.epoch << 40) + u.index)
        s_tokens = self.student.tokens(u, drop)
        some = self._positions(u, drop)
        with torch.no_grad():
            t_tokens = matched(u, v, self.teacher.tokens(v))
            own = self._dates(s_tokens, drop)
            t_fused, t_valid = self.teacher.fuse(at_positions(of_side(t_tokens, own, 1), some))
            t_full = self.teacher.with_context(t_fused, v.region)
        s_fused, s_valid = self.student.fuse(at_positions(of_side(s_tokens, own, 0), some), drop)
        s_full = self.student.with_context(s_fused, u.region)
        self._remember_prototypes(s_fused, s_valid, u.region)
        seen = torch.stack([t.valid.any() for t in s_tokens.values()]).int()
        self._pending_fed = seen if self._pending_fed is None else torch.maximum(self._pending_fed, seen)
        s_all = {**s_tokens, FUSED: Tokens(s_full[:, None], s_valid[:, None], u.region[:, None])}
        t_all = {**t_tokens, FUSED: Tokens(t_full[:, None], t_valid[:, None], v.region[:, None])}
        pairs = {n: Pair(s_all[n].values, t_all[n].values, s_all[n].valid & t_all[n].valid) for n in self.sources}
        terms = self._contrastive(pairs, drop)
        if terms:
            for local in views[2:]:
                terms["hr/img"] = terms["hr/img"] + self._local(local, pairs) / len(views[2:])
        self._watch(pairs)
        return terms | self._alignment(s_tokens)

    def _positions(self, u: Batch, draw: Draw) -> Tensor | None:
        """Positions fused in this pass, int64 `[B, P]`; None = all. Fusion is exact at each, whatever the rest."""
        share = self.model_config.fusion.positions
        if share >= 1 or u.pixel is None:
            return None
        num = u.pixel.shape[1]
        return draw.named("positions").uniform(num).argsort(1)[:, : max(1, round(share * num))]

    def _dates(self, tokens: Mapping[str, Tokens], draw: Draw) -> dict[str, Tensor]:
        """Which side fuses which date: 0 the student, 1 the teacher, int64 `[B, T]`; empty = both fuse all.

        What two sides with different dates share is the place, and nothing of a date's clouds, noise or choice. Each
        date falls by itself, with a share drawn per place and modality, so that fusion meets short and long series.
        """
        if not self.views.split_dates:
            return {}
        turns, least = {}, self.views.split_least
        for name, t in tokens.items():
            stream = draw.named("dates", name)
            share = least + (1 - 2 * least) * stream.named("share").uniform(1)
            turns[name] = (stream.uniform(t.day.shape[1]) < share).long()
        return turns

    def _contrastive(self, pairs: dict[str, Pair], drop: Draw) -> dict[str, Tensor]:
        """L_MGCL: pixel, object and image level of every source."""
        if not self.heads:
            return {}
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name in self.heads:
            for level, rows in self._granularities(pairs[name], drop.named(name)).items():
                found[f"{name}/{level}"] = self._distil(name, LEVELS.index(level), *rows)
        scale = self._scale(pairs)
        return {key: (loss * here * scale).mean() for key, (loss, here) in found.items()}

    def _scale(self, pairs: dict[str, Pair]) -> Tensor:
        """`[B]`, sources of the run over sources that the sample has."""
        present = torch.stack([p.valid.flatten(1).any(1) for n, p in pairs.items() if n in self.heads]).float()
        return len(present) / present.sum(0).clamp_min(1)

    def _granularities(self, pair: Pair, draw: Draw) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """Student rows, teacher rows `[B, T, R, D]` and validity `[B, T, R]` at each level."""
        c = self.config
        rows = {}
        if "pix" in c.granularity:
            index, valid = sample_rows(pair.valid, c.pixel_rows, draw.named("rows"))
            rows["pix"] = (take(pair.student, index), take(pair.teacher, index), valid)
        if "obj" in c.granularity:
            b = pair.student.shape[0]
            s, t, valid = object_centres(
                rearrange(pair.teacher, "b t n d -> (b t) n d"),
                rearrange(pair.student, "b t n d -> (b t) n d"),
                rearrange(pair.valid, "b t n -> (b t) n"),
                c.num_centres, c.object_eps, c.object_iterations, c.object_rounds,
            )  # fmt: skip
            rows["obj"] = tuple(rearrange(x, "(b t) ... -> b t ...", b=b) for x in (s, t, valid))  # type: ignore[assignment]
        if "img" in c.granularity:
            valid = pair.valid.any(-1, keepdim=True)
            rows["img"] = (frame_mean(pair.student, pair.valid), frame_mean(pair.teacher, pair.valid), valid)
        return rows

    def _distil(
        self, source: str, level: int, student: Tensor, teacher: Tensor, valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the student's codes against the teacher's, per sample `[B]`, and which samples count."""
        head, guide = (cast(DistillationHead, heads[source]) for heads in (self.heads, self.teacher_heads))
        kept = valid.flatten().nonzero().flatten()  # the others would cost as much and count nothing
        rows, keys = (x.flatten(0, 2).index_select(0, kept) for x in (student, teacher))
        if self.config.cl == "infonce":
            with torch.no_grad():
                keys = guide.embed(keys)
            sample = kept // valid[0].numel() + dist.rank() * len(valid)
            loss = info_nce(head.embed(rows), keys, sample, self.config.student_temp)
        else:
            with torch.no_grad():
                targets = self._targets(source, level, guide(keys))
            loss = cross_entropy(head(rows), targets, self.config.student_temp)
        full = loss.new_zeros(valid.numel()).index_copy(0, kept, loss)
        return per_sample_mean(full.reshape(valid.shape), valid)

    def _targets(self, source: str, level: int, logits: Tensor) -> Tensor:
        if self.config.centering == "sinkhorn":
            return sinkhorn_targets(logits, self.teacher_temp, self.config.sinkhorn_iterations)
        total, count = logits.float().sum(0), torch.tensor(float(len(logits)), device=logits.device)
        before = self._pending_centres.get((source, level))
        self._pending_centres[source, level] = (
            (total, count) if before is None else (before[0] + total, before[1] + count)
        )
        return centred_targets(logits, getattr(self, f"center_{source}")[level], self.teacher_temp)

    @property
    def teacher_temp(self) -> float:
        """Teacher temperature now: linear warm-up over the first share of the run."""
        c = self.config
        share = min(1.0, self.progress / c.teacher_temp_warmup) if c.teacher_temp_warmup > 0 else 1.0
        return c.teacher_temp_start + share * (c.teacher_temp - c.teacher_temp_start)

    def _local(self, local: Batch, pairs: dict[str, Pair]) -> Tensor:
        """A local crop's image-level term: the student's crop against the teacher's whole high-resolution image."""
        pair = pairs["hr"]
        encoder = self.student.encoders["hr"]
        drop = Draw(hash64(self.seed, "drop_path", "local"), (local.epoch << 40) + local.index)
        raw, flags = encoder(local.series["hr"], drop)
        series = local.series["hr"]
        tokens = self.student._aligned("hr", raw, encoder.side(series), encoder.token_grid(series))
        shown = position_valid(series.valid, encoder.side(series))
        valid = flags[..., None] & pair.valid.any(-1, keepdim=True)
        loss, here = self._distil(
            "hr", LEVELS.index("img"), frame_mean(tokens, shown), frame_mean(pair.teacher, pair.valid), valid
        )
        return (loss * here * self._scale(pairs)).mean()

    def _alignment(self, tokens: Mapping[str, Tokens]) -> dict[str, Tensor]:
        """L_align between every two modalities of the student, time-averaged and pooled."""
        pooled, present = {}, {}
        for name, projector in self.projectors.items():
            t = tokens[name]
            mean = masked_mean(rearrange(t.values, "b t n d -> b (t n) d"), rearrange(t.valid, "b t n -> b (t n)"))
            pooled[name], present[name] = projector(mean), t.valid.flatten(1).any(1)
        names = list(pooled)
        terms = {}
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                loss = alignment(pooled[a], pooled[b], present[a] & present[b], self.config.align_temp)
                terms[f"align/{a}-{b}"] = loss.mean()
        return terms

    # --- state without gradient -----------------------------------------------------------------------------------

    @torch.no_grad()
    def _remember_prototypes(self, fused: Tensor, valid: Tensor, region: Tensor) -> None:
        """Keep what moves the bank after the step: fused features of valid positions, and their regions."""
        if self.student.geo is not None:
            rows = region[:, None].expand_as(valid)[valid]
            self._pending_regions.append((self.student.geo.project(fused[valid]), rows))

    def _share_bank(self) -> None:
        """Let the teacher read the student's bank, so that there is one."""
        if self.student.geo is not None and self.teacher.geo is not None:
            self.teacher.geo.bank = self.student.geo.bank

    def _apply(self, fn: Any, recurse: bool = True) -> SkySense:
        """Moving to a device copies buffers one by one, so the shared bank is joined again afterwards."""
        super()._apply(fn, recurse)
        self._share_bank()
        return self

    def train(self, mode: bool = True) -> SkySense:
        """Training mode for the student alone; the teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        self.teacher_heads.eval()
        return self

    @torch.no_grad()
    def _watch(self, pairs: dict[str, Pair]) -> None:
        """Keep health figures of this pass, on the device."""
        self._health = {}
        for name, p in pairs.items():
            rows = p.teacher[p.valid][:2048]
            if len(rows) > 1:
                self._health[f"effective_rank/{name}"] = effective_rank(rows)
                self._health[f"feature_std/{name}"] = feature_std(rows)
                self._health[f"teacher_agreement/{name}"] = agreement(p.student[p.valid][:2048], rows)
