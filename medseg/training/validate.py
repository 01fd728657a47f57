"""Validation of a run: whole volumes through the same inference that a hospital uses."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import numpy as np
import torch
from numpy.typing import NDArray

from medseg.data.coarse import read_coarse
from medseg.data.store import read_case
from medseg.errors import ModelError, TrainingError
from medseg.evaluation import METRIC_COLUMNS, Evaluation, Row
from medseg.files import write_text
from medseg.metrics import DEFAULT_TOLERANCE_MM, LabelMetrics
from medseg.model import load_networks, load_package
from medseg.nifti import write_nifti
from medseg.scores import dice_by_name, metrics_of
from medseg.segmenter import Segmenter
from medseg.training.run import MODEL_FOLDER, Run
from medseg.training.runlog import VALIDATED, Records

VALIDATION_FOLDER = "validation"
SCORES_FILE = "scores.csv"
TIMINGS_FILE = "timings.json"

_FINAL_FACTOR = 2.0  # the final validation reads files, mirrors and measures surfaces, the ones on the way do not
_RESERVE_S = 5.0

Table = NDArray[np.float64]


def validate(run: Run, records: Records) -> None:
    """Segment whole validation volumes on the network's grid; keep the model if it is the best so far."""
    start = time.monotonic()
    plain = run.package.inference.model_copy(update={"mirror_axes": ()})
    segmenter = Segmenter(
        run.package,
        [run.shown],
        run.device,
        precision=run.config.training.precision,
        window=plain,
        channels_last=run.config.training.channels_last,
    )
    scheme = run.package.scheme
    values = scheme.labels.class_values(scheme.ignore_value)

    def score(number: int) -> Table:
        prepared = run.data.validation[number][1].whole()
        try:
            predicted = segmenter.segment_prepared(prepared, prepared.grid)
        except ModelError as error:
            raise _diverged(run, error) from error
        return np.array(list(dice_by_name(predicted, values[prepared.label], scheme).values()))

    with run.timed("validation_s"):
        dice = _by_name(run, _over_cases(run, "validation", score))
    mean = mean_dice(dice)
    is_best = run.state.best_dice is None or mean > run.state.best_dice
    if is_best:
        run.state.best_dice = mean if math.isfinite(mean) else None
        _save_model(run, dice)
    run.state.validated_step = run.state.step
    run.state.validation_due = False
    records.write(run.state.step, {VALIDATED: mean} | {f"dice/{name}": value for name, value in dice.items()})
    run.observer.validated(run.state.step // run.config.training.steps_per_epoch, dice, is_best)
    flips = 2 ** len(run.package.inference.mirror_axes)
    run.pace.reserve_s = (1 + _FINAL_FACTOR * flips) * (time.monotonic() - start) + _RESERVE_S


def _diverged(run: Run, error: ModelError) -> TrainingError:
    return TrainingError(
        f"step {run.state.step}",
        expected="a network that can be validated",
        found=str(error),
        remedy="lower training.optimizer.learning_rate, or use precision: fp32",
    )


def validate_best(run: Run) -> dict[str, float]:
    """Segment the validation images on their own grids, as a user would.

    The label maps and their figures are left in ``validation/``, the Dice is written into the package.
    """
    run.world.wait()  # for the package
    folder = run.folder / MODEL_FOLDER
    package = load_package(folder)
    networks = load_networks(folder, package)
    segmenter = Segmenter(package, networks, run.device, precision=run.config.training.precision)

    def score(number: int) -> Table:
        case, _ = run.data.validation[number]
        images, label = read_case(case)
        predicted = segmenter.segment(images, coarse=read_coarse(case))
        write_nifti(run.folder / VALIDATION_FOLDER / f"{case.id}.nii.gz", predicted)
        found = metrics_of(predicted.array, label.array, package.scheme, label.grid.spacing_mm)
        return np.array([[getattr(metrics, name) for name in METRIC_COLUMNS] for metrics in found.values()])

    with run.timed("final_validation_s"):
        figures = _over_cases(run, "final validation", score, len(METRIC_COLUMNS))  # cases, labels, figures
    dice = _by_name(run, figures[..., METRIC_COLUMNS.index("dice")])
    run.shown.load_state_dict(networks[0].state_dict())
    _save_model(run, dice)
    if run.world.is_first:
        _evaluation(run, figures).write_csv(run.folder / VALIDATION_FOLDER / SCORES_FILE)
        write_text(run.folder / TIMINGS_FILE, json.dumps(run.state.times, indent=1) + "\n")
    return dice


def _over_cases(run: Run, what: str, score: Callable[[int], Table], *figures: int) -> Table:
    """Return the figures (cases, labels, *figures) of all validation cases; each process segments some of them.

    Raises:
        StopTraining: The training was asked to stop.
    """
    count, size = len(run.data.validation), run.world.size
    table = np.zeros((count, len(run.package.scheme.targets), *figures))
    for first in range(0, count, size):
        run.agree()
        number = first + run.world.rank
        if number < count:
            table[number] = score(number)
        run.observer.preparing(what, min(first + size, count), count)
    return run.world.sum(torch.from_numpy(table).to(run.device)).cpu().numpy()


def _evaluation(run: Run, figures: Table) -> Evaluation:
    rows = [
        Row(case.id, value, name, LabelMetrics(*map(float, of_target)))
        for (case, _), of_case in zip(run.data.validation, figures, strict=True)
        for (value, name), of_target in zip(run.package.scheme.names.items(), of_case, strict=True)
    ]
    rows.sort(key=lambda row: (row.case, row.label))
    return Evaluation(tuple(rows), (), DEFAULT_TOLERANCE_MM)


def _save_model(run: Run, dice: Mapping[str, float]) -> None:
    if not run.world.is_first:
        return
    known = {name: round(value, 6) if math.isfinite(value) else None for name, value in dice.items()}
    provenance = run.package.provenance.model_copy(
        update={"validation_dice": known, "created": datetime.now(UTC).isoformat(timespec="seconds")}
    )
    package = run.package.model_copy(update={"provenance": provenance})
    package.save(run.folder / MODEL_FOLDER, {f"fold_{run.config.data.fold}": run.shown.state_dict()})


def _by_name(run: Run, dice: Table) -> dict[str, float]:
    """Average the Dice (cases, labels or regions) of each over the cases where it is defined."""
    return {
        name: mean_dice({str(n): float(value) for n, value in enumerate(column)})
        for name, column in zip(run.package.scheme.targets, dice.T, strict=True)
    }


def mean_dice(values: Mapping[str, float]) -> float:
    """Return the mean of the values that are defined, NaN where none is."""
    known = [value for value in values.values() if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
