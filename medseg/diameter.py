"""The longest line across the outline of a mask in a plane: exact, by the convex hull of the outline's points."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.labels import BACKGROUND

_DIRECTION_COUNT = 16
_ANGLES = np.arange(_DIRECTION_COUNT) * np.pi / _DIRECTION_COUNT
_DIRECTIONS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)])  # (2, directions), of length 1
_SHARE_SEEN = np.cos(np.pi / (2 * _DIRECTION_COUNT))
_ROUNDING = 1e-9

Points = NDArray[np.int64]


def outline_points(values: NDArray[Any]) -> Iterator[tuple[int, Points]]:
    """Yield each label value of a plane with the points of its outline.

    They are the points halfway between the centre of one of its voxels and that of a neighbour, of the four, that
    has another value or lies beyond the plane: where a contour at 0.5 crosses the grid's lines.

    Args:
        values: (m, n) label values.

    Yields:
        A value other than background, and its points (p, 2) in half voxels: twice the indices.
    """
    padded = np.pad(values, 1)
    inner = padded[:, 1:-1], padded[1:-1]
    found, points = [], []
    for axis, plane in enumerate(inner):
        low, high = (plane[:-1], plane[1:]) if axis == 0 else (plane[:, :-1], plane[:, 1:])
        crossings = np.argwhere(low != high)
        for side in (low, high):
            found.append(side[tuple(crossings.T)])
            point = 2 * crossings
            point[:, axis] -= 1
            points.append(point)
    every_value, every_point = np.concatenate(found), np.concatenate(points)
    order = np.argsort(every_value, kind="stable")
    every_value, every_point = every_value[order], every_point[order]
    starts = np.flatnonzero(np.append(True, every_value[1:] != every_value[:-1]))
    for start, group in zip(starts, np.split(every_point, starts[1:]), strict=True):
        if len(group) and every_value[start] != BACKGROUND:
            yield int(every_value[start]), group


@dataclass
class Longest:
    """The longest line that was found over planes.

    Attributes:
        metric: (2, 2) inner products of the plane's steps in mm: the squared length of d voxels is d @ metric @ d.
        length_mm: Of the line; 0 before any plane.
        ends: (2, 2) indices of its ends in the plane.
        plane: Where it lies.
    """

    metric: NDArray[np.float64]
    length_mm: float = 0.0
    ends: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, 2)))
    plane: int = -1

    def offer(self, plane: int, points: Points) -> None:
        """Look for a longer line between two points (p, 2), in half voxels, of one plane."""
        points = self._far_apart(points)
        if not len(points):
            return
        corners = convex_hull(points) / 2.0
        apart = corners[:, None] - corners[None]  # (h, h, 2)
        squared = np.einsum("pqa,ab,pqb->pq", apart, self.metric, apart)
        first, second = np.unravel_index(int(np.argmax(squared)), squared.shape)
        length_mm = float(np.sqrt(squared[first, second]))
        if length_mm > self.length_mm:
            self.length_mm, self.ends, self.plane = length_mm, corners[[first, second]], plane

    def _far_apart(self, points: Points) -> Points:
        """Return the points that a line longer than the present one may end in, and one as long as the longest.

        Some direction is so close to a line that its length along it is at least `_SHARE_SEEN` of it. So no line
        from a point is longer than its furthest way along a direction by that share, and the longest one is no
        shorter than the points' largest extent along a direction.
        """
        along_mm = points / 2.0 @ np.linalg.cholesky(self.metric) @ _DIRECTIONS
        low, high = along_mm.min(axis=0), along_mm.max(axis=0)
        reach_mm = np.maximum(high - along_mm, along_mm - low).max(axis=1) / _SHARE_SEEN * (1 + _ROUNDING)
        if reach_mm.max() <= self.length_mm:
            return points[:0]
        chosen: Points = points[reach_mm >= max(self.length_mm, float((high - low).max()))]
        return chosen


def convex_hull(points: Points) -> Points:
    """Return the corners (h, 2) of the convex hull of points (p, 2) with whole coordinates, exactly.

    Andrew's monotone chain (1979) over the two outer points of each line; points on an edge are left out.
    """
    corner, width = points.min(axis=0), int(np.ptp(points[:, 1])) + 1
    x, y = (points - corner).T
    ordered = np.stack(np.divmod(np.sort(x * width + y), width), axis=1) + corner
    new = np.append(True, ordered[1:, 0] != ordered[:-1, 0])
    firsts, lasts = ordered[new], ordered[np.append(new[1:], True)]
    lower = _chain(firsts.tolist())
    upper = _chain(lasts[::-1].tolist())
    corners = dict.fromkeys((*lower, *upper))
    return np.array(list(corners), dtype=np.int64)


def _chain(points: list[list[int]]) -> list[tuple[int, int]]:
    """Return the points, in the order given, that turn to the left all the way."""
    chain: list[tuple[int, int]] = []
    for x, y in points:
        while len(chain) > 1:
            (x0, y0), (x1, y1) = chain[-2:]
            if (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0) > 0:
                break
            chain.pop()
        chain.append((x, y))
    return chain
