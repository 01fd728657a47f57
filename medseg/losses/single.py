"""Losses of one term: cross entropy, Dice, Tversky, generalised Dice."""

from __future__ import annotations

from torch import Tensor, nn

from medseg.losses import terms
from medseg.losses.counting import Counting, check, check_weight
from medseg.losses.sums import class_sums


class CrossEntropyLoss(nn.Module):
    """Mean cross entropy over voxels.

    Args:
        class_weights: Weight of the voxels of each class, the background first; 1 by default.
        ignore_index: Voxels with this target take no part.

    Raises:
        UsageError: A weight is negative, or none is positive.
    """

    def __init__(self, class_weights: tuple[float, ...] | None = None, ignore_index: int | None = None) -> None:
        super().__init__()
        self.counting = Counting(class_weights, ignore_index)

    def forward(self, logits: Tensor, target: Tensor, image: Tensor | None = None) -> Tensor:
        """Return the loss of logits (B, K, *spatial) against class indices (B, *spatial)."""
        sums = class_sums(logits, target, ignore_index=self.counting.ignore_index)
        return terms.mean_surprise(sums, self.counting)


class DiceLoss(nn.Module):
    """One minus the mean soft Dice over classes; see `medseg.losses.terms.dice`.

    Args:
        class_weights: Weight of each class in the mean, the background first; 1 by default.
        ignore_index: Voxels with this target take no part.
        batch: One Dice a class over the whole batch; otherwise one a class and sample.
        background: Whether class 0 counts.
        smooth: Added to numerator and denominator: a class that is absent and not predicted scores 1.

    Raises:
        UsageError: A weight or `smooth` is negative, or no weight is positive.
    """

    def __init__(
        self,
        class_weights: tuple[float, ...] | None = None,
        ignore_index: int | None = None,
        batch: bool = True,
        background: bool = False,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__()
        self.counting = Counting(class_weights, ignore_index, batch, background, smooth)

    def forward(self, logits: Tensor, target: Tensor, image: Tensor | None = None) -> Tensor:
        """Return the loss of logits (B, K, *spatial) against class indices (B, *spatial)."""
        sums = class_sums(logits, target, ignore_index=self.counting.ignore_index)
        return terms.dice(sums, self.counting)


class TverskyLoss(nn.Module):
    """One minus the mean Tversky index over classes; see `medseg.losses.terms.tversky`.

    Args:
        alpha: Weight of false positives.
        beta: Weight of false negatives; above `alpha` it favours recall. Both 0.5 make it the Dice loss.
        class_weights: Weight of each class in the mean, the background first; 1 by default.
        ignore_index: Voxels with this target take no part.
        batch: One index a class over the whole batch; otherwise one a class and sample.
        background: Whether class 0 counts.
        smooth: Added to numerator and denominator.

    Raises:
        UsageError: A weight, `alpha`, `beta` or `smooth` is negative, or no weight is positive.
    """

    def __init__(
        self,
        alpha: float = 0.3,
        beta: float = 0.7,
        class_weights: tuple[float, ...] | None = None,
        ignore_index: int | None = None,
        batch: bool = True,
        background: bool = False,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__()
        check_weight("alpha", alpha)
        check_weight("beta", beta)
        check("beta", alpha + beta > 0, "a positive number where alpha is 0", beta)
        self.alpha, self.beta = alpha, beta
        self.counting = Counting(class_weights, ignore_index, batch, background, smooth)

    def forward(self, logits: Tensor, target: Tensor, image: Tensor | None = None) -> Tensor:
        """Return the loss of logits (B, K, *spatial) against class indices (B, *spatial)."""
        sums = class_sums(logits, target, ignore_index=self.counting.ignore_index)
        return terms.tversky(sums, self.counting, alpha=self.alpha, beta=self.beta)


class GeneralizedDiceLoss(nn.Module):
    """Generalised Dice: classes weigh by one over their squared volume; see `medseg.losses.terms.generalized_dice`.

    Args:
        class_weights: Multiplied with the weight of each class, the background first; 1 by default.
        ignore_index: Voxels with this target take no part.
        batch: One ratio over the whole batch; otherwise the mean of one a sample.
        background: Whether class 0 counts.
        smooth: Added to numerator and denominator. Far smaller than in the other losses, for a class of n voxels
            adds 1 / n to both at best.

    Raises:
        UsageError: A weight or `smooth` is negative, or no weight is positive.
    """

    def __init__(
        self,
        class_weights: tuple[float, ...] | None = None,
        ignore_index: int | None = None,
        batch: bool = True,
        background: bool = False,
        smooth: float = 1e-12,
    ) -> None:
        super().__init__()
        self.counting = Counting(class_weights, ignore_index, batch, background, smooth)

    def forward(self, logits: Tensor, target: Tensor, image: Tensor | None = None) -> Tensor:
        """Return the loss of logits (B, K, *spatial) against class indices (B, *spatial)."""
        sums = class_sums(logits, target, ignore_index=self.counting.ignore_index)
        return terms.generalized_dice(sums, self.counting)
