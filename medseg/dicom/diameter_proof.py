"""The longest axial diameter of each label, once more and another way than `medseg.diameter`: by scanning lines.

A plane's outline points with the greatest distance are among the first and last ones of its rows and columns. The
width of these in many directions bounds their distance; only planes whose bound is above the longest one that was
found are compared pair by pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.dicom.geometry import Vectors
from medseg.labels import LabelMap
from medseg.proof import pixels_of

_DIRECTIONS = 64
_ANGLES = np.arange(_DIRECTIONS) * np.pi / _DIRECTIONS
_TURNS = np.array([np.cos(_ANGLES), np.sin(_ANGLES)])  # (2, directions)
_SLACK = 1 / np.cos(np.pi / (2 * _DIRECTIONS))  # no line is further than this from the nearest direction
_BLOCK = 512  # points compared with all others at once


def longest_diameters(labels: LabelMap) -> dict[int, float]:
    """Return the longest axial diameter in mm of each class index that is there; see `medseg.measurements`."""
    steps = labels.affine[:3, :3]
    axis = int((np.abs(steps[2]) / np.linalg.norm(steps, axis=0)).argmax())
    axes = [other for other in range(3) if other != axis]
    in_plane_mm = np.linalg.qr(steps[:, axes])[1]  # (2, 2): lengths stay, a dimension goes
    found: dict[int, _Longest] = {}
    for number in range(labels.array.shape[axis]):
        plane = labels.array[(slice(None),) * axis + (number,)]  # np.take copies all of what is i fastest
        for own, points in _ends(plane, labels.labels.channel_values):
            found.setdefault(own, _Longest()).offer(points @ in_plane_mm.T)
    return {own: longest.length_mm for own, longest in found.items()}


@dataclass
class _Longest:
    """The longest line over planes."""

    length_mm: float = field(default=0.0)

    def offer(self, points_mm: Vectors) -> None:
        """Look for a longer line between two points (n, 2)."""
        widths = np.ptp(points_mm @ _TURNS, axis=0)
        if widths.max() * _SLACK <= self.length_mm:
            return
        for start in range(0, len(points_mm), _BLOCK):
            across, along = (np.subtract.outer(part[start : start + _BLOCK], part) for part in points_mm.T)
            squared = float((across * across + along * along).max())
            self.length_mm = max(self.length_mm, squared**0.5)


def _ends(plane: NDArray[Any], values: NDArray[Any]) -> Iterator[tuple[int, Vectors]]:
    """Yield the class indices of a plane, and where their rows and columns begin and end (n, 2), in pixels."""
    rows, columns = pixels_of(plane)
    classes = np.searchsorted(values, plane[rows, columns])
    for own in np.flatnonzero(np.bincount(classes)).tolist():
        here = classes == own
        places = rows[here], columns[here]
        points = []
        for across in (0, 1):
            line, place = places[across], places[1 - across]
            first, last = (np.full(plane.shape[across], -1) for _ in range(2))
            first[line[::-1]] = place[::-1]  # of equal lines the last one stays, which is the first place
            last[line] = place
            there = np.flatnonzero(last >= 0)
            for end in (first[there] - 0.5, last[there] + 0.5):
                points.append(np.stack([there, end] if across == 0 else [end, there], axis=1))
        yield own, np.concatenate(points)
