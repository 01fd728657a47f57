"""Every class at every native voxel, block after block: for what needs more than the label that wins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.data.resample import GridMap, nearest_planes, resample_axes, sample_points
from medseg.inference.places import HALF_WAY_TOLERANCE, AxisPlaces, axis_places, is_inside, permutation, pieces
from medseg.inference.tiles import Slab

Place = tuple[slice, slice, slice]
Sink = Callable[[Place, Tensor], None]
"""Takes the place of a block in the native array, and its float32 logits (K, *block shape)."""

_CHUNK_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class Block:
    """A box of the native array.

    Attributes:
        place: Its slices along i, j and k.
        logits: float32 (K, *shape of the box).
        inside: Which voxels lie within the network's grid; None where all do. The others' logits are of no meaning.
    """

    place: Place
    logits: Tensor
    inside: NDArray[np.bool_] | None = None


def every_class(slabs: Iterator[Slab], grids: GridMap, nearest_axis: int | None = None) -> Iterator[Block]:
    """Interpolate all logits to the native grid.

    Blocks take up to 256 MiB of logits, or those of one native plane. Where the grids' axes do not run along one
    another, planes of logits are kept for as long as a native plane that is not done crosses them.

    Args:
        slabs: Slabs of logits that follow one another.
        grids: The network's grid and the native one.
        nearest_axis: Axis of the network's grid along which the nearest plane is taken.

    Yields:
        Blocks that have every native voxel within the network's grid once.
    """
    if grids.target_axes is None:
        yield from _sampled(slabs, grids, nearest_axis)
    else:
        yield from _separable(slabs, axis_places(grids, nearest_axis), permutation(grids.target_axes))


def block_bytes(grids: GridMap, channels: int, slab_planes: int) -> int:
    """Return the bytes of the largest block's logits.

    Args:
        grids: The network's grid and the native one.
        channels: Of the logits.
        slab_planes: Most planes of the network's grid that are handed on at once.
    """
    shape = grids.target.shape
    along = np.abs(grids.matrix[2, :3])
    axis = int(np.argmax(along))  # that blocks follow one another along
    plane = 4 * channels * prod(shape) // shape[axis]
    if grids.target_axes is None:
        return plane
    planes = min(shape[axis], ceil(slab_planes / along[axis]) + 1)
    return int(min(plane * planes, max(plane, _CHUNK_BYTES)))


def window_planes(grids: GridMap) -> int:
    """Return the most planes of logits that are kept at once where the grids' axes do not run along one another."""
    reaches = sorted(_reaches(grids, int(np.argmax(np.abs(grids.matrix[2, :3])))), key=lambda reach: reach[1])
    first = np.minimum.accumulate([reach[0] for reach in reaches][::-1])[::-1]
    return int(max(last + 1 - low for low, (_, last, _) in zip(first, reaches, strict=True)))


def _separable(slabs: Iterator[Slab], places: Sequence[AxisPlaces], order: Sequence[int]) -> Iterator[Block]:
    across = [axis.coordinates for axis in places[:2]]
    for piece in pieces(slabs, places[2].step):
        mine = places[2].within(piece.start, piece.cells)
        plane_bytes = 4 * len(piece.logits) * len(across[0]) * len(across[1])
        at_once = max(1, _CHUNK_BYTES // max(1, plane_bytes))
        for low in range(0, len(mine.low) if plane_bytes else 0, at_once):
            along = mine.coordinates[low : low + at_once]
            logits = resample_axes(piece.logits.float(), [*across, along])
            first = mine.first + low
            slices = (places[0].indices, places[1].indices, slice(first, first + len(along)))
            i, j, k = (slices[axis] for axis in order)
            yield Block((i, j, k), logits.permute(0, *(axis + 1 for axis in order)))


def _sampled(slabs: Iterator[Slab], grids: GridMap, nearest_axis: int | None) -> Iterator[Block]:
    """Yield one native plane after the other, across the native axis that runs along the slabs' most."""
    axis = int(np.argmax(np.abs(grids.matrix[2, :3])))
    depth = grids.source.shape[2]
    todo = sorted(_reaches(grids, axis), key=lambda reach: reach[1])
    window: Slab | None = None
    for slab in slabs:
        logits = slab.logits if window is None else torch.cat((window.logits, slab.logits), dim=-1)
        start, end = slab.start if window is None else window.start, slab.start + slab.logits.shape[-1]
        while todo and (todo[0][1] <= end - 1 or end == depth):
            block = _plane(Slab(start, logits), grids, axis, todo.pop(0)[2], nearest_axis)
            if block is not None:
                yield block
        needed = min((reach[0] for reach in todo), default=end)
        drop = min(max(needed - start, 0), end - start)
        window = Slab(start + drop, logits[..., drop:].clone())


def _reaches(grids: GridMap, axis: int) -> list[tuple[int, int, int]]:
    """Return the first and last source plane that each native plane reaches into, and its number."""
    across = [other for other in range(3) if other != axis]
    rises = [float(grids.matrix[2, other]) * (grids.target.shape[other] - 1) for other in across]
    middle = grids.matrix[2, axis] * np.arange(grids.target.shape[axis]) + grids.matrix[2, 3]
    depth = grids.source.shape[2]
    low = np.clip(np.floor(middle + sum(min(r, 0.0) for r in rises)), 0, depth - 1).astype(int)
    high = np.clip(np.ceil(middle + sum(max(r, 0.0) for r in rises)), 0, depth - 1).astype(int)
    return [(int(a), int(b), n) for n, (a, b) in enumerate(zip(low, high, strict=True))]


def _plane(slab: Slab, grids: GridMap, axis: int, number: int, nearest_axis: int | None) -> Block | None:
    """Interpolate one native plane, cut to the voxels within the source; None where there are none."""
    shape = [1 if n == axis else size for n, size in enumerate(grids.target.shape)]
    index = np.indices(shape).reshape(3, -1) + np.eye(3, dtype=int)[axis][:, None] * number
    points = (grids.matrix[:3, :3] @ index + grids.matrix[:3, 3:]).T
    inside = np.all([is_inside(points[:, n], size) for n, size in enumerate(grids.source.shape)], axis=0)
    if not inside.any():
        return None
    if nearest_axis is not None:
        planes = grids.source.shape[nearest_axis]
        points[:, nearest_axis] = nearest_planes(points[:, nearest_axis], planes, tolerance=HALF_WAY_TOLERANCE)
    i, j, k = (slice(int(n[inside].min()), int(n[inside].max()) + 1) for n in index)
    box = np.zeros(index.shape[1], dtype=bool)
    box |= np.all([(n >= s.start) & (n < s.stop) for n, s in zip(index, (i, j, k), strict=True)], axis=0)
    local = np.clip(points[box], 0, np.array(grids.source.shape) - 1) - (0, 0, slab.start)
    size = tuple(s.stop - s.start for s in (i, j, k))
    logits = sample_points(slab.logits.float(), local).reshape(-1, *size)
    return Block((i, j, k), logits, inside[box].reshape(size))
