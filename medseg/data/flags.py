"""What a network sees of channels that a case lacks: they are 0, and a flag for each says so."""

from __future__ import annotations

import torch
from torch import Tensor


def with_flags(image: Tensor, present: Tensor) -> Tensor:
    """Set missing channels to 0 and append one constant channel for each: 1 where it is present, 0 where not.

    Args:
        image: (B, C, *spatial), or (B, C x slices, i, j) from `medseg.networks.slices.stack_slices`.
        present: (B, C), true or 1 for a channel that is there.

    Returns:
        (B, 2 C, *spatial), or (B, 2 C x slices, i, j).
    """
    flags = present.to(image).repeat_interleave(image.shape[1] // present.shape[1], dim=1)
    flags = flags.view(*flags.shape, *[1] * (image.ndim - 2)).expand_as(image)
    return torch.cat((torch.where(flags > 0, image, 0), flags), dim=1)
