"""`skyframe report` as a user runs it: one run, or results of several encoders."""

import pytest

from skyframe.cli import main
from tests.evaluate.report.test_compare import scored


@pytest.fixture
def say(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr("sys.argv", ["skyframe", "report", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        out = capsys.readouterr()
        return code, out.out + out.err

    return run


def test_results_of_several_encoders_become_one_page(say, tmp_path):
    scored(tmp_path / "a", "alpha", 0.7)
    scored(tmp_path / "b", "beta", 0.8)
    assert say("a", "b/results.csv") == (0, "wrote comparison.html\n")
    text = (tmp_path / "comparison.html").read_text()
    assert "alpha" in text and "beta" in text and "Encoders compared" in text
    assert say("a", "--out", "p/one.html") == (0, "wrote p/one.html\n")
    assert "beta" not in (tmp_path / "p" / "one.html").read_text()


def test_a_run_with_results_beside_its_metrics_is_a_run(say, tmp_path):
    scored(tmp_path / "run", "alpha", 0.7)
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "total": 2.0}\n')
    assert say("run") == (0, "wrote run/report.html\n")
    assert "Encoders compared" not in (tmp_path / "run" / "report.html").read_text()
    code, told = say("run", "run/results.csv", "--scene", "x")
    assert code == 2 and "--scene is about one RUN, got RESULTS to compare; leave it out" in told


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["a", "nowhere"], "nowhere: no results, expected a results.csv"),
        (["nowhere"], "nowhere: no metrics.jsonl, expected a run folder"),
        (["nowhere.csv"], "nowhere.csv: no results, expected a results.csv"),
        (["a", "empty.csv"], "empty.csv: columns differ"),
        ([], "Missing argument"),
    ],
)
def test_what_is_no_result_is_one_sentence_and_writes_nothing(words, sentence, say, tmp_path):
    scored(tmp_path / "a", "alpha", 0.7)
    (tmp_path / "empty.csv").write_text("")
    code, told = say(*words)
    assert code == 2 and sentence in told and told.count("\n") == 1
    assert not list(tmp_path.glob("*.html"))
