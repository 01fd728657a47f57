"""Labels on the native grid: cells of one winner are filled, points in the others are interpolated.

`GridLabels` is for native grids whose axes run along the network's, `PointLabels` for all others. Both place a
voxel in the same cell with the same weights, and `medseg.inference.exact.Cells` says what wins there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.data.resample import GridMap
from medseg.inference.exact import Cells, Contest, Shape
from medseg.inference.places import HALF_WAY_TOLERANCE, INSIDE_TOLERANCE, AxisPlaces, Piece, permutation

_POINTS = 1 << 18
"""Points that are interpolated at once; each takes about 150 bytes."""
_PAIRS = 1 << 22
"""Pairs of a cell and a class that are compared at once; each takes up to 25 bytes."""
_CELLS = 1 << 20
"""Cells that are searched for boundaries at once."""

_MIXED = -1

_Points = tuple[Tensor, Tensor, Tensor]
"""Places in memory (n,), cells int64 (n, 3), and the weights of each cell's far sides, float32 (n, 3)."""

LabelArray = NDArray[np.unsignedinteger[Any]]


class GridLabels:
    """Fills a label array whose axes run along those of the network's grid.

    Args:
        places: Where the native voxels lie along each axis of the network's grid.
        target_axes: The native axis that runs along each of these.
        values: Label value of each index.
        regions: Logits are of regions.
        labels: What is filled, i fastest in memory.
    """

    def __init__(
        self,
        places: Sequence[AxisPlaces],
        target_axes: Sequence[int],
        values: LabelArray,
        regions: bool,
        labels: LabelArray,
    ) -> None:
        self._places = places
        self._order = permutation(target_axes)[::-1]  # axes of the network's grid, as the labels lie in memory
        self._values, self._labels = _as_tensor(values), _as_tensor(labels.T)
        self._regions = regions

    def add(self, piece: Piece) -> None:
        """Label the voxels in the cells of a piece."""
        axes = [*self._places[:2], self._places[2].within(piece.start, piece.cells)]
        if not all(len(axis.low) for axis in axes):
            return
        logits = piece.logits
        for number, axis in enumerate(axes):
            start, cells = int(axis.low.min()), int(np.ptp(axis.low)) + 1
            logits = logits.narrow(number + 1, start, cells + axis.step)
            axes[number] = axis.within(start, cells)
        i, j, k = (axis.step for axis in axes)
        cells_of_piece = Cells(logits, (i, j, k), self._regions)
        block = self._filled(cells_of_piece, axes)
        if i or j or k:
            _Patch(cells_of_piece, axes, block, self._order, self._values.to(block.device)).settle()
        self._labels[tuple(axes[axis].indices for axis in self._order)] = block.cpu()

    def _filled(self, cells: Cells, axes: Sequence[AxisPlaces]) -> Tensor:
        """Return the label of each voxel's cell, in the memory order of the labels."""
        lowest = cells.lowest
        block = self._values.to(lowest.device).index_select(0, lowest.reshape(-1).int()).view(lowest.shape)
        block = block.permute(self._order).contiguous()
        for dim in (2, 1, 0):  # the widest rows are copied last
            low = axes[self._order[dim]].low
            if not np.array_equal(low, np.arange(block.shape[dim])):
                block = block.index_select(dim, torch.from_numpy(low).to(block.device))
        return block


