"""Losses that add a term of voxels to a term of regions, both from one pass over the logits."""

from __future__ import annotations

from torch import Tensor, nn

from medseg.losses import terms
from medseg.losses.counting import Counting, check, check_weight
from medseg.losses.sums import class_sums


class CrossEntropyDiceLoss(nn.Module):
    """Weighted sum of cross entropy and soft Dice; see `medseg.losses.terms`.

    Args:
        ce_weight: Weight of the cross entropy.
        dice_weight: Weight of the Dice loss.
        class_weights: Weight of each class in both, the background first; 1 by default.
        ignore_index: Voxels with this target take no part.
        batch: One Dice a class over the whole batch; otherwise one a class and sample.
        background: Whether class 0 counts in the Dice loss.
        smooth: Of the Dice loss.

    Raises:
        UsageError: A weight or `smooth` is negative, or no class weight is positive.
    """

    def __init__(
        self,
        ce_weight: float = 1.0,
        dice_weight: float = 1.0,
        class_weights: tuple[float, ...] | None = None,
        ignore_index: int | None = None,
        batch: bool = True,
        background: bool = False,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__()
        check_weight("ce_weight", ce_weight)
        check_weight("dice_weight", dice_weight)
        self.ce_weight, self.dice_weight = ce_weight, dice_weight
        self.counting = Counting(class_weights, ignore_index, batch, background, smooth)

    def forward(self, logits: Tensor, target: Tensor, image: Tensor | None = None) -> Tensor:
        """Return the loss of logits (B, K, *spatial) against class indices (B, *spatial)."""
        sums = class_sums(logits, target, ignore_index=self.counting.ignore_index)
        ce, dice = terms.mean_surprise(sums, self.counting), terms.dice(sums, self.counting)
        return self.ce_weight * ce + self.dice_weight * dice


class CrossEntropyLogDiceLoss(nn.Module):
    """Weighted sum of cross entropy and -log Dice of the classes present; see `medseg.losses.terms.log_dice`.

    Where a structure is missed, the gradient of -log Dice grows as that of Dice fades.

    Args:
        ce_weight: Weight of the cross entropy.
        dice_weight: Weight of -log Dice.
        class_weights: Weight of each class in both, the background first; 1 by default.
        ignore_index: Voxels with this target take no part.
        batch: One Dice a class over the whole batch; otherwise one a class and sample.
        background: Whether class 0 counts in -log Dice.
        smooth: Added to numerator and denominator of the Dice; above 0.

    Raises:
        UsageError: A weight is negative, no class weight is positive, or `smooth` is not.
    """

    def __init__(
        self,
        ce_weight: float = 1.0,
        dice_weight: float = 1.0,
        class_weights: tuple[float, ...] | None = None,
        ignore_index: int | None = None,
        batch: bool = True,
        background: bool = False,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__()
        check_weight("ce_weight", ce_weight)
        check_weight("dice_weight", dice_weight)
        self.ce_weight, self.dice_weight = ce_weight, dice_weight
        self.counting = Counting(class_weights, ignore_index, batch, background, smooth)
        check("smooth", smooth > 0, "a number above 0, for the logarithm of it must be finite", smooth)

    def forward(self, logits: Tensor, target: Tensor, image: Tensor | None = None) -> Tensor:
        """Return the loss of logits (B, K, *spatial) against class indices (B, *spatial)."""
        sums = class_sums(logits, target, ignore_index=self.counting.ignore_index)
        ce, log_dice = terms.mean_surprise(sums, self.counting), terms.log_dice(sums, self.counting)
        return self.ce_weight * ce + self.dice_weight * log_dice


class DiceFocalLoss(nn.Module):
    """Weighted sum of soft Dice and the focal loss of the true class's softmax probability.

    The focal loss is a mean over voxels, as cross entropy is, which it equals at gamma 0. MONAI's divides by the
    number of classes too, and within its DiceFocalLoss it is of sigmoids.

    Args:
        dice_weight: Weight of the Dice loss.
        focal_weight: Weight of the focal loss.
        gamma: Focusing exponent: how little voxels count that are right already.
        class_weights: Weight of each class in both, the background first; 1 by default.
        ignore_index: Voxels with this target take no part.
        batch: One Dice a class over the whole batch; otherwise one a class and sample.
        background: Whether class 0 counts in the Dice loss.
        smooth: Of the Dice loss.

    Raises:
        UsageError: A weight, `gamma` or `smooth` is negative, or no class weight is positive.
    """

    def __init__(  # noqa: PLR0913 - what a config may set is flat
        self,
        dice_weight: float = 1.0,
        focal_weight: float = 1.0,
        gamma: float = 2.0,
        *,
        class_weights: tuple[float, ...] | None = None,
        ignore_index: int | None = None,
        batch: bool = True,
        background: bool = False,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__()
        check_weight("dice_weight", dice_weight)
        check_weight("focal_weight", focal_weight)
        check_weight("gamma", gamma)
        self.dice_weight, self.focal_weight, self.gamma = dice_weight, focal_weight, gamma
        self.counting = Counting(class_weights, ignore_index, batch, background, smooth)

    def forward(self, logits: Tensor, target: Tensor, image: Tensor | None = None) -> Tensor:
        """Return the loss of logits (B, K, *spatial) against class indices (B, *spatial)."""
        sums = class_sums(logits, target, ignore_index=self.counting.ignore_index, gamma=self.gamma)
        dice, focal = terms.dice(sums, self.counting), terms.mean_surprise(sums, self.counting)
        return self.dice_weight * dice + self.focal_weight * focal
