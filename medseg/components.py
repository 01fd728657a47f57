"""Connected components of a label, and the box that it lies in; without torch."""

from __future__ import annotations

from typing import Any, TypeVar

import cc3d
import numpy as np
from numpy.typing import NDArray

from medseg.labels import BACKGROUND

FULL_CONNECTIVITY = 26

Box = tuple[slice, slice, slice]
LabelArray = TypeVar("LabelArray", bound=NDArray[np.integer[Any]])


def keep_largest(array: LabelArray, value: int) -> LabelArray:
    """Keep the largest connected component of a label; its other voxels become background.

    Voxels that share a face, an edge or a corner are connected (26 neighbours, as in nnU-Net). Components are
    measured in voxels; of equally large ones the one is kept that comes first with i fastest, then j, then k.

    Args:
        array: Label values (i, j, k).
        value: Of the label.

    Returns:
        The array itself where the label has fewer than two components, a changed copy otherwise.
    """
    box = box_of(array, value)
    if box is None:
        return array
    components, sizes = components_of(array[box] == value)
    if len(sizes) < 2:
        return array
    largest = first_of_the_largest(components, sizes)
    cleaned = array.copy(order="K")
    cleaned[box][(components != BACKGROUND) & (components != largest)] = BACKGROUND
    return cleaned


def components_of(mask: NDArray[np.bool_]) -> tuple[NDArray[np.integer[Any]], NDArray[np.int64]]:
    """Number the connected components of a mask (26 neighbours).

    Args:
        mask: (i, j, k).

    Returns:
        (i, j, k) the number of each voxel's component from 1, 0 outside; and the voxels of each component.
    """
    whole = np.asfortranarray(mask).view(np.uint8)  # cc3d 4.1 fails on bool masks such as 1, 0, 1
    components = cc3d.connected_components(whole, connectivity=FULL_CONNECTIVITY)
    sizes = cc3d.statistics(components, no_slice_conversion=True)["voxel_counts"].astype(np.int64)
    return components, sizes[1:]


def first_of_the_largest(components: NDArray[np.integer[Any]], sizes: NDArray[np.int64]) -> int:
    """Return the number of the largest component, of equally large ones the first with i fastest."""
    tied = np.flatnonzero(sizes == sizes.max()) + 1
    if len(tied) == 1:
        return int(tied[0])
    in_order = components.ravel(order="F")
    return int(in_order[np.isin(in_order, tied).argmax()])


def box_of(array: NDArray[Any], value: int) -> Box | None:
    """Return the smallest box that holds every voxel of a value, or None where there is none.

    Plane after plane, so that no mask of the whole array is in memory.

    Args:
        array: (i, j, k).
        value: What is looked for.
    """
    rows, columns = (np.zeros(size, dtype=bool) for size in array.shape[:2])
    planes = np.zeros(array.shape[2], dtype=bool)
    for k in range(array.shape[2]):
        mask = array[:, :, k] == value
        there = mask.any(axis=0)
        if there.any():
            planes[k] = True
            columns |= there
            rows |= mask.any(axis=1)
    found = [np.flatnonzero(occupied) for occupied in (rows, columns, planes)]
    if not found[2].size:
        return None
    i, j, k_range = (slice(int(places[0]), int(places[-1]) + 1) for places in found)
    return i, j, k_range
