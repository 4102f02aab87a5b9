"""Does the detection head learn on real boxes? Thermal objects of a UAV (HIT-UAV) and tree crowns (NEON).

    python -m benchmarks.detection SHARED [--only NAME] [--times 1] [--threads 2] [--seed 0]

SHARED is the folder with real samples (`SHARED/data/HIT-UAV`, `SHARED/data/DeepForest`). A small convolutional stem
with fresh weights stands where an encoder would, and is trained with the head on the training part for a few epochs, or
so many times more; the row beside it is the same untrained. Prints and writes benchmarks/results/<date>_detection.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import platform
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import skyframe
from skyframe.config.contract import CONTRACT_FORMAT, Contract
from skyframe.config.detection import DetectionConfig
from skyframe.evaluate.benchmarks import open_dataset
from skyframe.evaluate.datasets.dataset import Dataset
from skyframe.evaluate.feed.fit import Fit, fit, training_statistics
from skyframe.evaluate.heads.detect import score_detector, train_detector
from skyframe.evaluate.heads.detections import DetectionMeasure
from skyframe.evaluate.measures.measure import interval_of, value_of
from skyframe.sample import Batch

METRICS = ("map50", "map", "voc_map50")
SETS = {"hit-uav": "HIT-UAV", "neon-trees": "DeepForest"}
"""Folder below SHARED/data by data set."""
GSD_M = 0.3125
"""At which images are fed: 32 pixels make a position, whatever their own resolution."""
SMALL = DetectionConfig(width=64, convs=1, strides=(8, 16, 32), batch=4, lr=2e-3, cache_gb=0, candidates=300)
CONFIGS = {
    "hit-uav": dataclasses.replace(SMALL, tile_px=640, overlap_px=0, epochs=4),
    "neon-trees": dataclasses.replace(SMALL, tile_px=256, overlap_px=64, epochs=30),
}


class Stem(nn.Module):
    """Maps at strides 4, 8 and 16 of pixels scaled by their mean and deviation."""

    def __init__(self, contract: Contract, width: int = 32, seed: int = 0) -> None:
        super().__init__()
        ((self.name, modality),) = contract.modalities.items()
        number = [torch.tensor(v).reshape(-1, 1, 1) for v in (modality.mean, modality.std)]
        self.mean, self.std, self.scale = *number, modality.scale
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stages = nn.ModuleList(
                [
                    nn.Sequential(nn.Conv2d(len(modality.bands), width, 6, 4, 1), *_rest(width)),
                    nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), *_rest(2 * width)),
                    nn.Sequential(nn.Conv2d(2 * width, 4 * width, 3, 2, 1), *_rest(4 * width)),
                ]
            )

    def forward(self, batch: Batch) -> list[Tensor]:
        """Maps `[B, D, h, w]`, finest first."""
        series = batch.series[self.name]
        x = (series.values[:, 0].float() * self.scale - self.mean) / self.std * series.valid[:, :1]
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


def _rest(width: int) -> list[nn.Module]:
    """What follows a convolution that halves the map."""
    norms = nn.GroupNorm(8, width), nn.GroupNorm(8, width)
    return [norms[0], nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), norms[1], nn.ReLU()]


def stem_fit(dataset: Dataset) -> Fit:
    """The data set as a contract of its own would have it, with the statistics of its training part."""
    ((name, modality),) = dataset.modalities.items()
    mean, std = training_statistics(dataset, [name], at_most=32)[name]
    wanted = dataclasses.replace(modality, gsd_m=GSD_M, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    return fit(dataset, Contract(CONTRACT_FORMAT, "stem", f"encoder_{name}", {name: wanted}, {}, 1, 32, 0))


def run(dataset: Dataset, config: DetectionConfig, seed: int) -> tuple[DetectionMeasure, float]:
    """Train stem and head and score them on the test part; CPU seconds of this process beside it."""
    fitted = stem_fit(dataset)
    stem, begun = Stem(fitted.contract, seed=seed), time.process_time()
    trained = train_detector(stem, fitted, config, seed, list(stem.parameters()))
    return score_detector(trained, dataset.part("test")), time.process_time() - begun


def rows_of(name: str, root: Path, times: float, seed: int) -> list[list[str]]:
    dataset, config = open_dataset(name, root), CONFIGS[name]
    longer = dataclasses.replace(config, epochs=max(1, round(config.epochs * times)))
    runs = {
        f"trained, {longer.epochs} epochs": longer,
        "chance: fresh weights, all detections kept": dataclasses.replace(config, epochs=1, lr=0.0, least_score=0.0),
    }
    made = []
    for title, chosen in runs.items():
        measure, seconds = run(dataset, chosen, seed)
        cells = []
        for metric in METRICS:
            low, high = interval_of(measure, metric, 1000, seed)
            cells.append(f"{100 * value_of(measure, metric):.1f} [{100 * low:.1f}, {100 * high:.1f}]")
        made.append([name, title, *cells, str(measure.num_units), f"{seconds:.0f}"])
        print(" | ".join(made[-1]), flush=True)
    return made


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--only", choices=sorted(SETS), help="one data set; both by default")
    parser.add_argument("--times", type=float, default=1.0, help="factor on the epochs, such as 10 for an hour")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = [
        r
        for n, f in SETS.items()
        if args.only in (None, n)
        for r in rows_of(n, args.shared / "data" / f, args.times, args.seed)
    ]
    head = ["data set", "what", *METRICS, "scored objects", "CPU s of training and scoring"]
    only = f"--only {args.only} " if args.only else ""
    lines = [
        "# The detection head on real boxes",
        "",
        f"{datetime.date.today()}, `python -m benchmarks.detection SHARED {only}--times {args.times:g} --threads "
        f"{args.threads} --seed {args.seed}`; skyframe-eo {skyframe.__version__}, torch {torch.__version__}, Python "
        f"{platform.python_version()}, {platform.machine()} CPU, {args.threads} threads, no GPU.",
        "",
        "In %, on the test part, with the 95 % interval of 1000 draws of its images. A convolutional stem with fresh "
        "weights stands where an encoder would, so this tells that reading, head, losses and scores work on real "
        "boxes, and nothing of an encoder. HIT-UAV: 146 of 200 thermal images train and 42 test, four classes, two "
        "of the test objects are of the last. NEON: one image of Yellowstone trains, two plots of Florida and "
        "California test, so intervals over two images mean little.",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]
    (args.out / f"{datetime.date.today()}_detection.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
