"""2.5-D: a two-dimensional network sees neighbouring slices as channels."""

from __future__ import annotations

from torch import Tensor


def stack_slices(x: Tensor) -> Tensor:
    """Turn slices (B, C, i, j, k) into channels (B, C x k, i, j), those of one image channel side by side."""
    return x.movedim(-1, 2).flatten(1, 2)


def centre_slices(x: Tensor, slices: int) -> Tensor:
    """Return the middle slice of each image channel, (B, C, i, j), of images from `stack_slices`."""
    return x[:, slices // 2 :: slices]
