from skyframe.evaluate.alarms import find_alarms
from tests.evaluate.test_protocol import make_row


def kinds(*rows):
    return [(a.kind, a.encoder) for a in find_alarms(rows)]


def row(name, role="encoder", value=0.8, **changes):
    return make_row(
        encoder=name, role=role, value=value, lo=value - 0.05, hi=value + 0.05, predictions_sha256=name, **changes
    )


def test_a_good_encoder_raises_none():
    assert kinds(row("m"), row("raw", "raw", 0.6), row("init", "random", 0.5), row("majority", "majority", 0.3)) == []


def test_identical_predictions_of_two_encoders_or_two_normalisers():
    assert kinds(row("a"), row("b")) == []
    twins = [row("a"), make_row(encoder="b", role="encoder", value=0.8, predictions_sha256="a", normaliser="dataset")]
    assert kinds(*twins) == [("identical", "b")]
    assert "a (x) and b (dataset) give the same prediction for every test row (0.8000)" in str(find_alarms(twins)[0])
    assert kinds(*[make_row(encoder=n, value=1.0, predictions_sha256="all right") for n in "ab"]) == []


def test_below_pixel_statistics():
    found = find_alarms([row("m", value=0.55), row("raw", "raw", 0.6)])
    assert [a.kind for a in found] == ["below_pixels"]
    assert "m 0.550 is below pixel statistics 0.600; check units and normaliser" in str(found[0])


def test_not_above_the_interval_of_random_weights():
    assert kinds(row("m", value=0.55), row("init", "random", 0.51)) == [("like_random", "m")]
    assert kinds(row("m", value=0.57), row("init", "random", 0.51)) == []


def test_collapsed_features():
    assert kinds(row("m", feature_std=0.001)) == [("collapsed", "m")]
    assert kinds(row("majority", "majority", feature_std=0.0)) == []


def test_only_rows_of_one_task_split_and_seed_are_compared():
    raw = row("raw", "raw", 0.9)
    for other in ({"task": "y"}, {"seed": 8}, {"split_sha256": "y"}, {"metric": "y"}, {"protocol": "linear"}):
        assert kinds(row("m", **other), raw) == []
    assert kinds(row("m", protocol="knn_k5"), row("raw", "raw", 0.9, protocol="knn_k5")) == []


def test_of_errors_less_is_better():
    raw, random = row("raw", "raw", 0.6, metric="rmse"), row("init", "random", 0.7, metric="rmse")
    assert kinds(row("m", value=0.5, metric="rmse"), raw, random) == []
    assert kinds(row("m", value=0.68, metric="rmse"), raw, random) == [("below_pixels", "m"), ("like_random", "m")]
