"""Linear operations axis by axis, as products with small matrices: blur, lower resolution, splines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Matrix = NDArray[np.float64]

_TRUNCATE = 4.0  # standard deviations at which the Gaussian ends, as scipy has it


def along_axes(x: Tensor, matrices: Sequence[Matrix | None]) -> Tensor:
    """Multiply every line of the last axes by the matrix of its axis.

    A product with a matrix of a hundred rows costs less than a short convolution, whatever the kernel's length.

    Args:
        x: float32 (C, *spatial).
        matrices: One an axis, (size after, size before); None leaves the axis as it is.
    """
    for axis, matrix in enumerate(matrices, start=1):
        if matrix is None:
            continue
        m = torch.from_numpy(matrix).to(x)
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        if after:
            x = torch.matmul(m, x.reshape(before.numel(), x.shape[axis], -1))
        else:
            x = torch.mm(x.reshape(-1, x.shape[axis]), m.T)
        x = x.reshape(*before, len(m), *after)
    return x


def blur(x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Return the convolution of (C, *spatial) with a Gaussian; beyond the border the last value goes on.

    Args:
        x: float32.
        sigmas: Standard deviation along each axis, in voxels; 0 for none.
    """
    return along_axes(x, [_gaussian(n, s) if s else None for n, s in zip(x.shape[1:], sigmas, strict=True)])


def lower_resolution(x: Tensor, shares: Sequence[float]) -> Tensor:
    """Keep only some voxels of (C, *spatial), the nearest, and interpolate linearly between them.

    Args:
        x: float32.
        shares: Share of voxels kept along each axis; 1 for all.
    """
    kept = [max(round(n * share), 1) for n, share in zip(x.shape[1:], shares, strict=True)]
    if kept == list(x.shape[1:]):
        return x
    matrices = [_interpolation(n, few) if few < n else None for n, few in zip(x.shape[1:], kept, strict=True)]
    return along_axes(F.interpolate(x[None], kept, mode="nearest-exact")[0], matrices)


def _gaussian(n: int, sigma: float) -> Matrix:
    radius = int(_TRUNCATE * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    matrix = np.zeros((n, n))
    rows = np.arange(n)[:, None]
    np.add.at(matrix, (rows, np.clip(rows + offsets, 0, n - 1)), weights / weights.sum())
    return matrix


def _interpolation(n: int, kept: int) -> Matrix:
    """Return (n, kept): linear interpolation where the first and last voxels' outer borders coincide."""
    position = np.clip((np.arange(n) + 0.5) * (kept / n) - 0.5, 0, kept - 1)
    lower = np.minimum(position.astype(int), max(kept - 2, 0))
    matrix = np.zeros((n, kept))
    rows = np.arange(n)
    matrix[rows, lower] = 1 - (position - lower)
    matrix[rows, np.minimum(lower + 1, kept - 1)] += position - lower
    return matrix
