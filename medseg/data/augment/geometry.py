"""Random rotations, magnifications and smooth deformations of a patch, in mm."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from medseg.data.augment.settings import Augmentation
from medseg.data.augment.smooth_field import SmoothField, random_field

Matrix = NDArray[np.float64]

_THICK = 3.0  # an axis so many times coarser than the finest is left alone, as nnU-Net does
_LONG = 1.5  # a 2-D patch so many times longer than wide is turned by small angles only, as nnU-Net does
_TURN_OF_VOLUMES, _TURN_IN_PLANE, _TURN_OF_LONG_PLANES = 30.0, 180.0, 15.0


def thin_axes(spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """Return the axes that are at most 3 times coarser than the finest."""
    return tuple(axis for axis, mm in enumerate(spacing_mm) if mm <= _THICK * min(spacing_mm))


def random_matrix(
    augmentation: Augmentation,
    spatial: Sequence[int],
    spacing_mm: Sequence[float],
    turning: np.random.Generator | None,
    scaling: np.random.Generator | None,
) -> Matrix | None:
    """Draw a rotation about every axis and a magnification, or None where there is neither.

    Args:
        augmentation: Limits of both.
        spatial: Size of the patch.
        spacing_mm: Of its axes; the thin ones move.
        turning: Random numbers of the rotation; None for no rotation.
        scaling: Of the magnification; None for none.

    Returns:
        (dims, dims), from an offset to the centre in the result to that in the source, in voxels.
    """
    if turning is None and scaling is None:
        return None
    axes = thin_axes(spacing_mm)
    matrix = np.eye(len(spatial))
    if turning is not None:
        limit = np.deg2rad(_largest_angle(augmentation, spatial, axes))
        for pair in combinations(axes, 2):
            matrix = matrix @ _turn(len(spatial), pair, turning.uniform(-limit, limit))
    if scaling is not None:
        matrix[np.ix_(axes, axes)] /= np.exp(scaling.uniform(*np.log(augmentation.scale)))
    spacing = np.array(spacing_mm)
    voxels: Matrix = matrix * spacing / spacing[:, None]
    return voxels


def random_elastic(
    rng: np.random.Generator,
    augmentation: Augmentation,
    spatial: Sequence[int],
    spacing_mm: Sequence[float],
    matrix: Matrix | None,
) -> SmoothField:
    """Draw a deformation that comes before the matrix: source = matrix (offset + shift).

    Up to 0.4 cells, the largest shift that is allowed, it folds nowhere (Choi and Lee, Injectivity conditions of 2D
    and 3D uniform cubic B-spline functions, Graphical Models 62, 2000).

    Returns:
        (dims, *spatial): the shift after the matrix, in voxels.
    """
    cells, moving = augmentation.elastic_cells, thin_axes(spacing_mm)
    cell_mm = max(n * mm for n, mm in zip(spatial, spacing_mm, strict=True)) / cells
    largest_mm = rng.uniform(*augmentation.elastic_displacement) * cell_mm
    limits = [largest_mm / mm if axis in moving else 0.0 for axis, mm in enumerate(spacing_mm)]
    field = random_field(rng, spatial, spacing_mm, cells=cells, limits=limits)
    return field if matrix is None else SmoothField(np.tensordot(matrix, field.control, 1), field.cell)


def _largest_angle(augmentation: Augmentation, spatial: Sequence[int], axes: Sequence[int]) -> float:
    if augmentation.rotation_degrees is not None:
        return augmentation.rotation_degrees
    if len(axes) == 3:
        return _TURN_OF_VOLUMES
    long = len(spatial) == 2 and max(spatial) > _LONG * min(spatial)
    return _TURN_OF_LONG_PLANES if long else _TURN_IN_PLANE


def _turn(dims: int, plane: tuple[int, int], angle: float) -> Matrix:
    matrix = np.eye(dims)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix[np.ix_(plane, plane)] = [[cos, -sin], [sin, cos]]
    return matrix
