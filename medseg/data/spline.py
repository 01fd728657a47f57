"""Cubic splines between grids with the same outer faces: how nnU-Net resamples images.

Interpolation by splines is linear in the image and separable: along each axis, new values are one matrix times the
old ones. The matrix is made once an axis, and a volume costs three matrix products.

Source: nnU-Net v2's ``resample_data_or_seg_to_shape`` (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z), which
calls ``skimage.transform.resize(order=3, mode="edge", anti_aliasing=False)``; Unser 1999, doi:10.1109/79.799930.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.data.resample import nearest_planes, resample_axes
from medseg.volume import Grid

Spacing = tuple[float, float, float]
Shape = tuple[int, int, int]

_MOST_ISOTROPIC = 3.0  # of the largest spacing to the smallest
_EDGE = 12  # border values that stand for all beyond: what lies 12 voxels off weighs 1e-7
_DIGITS = 6  # of a spacing
_TIE = 1e-6  # between shares of labels


def header_spacing(grid: Grid) -> Spacing:
    """Return a grid's spacing as an image header states it.

    nnU-Net compares and rounds the float32 numbers of the header. The length of an oblique affine's column differs
    from them in the last digit, and would round the half voxel the other way now and then. It is taken to six
    digits.
    """
    lengths = []
    for length, column in zip(grid.spacing_mm, grid.affine[:3, :3].T, strict=True):
        is_straight = np.count_nonzero(column) == 1
        lengths.append(length if is_straight else float(np.float32(f"{length:.{_DIGITS}g}")))
    i, j, k = lengths
    return i, j, k


def separate_axis(first: Sequence[float], second: Sequence[float], forced: bool | None = None) -> int | None:
    """Return the axis along which the nearest plane is taken, or None where all axes are interpolated.

    It is the axis of the largest spacing, in the first of two grids whose spacings are more than 3 to 1. An axis
    that shares the largest spacing with another one is interpolated.

    Args:
        first: Spacing that the values have.
        second: Spacing that is wanted.
        forced: True looks at the first spacing alone and whatever its ratio; False interpolates always.
    """
    if forced is False:
        return None
    anisotropic = [s for s in (first, second) if max(s) / min(s) > _MOST_ISOTROPIC]
    chosen = first if forced else next(iter(anisotropic), None)
    if chosen is None:
        return None
    largest = [axis for axis, spacing in enumerate(chosen) if spacing == max(chosen)]
    return largest[0] if len(largest) == 1 else None


def faced_grid(source: Grid, spacing_mm: Sequence[float]) -> Grid:
    """Return the grid of about a spacing that has the outer faces of `source`.

    An axis has ``round(n * old / new)`` voxels, half a voxel going to the even number, at least one.

    Args:
        source: Any grid; axes keep their directions, also those of a sheared grid.
        spacing_mm: Along i, j, k.
    """
    i, j, k = (
        max(1, round(old / new * n))
        for old, new, n in zip(header_spacing(source), spacing_mm, source.shape, strict=True)
    )
    scale = np.array(source.shape) / np.array((i, j, k))  # source voxels a new one
    affine = source.affine.copy()
    affine[:3, :3] *= scale
    affine[:3, 3] += source.affine[:3, :3] @ ((scale - 1) / 2)
    return Grid((i, j, k), affine)


def resize(x: Tensor, shape: Shape, separate: int | None = None) -> Tensor:
    """Resample channels to another shape with the same outer faces, by cubic splines.

    Beyond the outer faces the border values go on. The result of each channel, with `separate` that of each plane,
    is clipped to the smallest and largest value that it was made of.

    Args:
        x: float32 (C, i, j, k).
        shape: Wanted (i, j, k).
        separate: Axis along which the nearest plane is taken; the nearer of two is the one of higher index.

    Returns:
        (C, *shape); `x` itself where it has the shape.
    """
    if tuple(x.shape[1:]) == tuple(shape):
        return x
    axes = [axis for axis in range(3) if axis != separate]
    within = tuple(axis + 1 for axis in axes)
    low, high = x.amin(within, keepdim=True), x.amax(within, keepdim=True)
    for axis in sorted(axes, key=lambda axis: shape[axis] / x.shape[axis + 1]):  # what makes it small comes first
        if shape[axis] != x.shape[axis + 1]:
            matrix = torch.from_numpy(spline_matrix(x.shape[axis + 1], shape[axis])).to(x)
            x = _along(matrix, x, axis + 1)
    x = torch.clamp(x, low, high)
    if separate is None:
        return x
    planes = _nearest(x.shape[separate + 1], shape[separate])
    return x.index_select(separate + 1, torch.from_numpy(planes).to(x.device))


def resize_labels(x: Tensor, shape: Shape, separate: int | None = None) -> Tensor:
    """Resample a label map to another shape with the same outer faces: a voxel has the label with the most of it.

    Each label, the background too, is interpolated linearly on its own. Where several have the most, the label of
    the nearest voxel is taken if it is one of them (half-way goes to the higher index), else the smallest of them.

    Args:
        x: Label values (1, i, j, k), also negative ones.
        shape: Wanted (i, j, k).
        separate: Axis along which the nearest plane is taken.

    Returns:
        (1, *shape), of the type of `x`; `x` itself where it has the shape.

    Source: ``resize_segmentation`` of batchgenerators 0.25.5, by which nnU-Net brings the labels of a cascade's
    first stage to the grid of the second.
    """
    if tuple(x.shape[1:]) == tuple(shape):
        return x
    sizes = list(zip(x.shape[1:], shape, strict=True))
    planes = [_nearest(size, new) for size, new in sizes]
    places = [p.astype(np.float64) if n == separate else centres(*sizes[n]) for n, p in enumerate(planes)]
    nearest = x
    for axis, indices in enumerate(planes):
        nearest = nearest.index_select(axis + 1, torch.from_numpy(indices).to(x.device))
    out, most, own = nearest.clone(), torch.zeros(nearest.shape), torch.zeros(nearest.shape)
    for value in np.unique(x.numpy()).tolist():  # in ascending order
        share = resample_axes((x == value).float(), places)
        own = torch.where(nearest == value, share, own)
        out[share > most + _TIE] = value
        most = torch.maximum(most, share)
    return torch.where(own >= most - _TIE, nearest, out)


def spline_matrix(size: int, new: int) -> NDArray[np.float64]:
    """Return the matrix (new, size) that resamples an axis by cubic splines, border values going on beyond it.

    Each row sums to 1.
    """
    padded = np.eye(size)[np.clip(np.arange(-_EDGE, size + _EDGE), 0, size - 1)]  # (size + 24, size)
    samples = _basis(len(padded))
    coefficients = np.linalg.solve(samples, padded)
    at = centres(size, new) + _EDGE
    first = np.floor(at).astype(np.int64) - 1
    weights = np.zeros((new, len(padded)))
    for tap in range(4):
        weights[np.arange(new), first + tap] = _cubic(at - (first + tap))
    return np.asarray(weights @ coefficients)


def centres(size: int, new: int) -> NDArray[np.float64]:
    """Return where the centres of `new` voxels lie among `size` voxels of the same extent."""
    return np.asarray((np.arange(new) + 0.5) * (size / new) - 0.5, dtype=np.float64)


def _nearest(size: int, new: int) -> NDArray[np.int64]:
    """Return the index of the nearest of `size` planes for each of `new` with the same outer faces."""
    return nearest_planes(centres(size, new), size).astype(np.int64)


def _basis(size: int) -> NDArray[np.float64]:
    """Return the matrix from spline coefficients to samples, mirrored at the outer faces."""
    beside = np.diag(np.full(size - 1, 1 / 6), 1)
    matrix = np.diag(np.full(size, 4 / 6)) + beside + beside.T
    matrix[0, 0] = matrix[-1, -1] = 5 / 6
    return np.asarray(matrix)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the cubic B-spline at distances from its centre, below 2."""
    distance = np.abs(x)
    near = 2 / 3 - distance**2 * (1 - distance / 2)
    return np.where(distance < 1, near, np.maximum(2 - distance, 0) ** 3 / 6)


def _along(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """Multiply one axis of (C, i, j, k) by a matrix."""
    if axis == 3:
        return x @ matrix.T
    c, i, j, k = x.shape
    if axis == 2:
        return matrix @ x
    return (matrix @ x.reshape(c, i, j * k)).reshape(c, len(matrix), j, k)
