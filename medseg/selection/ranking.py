"""The comparison of candidates: mean scores, how sure their differences are, and which one is chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from medseg.bootstrap import CONFIDENCE, RESAMPLES, Interval, mean_scores, paired_bootstrap
from medseg.selection.candidates import Candidate
from medseg.selection.scoring import LargestEffect, score_array

SEED = 0
FIGURES = ("dice", "surface_dice")
_EQUAL = 1e-6  # scores.csv has six decimals


class Standing(BaseModel):
    """How one candidate compares with the chosen one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    runs: tuple[str, ...] = Field(description="Folders of the runs.")
    mean_dice: float = Field(description="Mean over the labels of their mean over the cases.")
    mean_surface_dice: float = Field(description="The same of the surface Dice.")
    dice: dict[str, float] = Field(description="Mean over the cases, by label name.")
    surface_dice: dict[str, float] = Field(description="Mean over the cases, by label name.")
    dice_difference: Interval = Field(description="Of the mean Dice to the chosen candidate's.")
    surface_dice_difference: Interval = Field(description="Of the mean surface Dice to the chosen candidate's.")


class NotAveraged(BaseModel):
    """A pair of runs that cannot be an ensemble."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    reason: str


class Selection(BaseModel):
    """What was compared, and what was chosen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    medseg_version: str
    created: str = Field(description="UTC, ISO 8601.")
    dataset: str
    folds: tuple[int, ...]
    cases: int
    patients: int
    tolerance_mm: float = Field(description="Of the surface Dice.")
    resamples: int = Field(default=RESAMPLES, description="Of the paired bootstrap over patients.")
    confidence: float = Field(default=CONFIDENCE, description="Of the intervals.")
    seed: int = Field(default=SEED, description="Of the resamples.")
    candidates: tuple[Standing, ...] = Field(description="Runs in the order given, then ensembles.")
    not_averaged: tuple[NotAveraged, ...] = ()
    chosen: str = Field(description="Name of the candidate.")
    largest_component: tuple[LargestEffect, ...] = Field(
        default=(), description="Of the chosen candidate, each label on its own."
    )
    keep_largest: tuple[str, ...] = Field(default=(), description="Labels that the package keeps the largest of.")


def best_of(candidates: Sequence[Candidate]) -> int:
    """Return the position of the highest mean Dice; of equal ones the first: runs come before ensembles."""
    means = [candidate.evaluation.mean_dice for candidate in candidates]
    best = 0
    for position, mean in enumerate(means):
        if mean > means[best] + _EQUAL or (math.isnan(means[best]) and not math.isnan(mean)):
            best = position
    return best


def standings(candidates: Sequence[Candidate], best: int, patients: Mapping[str, str]) -> tuple[Standing, ...]:
    """Compare every candidate with the best, on the same cases and labels.

    Args:
        candidates: Scored on the same cases.
        best: Position of the best.
        patients: {case: patient}.
    """
    cases = sorted(candidates[0].evaluation.cases)
    names = [label.name for label in candidates[0].evaluation.summary]
    owners = [patients[case] for case in cases]
    means, intervals = {}, {}
    for figure in FIGURES:
        scores = np.stack([score_array(candidate.evaluation, cases, names, figure) for candidate in candidates])
        means[figure] = mean_scores(scores)[0]
        intervals[figure] = paired_bootstrap(scores, best, owners, seed=SEED)
    return tuple(
        Standing(
            name=candidate.name,
            runs=tuple(str(run.folder) for run in candidate.runs),
            mean_dice=means["dice"][position],
            mean_surface_dice=means["surface_dice"][position],
            dice={label.name: label.dice for label in candidate.evaluation.summary},
            surface_dice={label.name: label.surface_dice for label in candidate.evaluation.summary},
            dice_difference=intervals["dice"][position],
            surface_dice_difference=intervals["surface_dice"][position],
        )
        for position, candidate in enumerate(candidates)
    )