class _Patch:
    """The voxels of a block that lie in cells of several winners."""

    def __init__(
        self, cells: Cells, axes: Sequence[AxisPlaces], block: Tensor, order: Sequence[int], values: Tensor
    ) -> None:
        self._cells, self._block, self._values = cells, block.view(-1), values
        self._strides = [block.stride(order.index(axis)) for axis in range(3)]
        device = block.device
        numbers = [
            np.bincount(axis.low, minlength=n) for axis, n in zip(axes, cells.lowest.shape, strict=True)
        ]  # of voxels in each cell, along each axis
        firsts = [np.zeros(len(number), dtype=np.int64) for number in numbers]
        for first, axis in zip(firsts, axes, strict=True):
            cell, index = np.unique(axis.low, return_index=True)
            first[cell] = index
        self._numbers = [torch.from_numpy(number).to(device) for number in numbers]
        self._firsts = [torch.from_numpy(first).to(device) for first in firsts]
        weights = [np.zeros(len(axis.low)) if axis.weight is None else axis.weight for axis in axes]
        self._weights = [torch.from_numpy(weight).to(device, torch.float32) for weight in weights]
        most = int(np.prod([number.max() for number in numbers]))
        self._at_once = max(1, min(_POINTS // most, _PAIRS // len(cells.logits)))

    def settle(self) -> None:
        """Interpolate them, and write their labels."""
        boundary = self._cells.lowest != self._cells.highest
        rows = max(1, _CELLS // boundary[0].numel())
        for start in range(0, len(boundary), rows):
            found = boundary[start : start + rows].nonzero()
            found[:, 0] += start
            total = torch.ones_like(found[:, 0])
            for number, cell in zip(self._numbers, found.unbind(1), strict=True):
                total *= number[cell]
            found, total = found[total > 0], total[total > 0]
            at_once = self._at_once
            for low in range(0, len(found), at_once):
                contest = self._cells.contest(found[low : low + at_once])
                self._settle(contest, total[low : low + at_once][contest.order])

    def _settle(self, contest: Contest, sizes: Tensor) -> None:
        """Label all voxels of some cells; sizes: (n,), how many voxels each cell has."""
        points = int(sizes.sum())
        owner = torch.repeat_interleave(sizes, output_size=points)
        rest = torch.arange(points, device=sizes.device) - (sizes.cumsum(0) - sizes)[owner]
        place = torch.zeros_like(rest)
        weights = []
        for axis in (2, 1, 0):
            cell = contest.cells[:, axis]
            number = self._numbers[axis][cell][owner]
            nth = rest if axis == 0 else rest % number
            rest = rest if axis == 0 else rest // number
            at = self._firsts[axis][cell][owner] + nth
            place += at * self._strides[axis]
            weights.append(self._weights[axis][at])
        self._block[place] = self._values[contest.settle(owner, weights[::-1])]


class PointLabels:
    """Fills a label array that lies in any way against the network's grid, voxel by voxel.

    Args:
        grids: The network's grid and the native one.
        nearest_axis: Axis of the network's grid along which the nearest plane is taken.
        values: Label value of each index.
        regions: Logits are of regions.
        labels: What is filled, i fastest in memory.

    Attributes:
        steps: For each axis of the network's grid 1 where two planes are interpolated, 0 where one is enough.
    """

    def __init__(
        self, grids: GridMap, nearest_axis: int | None, values: LabelArray, regions: bool, labels: LabelArray
    ) -> None:
        self._grids, self._regions = grids, regions
        self._values, self._labels = _as_tensor(values), _as_tensor(labels.T).view(-1)
        i, j, k = (int(n > 1 and axis != nearest_axis) for axis, n in enumerate(grids.source.shape))
        self.steps: Shape = (i, j, k)

    def add(self, piece: Piece) -> None:
        """Label the voxels in the cells of a piece."""
        cells = Cells(piece.logits, self.steps, self._regions)
        winners = torch.where(cells.lowest == cells.highest, cells.lowest.to(torch.int16), _MIXED)
        at_once = max(1, min(_POINTS, _PAIRS // len(piece.logits)))
        waiting: list[_Points] = []
        for plane in self._touched(piece):
            waiting.append(self._fill(piece, winners, plane))
            if sum(len(points[0]) for points in waiting) >= at_once:
                self._settle(cells, waiting, at_once)
                waiting = []
        if waiting:
            self._settle(cells, waiting, at_once)

    def _fill(self, piece: Piece, winners: Tensor, plane: int) -> _Points:
        """Label the voxels of a native k-plane whose cells have one winner.

        Returns:
            The voxels in cells of several winners.
        """
        rows, columns, _ = self._grids.target.shape
        source = self._coordinates(plane, winners.device)
        low = [self._low(along, axis) for axis, along in enumerate(source)]
        mine = (low[2] >= piece.start) & (low[2] < piece.start + piece.cells)
        for axis, along in enumerate(source):
            reach = 0.5 + INSIDE_TOLERANCE
            mine &= (along >= -reach) & (along <= self._grids.source.shape[axis] - 1 + reach)
        here = mine.view(-1).nonzero().squeeze(1)  # in the plane's memory order
        _, size_j, size_k = winners.shape
        flat = low[0].mul_(size_j).add_(low[1]).mul_(size_k).add_(low[2]).sub_(piece.start)
        index = winners.view(-1).index_select(0, flat.view(-1)[here].long())
        self._write(here + plane * columns * rows, index.clamp(min=0))
        here = here[index == _MIXED]
        at = [along.view(-1)[here] for along in source]
        lows = [self._low(along, axis) for axis, along in enumerate(at)]
        weights = [
            (along.clamp(0, size - 1) - below).float() * step
            for along, below, size, step in zip(at, lows, self._grids.source.shape, self.steps, strict=True)
        ]
        lows[2] -= piece.start
        return here + plane * columns * rows, torch.stack(lows, dim=1).long(), torch.stack(weights, dim=1)

    def _settle(self, cells: Cells, waiting: Sequence[_Points], at_once: int) -> None:
        place, low, weight = (torch.cat(parts) for parts in zip(*waiting, strict=True))
        _, size_j, size_k = cells.lowest.shape
        for start in range(0, len(place), at_once):
            some = slice(start, start + at_once)
            i, j, k = low[some].unbind(1)
            flat, owner = torch.unique((i * size_j + j) * size_k + k, return_inverse=True)
            corner = torch.stack((flat // (size_j * size_k), flat // size_k % size_j, flat % size_k), dim=1)
            contest = cells.contest(corner)
            owner, order = contest.order.argsort()[owner].sort()
            index = contest.settle(owner, weight[some][order].unbind(1))
            self._write(place[some][order], index)

    def _write(self, place: Tensor, index: Tensor) -> None:
        self._labels[place.cpu()] = self._values[index.cpu().int()]

    def _coordinates(self, plane: int, device: torch.device) -> list[Tensor]:
        """Return the coordinates of a native k-plane along each axis of the network's grid, float64 (j, i)."""
        rows, columns, _ = self._grids.target.shape
        matrix = self._grids.matrix
        corner = matrix[:3, 2] * plane + matrix[:3, 3]
        i = torch.arange(rows, dtype=torch.float64, device=device)
        j = torch.arange(columns, dtype=torch.float64, device=device)[:, None]
        return [j * matrix[axis, 1] + (i * matrix[axis, 0] + corner[axis]) for axis in range(3)]

    def _low(self, coordinates: Tensor, axis: int) -> Tensor:
        """Return the plane before each coordinate, the nearest one where one is enough."""
        last = self._grids.source.shape[axis] - 1
        if self.steps[axis]:
            return coordinates.clamp(0, last - 1).floor_()
        return (coordinates + (0.5 + HALF_WAY_TOLERANCE)).floor_().clamp_(0, last)

    def _touched(self, piece: Piece) -> Iterator[int]:
        """Yield the native planes that may reach into a piece, by their corners."""
        matrix, shape = self._grids.matrix, self._grids.target.shape
        rise = [matrix[2, axis] * (shape[axis] - 1) for axis in (0, 1)]
        middle = matrix[2, 2] * np.arange(shape[2]) + matrix[2, 3]
        lowest, highest = middle + sum(min(r, 0) for r in rise), middle + sum(max(r, 0) for r in rise)
        yield from (
            int(plane)
            for plane in np.flatnonzero((highest >= piece.start - 1) & (lowest <= piece.start + piece.cells + 1))
        )


def _as_tensor(array: LabelArray) -> Tensor:
    """Share an array's memory; types of more than 8 bits become the signed ones of that size."""
    signed = array if array.dtype == np.uint8 else array.view(f"i{array.dtype.itemsize}")
    return torch.from_numpy(signed)
