"""Where the pixels of a series lie: pure functions of positions, orientations and spacings.

The law is DICOM PS3.3 C.7.6.2.1.1: the pixel in column i, row j of a slice lies at
``position + row_direction * column_spacing * i + column_direction * row_spacing * j`` in LPS+ millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from medseg.volume import Affine

Vectors = NDArray[np.float64]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Turns LPS+ to RAS+ and back: ``LPS_TO_RAS @ affine``."""

VOXEL_TOLERANCE = 0.01
"""How far a pixel may lie from its place in the volume, in voxels."""

MOST_CLUSTERS = 100
"""More directions than a series of slices has: a radial scan, or no scan."""

_DIRECTION_TOLERANCE = 1e-3  # of length 1 and of a right angle
_SAME_PLACE_MM = 1e-3
_TILT_TOLERANCE_DEG = 0.05
_MOST_WIDE_GAPS = 0.25  # of all gaps; with more, distances are uneven and no slices missing
_MOST_MISSING = 2.0  # places for each slice that is there; with more, the gaps are no missing slices
_USUAL_FINE_GAP = 0.25  # quantile of uneven gaps that becomes the step: one tiny gap does not count
_ROUNDING = 1e-6
_GOOD_ENOUGH = 1e-3  # pixels or mm that a line may be off before a better one is looked for
_SEARCH_STEPS = 100


class Spacing(Enum):
    """How slices follow one another."""

    EVEN = "even"
    MISSING = "missing"
    UNEVEN = "uneven"


@dataclass(frozen=True)
class Fit:
    """Sorted slices on a straight line with even steps.

    Attributes:
        spacing: Whether the slices themselves are evenly spaced.
        places: (n,) where each slice lies, in steps; 0, 1, 2, ... for even ones.
        affine: 4x4, (column, row, step) to LPS+ mm.
        off_voxels: How far the slice that is worst off lies from its place.
    """

    spacing: Spacing
    places: Vectors
    affine: Affine
    off_voxels: float

    @property
    def count(self) -> int:
        """Number of steps from the first slice to the last one, both counted."""
        return int(np.rint(self.places[-1])) + 1

    @property
    def is_straight(self) -> bool:
        """Whether every slice lies on the line."""
        return is_close(self.off_voxels)

    @property
    def tilt_deg(self) -> float:
        """Angle between the line and the slices' normal; 0 where it is no more than rounding makes it."""
        normal = np.cross(self.affine[:3, 0], self.affine[:3, 1])
        step = self.affine[:3, 2]
        aside, along = float(np.linalg.norm(np.cross(normal, step))), float(normal @ step)
        tilt_deg = float(np.degrees(np.arctan2(aside, along)))
        return tilt_deg if tilt_deg > _TILT_TOLERANCE_DEG else 0.0


def is_close(off_voxels: float) -> bool:
    """Whether a pixel that far from its place is still at it."""
    return off_voxels <= VOXEL_TOLERANCE + _ROUNDING


def slice_affine(position_mm: Vectors, orientation: Vectors, pixel_spacing_mm: Vectors) -> Affine:
    """Return the 4x4 matrix from (column, row, distance in mm along the normal) to LPS+ mm of one slice.

    Args:
        position_mm: ImagePositionPatient (3,).
        orientation: ImageOrientationPatient (6,).
        pixel_spacing_mm: PixelSpacing (2,): between rows, between columns.
    """
    affine = np.eye(4)
    affine[:3, 0] = orientation[:3] * pixel_spacing_mm[1]
    affine[:3, 1] = orientation[3:] * pixel_spacing_mm[0]
    affine[:3, 2] = slice_normal(orientation)
    affine[:3, 3] = position_mm
    return affine


def slice_normal(orientation: Vectors) -> Vectors:
    """Return the unit vector (3,) at right angles to rows and columns."""
    normal = np.cross(orientation[:3], orientation[3:])
    unit: Vectors = normal / np.linalg.norm(normal)
    return unit


def orientation_problem(orientations: Vectors) -> str | None:
    """Say what is wrong with orientations (n, 6): not two unit vectors at right angles."""
    rows, columns = orientations[:, :3], orientations[:, 3:]
    lengths = np.linalg.norm(np.concatenate([rows, columns]), axis=1)
    across = np.abs(np.einsum("ni,ni->n", rows, columns))
    if np.abs(lengths - 1).max() > _DIRECTION_TOLERANCE or across.max() > _DIRECTION_TOLERANCE:
        return "directions that are not unit vectors at right angles"
    return None


def clusters(vectors: Vectors, tolerance: float = _DIRECTION_TOLERANCE) -> NDArray[np.intp]:
    """Number vectors (n, m) by likeness: the same number where no part differs by more than the tolerance.

    At most `MOST_CLUSTERS` are told apart; what is left then has that number.
    """
    numbers = np.full(len(vectors), MOST_CLUSTERS, dtype=np.intp)
    rest = np.arange(len(vectors))
    for count in range(MOST_CLUSTERS):
        if not rest.size:
            break
        near = np.abs(vectors[rest] - vectors[rest[0]]).max(axis=1) <= tolerance
        numbers[rest[near]] = count
        rest = rest[~near]
    return numbers


