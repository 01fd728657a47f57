"""What nnU-Net's results tell of the training cases, and how well each fold did on those that it left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medseg.data.fingerprint import Fingerprint, IntensityStatistics, Triple
from medseg.errors import ModelError
from medseg.nnunet.results import Results, read_json
from medseg.regions import LabelScheme

_FINGERPRINT_FILE = "dataset_fingerprint.json"
_SUMMARY_FILE = "validation/summary.json"
_STATISTICS = "foreground_intensity_properties_per_channel"
_OF_ALL_CASES = ("smallest_spacing_mm", "largest_spacing_mm", "smallest_extent_mm", "largest_extent_mm")
_OLD_STATISTICS = "foreground_intensity_properties_by_modality"


def envelope_of(results: Results) -> Fingerprint:
    """Return what is known of the training cases.

    nnU-Net measures images as their files store them, with the last axis first, after cropping to what is not zero.
    Where the fingerprint is not beside the plans, the medians of the plans stand for all cases, and the smallest
    and largest sizes are zeros: nobody knows them.

    Raises:
        ModelError: The plans lack what nnU-Net writes there.
    """
    plans, file = results.plans, results.folder / _FINGERPRINT_FILE
    measured = read_json(file) if file.is_file() else {}
    try:
        back = plans["transpose_backward"]
        spacing = np.array([[plans["original_median_spacing_after_transp"][axis] for axis in back]], float)
        shape = np.array([[plans["original_median_shape_after_transp"][axis] for axis in back]], float)
        if measured:
            spacing, shape = np.array(measured["spacings"], float), np.array(measured["shapes_after_crop"], float)
        statistics = measured.get(_STATISTICS) or plans.get(_STATISTICS) or plans[_OLD_STATISTICS]
        envelope = _fingerprint(
            cases=len(spacing) if measured else int(results.dataset.get("numTraining", 0)),
            spacing_mm=spacing[:, ::-1],
            shape=shape[:, ::-1],
            foreground=tuple(_statistics(statistics[key]) for key in sorted(statistics, key=int)),
            kept=float(measured.get("median_relative_size_after_cropping", 1.0)),
        )
        return envelope if measured else envelope.model_copy(update=dict.fromkeys(_OF_ALL_CASES, (0.0, 0.0, 0.0)))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelError(
            results.plans_file,
            expected="the measurements that nnU-Net writes into its plans",
            found=f"{type(error).__name__}: {error}",
            remedy="copy nnU-Net's folder of results again",
        ) from error


def validation_of(
    results: Results, folds: Sequence[str], scheme: LabelScheme
) -> tuple[dict[str, float | None], int]:
    """Return the mean validation Dice by label name, and how many cases were validated on at least.

    Args:
        results: Where ``fold_*/validation/summary.json`` are, if nnU-Net got that far.
        folds: Whose networks are taken.
        scheme: The labels.

    Returns:
        The mean over the folds that tell, None for a label that occurs in no case; and the fewest cases of a fold.
    """
    files = [results.fold(fold) / _SUMMARY_FILE for fold in folds]
    summaries = [read_json(file) for file in files if file.is_file()]
    by_label = [summary["mean"] for summary in summaries if isinstance(summary.get("mean"), dict)]
    dice = {
        name: _mean([mean[key].get("Dice") for mean in by_label if (key := _key(values)) in mean])
        for name, values in scheme.targets.items()
        if by_label
    }
    cases = [len(summary.get("metric_per_case", ())) for summary in summaries]
    return dice, min(cases) if len(cases) == len(folds) else 0


def _fingerprint(
    *, cases: int, spacing_mm: Any, shape: Any, foreground: tuple[IntensityStatistics, ...], kept: float
) -> Fingerprint:
    extent = spacing_mm * shape
    i, j, k = (round(float(size)) for size in np.median(shape, axis=0))
    return Fingerprint(
        cases=cases,
        median_spacing_mm=_triple(np.median(spacing_mm, axis=0)),
        smallest_spacing_mm=_triple(spacing_mm.min(axis=0)),
        largest_spacing_mm=_triple(spacing_mm.max(axis=0)),
        smallest_extent_mm=_triple(extent.min(axis=0)),
        largest_extent_mm=_triple(extent.max(axis=0)),
        foreground=foreground,
        percentile_10_spacing_mm=_triple(np.percentile(spacing_mm, 10, axis=0)),
        median_shape=(i, j, k),
        median_cropped_extent_mm=_triple(np.median(extent, axis=0)),
        kept_by_crop=kept,
    )


def _statistics(measured: Mapping[str, float]) -> IntensityStatistics:
    return IntensityStatistics(
        mean=measured["mean"],
        std=measured["std"],
        percentile_00_5=measured["percentile_00_5"],
        percentile_99_5=measured["percentile_99_5"],
    )


def _key(values: tuple[int, ...]) -> str:
    """Return how nnU-Net's summary calls a label or a region."""
    return str(values[0]) if len(values) == 1 else str(values)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return round(math.fsum(known) / len(known), 6) if known else None


def _triple(values: Any) -> Triple:
    first, second, third = (float(value) for value in values)
    return first, second, third
