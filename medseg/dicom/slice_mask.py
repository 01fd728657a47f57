"""`SliceMask`: a mask on the slices of its series, found by the mask's own affine, to compare objects with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.dicom.geometry import LPS_TO_RAS, Vectors
from medseg.dicom.origin import Origin, require_known_values
from medseg.labels import LabelMap
from medseg.proof import Tally, pixels_of, proof_error
from medseg.volume import require_same_grid

Whole = NDArray[np.integer[Any]]

MOST_OFF_VOXELS = 0.05
"""How far what an object says may lie from a voxel: decimals of millimetres, and slices a little off their line."""

_MOST_TABLE = 1 << 16
_CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


class SliceMask:
    """A mask on the slices of a series.

    Millimetres become voxels by the inverse of the mask's own affine alone; the slices of the series only say which
    of the mask's slices are there, and what each is called.

    Args:
        origin: The series.
        labels: The mask.

    Attributes:
        labels: What the mask's values mean.
        places: (n,) where each slice lies along the mask's last axis.
        numbers: (n,) the mask's slice that is nearest to it.

    Raises:
        GridError: The mask lies on another grid than the series.
        InputError: The mask holds a value that its labels do not name.
    """

    def __init__(self, origin: Origin, labels: LabelMap) -> None:
        require_same_grid(origin.grid, labels.grid, owner=origin.where, where=labels.volume.source or "label map")
        require_known_values(labels)
        self.labels = labels.labels
        self.places = np.asarray(origin.stack.places, dtype=np.float64)
        self._array, self._affine = labels.array, labels.affine
        self.numbers = np.rint(self.places).astype(np.intp)
        self._inverse = np.linalg.inv(labels.affine) @ LPS_TO_RAS
        largest = labels.labels.largest
        self._classes = None
        if largest < _MOST_TABLE:
            self._classes = np.zeros(largest + 1, dtype=np.intp)
            self._classes[list(labels.labels.indices)] = np.arange(1, len(labels.labels) + 1)

    @property
    def shape(self) -> tuple[int, int]:
        """Columns and rows."""
        columns, rows, _ = self._array.shape
        return columns, rows

    @property
    def voxel_mm(self) -> float:
        """The longest side of a voxel."""
        return float(np.linalg.norm(self._affine[:3, :3], axis=0).max())

    def voxels_of(self, points_lps_mm: Vectors) -> Vectors:
        """Return where points (n, 3) in LPS+ mm lie in the mask, in voxels (n, 3)."""
        found: Vectors = points_lps_mm @ self._inverse[:3, :3].T + self._inverse[:3, 3]
        return found

    def affine_of(self, frame: Vectors) -> Vectors:
        """Return the matrix (3, 3) from (column, row, 1) of a frame to voxels.

        Args:
            frame: 4x4, (column, row, mm) to LPS+ mm.
        """
        found: Vectors = (self._inverse @ frame)[:3][:, [0, 1, 3]]
        return found

    def moment_mm(self, moment: Vectors, count: float) -> Vectors:
        """Return the sum of positions (3,), RAS+ mm, of `count` voxels whose indices have the sum `moment`."""
        summed: Vectors = self._affine[:3, :3] @ moment + count * self._affine[:3, 3]
        return summed

    def slice_at(self, place: float) -> int | None:
        """Return the slice of the series at a place along the mask's last axis; None where there is none."""
        number = int(np.abs(self.places - place).argmin())
        return number if abs(self.places[number] - place) <= MOST_OFF_VOXELS else None

    def classes_at(self, number: int, columns: Whole, rows: Whole) -> NDArray[np.intp]:
        """Return the class index (n,) of pixels (n,) of a slice: 0 for background and beyond the image."""
        width, height = self.shape
        inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        if inside.all():
            return self._class(self._array[columns, rows, self.numbers[number]])
        found = np.zeros(len(columns), dtype=np.intp)
        found[inside] = self._class(self._array[columns[inside], rows[inside], self.numbers[number]])
        return found

    def tally(self) -> Tally:
        """Count the voxels of every label on the slices of the series."""
        tally = Tally(self.labels)
        for place, number in zip(self.places.tolist(), self.numbers, strict=True):
            plane = self._array[:, :, number].T  # (rows, columns), in one piece where i is fastest
            rows, columns = pixels_of(plane)
            tally.add_plane(self._class(plane[rows, columns]), (columns, rows), place, self._affine)
        return tally

    def _class(self, values: Whole) -> NDArray[np.intp]:
        if self._classes is not None:
            return self._classes[values]
        return np.searchsorted(self.labels.channel_values, values).astype(np.intp)


def whole_pixels(
    mask: SliceMask, matrix: Vectors, shape: tuple[int, int], where: str
) -> tuple[int, NDArray[np.intp]]:
    """Return the slice that a frame lies on, and the whole matrix (2, 3) from (column, row, 1) to its pixels.

    Args:
        mask: Whose slices.
        matrix: (3, 3) of `SliceMask.affine_of`.
        shape: Rows and columns of the frame.
        where: For the message.

    Raises:
        ProofError: The frame's pixels are not voxels of the mask: it lies between slices or pixels, or its pixels
            have another size.
    """
    corners = np.array([[c * (shape[1] - 1), r * (shape[0] - 1), 1] for c, r in _CORNERS], dtype=float).T  # (3, 4)
    exact = np.rint(matrix[:2]).astype(np.intp)
    at = matrix @ corners  # (3, 4): column, row, place
    off = float(np.abs(at[:2] - exact @ corners).max())
    number = mask.slice_at(float(at[2].mean()))
    if number is None or np.abs(at[2] - mask.places[number]).max() > MOST_OFF_VOXELS:
        found = f"one from {at[2].min():.4g} to {at[2].max():.4g} along the stack"
        raise proof_error(where, f"a place on one of the {len(mask.places)} slices, from 0", found)
    if off > MOST_OFF_VOXELS:
        raise proof_error(where, "pixels that are those of the mask", f"corners up to {off:.3g} pixels off")
    return number, exact
