"""Tables of scores: what is written is what is read; anything else is refused."""

import math

import pytest

from medseg.errors import UsageError
from medseg.evaluation import Evaluation, Failure, Row, pooled, read_evaluation
from medseg.metrics import BOTH_EMPTY, LabelMetrics

ROWS = (
    Row("a,1", 1, "ball", LabelMetrics(0.5, 0.25, 3.0, 1.5, 2.0, 4.0, -50.0)),
    Row("a,1", 3, 'a "box"', BOTH_EMPTY),
    Row("b", 1, "ball", LabelMetrics(0.0, 0.0, math.inf, math.inf, 2.0, 0.0, math.inf)),
    Row("b", 3, 'a "box"', LabelMetrics(1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0)),
)


def test_a_table_is_read_as_it_was_written(tmp_path):
    written = Evaluation(ROWS, (Failure("c", "no prediction", "INPUT"),), 2.5)
    written.write_csv(tmp_path / "scores.csv")
    read = read_evaluation(tmp_path / "scores.csv")
    assert [(row.case, row.label, row.name) for row in read.rows] == [(r.case, r.label, r.name) for r in ROWS]
    assert repr(read.rows) == repr(ROWS)  # NaN is not equal to itself
    assert [(failure.case, failure.reason) for failure in read.failures] == [("c", "no prediction")]
    assert read.tolerance_mm == 2.5
    assert (read.mean_dice, read.mean_surface_dice) == ((0.25 + 1) / 2, (0.125 + 1) / 2)


def test_folds_are_pooled_by_case_and_not_by_fold():
    def fold(*dice):
        return Evaluation(
            tuple(Row(f"{n}", 1, "ball", LabelMetrics(d, 1, 0, 0, 1, 1, 0)) for n, d in enumerate(dice)), (), 2.0
        )

    whole = pooled([fold(0.5, 0.7, 0.9), fold(0.3)])
    assert whole.mean_dice == pytest.approx(2.4 / 4)
    assert (len(whole.rows), whole.tolerance_mm) == (4, 2.0)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dice,", "dise,", "KeyError"),
        ("0.500000", "half", "could not convert"),
        (",2.5,\nb,1", ",2.0,\nb,1", "ValueError"),
        ("surface_dice,hd95_mm", "hd95_mm", "Error"),
    ],
)
def test_another_table_is_refused(tmp_path, old, new, message):
    file = tmp_path / "scores.csv"
    Evaluation(ROWS, (), 2.5).write_csv(file)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(UsageError, match=f"scores.csv: expected a table of cases and labels.*{message}"):
        read_evaluation(file)


def test_a_missing_or_empty_table_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read_evaluation(tmp_path / "scores.csv")
    (tmp_path / "scores.csv").write_text("")
    with pytest.raises(UsageError, match="expected a table"):
        read_evaluation(tmp_path / "scores.csv")
