"""Deep supervision: the coarser outputs of a decoder are trained too."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.errors import UsageError
from medseg.losses.pairwise import PairwiseLoss


class DeepSupervision(nn.Module):
    """Weighted sum of a loss over the outputs of several resolutions.

    The i-th output weighs 1 / 2^i, all weights summing to 1. A coarser output is compared with the labels at the
    voxels nearest to its own centres. A CRF term counts for the finest output only: it speaks of the edges of the
    image voxel by voxel, which a thinned-out image does not show, and its window may reach no neighbour there.

    Args:
        loss: Any loss of this package.

    Source: Lee et al. 2015 (arXiv:1409.5185); weights of Isensee et al. 2021, doi:10.1038/s41592-020-01008-z.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

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
        coarse_loss = self.loss.unary if isinstance(self.loss, PairwiseLoss) else self.loss
        total: Tensor = self.loss(levels[0], target, image)
        for number, level in enumerate(levels[1:], start=1):
            total = total + coarse_loss(level, nearest(target, level.shape[2:])) / 2**number
        mean: Tensor = total / sum(1 / 2**number for number in range(len(levels)))
        return mean


def nearest(target: Tensor, size: Sequence[int]) -> Tensor:
    """Return (B, *spatial) at the voxels nearest to the centres of a grid of another size over the same field.

    The k-th of m coarse voxels takes the fine voxel floor((k + 1/2) n / m), of any integer type, by index.
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
            target = target.index_select(axis, centres * old // (2 * new))
    return target
