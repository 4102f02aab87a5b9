"""Protocols that train a head on an encoder's maps, within a suite."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from skyframe.config.detection import DetectionConfig
from skyframe.config.heads import HeadTraining
from skyframe.evaluate.datasets.dataset import Dataset
from skyframe.evaluate.datasets.samples_picture import look_of
from skyframe.evaluate.feed.features import device_of, to_device
from skyframe.evaluate.feed.fit import Fit
from skyframe.evaluate.feed.inputs import reader_of
from skyframe.evaluate.heads.dense import feature_maps
from skyframe.evaluate.heads.detect import score_detector, train_detector
from skyframe.evaluate.heads.few_labels import few_labels
from skyframe.evaluate.heads.predict import Trained, measure_items, predict
from skyframe.evaluate.heads.train import train_head
from skyframe.evaluate.measures.confusion import ConfusionMeasure
from skyframe.evaluate.protocol import Subject
from skyframe.evaluate.record import Shown, make_rows, write_head_log
from skyframe.evaluate.report.log_view import PredictedMap, write_map
from skyframe.evaluate.run import Run
from skyframe.evaluate.scoring import Prediction
from skyframe.evaluate.task import Task

MAPS = 4
"""Predicted maps that are kept beside a log, of the first test items."""


@dataclass(frozen=True)
class Answer:
    """What a trained head answered, and what its log says beside that."""

    prediction: Prediction
    about: dict[str, Any]
    arrays: Mapping[str, Any] = field(default_factory=dict)


def score_heads(run: Run, subject: Subject, task: Task, seed: int) -> None:
    """Rows of one encoder for the task's heads that have none yet."""
    for protocol in task.heads:
        config = run.suite.training(protocol)
        if subject.role == "raw" and isinstance(config, HeadTraining) and config.encoder != "frozen":
            continue  # there is nothing to train below the head
        if run.done(task, protocol, subject, seed):
            continue
        start, fit = time.perf_counter(), run.fit_of(subject, task, task.config.normalisers[0])
        log = run.log_of(task, protocol, subject, seed)
        with_labels = few_labels(fit.dataset, fit.dataset.part("train"), task.config.label_share, seed)
        fit = dataclasses.replace(fit, dataset=_trained_on(fit.dataset, with_labels))
        if isinstance(config, DetectionConfig):
            answer = _detect(run, subject, fit, config, protocol, seed)
        else:
            answer = _train(run, subject, task, fit, config, protocol, seed, log)
        shown = Shown(
            suite=run.suite.name, task=task.name, kind=task.kind, metrics=task.metrics, seed=seed,
            weights_sha256=run.weights_of(subject), source=fit.note, normaliser=fit.normaliser,
            split=fit.dataset.split_sha256, start=start, spread=1.0,
        )  # fmt: skip
        write_head_log(log, subject, answer.prediction, shown, answer.about, answer.arrays)
        settings = task.settings(run.suite, protocol)
        run.append(make_rows(subject, answer.prediction, shown, run.suite.bootstrap, settings, log))


def _trained_on(dataset: Dataset, items: list[Any]) -> Dataset:
    """The data set without the training items that carry no label."""
    kept = {i.key for i in items}
    return dataclasses.replace(dataset, items=tuple(i for i in dataset.items if i.part != "train" or i.key in kept))


def _train(
    run: Run, subject: Subject, task: Task, fit: Fit, config: HeadTraining, protocol: str, seed: int, log: Path
) -> Answer:
    frames = {**fit.contract.frames, **task.config.frames}
    compares = task.kind in ("change", "semantic_change")
    read = reader_of(fit, frames, task.config.regions, seed, all_dates=compares)
    if not config.metric and task.metrics[0] not in ("top1", "top5"):
        config = dataclasses.replace(config, metric=task.metrics[0])
    parts = {part: fit.dataset.part(part) for part in ("train", "val")}
    trained = train_head(subject.encoder, fit, parts, config, seed, run.out_dir / "heads", read, run.show_progress)
    measure = measure_items(trained, fit.dataset.part("test"), show_progress=run.show_progress)
    counts = measure.counts if isinstance(measure, ConfusionMeasure) else np.empty(0)
    scores = [{k: v for k, v in row.items() if k not in ("epoch", "loss")} for row in trained.history]
    validation = {f"epoch={i}": v for i, row in enumerate(scores, 1) for v in row.values()}
    how = f"head={config.head.kind} encoder={config.encoder} lr={config.lr:g}"
    values = measure.scores(task.metrics[0], np.eye(measure.num_clusters, dtype=np.int64))
    prediction = Prediction(protocol, values, measure, f"{trained.chosen} {how}", "epochs", validation, False)
    entry: dict[str, Any] = {"classes": list(fit.dataset.classes), "history": list(trained.history)}
    if isinstance(measure, ConfusionMeasure):
        entry["confusion_true_by_predicted"] = counts.sum(0).tolist()
        entry["classes"] = list(measure.classes)
    if task.kind in ("pixel", "change"):
        entry["maps"] = _maps(trained, fit, protocol, log, tuple(entry["classes"]))
    return Answer(prediction, entry, {"counts": counts})


def _maps(trained: Trained, fit: Fit, protocol: str, log: Path, classes: tuple[str, ...]) -> list[str]:
    """The first test items' maps, written beside the log."""
    names = []
    items = fit.dataset.part("test")[:MAPS]
    for number, (item, truth, scores) in enumerate(predict(trained, items)):
        name, sample = next(iter(fit.matches)), fit.dataset.read(item)
        picture = look_of(sample.series[name], fit.dataset.modalities[name], 0) if name in sample.series else None
        found = PredictedMap(item.key, protocol, truth.astype(np.int64), scores.argmax(0), classes, picture)
        names.append(write_map(log.with_name(f"{log.stem}-map{number}.npz"), found))
    return names


def _detect(run: Run, subject: Subject, fit: Fit, config: DetectionConfig, protocol: str, seed: int) -> Answer:
    source = next(iter(fit.matches.values())).want.name
    maps = partial(_maps_of, subject.encoder, source)
    trained = train_detector(maps, fit, config, seed, show=run.show_progress)
    measure = score_detector(trained, fit.dataset.part("test"), run.show_progress)
    values = measure.scores("map50", np.eye(measure.num_clusters, dtype=np.int64))
    chosen = f"epoch={config.epochs} last, lr={config.lr:g} frozen"
    prediction = Prediction(protocol, values, measure, chosen, "fixed", {}, False)
    return Answer(prediction, {"classes": list(fit.dataset.classes)})


def _maps_of(encoder: Any, source: str, batch: Any) -> list[Any]:
    return feature_maps(encoder, to_device(batch, device_of(encoder)), "all", source)