def same_places(along_mm: Vectors) -> list[NDArray[np.intp]]:
    """Return the indices of slices that lie at the same place, for each place, lowest first.

    Args:
        along_mm: (n,) positions along the normal, in any order.
    """
    order = np.argsort(along_mm, kind="stable")
    gaps = np.diff(along_mm[order])
    apart = gaps[gaps > _SAME_PLACE_MM]
    least = max(_SAME_PLACE_MM, VOXEL_TOLERANCE * float(np.median(apart))) if apart.size else _SAME_PLACE_MM
    return [np.sort(group) for group in np.split(order, np.flatnonzero(gaps > least) + 1)]


def fit_stack(positions_mm: Vectors, orientation: Vectors, pixel_spacing_mm: Vectors) -> Fit:
    """Fit a straight line with even steps to slices.

    Slices at uneven distances get steps of a fine one among these (their lower quartile), or just below, so that
    the last slice lies on the last step; other places then are no whole numbers.

    Args:
        positions_mm: (n, 3), at different places, sorted along the normal; n at least 2.
        orientation: (6,), shared by all.
        pixel_spacing_mm: (2,), shared by all.
    """
    frame = slice_affine(positions_mm[0], orientation, pixel_spacing_mm)
    within = np.linalg.solve(frame[:3, :3], (positions_mm - positions_mm[0]).T).T  # (n, 3): columns, rows, mm
    spacing, places = _places(within[:, 2])
    start_mm, step_mm, off_mm = _best_line(places, within[:, 2:])
    along = (within[:, 2] - start_mm[0]) / step_mm[0]  # where each slice really lies, in steps
    start, step, off = _best_line(along, within[:, :2])
    affine = frame.copy()
    affine[:3, 2] = frame[:3, :3] @ np.concatenate([step, step_mm])
    affine[:3, 3] = positions_mm[0] + frame[:3, :3] @ np.concatenate([start, start_mm])
    return Fit(spacing, places, affine, float(max(*off, off_mm[0] / step_mm[0])))


def corners_off(affine: Affine, slices: list[Affine], places: Vectors, last_pixel: tuple[int, int]) -> float:
    """Return how far, in voxels, the slices' corners lie from where the volume has them.

    Args:
        affine: (column, row, slice) to mm.
        slices: One `slice_affine` for each slice.
        places: (n,) of each slice, in steps.
        last_pixel: Highest column and row.
    """
    columns, rows = last_pixel
    corners = np.array([[i, j, 0, 1] for i in (0, columns) for j in (0, rows)], dtype=float).T  # (4, 4)
    inverse, worst = np.linalg.inv(affine), 0.0
    for own, place in zip(slices, places, strict=True):
        wanted = corners + np.array([[0.0], [0.0], [place], [0.0]])
        worst = max(worst, float(np.abs(inverse @ own @ corners - wanted).max()))
    return worst


def _places(along_mm: Vectors) -> tuple[Spacing, Vectors]:
    gaps = np.diff(along_mm)
    places = np.arange(len(along_mm), dtype=np.float64)
    if _is_even(places, along_mm):
        return Spacing.EVEN, places
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])
    steps = np.rint(gaps / usual)
    with_gaps = np.concatenate([[0.0], np.cumsum(steps)])
    few = (steps > 1).sum() <= max(1.0, _MOST_WIDE_GAPS * len(gaps)) and with_gaps[-1] <= _MOST_MISSING * len(
        places
    )
    if steps.min() >= 1 and few and _is_even(with_gaps, along_mm):
        return Spacing.MISSING, with_gaps
    length = float(along_mm[-1] - along_mm[0])
    count = np.ceil(length / float(np.quantile(gaps, _USUAL_FINE_GAP)) - VOXEL_TOLERANCE)
    return Spacing.UNEVEN, (along_mm - along_mm[0]) * (count / length)


def _is_even(places: Vectors, along_mm: Vectors) -> bool:
    _, step, off = _best_line(places, along_mm[:, None])
    return bool(off[0] <= (VOXEL_TOLERANCE + _ROUNDING) * abs(step[0]))


def _best_line(places: Vectors, values: Vectors) -> tuple[Vectors, Vectors, Vectors]:
    """Fit ``start + step * place`` to values (n, m), each column for itself.

    The line from first to last, where that is good enough; else the one whose largest deviation is smallest.

    Returns:
        Start, step and largest deviation, (m,) each.
    """
    step = (values[-1] - values[0]) / (places[-1] - places[0])
    start = values[0] - step * places[0]
    off = np.abs(values - start - np.outer(places, step)).max(axis=0)
    for column in np.flatnonzero(off > _GOOD_ENOUGH):
        better = _minimax_line(places, values[:, column])
        if better[2] < 0.9 * off[column]:
            start[column], step[column], off[column] = better
    return start, step, off


def _minimax_line(places: Vectors, values: Vectors) -> tuple[float, float, float]:
    """Fit a line by golden-section search on its slope: the spread of what is left is convex in it."""
    slopes = np.diff(values) / np.diff(places)
    low, high = float(slopes.min()), float(slopes.max())
    ratio = (np.sqrt(5.0) - 1) / 2

    def spread(slope: float) -> float:
        return float(np.ptp(values - slope * places))

    for _ in range(_SEARCH_STEPS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if spread(left) <= spread(right):
            high = right
        else:
            low = left
    slope = (low + high) / 2
    rest = values - slope * places
    return float(rest.max() + rest.min()) / 2, slope, float(np.ptp(rest)) / 2
