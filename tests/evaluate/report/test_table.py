import io

from rich.console import Console

from skyframe.evaluate.report.table import Cell, encoders_of, is_main, pivot, results_table
from tests.evaluate.test_protocol import make_row


def rows():
    return [
        make_row(encoder="mine", value=0.6, lo=0.5, hi=0.7, seed=0),
        make_row(encoder="mine", value=0.8, lo=0.75, hi=0.9, seed=1),
        make_row(encoder="raw", role="raw", value=0.4, lo=0.3, hi=0.5, seed=0),
        make_row(encoder="raw", role="raw", value=0.1, lo=0.0, hi=0.2, seed=0, protocol="knn_k5"),
        make_row(encoder="most", role="majority", protocol="majority", value=0.2, lo=0.1, hi=0.3, seed=0),
    ]


def test_seeds_are_averaged_and_the_interval_covers_theirs():
    line, neighbours = pivot(rows())
    assert list(line.cells) == ["most", "raw", "mine"] == encoders_of(rows())
    assert line.cells["mine"] == Cell(0.7, 0.5, 0.9, 2)
    assert line.best == ("mine",)
    assert (is_main(line), is_main(neighbours)) == (True, False)
    assert list(neighbours.cells) == ["most", "raw"]


def test_the_last_row_of_a_score_counts():
    newer = make_row(encoder="mine", value=0.9, lo=0.8, hi=1.0, seed=0, weights_sha256="new")
    assert pivot([rows()[0], newer])[0].cells["mine"].value == 0.9


def test_terminal_table_shows_per_cent_and_intervals():
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(results_table(rows()))
    text = console.export_text()
    assert "70.0 [50.0, 90.0]" in text
    assert text.index("knn ") < text.index("knn_k5")
