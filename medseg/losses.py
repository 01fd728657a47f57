"""Losses by name, on logits and integer labels, in float32 whatever autocast says."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg.registry import Registry


def soft_dice_loss(logits: Tensor, target: Tensor, *, batch: bool, background: bool, smooth: float) -> Tensor:
    """Return one minus the mean soft Dice of softmax probabilities.

    Args:
        logits: (B, K, *spatial).
        target: Class indices (B, *spatial).
        batch: Sum over the whole batch before the ratio is taken; otherwise each sample has its own Dice.
        background: Whether class 0 counts.
        smooth: Added to numerator and denominator: a class that is absent and not predicted scores 1.

    Source: Milletari et al. 2016 (arXiv:1606.04797), with plain sums in the denominator (Drozdzal et al. 2016,
    arXiv:1608.04117).
    """
    first = 0 if background else 1
    probabilities = logits.float().softmax(dim=1)
    truth = F.one_hot(target.long(), logits.shape[1]).movedim(-1, 1)  # (B, K, *spatial)
    axes = ([0] if batch else []) + list(range(2, logits.ndim))
    overlap = (probabilities * truth).sum(dim=axes)[..., first:]
    total = (probabilities.sum(dim=axes) + truth.sum(dim=axes))[..., first:]
    return 1 - ((2 * overlap + smooth) / (total + smooth)).mean()


class CrossEntropyLoss(nn.Module):
    """Mean voxel-wise cross entropy."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (B, K, *spatial) against class indices (B, *spatial)."""
        with torch.autocast(logits.device.type, enabled=False):
            loss: Tensor = F.cross_entropy(logits.float(), target.long())
            return loss


class DiceLoss(nn.Module):
    """Soft Dice loss; see `soft_dice_loss`.

    Args:
        batch: One Dice a class over the whole batch.
        background: Whether class 0 counts.
        smooth: Added to numerator and denominator.
    """

    def __init__(self, batch: bool = True, background: bool = False, smooth: float = 1e-5) -> None:
        super().__init__()
        self.batch, self.background, self.smooth = batch, background, smooth

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (B, K, *spatial) against class indices (B, *spatial)."""
        with torch.autocast(logits.device.type, enabled=False):
            return soft_dice_loss(logits, target, batch=self.batch, background=self.background, smooth=self.smooth)


class CrossEntropyDiceLoss(nn.Module):
    """Weighted sum of cross entropy and soft Dice.

    Args:
        ce_weight: Weight of the cross entropy.
        dice_weight: Weight of the Dice loss.
        batch: One Dice a class over the whole batch.
        background: Whether class 0 counts in the Dice loss.
        smooth: Of the Dice loss.
    """

    def __init__(
        self,
        ce_weight: float = 1.0,
        dice_weight: float = 1.0,
        batch: bool = True,
        background: bool = False,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__()
        self.ce_weight, self.dice_weight = ce_weight, dice_weight
        self.ce = CrossEntropyLoss()
        self.dice = DiceLoss(batch, background, smooth)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (B, K, *spatial) against class indices (B, *spatial)."""
        ce, dice = self.ce(logits, target), self.dice(logits, target)
        loss: Tensor = self.ce_weight * ce + self.dice_weight * dice
        return loss


LOSSES: Registry[nn.Module] = Registry(
    "loss",
    {
        "ce": (CrossEntropyLoss, "cross entropy"),
        "dice": (DiceLoss, "Milletari et al. 2016, arXiv:1606.04797"),
        "ce_dice": (CrossEntropyDiceLoss, "Isensee et al. 2021, doi:10.1038/s41592-020-01008-z"),
    },
)


def build_loss(name: str, **fields: Any) -> nn.Module:
    """Build a loss by its name.

    Args:
        name: A name of `LOSSES`.
        fields: The loss's own arguments; see ``medseg list``.

    Raises:
        UsageError: There is no such loss.
    """
    return LOSSES.build(name, **fields)
