"""Resampling between grids: exact coordinates, linear for images, nearest for labels.

Where the axes of two grids run along one another (spacing, flips, permutations, crops), interpolation is separable:
one pass an axis, in place of eight neighbours a voxel. Other pairs of grids (rotated, sheared) are sampled.
Coordinates outside the source take its border value, as MONAI's ``padding_mode="border"`` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from medseg.volume import Affine, Grid

Coordinates = NDArray[np.float64]

_SEPARABLE_TOLERANCE_VOXELS = 1e-3
_INTEGER_TOLERANCE = 1e-5
_SLAB_VOXELS = 1 << 22


@dataclass(frozen=True)
class GridMap:
    """Where the voxels of a target grid lie in a source grid.

    Args:
        source: The grid that has the values.
        target: The grid that wants them.
    """

    source: Grid
    target: Grid

    @cached_property
    def matrix(self) -> Affine:
        """4x4: target voxel index to source voxel index."""
        return np.asarray(np.linalg.solve(self.source.affine, self.target.affine), dtype=np.float64)

    @cached_property
    def target_axes(self) -> tuple[int, int, int] | None:
        """For each source axis the one target axis that runs along it, or None where the map is not separable.

        A map counts as separable when dropping the rest of its matrix moves no voxel by more than 0.001 voxels.
        """
        linear = self.matrix[:3, :3]
        axes = [int(np.argmax(row)) for row in np.abs(linear)]
        if sorted(axes) != [0, 1, 2]:
            return None
        rest = linear.copy()
        rest[range(3), axes] = 0
        moved = np.abs(rest) @ (np.array(self.target.shape) - 1)
        return (axes[0], axes[1], axes[2]) if moved.max() <= _SEPARABLE_TOLERANCE_VOXELS else None

    def coordinates(self, source_axis: int) -> Coordinates:
        """Return the source coordinate, along one source axis, of each target index of the matching axis."""
        if self.target_axes is None:
            raise ValueError("a map that is not separable has no coordinates of one axis")
        target_axis = self.target_axes[source_axis]
        scale = self.matrix[source_axis, target_axis]
        offset = self.matrix[source_axis, 3]
        steps: Coordinates = np.arange(self.target.shape[target_axis], dtype=np.float64)
        return steps * scale + offset


def resample(x: Tensor, grids: GridMap, *, nearest: bool = False) -> Tensor:
    """Resample channels from one grid to another.

    Args:
        x: (C, *source shape); any real type for nearest, floating for linear.
        grids: Source and target.
        nearest: Take the nearest voxel (for labels) and do not interpolate.

    Returns:
        (C, *target shape), of the type of `x`.
    """
    axes = grids.target_axes
    if axes is None:
        return _resample_sampled(x, grids, nearest)
    order = np.argsort(axes)  # source axis that runs along each target axis
    x = x.permute(0, *(int(axis) + 1 for axis in order))
    return resample_axes(x, [grids.coordinates(int(axis)) for axis in order], nearest=nearest)


def resample_axes(x: Tensor, coordinates: list[Coordinates], *, nearest: bool = False) -> Tensor:
    """Resample each axis of `x` at its own coordinates, the most shrinking axis first.

    Args:
        x: (C, i, j, k).
        coordinates: For each spatial axis the coordinate in `x` of each output index.
        nearest: Take the nearest voxel; half-way goes to the even index, as MONAI's nearest does.

    Returns:
        (C, *lengths of the coordinates); memory order as in `x`.
    """
    memory = sorted(range(4), key=lambda axis: -x.stride()[axis])  # slowest axis first
    x = x.permute(memory)
    by_growth = sorted(range(3), key=lambda axis: len(coordinates[axis]) / x.shape[memory.index(axis + 1)])
    for axis in by_growth:
        x = _along(x, memory.index(axis + 1), coordinates[axis], nearest)
    return x.permute([memory.index(axis) for axis in range(4)])


def nearest_integers(coordinates: Coordinates) -> NDArray[np.int64] | None:
    """Return coordinates as integers where all of them are integers to 1e-5, else None."""
    rounded = np.rint(coordinates)
    if np.abs(coordinates - rounded).max(initial=0.0) > _INTEGER_TOLERANCE:
        return None
    return rounded.astype(np.int64)


def _along(x: Tensor, axis: int, coordinates: Coordinates, nearest: bool) -> Tensor:
    size = x.shape[axis]
    inside = np.clip(coordinates, 0, size - 1)
    whole = np.rint(inside).astype(np.int64) if nearest else nearest_integers(inside)
    if whole is not None:
        if np.array_equal(whole, np.arange(size)):
            return x
        return x.index_select(axis, torch.from_numpy(whole).to(x.device))
    low = np.minimum(inside.astype(np.int64), size - 2)
    weight = torch.from_numpy(inside - low).to(x)
    weight = weight.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    index = torch.from_numpy(low).to(x.device)
    return torch.lerp(x.index_select(axis, index), x.index_select(axis, index + 1), weight)


def _resample_sampled(x: Tensor, grids: GridMap, nearest: bool) -> Tensor:
    shape = grids.target.shape
    planes = max(1, _SLAB_VOXELS // (shape[0] * shape[1]))
    slabs = [
        sample_planes(x, grids.matrix, shape, range(k, min(k + planes, shape[2])), nearest)
        for k in range(0, shape[2], planes)
    ]
    return torch.cat(slabs, dim=-1)


def sample_planes(
    x: Tensor, matrix: Affine, shape: tuple[int, int, int], planes: range, nearest: bool = False
) -> Tensor:
    """Sample some k-planes of a target grid at any affine.

    Args:
        x: (C, *source shape).
        matrix: Target voxel index to source voxel index.
        shape: Target shape.
        planes: Which target planes k.
        nearest: Take the nearest voxel.

    Returns:
        (C, i, j, len(planes)), of the type of `x`.
    """
    index = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64) for n in shape[:2]),
        torch.arange(planes.start, planes.stop, dtype=torch.float64),
        indexing="ij",
    )
    target = torch.stack(index, dim=-1)  # (i, j, planes, 3)
    source = target @ torch.from_numpy(matrix[:3, :3].T.copy()) + torch.from_numpy(matrix[:3, 3].copy())
    size = torch.tensor(x.shape[1:], dtype=torch.float64)
    normalised = (2 * source + 1) / size - 1  # align_corners=False: -1 is the outer face of the first voxel
    values = F.grid_sample(
        x[None].to(torch.float32),
        normalised.flip(-1)[None].to(x.device, torch.float32),
        mode="nearest" if nearest else "bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return values[0].to(x.dtype)
