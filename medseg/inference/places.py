"""Where the voxels of the native grid lie between the planes of the network's grid, and the logits around them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.data.resample import Coordinates, GridMap, nearest_planes, neighbours
from medseg.inference.tiles import Slab

INSIDE_TOLERANCE = 1e-4
HALF_WAY_TOLERANCE = 1e-6
_PIECE_VOXELS = 1 << 22
_THIN_PLANES, _THIN_BYTES = 8, 32 << 20


@dataclass(frozen=True, eq=False)
class AxisPlaces:
    """The native indices that lie within the network's grid along one of its axes.

    Attributes:
        first: The first of them.
        low: (n,) plane of the network's grid before each of them, from `first` on.
        weight: (n,) of the next plane, 0 to 1; None where one plane is enough.
    """

    first: int
    low: NDArray[np.int64]
    weight: NDArray[np.float64] | None

    @property
    def step(self) -> int:
        """1 where two planes are interpolated, 0 where one is enough."""
        return 0 if self.weight is None else 1

    @property
    def indices(self) -> slice:
        """The native indices."""
        return slice(self.first, self.first + len(self.low))

    @property
    def coordinates(self) -> Coordinates:
        """(n,) where they lie, in planes of the network's grid."""
        low = self.low.astype(np.float64)
        return low if self.weight is None else low + self.weight

    def within(self, start: int, cells: int) -> AxisPlaces:
        """Return the native indices within some cells, with planes counted from the first of these."""
        mine = np.flatnonzero((self.low >= start) & (self.low < start + cells))
        if not len(mine):
            return AxisPlaces(self.first, self.low[:0], self.weight)
        some = slice(int(mine[0]), int(mine[-1]) + 1)
        weight = None if self.weight is None else self.weight[some]
        return AxisPlaces(self.first + some.start, self.low[some] - start, weight)


def axis_places(grids: GridMap, nearest_axis: int | None = None) -> list[AxisPlaces]:
    """Place the native grid along each axis of the network's grid.

    Args:
        grids: The network's grid and the native one, separable.
        nearest_axis: Axis of the network's grid along which the nearest plane stands for those between.
    """
    found = []
    for axis, size in enumerate(grids.source.shape):
        coordinates = grids.coordinates(axis)
        inside = np.flatnonzero(is_inside(coordinates, size))
        first = int(inside[0]) if len(inside) else 0
        if axis == nearest_axis:
            coordinates = nearest_planes(coordinates, size, tolerance=HALF_WAY_TOLERANCE)
        found.append(AxisPlaces(first, *neighbours(coordinates[inside], size)))
    return found


def is_inside(coordinates: Coordinates, size: int) -> NDArray[np.bool_]:
    """Which coordinates lie within the voxels of an axis, the outer faces included."""
    within: NDArray[np.bool_] = coordinates >= -0.5 - INSIDE_TOLERANCE
    return within & (coordinates <= size - 0.5 + INSIDE_TOLERANCE)


@dataclass(frozen=True, eq=False)
class Piece:
    """Some planes of logits, and the cells between them.

    Attributes:
        start: The first cell, which begins at the plane of this number.
        cells: How many.
        logits: (K, i, j, planes).
    """

    start: int
    cells: int
    logits: Tensor


def pieces(slabs: Iterable[Slab], step: int) -> Iterator[Piece]:
    """Cut slabs into pieces that have every cell of the last axis once, in order.

    Args:
        slabs: Slabs that follow one another. A slab's memory is not read any more once the next one is asked for.
        step: 1 where a cell lies between two planes, 0 where it is a plane.
    """
    for slab in _overlapping(slabs) if step else slabs:
        cells = slab.logits.shape[-1] - step
        at_once = max(1, _PIECE_VOXELS // max(1, slab.logits[0, ..., 0].numel()))
        for low in range(0, cells, at_once):
            high = min(low + at_once, cells)
            yield Piece(slab.start + low, high - low, slab.logits[..., low : high + step])


def _overlapping(slabs: Iterable[Slab]) -> Iterator[Slab]:
    """Yield slabs that begin with the last plane of the one before; thin ones are put together."""
    kept: list[Tensor] = []  # planes that are not yielded yet, but for the first, which is yielded
    start = 0
    for slab in slabs:
        planes = slab.logits.shape[-1]
        if planes < _THIN_PLANES and slab.logits.nbytes < _THIN_BYTES:
            kept.append(slab.logits.clone())
            if sum(k.shape[-1] for k in kept) <= _THIN_PLANES:
                continue
            yield Slab(start, torch.cat(kept, dim=-1))
        else:
            if kept:
                yield Slab(start, torch.cat((*kept, slab.logits[..., :1]), dim=-1))
            yield slab
        kept, start = [slab.logits[..., -1:].clone()], slab.start + planes - 1
    if kept:
        yield Slab(start, torch.cat(kept, dim=-1))


def permutation(target_axes: Sequence[int]) -> tuple[int, int, int]:
    """Return the network's axis that runs along each native axis."""
    i, j, k = (int(axis) for axis in np.argsort(target_axes))
    return i, j, k
