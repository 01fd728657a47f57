"""The final validation as tables: a row a class, a row a case, worst first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from statistics import fmean, median, stdev

from medseg.evaluation import Evaluation, Failure, Row
from medseg.report.chart import StripChart, strip_chart


@dataclass(frozen=True)
class ClassRow:
    """One class over all cases in which the prediction or the reference holds it.

    Attributes:
        name: Of the class.
        cases: How many.
        mean: Mean Dice.
        deviation: Standard deviation of the Dice; NaN below two cases.
        median: Median Dice.
        worst: Lowest Dice.
        worst_case: Case id of the lowest Dice.
        surface_dice: Mean.
        hd95_mm: Median over the cases where both hold the class, which one case does not spoil.
        one_sided: Cases in which only one of the two holds it.
    """

    name: str
    cases: int
    mean: float
    deviation: float
    median: float
    worst: float
    worst_case: str
    surface_dice: float
    hd95_mm: float
    one_sided: int


@dataclass(frozen=True)
class CaseRow:
    """One case: Dice by class name, their mean, and the class with the lowest."""

    case: str
    mean: float
    dice: Mapping[str, float]
    worst: str


@dataclass(frozen=True)
class Scores:
    """Everything about the final validation.

    Attributes:
        classes: Ordered by label value.
        cases: Lowest mean Dice first.
        failures: Cases that could not be measured.
        strips: The Dice of every case, or None.
        mean: Mean over the classes of their mean Dice; NaN without any.
        tolerance_mm: Of the surface Dice.
    """

    classes: Sequence[ClassRow]
    cases: Sequence[CaseRow]
    failures: Sequence[Failure]
    strips: StripChart | None
    mean: float
    tolerance_mm: float


def collect_scores(evaluations: Sequence[Evaluation], colors: Mapping[str, str]) -> Scores:
    """Put the evaluations of one or several folds together; a case and class without a Dice are left out.

    Args:
        evaluations: One a fold.
        colors: CSS colour by class name.
    """
    rows = [row for evaluation in evaluations for row in evaluation.rows if row.metrics.is_defined]
    names = [name for _, name in sorted({(row.label, row.name) for row in rows})]
    by_class = {name: [row for row in rows if row.name == name] for name in names}
    classes = [_class_row(name, found) for name, found in by_class.items()]
    by_case: dict[str, dict[str, float]] = {}
    for row in rows:
        by_case.setdefault(row.case, {})[row.name] = row.metrics.dice
    strips = {name: {row.case: row.metrics.dice for row in found} for name, found in by_class.items()}
    return Scores(
        classes=classes,
        cases=sorted(starmap(_case_row, by_case.items()), key=lambda row: (row.mean, row.case)),
        failures=[failure for evaluation in evaluations for failure in evaluation.failures],
        strips=strip_chart(strips, colors),
        mean=fmean(row.mean for row in classes) if classes else math.nan,
        tolerance_mm=next((item.tolerance_mm for item in evaluations if item.rows), 0.0),
    )


def _class_row(name: str, rows: Sequence[Row]) -> ClassRow:
    dice = [row.metrics.dice for row in rows]
    worst = min(rows, key=lambda row: row.metrics.dice)
    distances = [row.metrics.hd95_mm for row in rows if math.isfinite(row.metrics.hd95_mm)]
    return ClassRow(
        name=name,
        cases=len(rows),
        mean=fmean(dice),
        deviation=stdev(dice) if len(dice) > 1 else math.nan,
        median=median(dice),
        worst=worst.metrics.dice,
        worst_case=worst.case,
        surface_dice=fmean(row.metrics.surface_dice for row in rows),
        hd95_mm=median(distances) if distances else math.nan,
        one_sided=sum(row.metrics.is_one_sided for row in rows),
    )


def _case_row(case: str, dice: Mapping[str, float]) -> CaseRow:
    return CaseRow(case, fmean(dice.values()), dice, min(dice, key=lambda name: dice[name]))
