import contextlib
import io
import itertools

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster
from shapely.geometry import Polygon

from skyframe.evaluate.heads.detections import DetectionMeasure, Found
from skyframe.evaluate.heads.shapes import corners_of, quads_of
from skyframe.evaluate.measures.measure import interval_of, paired_difference, value_of
from skyframe.spec import InputError

METRICS = ("map", "map50", "map75", "voc_map50", "voc07_map50")


def found(shapes, classes=None, scores=None, difficult=None):
    num = len(shapes)
    return Found(
        np.asarray(shapes, np.float32),
        np.zeros(num, np.int64) if classes is None else np.asarray(classes, np.int64),
        np.ones(num, np.float32) if scores is None else np.asarray(scores, np.float32),
        np.zeros(num, bool) if difficult is None else np.asarray(difficult, bool),
    )


def row(*lefts):
    """Boxes of 10 x 10 pixels in one row."""
    return np.array([[x, 0, x + 10, 10] for x in lefts], float).reshape(-1, 4)


def turned(boxes, angle):
    return np.column_stack([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2], angle])


def noise(num_images, seed, oriented=False, num_classes=3, hidden=0.15):
    """Truth, and answers that are the truth shaken, some missed, some invented, some in another class."""
    rng, answers, truths = np.random.default_rng(seed), [], []
    for _ in range(num_images):
        num = int(rng.integers(0, 9))
        low, size = rng.uniform(0, 80, (num, 2)), rng.uniform(8, 30, (num, 2))
        boxes, classes = np.hstack([low, low + size]), rng.integers(0, num_classes, num)
        take = rng.integers(0, num, 2 * num) if num else np.empty(0, int)
        shaken = boxes[take] + rng.normal(0, 2.5, (len(take), 4))
        shaken[:, 2:] = np.maximum(shaken[:, 2:], shaken[:, :2] + 1)
        guess = np.where(rng.random(len(take)) < 0.85, classes[take], rng.integers(0, num_classes, len(take)))
        scores, difficult = rng.random(len(take)).round(3), rng.random(num) < hidden
        if oriented:
            angle = rng.uniform(-3, 3, num)
            boxes = quads_of(turned(boxes, angle))
            shaken = quads_of(turned(shaken, angle[take] + rng.normal(0, 0.1, len(take))))
        answers.append(found(shaken, guess, scores))
        truths.append(found(boxes, classes, None, difficult))
    return answers, truths


def test_by_hand():
    truth = found(row(0, 100, 200))
    # right, a double of the first, wrong, right: precision 1, 1/2, 1/3, 2/4 at recall 1/3, 1/3, 1/3, 2/3
    answer = found(row(0, 1, 50, 100), scores=[0.9, 0.8, 0.7, 0.6])
    measure = DetectionMeasure([answer], [truth], 1)
    assert value_of(measure, "voc_map50") == pytest.approx(1 / 3 * 1 + 1 / 3 * 0.5)
    assert value_of(measure, "voc07_map50") == pytest.approx((4 * 1 + 3 * 0.5) / 11)  # levels 0 to 0.3, 0.4 to 0.6
    assert value_of(measure, "map50") == pytest.approx((34 * 1 + 33 * 0.5) / 101)
    assert measure.num_units == 3
    assert measure.num_clusters == 1


def test_overlap_decides_at_each_threshold():
    truth = found(row(0))
    close = found(row(2))  # 8 of 12 in common
    measure = DetectionMeasure([close], [truth], 1)
    assert value_of(measure, "map50") == 1.0
    assert value_of(measure, "map75") == 0.0
    assert value_of(measure, "map") == pytest.approx(0.4)  # right at 0.50, 0.55, 0.60 and 0.65


def test_objects_that_are_not_scored():
    truth = found([*row(0), [100, 0, 140, 10]], [0, -1], None, [False, True])
    # three small ones inside the region of no class, a wrong one, the right one
    answer = found(row(100, 112, 124, 60, 0), scores=[0.9, 0.8, 0.7, 0.6, 0.5])
    measure = DetectionMeasure([answer], [truth], 1)
    assert measure.num_units == 1
    assert value_of(measure, "map50") == pytest.approx(0.5)  # crowds swallow what lies inside them
    assert value_of(measure, "voc_map50") == pytest.approx(1 / 5)  # 10 of 40 pixels are no match under VOC
    whole = found(row(0, 100), None, None, [False, True])
    twice = found(row(100, 100, 0), scores=[0.9, 0.8, 0.7])
    for metric in METRICS:  # the same difficult object found twice is neither right nor wrong
        assert value_of(DetectionMeasure([twice], [whole], 1), metric) == pytest.approx(1.0)


def test_one_class_does_not_see_the_other():
    truth = found(row(0, 100), [0, 1])
    swapped = found(row(0, 100), [1, 0], [0.9, 0.8])
    assert value_of(DetectionMeasure([swapped], [truth], 2), "map50") == 0.0
    half = DetectionMeasure([found(row(0), [0])], [truth], 3)
    assert half.by_class("map50", np.ones((1, 1), int))[0].tolist() == pytest.approx([1.0, 0.0, np.nan], nan_ok=True)
    assert value_of(half, "map50") == pytest.approx(0.5)  # the third class has no object


def coco_boxes(parts):
    """Rows of COCO's lists; difficult objects as crowds."""
    rows = [
        {
            "image_id": image + 1, "category_id": int(c) + 1, "iscrowd": int(d), "score": float(s),
            "bbox": [*map(float, b[:2]), *map(float, b[2:] - b[:2])], "area": float((b[2:] - b[:2]).prod()),
        }
        for image, part in enumerate(parts)
        for b, c, d, s in zip(part.shapes, part.classes, part.difficult, part.scores, strict=True)
    ]  # fmt: skip
    return [{**row, "id": number + 1} for number, row in enumerate(rows)]


