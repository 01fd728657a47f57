"""Logits -> label map on the image's own grid, slab by slab.

Logits are interpolated to the native grid; there the largest one wins, or, where they are of regions, the last that
is above 0. One slab of them is kept at a time, so
that memory does not grow with classes times volume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.data.resample import Coordinates, GridMap, plane_coordinates, resample_axes, sample_points
from medseg.data.transforms import Prepared
from medseg.tiles import Advance, Shape, Slab
from medseg.volume import Grid

LabelArray = NDArray[np.unsignedinteger[Any]]
Choose = Callable[[Tensor], NDArray[np.integer[Any]]]

_CHUNK_BYTES = 256 << 20
_INSIDE_TOLERANCE = 1e-4


class Engine(Protocol):
    """What gives the logits of an image, slab after slab."""

    def slabs(self, image: Tensor, advance: Advance | None = None) -> Iterator[Slab]:
        """Yield slabs of logits (K, i, j, planes) of an image (C, i, j, k)."""


def label_on_grid(
    engine: Engine,
    prepared: Prepared,
    native: Grid,
    values: LabelArray,
    advance: Advance | None = None,
    *,
    choose: Choose | None = None,
) -> LabelArray:
    """Segment a prepared image and label every voxel of the native grid.

    Logits are interpolated to the native grid first, then one is chosen. Voxels outside the prepared image are
    background.

    Args:
        engine: The network and its window.
        prepared: The image as the network sees it.
        native: The grid of the input.
        values: Label value of each index that is chosen.
        advance: Called with (tiles done, tiles in all).
        choose: Which index logits (K, *shape) give: `winners`, which is the default, or `last_regions`.

    Returns:
        Label values of the native shape, i fastest in memory.
    """
    grids = GridMap(prepared.grid, native)
    labels = np.zeros(native.shape, dtype=values.dtype, order="F")
    slabs = engine.slabs(prepared.image, advance)
    label = _Label(values, choose or winners)
    if grids.target_axes is None:
        _label_sampled(slabs, grids, label, labels)
    else:
        _label_separable(slabs, grids, grids.target_axes, label, labels)
    return labels


def winners(logits: Tensor) -> NDArray[np.integer[Any]]:
    """Return the channel with the largest logit, the lowest of equal ones.

    Channel after channel is compared with the best so far: on the CPU many times faster than ``argmax`` across the
    slowest axis.

    Args:
        logits: (K, *shape).

    Returns:
        Channel indices of the shape.
    """
    best = logits[0].clone()
    index = torch.zeros(best.shape, dtype=torch.uint8 if len(logits) <= 256 else torch.int16, device=best.device)
    for channel in range(1, len(logits)):
        index.masked_fill_(logits[channel] > best, channel)
        torch.maximum(best, logits[channel], out=best)
    return index.cpu().numpy()


def last_regions(logits: Tensor) -> NDArray[np.integer[Any]]:
    """Return 1 + the last region whose probability is above one half, 0 where there is none.

    Args:
        logits: (R, *shape), one a region; the probability is their sigmoid.

    Returns:
        Indices of the shape.

    Source: The order of painting is that of nnU-Net's ``regions_class_order``.
    """
    dtype = torch.uint8 if len(logits) < 256 else torch.int16
    index = torch.zeros(logits.shape[1:], dtype=dtype, device=logits.device)
    for region in range(len(logits)):
        index.masked_fill_(logits[region] > 0, region + 1)
    return index.cpu().numpy()


@dataclass(frozen=True)
class _Label:
    """Logits (K, *shape) -> label values of the shape."""

    values: LabelArray
    choose: Choose

    def __call__(self, logits: Tensor) -> LabelArray:
        labels: LabelArray = self.values[self.choose(logits)]
        return labels


def _label_separable(
    slabs: Iterator[Slab],
    grids: GridMap,
    target_axes: Shape,
    label: _Label,
    labels: LabelArray,
) -> None:
    coordinates = [grids.coordinates(axis) for axis in range(3)]
    inside = [_inside(c, n) for c, n in zip(coordinates, grids.source.shape, strict=True)]
    by_source = labels.transpose(target_axes)  # a view: axis n runs along the source's axis n
    if not all(axis.size for axis in inside):
        return
    across = [coordinates[axis][inside[axis]] for axis in (0, 1)]
    depth = grids.source.shape[2]
    for slab in _overlapping(slabs):
        end = slab.start + slab.logits.shape[-1]
        mine = inside[2][_belongs(coordinates[2][inside[2]], slab.start, end, depth)]
        for chosen in _chunks(mine, slab.logits.shape[0], [len(c) for c in across]):
            local = coordinates[2][chosen] - slab.start
            logits = resample_axes(slab.logits, [*across, local])
            place = tuple(slice(int(axis[0]), int(axis[-1]) + 1) for axis in (*inside[:2], chosen))
            by_source[place] = label(logits)


def _label_sampled(slabs: Iterator[Slab], grids: GridMap, label: _Label, labels: LabelArray) -> None:
    """Label a grid that is rotated or sheared against the network's, each voxel from the slab that it lies in."""
    size = np.array(grids.source.shape)
    for slab in _overlapping(slabs):
        end = slab.start + slab.logits.shape[-1]
        for k in _touched_planes(grids, slab.start, end):
            source = plane_coordinates(grids.matrix, grids.target.shape, k)  # (i, j, 3)
            mine = _belongs(source[..., 2], slab.start, end, size[2])
            mine &= ((source >= -0.5 - _INSIDE_TOLERANCE) & (source <= size - 0.5 + _INSIDE_TOLERANCE)).all(axis=-1)
            if mine.any():
                logits = sample_points(slab.logits, source[mine] - (0, 0, slab.start))  # (K, n)
                labels[:, :, k][mine] = label(logits)


