"""Paired bootstrap: how sure a difference between the mean scores of several methods is, on the same cases.

Patients are drawn with replacement, each with all of its cases; every method is scored on the same draw, so that
what makes a case hard for all of them does not widen the intervals. Intervals are percentiles of the differences.
Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 8 and 13.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
CONFIDENCE = 0.95

_CHUNK_RESAMPLES = 500

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A difference of mean scores and where it lies with some confidence.

    Attributes:
        difference: On the cases as they are.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    difference: float
    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        """Whether the two methods cannot be told apart."""
        return self.low <= 0 <= self.high


def mean_scores(scores: Scores, weights: Scores | None = None) -> Scores:
    """Return the mean over the labels of the mean over the cases of each label.

    A NaN stays out of its mean: the label is neither in the prediction nor in the reference of the case.

    Args:
        scores: (methods, cases, labels).
        weights: (draws, cases), how often each case is drawn; once by default.

    Returns:
        (draws, methods); NaN where nothing is defined.
    """
    weights = np.ones((1, scores.shape[1])) if weights is None else weights
    known = np.isfinite(scores)
    sums = np.einsum("rc,mcl->rml", weights, np.where(known, scores, 0.0), optimize=True)
    counts = np.einsum("rc,mcl->rml", weights, known.astype(np.float64), optimize=True)
    of_labels = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)  # (draws, methods, labels)
    labels = (counts > 0).sum(axis=-1)
    means = np.full(labels.shape, np.nan)
    np.divide(of_labels.sum(axis=-1), labels, out=means, where=labels > 0)
    return means


def paired_bootstrap(
    scores: Scores,
    reference: int,
    patients: Sequence[Hashable],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> list[Interval]:
    """Return each method's difference in `mean_scores` to one of them, with its interval.

    Args:
        scores: (methods, cases, labels); NaN where a label is not defined in a case.
        reference: Position of the method that the others are compared with.
        patients: Whose each case is; a patient's cases are drawn together.
        resamples: Number of draws.
        seed: Of the draws; the same seed gives the same intervals.
        confidence: Share of the differences that lies within the interval.

    Returns:
        One interval a method; NaN where no draw defines a difference. That of the reference is zero.
    """
    drawn = np.concatenate([mean_scores(scores, weights) for weights in _draws(patients, resamples, seed)])
    differences = drawn - drawn[:, reference : reference + 1]
    actual = mean_scores(scores)[0]
    tail = (1 - confidence) / 2
    intervals = []
    for method, column in enumerate(differences.T):
        known = column[np.isfinite(column)]
        low, high = np.quantile(known, (tail, 1 - tail)) if known.size else (np.nan, np.nan)
        intervals.append(Interval(float(actual[method] - actual[reference]), float(low), float(high)))
    return intervals


def _draws(patients: Sequence[Hashable], resamples: int, seed: int) -> Iterator[Scores]:
    """Yield how often each case is drawn, (resamples, cases) cut into chunks, as many patients as there are."""
    position = {patient: number for number, patient in enumerate(dict.fromkeys(patients))}
    owner = np.array([position[patient] for patient in patients])
    count = len(position)
    random = np.random.default_rng(seed)
    for start in range(0, resamples, _CHUNK_RESAMPLES):
        chosen = random.integers(count, size=(min(_CHUNK_RESAMPLES, resamples - start), count))
        times = np.stack([np.bincount(row, minlength=count) for row in chosen])
        yield times[:, owner].astype(np.float64)
