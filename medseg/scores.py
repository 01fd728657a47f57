"""Figures of what a network learns: of labels, or of regions made of them, where the reference was judged."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.metrics import DEFAULT_TOLERANCE_MM, LabelMetrics, Spacing, all_label_metrics, dice_per_label
from medseg.regions import LabelScheme


def dice_by_name(
    prediction: NDArray[np.integer[Any]], reference: NDArray[np.integer[Any]], scheme: LabelScheme
) -> dict[str, float]:
    """Return the Dice of each label, or of each region where there are some, by name.

    Args:
        prediction: Label values.
        reference: Label values of the same shape; what is to be ignored counts in neither.
        scheme: What is measured.

    Returns:
        Dice by name in the scheme's order, NaN where neither map holds it.

    Raises:
        GridError: The maps differ in shape.
    """
    prediction, reference = scheme.judged(prediction, reference)
    if not scheme.regions:
        dice = dice_per_label(prediction, reference, scheme.labels.indices)
        return {label.name: dice[label.index] for label in scheme.labels}
    return {
        name: dice_per_label(_mask(prediction, values), _mask(reference, values), [1])[1]
        for name, values in scheme.targets.items()
    }


def metrics_of(
    prediction: NDArray[np.integer[Any]],
    reference: NDArray[np.integer[Any]],
    scheme: LabelScheme,
    spacing_mm: Spacing,
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
) -> dict[int, LabelMetrics]:
    """Return all figures of each label, or of each region where there are some.

    Args:
        prediction: Label values (i, j, k).
        reference: Label values of the same shape; what is to be ignored counts in neither.
        scheme: What is measured.
        spacing_mm: Along i, j, k.
        tolerance_mm: Of the surface Dice.

    Returns:
        Figures by the value that each target is drawn with, as in `LabelScheme.names`.

    Raises:
        GridError: The maps differ in shape, or are not 3-D.
    """
    prediction, reference = scheme.judged(prediction, reference)
    if not scheme.regions:
        return all_label_metrics(prediction, reference, scheme.labels.indices, spacing_mm, tolerance_mm)
    return {
        value: all_label_metrics(
            _mask(prediction, labels), _mask(reference, labels), [1], spacing_mm, tolerance_mm
        )[1]
        for value, labels in zip(scheme.names, scheme.targets.values(), strict=True)
    }


def _mask(array: NDArray[Any], values: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.isin(array, values).astype(np.uint8)
