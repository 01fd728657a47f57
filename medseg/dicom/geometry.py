"""Where the pixels of a series lie: pure functions of positions, orientations and spacings.

The law is DICOM PS3.3 C.7.6.2.1.1: the pixel in column i, row j of a slice lies at
``position + row_direction * column_spacing * i + column_direction * row_spacing * j`` in LPS+ millimetres.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medseg.volume import Affine

Vectors = NDArray[np.float64]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Turns LPS+ to RAS+ and back: ``LPS_TO_RAS @ affine``."""

VOXEL_TOLERANCE = 0.01
"""How far a slice may lie from its place in the volume, and a distance from the others, in voxels."""

_DIRECTION_TOLERANCE = 1e-3  # of length 1 and of a right angle
_SAME_PLACE_MM = 1e-3
_TILT_TOLERANCE_DEG = 0.05


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


def stack_affine(positions_mm: Vectors, orientation: Vectors, pixel_spacing_mm: Vectors) -> Affine:
    """Return the 4x4 matrix from (column, row, slice) to LPS+ mm of sorted slices.

    Args:
        positions_mm: (n, 3), n at least 2; the step between slices is that from first to last.
        orientation: (6,), shared by all.
        pixel_spacing_mm: (2,), shared by all.
    """
    affine = slice_affine(positions_mm[0], orientation, pixel_spacing_mm)
    affine[:3, 2] = (positions_mm[-1] - positions_mm[0]) / (len(positions_mm) - 1)
    return affine


def order_along(positions_mm: Vectors, normal: Vectors) -> NDArray[np.intp]:
    """Return the order of slices (n, 3) along the normal, lowest first."""
    return np.argsort(positions_mm @ normal, kind="stable")


def orientation_problem(orientations: Vectors) -> str | None:
    """Say what is wrong with orientations (n, 6): not two unit vectors at right angles, or not all the same."""
    rows, columns = orientations[:, :3], orientations[:, 3:]
    lengths = np.linalg.norm(np.concatenate([rows, columns]), axis=1)
    across = np.abs(np.einsum("ni,ni->n", rows, columns))
    if np.abs(lengths - 1).max() > _DIRECTION_TOLERANCE or across.max() > _DIRECTION_TOLERANCE:
        return "directions that are not unit vectors at right angles"
    differences = np.abs(orientations - orientations[0]).max(axis=1) > _DIRECTION_TOLERANCE
    if differences.any():
        groups = np.unique(np.round(orientations, 2), axis=0)
        return f"{len(groups)} different orientations in one series"
    return None


def stack_problem(positions_mm: Vectors, normal: Vectors) -> str | None:
    """Say why sorted slices (n, 3) are not an evenly spaced, straight stack."""
    gaps = np.diff(positions_mm @ normal)
    same = int((gaps < max(_SAME_PLACE_MM, VOXEL_TOLERANCE * float(np.median(gaps)))).sum())
    if same:
        return f"{same} slice(s) at the same place as another one"
    return _tilt_problem(positions_mm, normal) or _gap_problem(gaps)


def place_problem(affine: Affine, slices: list[Affine], last_pixel: tuple[int, int]) -> str | None:
    """Say which slice's corners, by its own affine, lie off its place in the volume.

    Args:
        affine: (column, row, slice) to mm.
        slices: One `slice_affine` for each slice, in order.
        last_pixel: Highest column and row.
    """
    columns, rows = last_pixel
    corners = np.array([[i, j, 0, 1] for i in (0, columns) for j in (0, rows)], dtype=float).T  # (4, 4)
    inverse = np.linalg.inv(affine)
    for k, own in enumerate(slices):
        wanted = corners.copy()
        wanted[2] = k
        off = float(np.abs(inverse @ own @ corners - wanted).max())
        if off > VOXEL_TOLERANCE:
            return f"slice {k + 1} of {len(slices)} up to {off:.3g} voxels off the straight stack"
    return None


def _tilt_problem(positions_mm: Vectors, normal: Vectors) -> str | None:
    way = positions_mm[-1] - positions_mm[0]
    along = float(way @ normal)
    aside = float(np.linalg.norm(way - along * normal))
    tilt_deg = float(np.degrees(np.arctan2(aside, along)))
    if tilt_deg <= _TILT_TOLERANCE_DEG:
        return None
    return f"gantry tilt: slices stacked {tilt_deg:.2f} degrees off their normal"


def _gap_problem(gaps_mm: Vectors) -> str | None:
    usual = float(np.median(gaps_mm))
    worst = int(np.abs(gaps_mm - usual).argmax())
    if abs(gaps_mm[worst] - usual) <= VOXEL_TOLERANCE * usual:
        return None
    return (
        f"a distance of {gaps_mm[worst]:.3f} mm between slices {worst + 1} and {worst + 2}, "
        f"{usual:.3f} mm between most others"
    )
