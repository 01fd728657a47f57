"""Slices of an image as a radiologist expects to see them: which way up, where, and in which grey window.

In display order the indices of an array grow to the patient's left, back and feet. A slice of it, drawn with its
first row on top, follows the radiological convention: the patient's right is on the left of the picture, the
front is up in axial slices, the head is up in the others, and sagittal slices face left. An oblique image is shown
along its own axes, each under the plane that it is nearest to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.labels import BACKGROUND
from medseg.volume import Grid, Volume

CT_LEVEL_HU = 40.0
CT_WIDTH_HU = 400.0
_PERCENTILES = (1.0, 99.0)
_MOST_SAMPLES = 2_000_000


@dataclass(frozen=True)
class Plane:
    """A slice direction.

    Attributes:
        name: ``axial``, ``coronal`` or ``sagittal``.
        across: Display axis that runs to the right of the picture.
        down: Display axis that runs down the picture.
        through: Display axis that the slice is cut across.
        letters: Patient directions of the left and right edges of the picture.
    """

    name: str
    across: int
    down: int
    through: int
    letters: tuple[str, str]


PLANES = (
    Plane("axial", across=0, down=1, through=2, letters=("R", "L")),
    Plane("coronal", across=0, down=2, through=1, letters=("R", "L")),
    Plane("sagittal", across=1, down=2, through=0, letters=("A", "P")),
)


def display_axes(grid: Grid) -> tuple[int, int, int]:
    """Return the index axes that run along right-left, front-back and head-feet."""
    right, front, head = (
        next(axis for axis, code in enumerate(grid.orientation) if code in pair) for pair in ("RL", "AP", "SI")
    )
    return right, front, head


def displayed(array: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """Return a view of an array (i, j, k) in display order: to the left, to the back, to the feet."""
    steps = [slice(None, None, -1 if towards in grid.orientation else 1) for towards in "RAS"]
    return array.transpose(display_axes(grid))[tuple(steps)]


def displayed_index(index: Sequence[int], grid: Grid) -> tuple[int, ...]:
    """Return where the voxel (i, j, k) of an array lies in its view in display order."""
    axes = display_axes(grid)
    flipped = [towards in grid.orientation for towards in "RAS"]
    return tuple(
        grid.shape[axis] - 1 - index[axis] if flip else index[axis]
        for axis, flip in zip(axes, flipped, strict=True)
    )


def cut(array: NDArray[Any], plane: Plane, centre: tuple[int, ...]) -> NDArray[Any]:
    """Return the slice (rows, columns) of an array in display order that goes through `centre`."""
    return _slice(array, plane.through, centre[plane.through]).T


def centre_of(arrays: list[NDArray[Any]]) -> tuple[int, ...]:
    """Return the centre of the labelled region of label arrays of one shape.

    Along each axis it is the slice nearest to the centroid of the labelled voxels that holds any of them, or the
    middle of the image where there are none.
    """
    shape = arrays[0].shape
    counts = [np.zeros(size, dtype=np.int64) for size in shape]
    slowest = int(np.argmax(np.abs(arrays[0].strides)))
    first, second = (axis for axis in range(3) if axis != slowest)
    for place in range(shape[slowest]):
        labelled = np.logical_or.reduce([_slice(array, slowest, place) != BACKGROUND for array in arrays])
        counts[first] += np.count_nonzero(labelled, axis=1)
        counts[second] += np.count_nonzero(labelled, axis=0)
        counts[slowest][place] = np.count_nonzero(labelled)
    return tuple(_central(count) for count in counts)


def _slice(array: NDArray[Any], axis: int, place: int) -> NDArray[Any]:
    """Return a view of a slice; `numpy.take` would copy all of an array whose first axis is the fastest one."""
    index: list[Any] = [slice(None)] * 3
    index[axis] = place
    picture: NDArray[Any] = array[tuple(index)]
    return picture


def _central(counts: NDArray[np.int64]) -> int:
    """Return the place that holds something and is nearest to the mean one; the middle where none does."""
    held = np.flatnonzero(counts)
    if not held.size:
        return counts.size // 2
    return int(held[np.argmin(np.abs(held - np.average(held, weights=counts[held])))])


def grey_window(image: Volume) -> tuple[float, float]:
    """Return the values drawn black and white: soft tissue for CT, else the 1st and the 99th percentile."""
    if image.modality == "CT":
        return CT_LEVEL_HU - CT_WIDTH_HU / 2, CT_LEVEL_HU + CT_WIDTH_HU / 2
    step = int(np.ceil((image.array.size / _MOST_SAMPLES) ** (1 / 3)))
    sample = image.array[::step, ::step, ::step]
    finite = sample[np.isfinite(sample)]
    low, high = np.percentile(finite, _PERCENTILES) if finite.size else (0.0, 1.0)
    return float(low), float(high) if high > low else float(low) + 1.0
