"""Resampling between grids: exact coordinates, linear for images, nearest for labels.

Where the axes of two grids run along one another (spacing, flips, permutations, crops), interpolation is separable:
two neighbours an axis, in place of eight a voxel. Other pairs of grids (rotated, sheared) are sampled.
Coordinates outside the source take its border value, as MONAI's ``padding_mode="border"`` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.volume import Affine, Grid

Coordinates = NDArray[np.float64]

_SEPARABLE_TOLERANCE_VOXELS = 0.05  # what rounded decimals of DICOM tags amount to at the far corner
_INTEGER_TOLERANCE = 1e-5


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

        A map counts as separable when dropping the rest of its matrix moves no voxel by more than 0.05 voxels:
        DICOM writes positions and directions in decimals, and their rounding tilts straight axes that much.
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
        (C, *lengths of the coordinates); memory order as in `x`, the channels outermost. A view of `x` where it is
        only cropped.
    """
    taps = []
    for axis, values in enumerate(coordinates, start=1):
        x, local = _narrowed(x, axis, values)
        taps.append(_taps(local, x.shape[axis], nearest, x))
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


def _narrowed(x: Tensor, axis: int, coordinates: Coordinates) -> tuple[Tensor, Coordinates]:
    """Crop an axis, as a view, where the coordinates are neighbouring indices; return them within the crop."""
    whole = nearest_integers(coordinates)
    if whole is None or not len(whole) or whole[0] < 0 or whole[-1] >= x.shape[axis]:
        return x, coordinates
    steps = np.arange(len(whole))
    if not np.array_equal(whole, whole[0] + steps):
        return x, coordinates
    return x.narrow(axis, int(whole[0]), len(whole)), steps.astype(np.float64)


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
    low, weight = neighbours(coordinates, size, nearest=nearest)
    is_identity = weight is None and np.array_equal(low, np.arange(size))
    weights = None if weight is None else torch.from_numpy(weight).to(like)
    return _Taps(torch.from_numpy(low).to(like.device), weights, is_identity)


def neighbours(
    coordinates: Coordinates, size: int, *, nearest: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
    """Return which one or two indices of an axis each coordinate is made of.

    Args:
        coordinates: Along an axis; those outside are moved to its first or last index.
        size: Of the axis.
        nearest: Take the nearest index; half-way goes to the even one.

    Returns:
        The lower index of each coordinate, and the weight of the next one, 0 to 1; None in place of the weights
        where one index is enough: nearest, or all coordinates are integers to 1e-5.
    """
    inside = np.clip(coordinates, 0, size - 1)
    whole = np.rint(inside).astype(np.int64) if nearest else nearest_integers(inside)
    if whole is not None:
        return whole, None
    low = np.minimum(inside.astype(np.int64), size - 2)
    return low, inside - low


def nearest_planes(coordinates: Coordinates, size: int, *, tolerance: float = 0.0) -> Coordinates:
    """Round coordinates to planes of an axis; half-way goes to the higher one.

    Args:
        coordinates: In planes.
        size: Of the axis.
        tolerance: What counts as half-way below it, for coordinates that are not exact.

    Source: The rule of ``scipy.ndimage.map_coordinates`` of order 0, which nnU-Net takes along a coarse axis.
    """
    return np.clip(np.floor(coordinates + 0.5 + tolerance), 0, size - 1)


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
    out = x.new_empty((x.shape[0], *grids.target.shape))
    for k in range(grids.target.shape[2]):
        points = plane_coordinates(grids.matrix, grids.target.shape, k)
        out[..., k] = sample_points(x, points.reshape(-1, 3), nearest=nearest).reshape(out.shape[:-1])
    return out


def plane_coordinates(matrix: Affine, shape: tuple[int, int, int], k: int) -> NDArray[np.float64]:
    """Return the source coordinates (i, j, 3) of one k-plane of a target grid.

    Args:
        matrix: Target voxel index to source voxel index.
        shape: Target shape.
        k: Which plane.
    """
    rows, columns = np.arange(shape[0])[:, None, None], np.arange(shape[1])[None, :, None]
    corner = matrix[:3, 2] * k + matrix[:3, 3]
    return np.asarray(rows * matrix[:3, 0] + columns * matrix[:3, 1] + corner, dtype=np.float64)


def sample_points(x: Tensor, points: NDArray[np.float64], *, nearest: bool = False) -> Tensor:
    """Sample channels at any points, trilinearly or nearest; outside the border value is taken.

    Coordinates are kept in float64 up to the weights, so that a point of a long axis is not moved.

    Args:
        x: (C, i, j, k).
        points: (n, 3) coordinates in voxels of `x`.
        nearest: Take the nearest voxel.

    Returns:
        (C, n), of the type of `x`.
    """
    low, weight = zip(
        *(neighbours(points[:, axis], x.shape[axis + 1], nearest=nearest) for axis in range(3)), strict=True
    )
    total: Tensor | None = None
    for corner in product(*((0,) if w is None else (0, 1) for w in weight)):
        index = [torch.from_numpy(at + step).to(x.device) for at, step in zip(low, corner, strict=True)]
        values = x[:, index[0], index[1], index[2]]
        shares = [w if step else 1 - w for w, step in zip(weight, corner, strict=True) if w is not None]
        if shares:
            values = values * torch.from_numpy(np.prod(shares, axis=0)).to(values)
        total = values if total is None else total.add_(values)
    if total is None:
        raise ValueError("a point has at least one corner")
    return total
