"""Mask of a slice -> the contours around it, at 0.5 between the centres of pixels.

Pixels that touch at a corner only are outlined apart, so no contour meets itself or another one. Contours lie half
a pixel from the centres along rows and columns and cut the corners: no centre is nearer than 0.35 pixels, and a
region without holes loses half a pixel of its area in all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from contourpy import FillType, LineType, SerialContourGenerator, ZInterp
from numpy.typing import NDArray

from medseg.dicom.contours import Mask
from medseg.dicom.geometry import Vectors

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Bridge:
    """Where a hole is joined to the contour around it, or to another hole that is.

    Attributes:
        hole: Which contour.
        start: Which of its points.
        parent: Which contour it is joined to.
        stop: Which of that one's points.
    """

    hole: int
    start: int
    parent: int
    stop: int


@dataclass(frozen=True)
class Traced:
    """The contours around a mask.

    Attributes:
        points: (n, 2) column and row of a point wherever a contour passes between two pixels, in pixels from the
            centre of the first one; contour after contour, each closed without repeating its first point.
        offsets: (contours + 1,) where each begins, and n.
    """

    points: Vectors
    offsets: Indices

    @property
    def contours(self) -> list[Vectors]:
        """(n, 2) each, n of 4 or more."""
        return [self.points[start:stop] for start, stop in pairwise(self.offsets.tolist())]

    def straightened(self) -> Traced:
        """Leave out the points within straight runs: coordinates are halves, so this is exact and loses nothing."""
        is_turn = turns(self.points, self.offsets)
        return Traced(self.points[is_turn], np.append(0, np.cumsum(is_turn))[self.offsets])


def trace(mask: Mask) -> Traced:
    """Return the contours around the pixels of a mask (rows, columns); its border counts as its end.

    The area by `signed_area` is positive, of holes negative.
    """
    padded = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2))
    padded[1:-1, 1:-1] = mask
    rows, columns = (np.arange(-1.0, size + 1) for size in mask.shape)
    generator = SerialContourGenerator(  # `contour_generator` takes five times as long on what is this small
        np.broadcast_to(columns, padded.shape),
        np.broadcast_to(rows[:, None], padded.shape),
        padded,
        np.zeros(padded.shape, dtype=bool),
        corner_mask=False,
        line_type=LineType.ChunkCombinedOffset,
        fill_type=FillType.OuterOffset,
        quad_as_tri=False,
        z_interp=ZInterp.Linear,
    )
    lines: Any = generator.lines(0.5)
    (points,), (offsets,) = lines
    if points is None:
        return Traced(np.empty((0, 2)), np.zeros(1, dtype=np.intp))
    is_first = np.ones(len(points), dtype=bool)
    is_first[offsets[1:] - 1] = False  # the last point of each repeats the first one
    return Traced(points[is_first], offsets.astype(np.intp) - np.arange(len(offsets)))


def turns(points: Vectors, offsets: Indices) -> Mask:
    """Return at which points (n, 2) of contours their direction changes, exactly; see `Traced`."""
    numbers = np.arange(len(points))
    following, preceding = numbers + 1, numbers - 1
    following[offsets[1:] - 1], preceding[offsets[:-1]] = offsets[:-1], offsets[1:] - 1
    ahead = points[following] - points
    behind = ahead[preceding]
    is_line = ahead[:, 0] * behind[:, 1] == ahead[:, 1] * behind[:, 0]
    is_turn: Mask = ~(is_line & ((ahead * behind).sum(axis=1) > 0))
    return is_turn


def signed_area(points: Vectors) -> float:
    """Return the area inside a contour (n, 2), in its unit squared; negative if it runs the other way round."""
    column, row = (points - points[0]).T
    return float(column @ np.roll(row, -1) - row @ np.roll(column, -1)) / 2


def bridges(contours: Sequence[Vectors]) -> list[Bridge]:
    """Return where each hole is to be joined to the contour around it, holes further right first.

    From the leftmost point of a hole the bridge runs diagonally, between the centres of pixels and through the
    mask only, to the first point of another contour. No two bridges cross.

    Args:
        contours: Of one mask, as `trace` made them.
    """
    holes = [number for number, points in enumerate(contours) if signed_area(points) < 0]
    if not holes:
        return []
    places = {
        (x, y): (number, index)
        for number, points in enumerate(contours)
        for index, (x, y) in enumerate((2 * points).astype(np.int64).tolist())
    }
    found = []
    for hole in holes:
        start = int(contours[hole][:, 0].argmin())
        x, y = (2 * contours[hole][start]).astype(np.int64).tolist()
        step = next(step for step in range(1, x + 4) if (x - step, y - step) in places)
        found.append((x, Bridge(hole, start, *places[x - step, y - step])))
    return [bridge for _, bridge in sorted(found, key=lambda pair: -pair[0])]


def join(contours: Sequence[Vectors], links: Sequence[Bridge]) -> list[Vectors]:
    """Return the contours with every hole joined to the one around it, by a line there and back (a keyhole).

    Args:
        contours: (n, 2) each.
        links: From `bridges`, in its order.
    """
    loops: dict[int, list[tuple[int, Vectors]]] = defaultdict(list)
    for link in links:  # what is joined to a hole lies to its right: it has come before
        points, size = contours[link.hole], len(contours[link.hole])
        turned = [((stop - link.start) % size, loop) for stop, loop in loops.pop(link.hole, [])]
        whole = _with_loops(np.roll(points, -link.start, axis=0), turned)
        loops[link.parent].append((link.stop, np.concatenate([whole, whole[:1]])))
    holes = {link.hole for link in links}
    return [_with_loops(points, loops[k]) for k, points in enumerate(contours) if k not in holes]


def _with_loops(points: Vectors, loops: Sequence[tuple[int, Vectors]]) -> Vectors:
    """Insert loops (index of the point they hang on, closed points)."""
    pieces, done = [], 0
    for index, loop in sorted(loops, key=lambda pair: pair[0]):
        pieces += [points[done : index + 1], loop]
        done = index
    return np.concatenate([*pieces, points[done:]])
