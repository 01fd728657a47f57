"""Losses of regions that may lie within one another: one logit a region, sigmoid in place of softmax."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.errors import UsageError
from medseg.losses.pairwise import PairwiseLoss

IGNORED = 2  # target of the voxels of a region that take no part: neither outside (0) nor inside (1)


class RegionLoss(nn.Module):
    """Mean over regions of a loss of two classes, outside and inside, whose logits are 0 and the region's own.

    The softmax of (0, z) is (1 - sigmoid(z), sigmoid(z)): cross entropy becomes binary cross entropy, Dice that of
    sigmoids. Class weights are those of outside and inside.

    Args:
        loss: Any loss of this package for two classes; with ``ignore_index=IGNORED`` where voxels are ignored.
        members: Class indices that each region is made of.
        ignore_index: Voxels with this class index take no part.

    Raises:
        UsageError: There is no region, or one without a class.

    Source: Regions as in Isensee et al. 2021 (arXiv:2011.00848).
    """

    def __init__(self, loss: nn.Module, members: Sequence[Sequence[int]], ignore_index: int | None = None) -> None:
        super().__init__()
        if not members or not all(members):
            raise UsageError(
                "regions",
                expected="at least one, each of at least one class",
                found=str([list(classes) for classes in members]),
                remedy="name the labels of every region",
            )
        self.loss, self.ignore_index = loss, ignore_index
        self.members = tuple(tuple(classes) for classes in members)

    @property
    def unary(self) -> RegionLoss:
        """The same without a CRF term."""
        loss = self.loss.unary if isinstance(self.loss, PairwiseLoss) else self.loss
        return RegionLoss(loss, self.members, self.ignore_index)

    def forward(self, logits: Tensor, target: Tensor, image: Tensor | None = None) -> Tensor:
        """Return the loss of logits (B, R, *spatial) of R regions against class indices (B, *spatial).

        Raises:
            UsageError: There is not one logit for each region.
        """
        if logits.shape[1] != len(self.members):
            raise UsageError(
                "logits",
                expected=f"one channel for each of {len(self.members)} regions",
                found=f"{logits.shape[1]}",
                remedy="build the network with as many outputs as regions",
            )
        terms = [
            self.loss(torch.stack((torch.zeros_like(inside), inside), dim=1), self._target(target, classes), image)
            for inside, classes in zip(logits.unbind(1), self.members, strict=True)
        ]
        return torch.stack(terms).mean()

    def _target(self, target: Tensor, classes: Sequence[int]) -> Tensor:
        """Return (B, *spatial): 1 inside the region, 0 outside, `IGNORED`."""
        inside = torch.isin(target, torch.tensor(classes, device=target.device, dtype=target.dtype)).to(torch.uint8)
        return inside if self.ignore_index is None else inside.masked_fill_(target == self.ignore_index, IGNORED)
