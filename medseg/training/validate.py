"""Validation of a run: whole volumes through the same inference that a hospital uses."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np

from medseg.data.store import read_case
from medseg.metrics import dice_per_label
from medseg.model import load_networks, load_package
from medseg.segmenter import Segmenter
from medseg.training.run import MODEL_FOLDER, Run
from medseg.training.runlog import VALIDATED, RunLog

_FINAL_FACTOR = 1.5  # the final validation reads files and mirrors, the ones on the way do not
_RESERVE_S = 5.0


def validate(run: Run, records: RunLog) -> None:
    """Segment whole validation volumes on the network's grid; keep the model if it is the best so far."""
    start = time.monotonic()
    plain = run.package.inference.model_copy(update={"mirror_axes": ()})
    segmenter = Segmenter(
        run.package, [run.network], run.device, precision=run.config.training.precision, window=plain
    )
    values = run.package.labels.channel_values
    scores = []
    for number, (_, case) in enumerate(run.validation):
        prepared = case.whole()
        predicted = segmenter.segment_prepared(prepared, prepared.grid)
        scores.append(dice_per_label(predicted, values[case.label], run.package.labels.indices))
        run.observer.preparing("validation", number + 1, len(run.validation))
    dice = _by_name(run, scores)
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


def validate_best(run: Run) -> dict[str, float]:
    """Segment the validation images on their own grids, as a user would; write their Dice into the package."""
    folder = run.folder / MODEL_FOLDER
    package = load_package(folder)
    networks = load_networks(folder, package)
    segmenter = Segmenter(package, networks, run.device, precision=run.config.training.precision)
    scores = []
    for number, (case, _) in enumerate(run.validation):
        images, label = read_case(case)
        predicted = segmenter.segment(images)
        scores.append(dice_per_label(predicted.array, label.array, package.labels.indices))
        run.observer.preparing("final validation", number + 1, len(run.validation))
    dice = _by_name(run, scores)
    run.network.load_state_dict(networks[0].state_dict())
    _save_model(run, dice)
    return dice


def _save_model(run: Run, dice: Mapping[str, float]) -> None:
    known = {name: round(value, 6) if math.isfinite(value) else None for name, value in dice.items()}
    provenance = run.package.provenance.model_copy(
        update={"validation_dice": known, "created": datetime.now(UTC).isoformat(timespec="seconds")}
    )
    package = run.package.model_copy(update={"provenance": provenance})
    package.save(run.folder / MODEL_FOLDER, {f"fold_{run.config.data.fold}": run.network.state_dict()})


def _by_name(run: Run, scores: Sequence[Mapping[int, float]]) -> dict[str, float]:
    """Average each label's Dice over the cases where it is defined."""
    return {
        label.name: mean_dice({str(n): score[label.index] for n, score in enumerate(scores)})
        for label in run.package.labels
    }


def mean_dice(values: Mapping[str, float]) -> float:
    """Return the mean of the values that are defined, NaN where none is."""
    known = [value for value in values.values() if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
