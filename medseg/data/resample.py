"""Resampling between grids: exact coordinates, linear for images, nearest for labels.

Where the axes of two grids run along one another (spacing, flips, permutations, crops), interpolation is separable:
two neighbours an axis, in place of eight a voxel. Other pairs of grids (rotated, sheared) are sampled.
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
        scale, offset = float(self.matrix[source_axis, target_axis]), float(self.matrix[source_axis, 3])
        return np.arange(self.target.shape[target_axis], dtype=np.float64) * scale + offset


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
    """Resample each axis of `x` at its own coordinates.

    One output plane after the other is made from two input planes that are resampled within themselves first: all
    that is worked on stays in the processor's cache.

    Args:
        x: (C, i, j, k).
        coordinates: For each spatial axis the coordinate in `x` of each output index.
        nearest: Take the nearest voxel; half-way goes to the even index, as MONAI's nearest does.

    Returns:
        (C, *lengths of the coordinates); memory order as in `x`, the channels outermost. `x` itself where every
        coordinate is its own index.
    """
    taps = [_taps(c, n, nearest, x) for c, n in zip(coordinates, x.shape[1:], strict=True)]
    if all(t.is_identity for t in taps):
        return x
    order = sorted(range(3), key=lambda axis: -x.stride()[axis + 1])  # the slowest spatial axis first
    x = x.permute(0, *(axis + 1 for axis in order))
    outer, *inner = (taps[axis] for axis in order)
    out = x.new_empty((x.shape[0], *(len(coordinates[axis]) for axis in order)))
    for channel, target in zip(x, out, strict=True):
        _resample_channel(channel, outer, inner, target)
    return out.permute(0, *(order.index(axis) + 1 for axis in range(3)))


def nearest_integers(coordinates: Coordinates) -> NDArray[np.int64] | None:
    """Return coordinates as integers where all of them are integers to 1e-5, else None."""
    rounded = np.rint(coordinates)
    if np.abs(coordinates - rounded).max(initial=0.0) > _INTEGER_TOLERANCE:
        return None
    return rounded.astype(np.int64)


@dataclass(frozen=True)
class _Taps:
    """Which one or two source indices each output index of an axis is made of.

    Attributes:
        low: Source index of each output index.
        weight: Of the next source index, 0 to 1; None where only `low` counts.
        is_identity: Every output index is its own source index, and none is left out.
    """

    low: Tensor
    weight: Tensor | None
    is_identity: bool

    def apply(self, plane: Tensor, axis: int) -> Tensor:
        """Resample one axis of a plane."""
        if self.is_identity:
            return plane
        first = plane.index_select(axis, self.low)
        if self.weight is None:
            return first
        weight = self.weight if axis == plane.ndim - 1 else self.weight[:, None]
        return first.lerp_(plane.index_select(axis, self.low + 1), weight)


def _taps(coordinates: Coordinates, size: int, nearest: bool, like: Tensor) -> _Taps:
    inside = np.clip(coordinates, 0, size - 1)
    whole = np.rint(inside).astype(np.int64) if nearest else nearest_integers(inside)
    if whole is not None:
        is_identity = np.array_equal(whole, np.arange(size))
        return _Taps(torch.from_numpy(whole).to(like.device), None, is_identity)
    low = np.minimum(inside.astype(np.int64), size - 2)
    return _Taps(torch.from_numpy(low).to(like.device), torch.from_numpy(inside - low).to(like), False)


def _resample_channel(x: Tensor, outer: _Taps, inner: list[_Taps], out: Tensor) -> None:
    """Fill `out` plane by plane along the first axis of `x`."""
    ready: dict[int, Tensor] = {}  # input planes, resampled within themselves

    def plane(index: int) -> Tensor:
        if index not in ready:
            ready[index] = inner[1].apply(inner[0].apply(x[index], 0), 1)
        return ready[index]

    weights = [0.0] * len(out) if outer.weight is None else outer.weight.tolist()
    for target, low, weight in zip(out, outer.low.tolist(), weights, strict=True):
        for index in [n for n in ready if n not in (low, low + 1)]:
            del ready[index]
        if weight:
            torch.lerp(plane(low), plane(low + 1), weight, out=target)
        else:
            target.copy_(plane(low))


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
