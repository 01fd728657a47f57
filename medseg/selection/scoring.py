"""What keeping the largest component of each label changes, and scores as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from medseg.bootstrap import mean_scores
from medseg.components import keep_largest
from medseg.evaluation import Evaluation
from medseg.regions import LabelScheme
from medseg.scores import dice_by_name
from medseg.volume import Volume

LabelArray = NDArray[np.integer[Any]]


def label_values(volume: Volume) -> LabelArray:
    """Return a label map's values as whole numbers."""
    array = volume.array
    return array if array.dtype.kind in "iu" else array.astype(np.int64)


def score_array(
    evaluation: Evaluation, cases: Sequence[str], names: Sequence[str], figure: str
) -> NDArray[np.float64]:
    """Return one figure of an evaluation as an array.

    Args:
        evaluation: Has a row for each case and name.
        cases: Ids of the cases.
        names: Of the labels and regions.
        figure: A field of `medseg.metrics.LabelMetrics`.

    Returns:
        (cases, names); NaN where the figure is not defined.
    """
    found = {(row.case, row.name): getattr(row.metrics, figure) for row in evaluation.rows}
    return np.array([[found.get((case, name), np.nan) for name in names] for case in cases], dtype=np.float64)


class LargestEffect(BaseModel):
    """What keeping only the largest component of a label does to its Dice over all validation cases."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: str
    dice_before: float = Field(description="Mean over the cases; over the regions that hold the label, if any.")
    dice_after: float = Field(description="The same with the largest component only.")

    @property
    def helps(self) -> bool:
        """Whether the mean rises."""
        return self.dice_after > self.dice_before


@dataclass
class LargestTally:
    """Adds up, case by case, what keeping the largest component of each label on its own would do.

    Args:
        scheme: What is measured.
    """

    scheme: LabelScheme
    _before: list[dict[str, float]] = field(default_factory=list)
    _after: list[dict[str, dict[str, float]]] = field(default_factory=list)

    def add(self, predicted: LabelArray, reference: LabelArray) -> None:
        """Count one case.

        Args:
            predicted: Label values (i, j, k), nothing removed.
            reference: Label values (i, j, k).
        """
        before = dice_by_name(predicted, reference, self.scheme)
        after = {}
        for label in self.scheme.labels:
            cleaned = keep_largest(predicted, label.index)
            same = cleaned is predicted
            after[label.name] = before if same else dice_by_name(cleaned, reference, self.scheme)
        self._before.append(before)
        self._after.append(after)

    def effects(self) -> tuple[LargestEffect, ...]:
        """Return the means of each label over the cases counted."""
        effects = []
        for label in self.scheme.labels:
            names = [name for name, values in self.scheme.targets.items() if label.index in values]
            cleaned = [case[label.name] for case in self._after]
            scores = [[[dice[name] for name in names] for dice in cases] for cases in (self._before, cleaned)]
            before, after = mean_scores(np.array(scores, dtype=np.float64))[0]
            effects.append(LargestEffect(label=label.name, dice_before=before, dice_after=after))
        return tuple(effects)
