"""The report of a training: one HTML page that needs nothing but itself.

It shows the curves, the Dice of every class and case, the worst cases as pictures, the plan with its reasons, what
was changed on the way, the environment, the timings and the configuration. Whatever a run has not got yet is left
out, and the page says so.
Cases are named by their ids; no folder, host or user is named.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment

from medseg import __version__
from medseg.data.manifest import Dataset
from medseg.errors import InputError
from medseg.files import write_text
from medseg.labels import Label, LabelSet
from medseg.report.pages import templates
from medseg.report.runfolder import VALIDATION_FOLDER, Record, RunRecord, read_runs
from medseg.report.sections import curves, facts, parts_of_time, rows_of_environment, rows_of_folds
from medseg.report.tables import Scores, collect_scores
from medseg.report.text import duration, figure, plain, thousands
from medseg.report.worst import error_picture
from medseg.yamlfile import yaml_text

REPORT_FILE = "report.html"
WORST_CASES = 5


@dataclass(frozen=True)
class Picture:
    """One of the worst cases.

    Attributes:
        case: Its id.
        dice: Dice by label name, and their mean.
        png: A picture in base64; empty where there is none.
        reason: Why there is none.
    """

    case: str
    dice: Mapping[str, float]
    mean: float
    png: str = ""
    reason: str = ""


def write_training_report(run: Path, dataset: Dataset | None = None) -> Path:
    """Write ``report.html`` into a run folder, or into a folder of cross-validated runs ``fold_0``, ``fold_1`` ...

    Args:
        run: The folder.
        dataset: Where the images and the references of the worst cases are; they are not drawn where it is None.

    Returns:
        The page.

    Raises:
        UsageError: The folder holds no run.
        StorageError: The page cannot be written.
    """
    runs = read_runs(run)
    labels = _labels_of(runs, dataset)
    colors = _colors(labels, runs)
    scores = collect_scores([record.scores for record in runs], colors)
    template = _environment().get_template("training.html")
    page = template.render(
        title=runs[0].name,
        version=__version__,
        runs=runs,
        facts=facts(runs, scores),
        notes=_notes(run, runs),
        curves=curves(runs, colors),
        colors=colors,
        folds=rows_of_folds(runs) if len(runs) > 1 else [],
        scores=scores,
        pictures=_pictures(runs, scores, dataset, labels),
        plans=_plans(runs),
        changes=[(record, record.notes) for record in runs if record.notes],
        environment=rows_of_environment(runs),
        times=parts_of_time(runs),
        configs=[(record, yaml_text(record.config)) for record in runs],
    )
    write_text(run / REPORT_FILE, page)
    return run / REPORT_FILE


def _environment() -> Environment:
    """Return the templates, which escape whatever is put into them."""
    environment = templates(figure=figure, duration=duration, thousands=thousands, plain=plain)
    environment.tests["nan"] = math.isnan
    return environment


def _labels_of(runs: Sequence[RunRecord], dataset: Dataset | None) -> LabelSet:
    """Return the labels of a model, or of the data, or those that the scores name."""
    for run in runs:
        if run.labels is not None:
            return run.labels
    if dataset is not None:
        return dataset.labels
    names = {row.label: row.name for run in runs for row in run.scores.rows}
    return LabelSet.from_names(names or {1: "label 1"})


def _colors(labels: LabelSet, runs: Sequence[RunRecord]) -> dict[str, str]:
    """Return the CSS colour of every name that labels or scores have, such as that of a region."""
    known = {row.name: Label(index=row.label, name=row.name) for run in runs for row in run.scores.rows}
    return {label.name: _css(label) for label in (known | {label.name: label for label in labels}).values()}


def _plans(runs: Sequence[RunRecord]) -> list[tuple[str, list[Record], str]]:
    """Return whose each plan is, its numbers with their reasons, and the fingerprint as text.

    Whose it is stays empty where one plan is that of all runs.
    """
    planned = [run for run in runs if run.plan]
    one_for_all = len(planned) == len(runs) and all(run.plan == runs[0].plan for run in runs)
    found = []
    for run in planned[:1] if one_for_all else planned:
        reasons, fingerprint = run.plan.get("reasons"), run.plan.get("fingerprint")
        listed: list[Record] = [item for item in reasons or () if isinstance(item, dict)]
        text = yaml_text(fingerprint) if isinstance(fingerprint, dict) else ""
        found.append(("" if one_for_all else f"fold {run.fold}", listed, text))
    return found


def _css(label: Label) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in label.rgb)


def _notes(folder: Path, runs: Sequence[RunRecord]) -> list[str]:
    """Return what the reader must know before all else."""
    notes = []
    for run in runs:
        who = "This run" if len(runs) == 1 else f"Fold {run.fold}"
        if not run.is_validated:
            steps = max((record["step"] for record in run.epochs), default=0)
            notes.append(f"{who} is not finished: there is no final validation yet, after {steps:,} steps.")
    missing = [number for number in range(max((run.fold or 0) for run in runs)) if len(runs) > 1]
    lacking = sorted(set(missing) - {run.fold for run in runs})
    if lacking:
        notes.append(f"Of {folder.name} these folds are not there yet: {', '.join(map(str, lacking))}.")
    return notes


def _pictures(
    runs: Sequence[RunRecord], scores: Scores, dataset: Dataset | None, labels: LabelSet
) -> list[Picture]:
    """Draw the worst cases that the data set has."""
    if dataset is None:
        return []
    cases = {case.id: case for case in dataset.cases}
    files = {
        row.case: run.folder / VALIDATION_FOLDER / f"{row.case}.nii.gz" for run in runs for row in run.scores.rows
    }
    found = []
    for row in scores.cases[:WORST_CASES]:
        try:
            png, reason = error_picture(cases[row.case], files[row.case], dataset, labels), ""
        except KeyError:
            png, reason = b"", "the data set does not have this case"
        except InputError as error:
            png, reason = b"", f"expected {error.expected}, found {error.found}"
        found.append(Picture(row.case, row.dice, row.mean, base64.b64encode(png).decode(), reason))
    return found