def _touched_planes(grids: GridMap, start: int, end: int) -> list[int]:
    """Return the target planes that may reach into source planes start to end - 1, by their corners."""
    rise = [grids.matrix[2, axis] * (grids.target.shape[axis] - 1) for axis in (0, 1)]
    corner = grids.matrix[2, 2] * np.arange(grids.target.shape[2]) + grids.matrix[2, 3]
    lowest, highest = corner + sum(min(r, 0) for r in rise), corner + sum(max(r, 0) for r in rise)
    touched = ((highest >= start) | (start == 0)) & ((lowest <= end - 1) | (end == grids.source.shape[2]))
    return [int(k) for k in np.flatnonzero(touched)]


def _overlapping(slabs: Iterator[Slab]) -> Iterator[Slab]:
    """Put the last plane of each slab before the next one, so that planes between them can be interpolated."""
    last: Tensor | None = None
    for slab in slabs:
        if last is None:
            yield slab
        else:
            yield Slab(slab.start - 1, torch.cat((last, slab.logits), dim=-1))
        last = slab.logits[..., -1:]


def _belongs(coordinates: Coordinates, start: int, end: int, depth: int) -> NDArray[np.bool_]:
    """Which coordinates are interpolated from planes start to end - 1 and were not from planes before."""
    lower = -np.inf if start == 0 else start
    upper = np.inf if end == depth else end - 1
    after_lower = coordinates > lower if start else coordinates >= lower
    return after_lower & (coordinates <= upper)


def _inside(coordinates: Coordinates, size: int) -> NDArray[np.int64]:
    """Return the target indices that lie within the source's voxels, their outer faces included."""
    within = (coordinates >= -0.5 - _INSIDE_TOLERANCE) & (coordinates <= size - 0.5 + _INSIDE_TOLERANCE)
    return np.flatnonzero(within)


def _chunks(indices: NDArray[np.int64], channels: int, across: Sequence[int]) -> Iterator[NDArray[np.int64]]:
    """Split plane indices so that float32 logits of a chunk stay under 256 MiB."""
    plane_bytes = 4 * channels * int(np.prod(across, dtype=np.int64))
    planes = max(1, _CHUNK_BYTES // max(plane_bytes, 1))
    for start in range(0, len(indices), planes):
        yield indices[start : start + planes]
