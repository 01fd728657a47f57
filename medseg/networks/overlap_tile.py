"""The overlap-tile strategy of the first U-Net: an image is mirrored at its borders, where convolutions cut."""

from __future__ import annotations

import torch
from torch import Tensor

from medseg.networks.stages import Stages

UNITS = 2  # convolutions a stage


def mirrored(x: Tensor, stages: Stages) -> Tensor:
    """Extend images by mirroring so that a network whose convolutions cut gives logits of all of them.

    Args:
        x: (B, C, *spatial), of any size.
        stages: Of the network.

    Returns:
        The smallest image that fits the network and whose logits start at `x`'s first voxel and cover it.

    Source: Ronneberger, Fischer, Brox 2015 (arXiv:1505.04597), figure 2.
    """
    for axis in range(2, x.ndim):
        before, size = _extent(x.shape[axis], stages, axis - 2)
        x = x.index_select(axis, _mirror(x.shape[axis], before, size).to(x.device))
    return x


def _extent(wanted: int, stages: Stages, axis: int) -> tuple[int, int]:
    """Return (voxels before the image, size of the input) along one axis."""
    cuts = [UNITS * (kernel[axis] - 1) for kernel in stages.kernels]
    steps = [stride[axis] for stride in stages.strides]
    coarsest = 1
    while True:  # at the coarsest stage, after its convolutions: one voxel more until the output is large enough
        output, size = coarsest, coarsest + cuts[-1]
        for cut, step in zip(reversed(cuts[:-1]), reversed(steps), strict=True):
            output, size = output * step - cut, size * step + cut
            if output < 1:
                break
        else:
            if output >= wanted:
                return (size - output) // 2, size
        coarsest += 1


def _mirror(length: int, before: int, size: int) -> Tensor:
    """Return the indices of a line mirrored at its ends, the end voxels not repeated, as often as needed."""
    period = max(2 * (length - 1), 1)
    index = torch.arange(-before, size - before).remainder(period)
    return torch.minimum(index, period - index) if length > 1 else torch.zeros_like(index)
