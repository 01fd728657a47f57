"""Deep supervision: the coarser outputs of a decoder are trained too."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.errors import UsageError
from medseg.losses.pairwise import PairwiseLoss
from medseg.losses.regions import RegionLoss


class DeepSupervision(nn.Module):
    """Weighted sum of a loss over the outputs of several resolutions.

    The i-th output weighs 1 / 2^i, all weights summing to 1. A coarser output is compared with the labels at the
    voxels nearest to its own centres. A CRF term counts for the finest output only: it speaks of the edges of the
    image voxel by voxel, which a thinned-out image does not show, and its window may reach no neighbour there.

    Args:
        loss: Any loss of this package.
        strides: Of each output, one number an axis: the k-th voxel of an output with stride s covers the s voxels
            from k s on. Without them the outputs are taken to divide the image evenly.

    Source: Lee et al. 2015 (arXiv:1409.5185); weights of Isensee et al. 2021, doi:10.1038/s41592-020-01008-z.
    """

    def __init__(self, loss: nn.Module, strides: Sequence[Sequence[int]] = ()) -> None:
        super().__init__()
        self.loss, self.strides = loss, tuple(tuple(stride) for stride in strides)

    def forward(self, logits: Tensor | Sequence[Tensor], target: Tensor, image: Tensor | None = None) -> Tensor:
        """Return the loss of one or several logits.

        Args:
            logits: (B, K, *spatial), or several such of decreasing size, the finest first.
            target: Class indices (B, *spatial) of the finest size.
            image: (B, C, *spatial) of the finest size, which only CRF losses need.

        Raises:
            UsageError: There are no logits, or they do not fit the target.
        """
        levels = [logits] if isinstance(logits, Tensor) else list(logits)
        if not levels:
            raise UsageError(
                "logits", expected="the outputs of the decoder", found="none", remedy="pass at least the finest"
            )
        coarse_loss = self.loss.unary if isinstance(self.loss, PairwiseLoss | RegionLoss) else self.loss
        total: Tensor = self.loss(levels[0], target, image)
        for number, level in enumerate(levels[1:], start=1):
            total = total + coarse_loss(level, self._target(target, level, number)) / 2**number
        mean: Tensor = total / sum(1 / 2**number for number in range(len(levels)))
        return mean

    def _target(self, target: Tensor, logits: Tensor, number: int) -> Tensor:
        stride = self.strides[number] if number < len(self.strides) else None
        return nearest(target, logits.shape[2:], stride)


def nearest(target: Tensor, size: Sequence[int], stride: Sequence[int] | None = None) -> Tensor:
    """Return (B, *spatial) at the voxels nearest to the centres of a coarser grid, of any integer type, by index.

    Args:
        target: (B, *spatial).
        size: Of the coarser grid.
        stride: s: its k-th voxel covers the voxels k s to k s + s - 1, whose middle one is taken; the last one of
            the target where the middle lies beyond. Without it the grids cover the same field: of n voxels, the
            k-th of m takes floor((k + 1/2) n / m).
    """
    if len(size) != target.ndim - 1:
        raise UsageError(
            "logits",
            expected=f"{target.ndim - 1} spatial axes at every level, as the target has",
            found=f"{len(size)}",
            remedy="pass logits (B, K, *spatial) for all levels",
        )
    for axis, (old, new) in enumerate(zip(target.shape[1:], size, strict=True), start=1):
        if old != new:
            centres = 2 * torch.arange(new, device=target.device) + 1
            fine, coarse = (old, new) if stride is None else (stride[axis - 1], 1)
            target = target.index_select(axis, (centres * fine // (2 * coarse)).clamp_max_(old - 1))
    return target