def coco_scores(answers, truths, num_classes):
    """The same by faster-coco-eval."""
    images = [{"id": i + 1, "height": 200, "width": 200} for i in range(len(truths))]
    kinds = [{"id": c + 1} for c in range(num_classes)]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO({"images": images, "annotations": coco_boxes(truths), "categories": kinds})
        evaluation = COCOeval_faster(truth, truth.loadRes(coco_boxes(answers)), "bbox")
        evaluation.run()
    return evaluation.stats[:3]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_boxes_agree_with_faster_coco_eval(seed):
    answers, truths = noise(40, seed)
    measure = DetectionMeasure(answers, truths, 3)
    own = [value_of(measure, m) for m in ("map", "map50", "map75")]
    assert own == pytest.approx(coco_scores(answers, truths, 3), abs=1e-6)
    assert 0.1 < own[0] < own[1] < 0.95


def test_more_than_a_hundred_detections_of_an_image():
    truth = found(row(0, 50))
    scores = [0.9, *np.linspace(0.8, 0.5, 110), 0.1]
    answer = found(np.vstack([row(0), row(*np.linspace(100, 180, 110)), row(50)]), scores=scores)
    measure = DetectionMeasure([answer], [truth], 1)
    assert value_of(measure, "map50") == pytest.approx(coco_scores([answer], [truth], 1)[1], abs=1e-6)
    assert value_of(measure, "map50") == pytest.approx(51 / 101)
    assert value_of(measure, "voc_map50") == pytest.approx(0.5 + 0.5 * 2 / 112)  # VOC has no such bound


def naive_voc(answers, truths, num_classes, eleven):
    """VOC's rule word by word, with shapely's polygons."""
    aps = []
    for c in range(num_classes):
        total = sum(int(((t.classes == c) & ~t.difficult).sum()) for t in truths)
        if not total:
            continue
        rows = [(s, i, k) for i, a in enumerate(answers) for k, s in enumerate(a.scores) if a.classes[k] == c]
        used, hits = set(), []
        for _, i, k in sorted(rows, key=lambda r: -r[0]):
            objects = [j for j in range(len(truths[i].classes)) if truths[i].classes[j] == c]
            mine = Polygon(answers[i].shapes[k].astype(float))
            shares = []
            for j in objects:
                other = Polygon(truths[i].shapes[j].astype(float))
                shares.append(mine.intersection(other).area / mine.union(other).area)
            best = int(np.argmax(shares)) if shares else -1
            if best < 0 or shares[best] < 0.5:
                hits.append(0)
            elif not truths[i].difficult[objects[best]]:
                hits.append(int((i, best) not in used))
                used.add((i, best))
        points = [(sum(hits[: n + 1]) / total, sum(hits[: n + 1]) / (n + 1)) for n in range(len(hits))]
        if eleven:
            best = [max([p for r, p in points if r >= level], default=0) for level in np.linspace(0, 1, 11)]
            aps.append(np.mean(best))
        else:
            levels = sorted({r for r, _ in points} | {0.0})
            aps.append(sum((b - a) * max(p for r, p in points if r >= b) for a, b in itertools.pairwise(levels)))
    return np.mean(aps)


@pytest.mark.parametrize("seed", [3, 4])
def test_oriented_agrees_with_the_naive_form(seed):
    answers, truths = noise(30, seed, oriented=True)
    measure = DetectionMeasure(answers, truths, 3)
    own = [value_of(measure, m) for m in ("voc_map50", "voc07_map50")]
    assert own == pytest.approx([naive_voc(answers, truths, 3, eleven) for eleven in (False, True)], abs=1e-9)
    assert 0.2 < own[0] < 0.95


def test_straight_corners_score_as_boxes():
    answers, truths = noise(20, 5)
    corners = [
        [Found(corners_of(f.shapes).astype(np.float32), f.classes, f.scores, f.difficult) for f in part]
        for part in (answers, truths)
    ]
    boxes, quads = DetectionMeasure(answers, truths, 3), DetectionMeasure(*corners, 3)
    for metric in METRICS:
        assert value_of(quads, metric) == pytest.approx(value_of(boxes, metric), abs=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_counting_an_image_twice_is_giving_it_twice(metric):
    answers, truths = noise(12, 6)
    measure = DetectionMeasure(answers, truths, 3, clusters=[i // 2 for i in range(12)])
    assert measure.num_clusters == 6
    counts = np.random.default_rng(1).multinomial(6, [1 / 6] * 6, size=4)
    for draw, score in zip(counts, measure.scores(metric, counts), strict=True):
        rows = [i for i in range(12) for _ in range(draw[i // 2])]
        again = DetectionMeasure([answers[i] for i in rows], [truths[i] for i in rows], 3)
        assert score == pytest.approx(value_of(again, metric), abs=1e-12)


def test_intervals_and_paired_differences():
    answers, truths = noise(40, 7)
    better, worse = DetectionMeasure(answers, truths, 3), DetectionMeasure([found(np.empty((0, 4)))] * 40, truths, 3)
    low, high = interval_of(better, "map50", 100, 0)
    assert low < value_of(better, "map50") < high
    assert value_of(worse, "map50") == 0.0
    assert paired_difference(better, worse, "map50", 100, 0) == pytest.approx((value_of(better, "map50"), low, high))


def test_nothing_to_score_is_not_a_number_and_other_metrics_are_refused():
    measure = DetectionMeasure([found(row(0))], [found(row())], 1)
    assert np.isnan(value_of(measure, "map"))
    with pytest.raises(InputError, match=r"metric 'map_50' is not of detections, .*did you mean 'map50'"):
        value_of(measure, "map_50")
