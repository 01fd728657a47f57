"""Contours -> masks of a slice: the pixels whose centre lies inside, by the even-odd rule, or on a contour.

What lies on a contour belongs to the structure (PS3.3 C.8.8.6.3). Many programs trace contours through the centres
of pixels; which of these are inside must not depend on the last digit of a coordinate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.dicom.geometry import VOXEL_TOLERANCE, Vectors

Mask = NDArray[np.bool_]
"""(rows, columns) of a slice."""

SUBPIXELS = 1 << 16
"""Corners are rounded to this fraction of a pixel; all that follows is exact."""

MOST_PIXELS = 1 << 14
"""Corners further from the first pixel are refused: whole numbers of 64 bits would not hold the products."""


@dataclass(frozen=True)
class Filled:
    """The pixels of several contours on one slice.

    Attributes:
        mask: (rows, columns) inside an odd number of the contours, or on one of them.
        overlapping: Pairs of contours that share pixels, where neither lies inside the other or both are the same.
        is_cut: Whether a corner lies outside the image.
    """

    mask: Mask
    overlapping: int
    is_cut: bool


def combine(contours: Sequence[Vectors], shape: tuple[int, int]) -> Filled:
    """Fill the contours of one structure on one slice; a contour within another one is a hole (XOR).

    A centre counts as on a contour up to `VOXEL_TOLERANCE` pixels from it.

    Args:
        contours: (n, 2) each: column and row of the corners, in pixels from the centre of the first one.
        shape: Rows and columns of the slice.

    Raises:
        ValueError: A corner is `MOST_PIXELS` away, or not finite.
    """
    mask = np.zeros(shape, dtype=bool)
    patches = []
    is_cut = False
    edge = np.array(shape[::-1]) - 0.5
    for corners in contours:
        patch = _patch(corners, shape)
        is_cut |= bool((corners < -0.5 - VOXEL_TOLERANCE).any() or (corners > edge + VOXEL_TOLERANCE).any())
        if patch is not None:
            patches.append(patch)
            mask[patch.box] ^= patch.mask
    mark_paths(mask, contours)
    overlapping = sum(_is_overlap(patches[one], patches[other]) for one, other in _near(patches))
    return Filled(mask, overlapping, is_cut)


def fill(corners: Vectors, shape: tuple[int, int]) -> Mask:
    """Return the pixels (rows, columns) whose centre lies inside a polygon, by the even-odd rule.

    A centre on an edge is inside where the polygon lies to its right or below it (the half-open rule), so polygons
    that share an edge share no pixel and leave none out. A keyhole, an edge there and back, counts for nothing.

    Args:
        corners: (n, 2) column and row of the corners, in pixels from the centre of the first one; any n.
        shape: Rows and columns of the slice.

    Raises:
        ValueError: A corner is `MOST_PIXELS` away, or not finite.
    """
    rows, columns = shape
    points = _whole(corners)
    start, stop = points, np.roll(points, -1, axis=0)
    rising = start[:, 1] < stop[:, 1]
    low, high = np.where(rising[:, None], start, stop), np.where(rising[:, None], stop, start)  # (n, 2) by row
    first = np.clip(-(-low[:, 1] // SUBPIXELS), 0, rows)
    last = np.clip(-(-high[:, 1] // SUBPIXELS), 0, rows)
    edge = np.repeat(np.arange(len(points)), last - first)  # one entry a crossing of an edge with a row of centres
    before = np.cumsum(last - first) - (last - first)
    row = first[edge] + np.arange(len(edge)) - before[edge]
    width, height = (high - low)[edge].T
    across = low[edge, 0] * height + (row * SUBPIXELS - low[edge, 1]) * width  # of the crossing, times height
    column = np.clip(-(-across // (SUBPIXELS * height)), 0, columns)  # centres before it
    crossings = np.bincount(row * (columns + 1) + column, minlength=rows * (columns + 1))
    inside: Mask = np.cumsum(crossings.reshape(rows, columns + 1)[:, :columns], axis=1) % 2 == 1
    return inside


def mark_paths(mask: Mask, contours: Sequence[Vectors], tolerance: float = VOXEL_TOLERANCE) -> None:
    """Add the pixels whose centre lies on a side of a polygon, up to a tolerance below half a pixel.

    Args:
        mask: (rows, columns), added to.
        contours: (n, 2) each, column and row.
        tolerance: Largest distance of a centre from a side, in pixels.
    """
    start = np.concatenate(contours)
    side = np.concatenate([np.roll(corners, -1, axis=0) for corners in contours]) - start
    main = np.argmax(np.abs(side), axis=1)  # a side is walked along the axis that it follows most
    edges = np.arange(len(start))
    from_, to = start[edges, main], (start + side)[edges, main]
    first = np.ceil(np.minimum(from_, to) - tolerance).astype(np.int64)
    last = np.floor(np.maximum(from_, to) + tolerance).astype(np.int64)
    count = np.maximum(last - first + 1, 0)
    edge = np.repeat(edges, count)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    length = side[edge, main[edge]]
    place = (first[edge] + step - from_[edge]) / np.where(length == 0, 1, length)
    centre = np.rint(start[edge] + place[:, None] * side[edge])  # the nearest one at that row or column
    centre[np.arange(len(edge)), main[edge]] = first[edge] + step
    squared = np.maximum((side[edge] ** 2).sum(axis=1), np.finfo(float).tiny)
    along = np.clip(((centre - start[edge]) * side[edge]).sum(axis=1) / squared, 0, 1)
    off = np.linalg.norm(centre - start[edge] - along[:, None] * side[edge], axis=1)
    column, row = centre[off <= tolerance].astype(np.int64).T
    inside = (row >= 0) & (row < mask.shape[0]) & (column >= 0) & (column < mask.shape[1])
    mask[row[inside], column[inside]] = True


@dataclass(frozen=True)
class _Patch:
    """A filled contour in the smallest box of the image that holds it."""

    box: tuple[slice, slice]
    mask: Mask

    def within(self, starts: Sequence[int], stops: Sequence[int]) -> Mask:
        """Return the part of the mask from `starts` to `stops`, rows and columns of the image."""
        top, left = self.box[0].start, self.box[1].start
        return self.mask[starts[0] - top : stops[0] - top, starts[1] - left : stops[1] - left]


def _whole(corners: Vectors) -> NDArray[np.int64]:
    if not np.isfinite(corners).all() or np.abs(corners).max(initial=0) >= MOST_PIXELS:
        raise ValueError(f"a corner that is {MOST_PIXELS} pixels away, or not finite")
    return np.rint(corners * SUBPIXELS).astype(np.int64)


def _patch(corners: Vectors, shape: tuple[int, int]) -> _Patch | None:
    """Fill a contour, or return None where it holds the centre of no pixel."""
    points = _whole(corners)
    low = np.clip(points.min(axis=0) // SUBPIXELS, 0, shape[::-1])
    high = np.clip(points.max(axis=0) // SUBPIXELS + 1, 0, shape[::-1])
    columns, rows = high - low
    if rows == 0 or columns == 0:
        return None
    mask = fill(corners - low, (int(rows), int(columns)))
    box = (slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0])))
    return _Patch(box, mask) if mask.any() else None


def _near(patches: Sequence[_Patch]) -> NDArray[np.intp]:
    """Return the pairs (n, 2) of contours whose boxes meet."""
    boxes = np.array([[(part.start, part.stop) for part in patch.box] for patch in patches]).reshape(-1, 2, 2)
    starts, stops = boxes[..., 0], boxes[..., 1]  # (n, 2): row, column
    meet = (np.maximum(starts[:, None], starts) < np.minimum(stops[:, None], stops)).all(axis=2)
    return np.argwhere(np.triu(meet, 1))


def _is_overlap(one: _Patch, other: _Patch) -> bool:
    """Whether two contours share pixels, and neither is a hole in the other one."""
    starts = [max(a.start, b.start) for a, b in zip(one.box, other.box, strict=True)]
    stops = [min(a.stop, b.stop) for a, b in zip(one.box, other.box, strict=True)]
    shared = int((one.within(starts, stops) & other.within(starts, stops)).sum())
    sizes = int(one.mask.sum()), int(other.mask.sum())
    return shared > 0 and (shared < min(sizes) or sizes[0] == sizes[1])
