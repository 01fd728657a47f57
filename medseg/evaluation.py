"""`Evaluation`: the figures of every case and label, the cases that failed, the means; written and read as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path

from medseg.errors import UsageError
from medseg.files import write_text
from medseg.metrics import LabelMetrics

METRIC_COLUMNS = tuple(item.name for item in fields(LabelMetrics))
CSV_COLUMNS = ("case", "label", "name", *METRIC_COLUMNS, "tolerance_mm", "error")


@dataclass(frozen=True)
class Row:
    """The figures of one label of one case.

    Attributes:
        case: Name of the case.
        label: Label value.
        name: Label name.
        metrics: The figures.
    """

    case: str
    label: int
    name: str
    metrics: LabelMetrics


@dataclass(frozen=True)
class Failure:
    """A case that could not be compared.

    Attributes:
        case: Name of the case.
        reason: Why, as one sentence.
        code: Stable code of the error.
    """

    case: str
    reason: str
    code: str


@dataclass(frozen=True)
class LabelSummary:
    """The figures of one label over all cases; NaN where no case gives one.

    Attributes:
        label: Label value.
        name: Label name.
        cases: Cases in which the prediction or the reference holds the label.
        one_sided: Of these, the cases in which only one of the two does.
        dice: Mean over `cases`.
        surface_dice: Mean over `cases`.
        hd95_mm: Mean over the cases in which both hold the label.
        assd_mm: Mean over the cases in which both hold the label.
        volume_error_percent: Signed mean over the cases whose reference holds the label.
    """

    label: int
    name: str
    cases: int
    one_sided: int
    dice: float
    surface_dice: float
    hd95_mm: float
    assd_mm: float
    volume_error_percent: float


@dataclass(frozen=True)
class Evaluation:
    """What came of comparing predictions with references.

    Attributes:
        rows: One for each measured case and label, ordered by case and label value.
        failures: The cases that could not be compared, ordered by name.
        tolerance_mm: The tolerance of the surface Dice.
        without_reference: Names of the predictions that no reference belongs to; they were left out.
        unlisted: Label values that were found but not measured, as no label has them: {value: cases}.
    """

    rows: tuple[Row, ...]
    failures: tuple[Failure, ...]
    tolerance_mm: float
    without_reference: tuple[str, ...] = ()
    unlisted: dict[int, int] = field(default_factory=dict)

    @cached_property
    def cases(self) -> tuple[str, ...]:
        """Names of the measured cases, in order."""
        return tuple(dict.fromkeys(row.case for row in self.rows))

    @cached_property
    def summary(self) -> tuple[LabelSummary, ...]:
        """The means of each label, ordered by label value."""
        by_label: dict[tuple[int, str], list[LabelMetrics]] = {}
        for row in self.rows:
            by_label.setdefault((row.label, row.name), []).append(row.metrics)
        return tuple(_summarize(label, name, found) for (label, name), found in sorted(by_label.items()))

    @property
    def mean_dice(self) -> float:
        """Mean over the labels of their mean Dice, without background; NaN where nothing was measured."""
        return _mean(label.dice for label in self.summary)

    @property
    def mean_surface_dice(self) -> float:
        """Mean over the labels of their mean surface Dice; NaN where nothing was measured."""
        return _mean(label.surface_dice for label in self.summary)

    def write_csv(self, path: Path) -> None:
        """Write a line for each row and each failure, atomically, under the header `CSV_COLUMNS`.

        Figures have six decimals, or are ``nan`` or ``inf``; a failure has a case and an error only.

        Raises:
            StorageError: The file cannot be written.
        """
        stream = io.StringIO()
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(CSV_COLUMNS)
        for row in self.rows:
            figures = [f"{getattr(row.metrics, column):.6f}" for column in METRIC_COLUMNS]
            table.writerow([row.case, row.label, row.name, *figures, self.tolerance_mm, ""])
        for failure in self.failures:
            blanks = [""] * (2 + len(METRIC_COLUMNS))
            table.writerow([failure.case, *blanks, self.tolerance_mm, failure.reason])
        write_text(path, stream.getvalue())


def pooled(parts: Sequence[Evaluation]) -> Evaluation:
    """Return the evaluation of all cases of several ones, such as those of the folds of a cross-validation.

    Args:
        parts: At least one; of different cases, at one tolerance.
    """
    return Evaluation(
        rows=tuple(row for part in parts for row in part.rows),
        failures=tuple(failure for part in parts for failure in part.failures),
        tolerance_mm=parts[0].tolerance_mm,
    )


def read_evaluation(path: Path) -> Evaluation:
    """Read a table that `Evaluation.write_csv` has written.

    Returns:
        The rows in the order of the table, the figures with the six decimals that it has.

    Raises:
        UsageError: The file is not there, or is no such table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            lines = list(csv.DictReader(stream, strict=True))
        rows = tuple(_row(line) for line in lines if not line["error"])
        failures = tuple(Failure(line["case"], line["error"], "") for line in lines if line["error"])
        (tolerance_mm,) = {float(line["tolerance_mm"]) for line in lines}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        missing = isinstance(error, FileNotFoundError)
        raise UsageError(
            path,
            expected="a table of cases and labels with one tolerance",
            found="no such file" if missing else f"{type(error).__name__}: {error}",
            remedy="make it again with medseg evaluate --csv or medseg train",
        ) from error
    return Evaluation(rows, failures, tolerance_mm)


def _row(line: dict[str, str]) -> Row:
    metrics = LabelMetrics(*(float(line[column]) for column in METRIC_COLUMNS))
    return Row(line["case"], int(line["label"]), line["name"], metrics)


def _summarize(label: int, name: str, found: list[LabelMetrics]) -> LabelSummary:
    defined = [metrics for metrics in found if metrics.is_defined]
    return LabelSummary(
        label=label,
        name=name,
        cases=len(defined),
        one_sided=sum(metrics.is_one_sided for metrics in defined),
        dice=_mean(metrics.dice for metrics in defined),
        surface_dice=_mean(metrics.surface_dice for metrics in defined),
        hd95_mm=_mean(metrics.hd95_mm for metrics in defined),
        assd_mm=_mean(metrics.assd_mm for metrics in defined),
        volume_error_percent=_mean(metrics.volume_error_percent for metrics in defined),
    )


def _mean(values: Iterable[float]) -> float:
    """Return the mean of the finite values, NaN where there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan
