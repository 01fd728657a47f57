"""The parts of a training report that are lists of facts: summary, curves, folds, environment, timings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from medseg.report.chart import Chart, Series, line_chart
from medseg.report.runfolder import RunRecord, is_number
from medseg.report.tables import Scores
from medseg.report.text import NOTHING, duration, figure, plain, thousands

Fact = tuple[str, str]

_PARTS = {
    "measuring_s": "measuring the data",
    "storing_s": "preprocessing",
    "training_s": "training",
    "validation_s": "validation on the way",
    "final_validation_s": "final validation",
}
_ENVIRONMENT_NAMES = {
    "medseg": "medseg",
    "python": "Python",
    "torch": "PyTorch",
    "monai": "MONAI",
    "numpy": "NumPy",
    "system": "operating system",
    "cpu": "processor",
    "memory_gib": "memory, GiB",
    "gpus": "GPU",
    "cuda": "CUDA",
    "driver": "GPU driver",
}
_FOLD_COLORS = ("#3b82c4", "#d9822b", "#3a9d6a", "#c4476e", "#7d5fc4", "#8a8f2e", "#2f9aa8", "#9a6b4b")


def facts(runs: Sequence[RunRecord], scores: Scores) -> list[Fact]:
    """Return what stands at the top of the page."""
    seconds = [run.seconds for run in runs if run.seconds is not None]
    trained = set(_numbers([run.part("provenance") for run in runs], "training_cases"))
    network = runs[0].part("network") or runs[0].config.get("network", {})
    folds = ", ".join(str(run.fold) for run in runs if run.fold is not None)
    return [
        ("mean Dice", figure(scores.mean)),
        ("data set", _dataset(runs[0])),
        ("fold" if len(runs) == 1 else "folds", folds or NOTHING),
        ("cases trained on", " or ".join(thousands(count) for count in sorted(trained)) or NOTHING),
        ("cases validated on", str(len(scores.cases) + len(scores.failures)) if _any_validated(runs) else NOTHING),
        ("network", str(network.get("name", NOTHING))),
        ("steps", thousands(max((_last_step(run) for run in runs), default=0) or None)),
        ("time" if len(runs) == 1 else "time, all folds", duration(math.fsum(seconds) if seconds else None)),
    ]


def curves(runs: Sequence[RunRecord], colors: Mapping[str, str]) -> list[Chart]:
    """Return the charts of loss, learning rate and Dice over the steps; a line a fold where there are several."""
    charts = [
        line_chart("Loss, mean of an epoch", _over_runs(runs, "epochs", "loss")),
        line_chart("Dice of validations on the way", _dice(runs, colors)),
        line_chart("Learning rate", _over_runs(runs[:1], "epochs", "learning_rate")),
    ]
    return [chart for chart in charts if chart is not None]


def rows_of_folds(runs: Sequence[RunRecord]) -> list[tuple[str, str, str, str]]:
    """Return fold, validated cases, mean Dice and time of each run, and the mean and deviation over the folds."""
    rows = [
        (
            f"fold {run.fold}",
            str(len(run.scores.cases)) if run.is_validated else NOTHING,
            figure(run.scores.mean_dice),
            duration(run.seconds),
        )
        for run in runs
    ]
    dice = [run.scores.mean_dice for run in runs if math.isfinite(run.scores.mean_dice)]
    if len(dice) > 1:
        rows.append(("mean ± deviation", "", f"{figure(fmean(dice))} ± {figure(stdev(dice))}", ""))
    return rows


def rows_of_environment(runs: Sequence[RunRecord]) -> list[Fact]:
    """Return name and value; the values of several runs where they differ."""
    keys = dict.fromkeys(key for run in runs for key in run.environment)
    rows = []
    for key in keys:
        values = dict.fromkeys(_hardware(run.environment.get(key)) for run in runs if run.environment)
        rows.append((_ENVIRONMENT_NAMES.get(key, key.replace("_", " ")), "; ".join(values)))
    return rows


def parts_of_time(runs: Sequence[RunRecord]) -> list[tuple[str, str, float]]:
    """Return name, time and share of each part, summed over the runs; then what made the training slower."""
    totals: dict[str, float] = {}
    for run in runs:
        for key, value in run.timings.items():
            totals[key] = totals.get(key, 0.0) + value
    whole = math.fsum(totals.values()) or 1.0
    rows = [
        (_PARTS.get(key, key.removesuffix("_s").replace("_", " ")), duration(value), value / whole)
        for key, value in totals.items()
    ]
    waiting = [value for run in runs for value in _numbers(run.epochs, "waiting_share")]
    if waiting:
        rows.append(("share of the training that waited for data", f"{100 * fmean(waiting):.1f} %", math.nan))
    skipped = [max(_numbers(run.epochs, "skipped_steps"), default=0.0) for run in runs]
    if any(skipped):
        rows.append(("steps skipped, as the loss was not finite", f"{sum(skipped):.0f}", math.nan))
    return rows


def _dataset(run: RunRecord) -> str:
    manifest = str(run.config.get("data", {}).get("manifest", NOTHING))
    return str(run.part("provenance").get("dataset", manifest.removeprefix("…/").removesuffix(".yaml")))


def _any_validated(runs: Sequence[RunRecord]) -> bool:
    return any(run.is_validated for run in runs)


def _last_step(run: RunRecord) -> float:
    return max((float(record["step"]) for record in (*run.epochs, *run.validations)), default=0.0)


def _numbers(records: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [float(record[key]) for record in records if is_number(record.get(key))]


def _points(records: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Return (step, value) of the records that have the key; null becomes NaN."""
    found = [(record["step"], record[key]) for record in records if key in record]
    return [(float(step), float(value) if is_number(value) else math.nan) for step, value in found]


def _over_runs(runs: Sequence[RunRecord], records: str, key: str) -> list[Series]:
    several = len(runs) > 1
    return [
        Series(
            f"fold {run.fold}" if several else "",
            _points(getattr(run, records), key),
            _FOLD_COLORS[number % len(_FOLD_COLORS)] if several else "var(--accent)",
        )
        for number, run in enumerate(runs)
    ]


def _dice(runs: Sequence[RunRecord], colors: Mapping[str, str]) -> list[Series]:
    """Return a line a class and the mean of one run, or the mean of each of several."""
    if len(runs) > 1:
        return _over_runs(runs, "validations", "dice")
    records = runs[0].validations
    names = dict.fromkeys(key.removeprefix("dice/") for record in records for key in record if key != "dice")
    lines = [
        Series(name, _points(records, f"dice/{name}"), colors.get(name, "var(--faint)"))
        for name in names
        if name != "step"
    ]
    return [*lines, Series("mean", _points(records, "dice"), "var(--ink)", bold=True)]


def _hardware(value: object) -> str:
    if isinstance(value, list):
        gpus = [f"{gpu.get('name')}, {plain(gpu.get('memory_gib'))} GiB" for gpu in value if isinstance(gpu, dict)]
        return "; ".join(f"{gpus.count(gpu)} × {gpu}" for gpu in dict.fromkeys(gpus)) or "none"
    return plain(value)
