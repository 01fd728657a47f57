"""What a loss counts: which voxels, classes and samples, and with which weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medseg.errors import UsageError
from medseg.losses.sums import ClassSums


def check(field: str, right: bool, expected: str, found: object) -> None:
    """Refuse a wrong value of a loss's field.

    Raises:
        UsageError: It is not right.
    """
    if not right:
        raise UsageError(f"loss.{field}", expected=expected, found=str(found), remedy="correct it")


def check_weight(field: str, value: float) -> None:
    """Refuse a weight that is negative or no number.

    Raises:
        UsageError: It is one of these.
    """
    check(field, math.isfinite(value) and value >= 0, "a number from 0", value)


@dataclass(frozen=True)
class Counting:
    """Which voxels, classes and samples count, and how much; valid once constructed.

    Attributes:
        class_weights: One weight a class, the background first; all 1 by default.
        ignore_index: Voxels with this target take no part.
        batch: One region a class over the whole batch; otherwise one a class and sample.
        background: Whether class 0 is a region too.
        smooth: Added to the numerator and denominator of ratios of regions.

    Raises:
        UsageError: A weight or `smooth` is negative or no number, or no weight is positive.
    """

    class_weights: tuple[float, ...] | None = None
    ignore_index: int | None = None
    batch: bool = True
    background: bool = False
    smooth: float = 1e-5

    def __post_init__(self) -> None:
        weights = self.class_weights
        if weights is not None:
            right = all(math.isfinite(w) and w >= 0 for w in weights) and any(weights)
            check("class_weights", right, "numbers from 0, not all of them 0", list(weights))
        check_weight("smooth", self.smooth)

    def weights(self, sums: ClassSums) -> Tensor:
        """Return the weights of all classes (K,).

        Raises:
            UsageError: There is not one for each class.
        """
        classes = sums.truth.shape[1]
        if self.class_weights is None:
            return sums.truth.new_ones(classes)
        if len(self.class_weights) != classes:
            raise UsageError(
                "loss.class_weights",
                expected=f"{classes} weights, one for each class, the background first",
                found=f"{len(self.class_weights)} weights",
                remedy="give one weight a class",
            )
        return sums.truth.new_tensor(self.class_weights)

    def regions(self, sums: ClassSums) -> tuple[ClassSums, Tensor]:
        """Return the sums of the regions (R, C) that count, and their weights (1, C).

        R is 1, or the samples; C is the number of classes, without the background where that does not count.

        Raises:
            UsageError: There is not one weight for each class, or there is only a background, which does not count.
        """
        classes = sums.truth.shape[1]
        first = 0 if self.background else 1
        if classes <= first:
            raise UsageError(
                "logits",
                expected="at least one class beside the background",
                found=f"{classes} class(es)",
                remedy="set loss.background: true",
            )
        of_batch = (table.sum(0, keepdim=True) if self.batch else table for table in sums)
        return ClassSums(*(table[:, first:] for table in of_batch)), self.weights(sums)[None, first:]


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of (R, C) values with weights that broadcast to them; 0 where all weights are 0."""
    weights = weights.expand_as(values)
    return ratio((weights * values).sum(), weights.sum())


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide what is not negative; 0 / 0 is 0."""
    return numerator / denominator.clamp_min(torch.finfo(denominator.dtype).tiny)
