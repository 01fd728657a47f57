"""Logits -> label map on the image's own grid, piece by piece.

The result is that of interpolating all logits to the native grid and choosing there: the largest one wins, or,
where they are of regions, the last that is above 0. Only points between different winners are interpolated; see
`medseg.inference.exact`. A slab of logits is kept at a time, so that memory does not grow with classes times
volume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.data.resample import GridMap
from medseg.data.transforms import Prepared
from medseg.inference.blocks import Sink, every_class
from medseg.inference.exact import region_index, winner_index
from medseg.inference.places import axis_places, pieces
from medseg.inference.surface import GridLabels, PointLabels
from medseg.inference.tiles import Advance, Slab
from medseg.volume import Grid

LabelArray = NDArray[np.unsignedinteger[Any]]
Choose = Callable[[Tensor], NDArray[np.integer[Any]]]


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
    sink: Sink | None = None,
) -> LabelArray:
    """Segment a prepared image and label every voxel of the native grid.

    The label is that of logits interpolated to the voxel, then one chosen; what is exact and what is rounded stands
    in `medseg.inference.exact`. Voxels outside the prepared image are background; within half a voxel of its border
    they take the border's logits. Along ``prepared.nearest_axis`` logits are taken from the nearest plane, half-way
    from the higher one, and interpolated along the other two: so nnU-Net exports volumes with slices far apart.

    Args:
        engine: The network and its window.
        prepared: The image as the network sees it.
        native: The grid of the input; rotated, sheared or cropped against the network's as it may be.
        values: Label value of each index that is chosen.
        advance: Called with (tiles done, tiles in all).
        choose: Which index logits (K, *shape) give: `winners`, which is the default, or `last_regions`. With any
            other function all logits of every voxel are interpolated.
        sink: Is called with each block of the native array (slices along i, j, k) and its float32 logits
            (K, *block shape). All logits of every voxel are then interpolated, and labels come from them. Together
            the blocks have every voxel within the network's grid once. Where the native grid is rotated or
            sheared, a block may have voxels outside the network's grid: their logits are those of background.

    Returns:
        Label values of the native shape, i fastest in memory.
    """
    grids = GridMap(prepared.grid, native)
    labels = np.zeros(native.shape, dtype=values.dtype, order="F")
    slabs = engine.slabs(prepared.image, advance)
    choose = choose or winners
    if sink is not None or choose not in (winners, last_regions):
        _label_blocks(slabs, grids, prepared.nearest_axis, (values, choose, sink), labels)
        return labels
    regions = choose is last_regions
    if grids.target_axes is None:
        points = PointLabels(grids, prepared.nearest_axis, values, regions, labels)
        for piece in pieces(slabs, points.steps[2]):
            points.add(piece)
    else:
        places = axis_places(grids, prepared.nearest_axis)
        boxes = GridLabels(places, grids.target_axes, values, regions, labels)
        for piece in pieces(slabs, places[2].step):
            boxes.add(piece)
    return labels


def winners(logits: Tensor) -> NDArray[np.integer[Any]]:
    """Return the channel with the largest logit, the lowest of equal ones.

    Args:
        logits: (K, *shape).

    Returns:
        Channel indices of the shape.
    """
    return winner_index(logits).cpu().numpy()


def last_regions(logits: Tensor) -> NDArray[np.integer[Any]]:
    """Return 1 + the last region whose probability is above one half, 0 where there is none.

    Args:
        logits: (R, *shape), one a region; the probability is their sigmoid.

    Returns:
        Indices of the shape.

    Source: The order of painting is that of nnU-Net's ``regions_class_order``.
    """
    return region_index(logits).cpu().numpy()


def _label_blocks(
    slabs: Iterator[Slab],
    grids: GridMap,
    nearest_axis: int | None,
    how: tuple[LabelArray, Choose, Sink | None],
    labels: LabelArray,
) -> None:
    """Interpolate all logits, choose, and hand them on."""
    values, choose, sink = how
    for block in every_class(slabs, grids, nearest_axis):
        if block.inside is not None:
            outside = torch.from_numpy(~block.inside).to(block.logits.device)
            block.logits.masked_fill_(outside, -_SURE)
            if choose is not last_regions:
                block.logits[0].masked_fill_(outside, _SURE)
        found = values[choose(block.logits)]
        labels[block.place] = found if block.inside is None else np.where(block.inside, found, 0)
        if sink is not None:
            sink(block.place, block.logits)


_SURE = 1e4  # a logit that 16 bits hold and whose probability rounds to 1
