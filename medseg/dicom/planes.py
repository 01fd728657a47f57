"""The slices of a stack as planes: on which of them something lies, and at which of its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medseg.dicom.frame import Frame
from medseg.dicom.geometry import Vectors, slice_affine, slice_normal
from medseg.dicom.refusal import refusal
from medseg.dicom.stack import Stack
from medseg.findings import FindingCode

Image = tuple[str, int | None]
"""SOPInstanceUID and number of the frame, from 0; None for an instance as a whole."""

_ROUNDING_MM = 1e-3  # that a contour halfway between two slices may be off


@dataclass(frozen=True)
class Planes:
    """The slices of a stack, in its order.

    Attributes:
        where: The series, by its hashed name.
        shape: Rows and columns of each slice.
        normal: (3,) unit vector, LPS.
        heights_mm: (n,) of each slice along the normal, rising.
        reach_mm: (n,) half the distance of each slice to its nearest neighbour.
        to_pixels: (n, 4, 4) LPS+ mm to column, row and mm off the plane, by each slice's own position.
        images: Instance and frame -> index of the slice.
        frame_of_reference_uid: Of the series.
    """

    where: str
    shape: tuple[int, int]
    normal: Vectors
    heights_mm: Vectors
    reach_mm: Vectors
    to_pixels: NDArray[np.float64] = field(repr=False)
    images: Mapping[Image, int] = field(repr=False)
    frame_of_reference_uid: str = field(repr=False)

    def nearest(self, height_mm: float) -> int:
        """Return the slice that is nearest to a height along the normal."""
        return int(np.abs(self.heights_mm - height_mm).argmin())

    def pixels(self, number: int, points_mm: Vectors) -> Vectors:
        """Return column, row and mm off the plane (n, 3) of points (n, 3) in LPS+ mm."""
        matrix = self.to_pixels[number]
        found: Vectors = points_mm @ matrix[:3, :3].T + matrix[:3, 3]
        return found

    @property
    def spacing_mm(self) -> float:
        """Median distance between slices; twice the reach of a single one."""
        return float(2 * np.median(self.reach_mm))


def planes_of(stack: Stack) -> Planes:
    """Return the slices of a stack as planes.

    Raises:
        DicomError: Slices of the volume are interpolated: nothing can have been drawn on them.
    """
    where = f"series {stack.series.name}"
    if not stack.is_plain:
        found = f"{len(stack.frames)} slices for {stack.count} of the volume"
        remedy = "leave the policies on irregular series at refuse"
        raise refusal(where, FindingCode.IRREGULAR, "slices that labels were drawn on", found, remedy)
    header = stack.frames[0].header
    normal = slice_normal(np.array(stack.frames[0].orientation))
    heights = np.array([frame.position_mm for frame in stack.frames]) @ normal
    return Planes(
        where,
        (header.rows, header.columns),
        normal,
        heights,
        _reach(heights, stack),
        np.stack([np.linalg.inv(own_affine(frame)) for frame in stack.frames]),
        _images(stack),
        header.frame_of_reference_uid,
    )


def own_affine(frame: Frame) -> Vectors:
    """Return the matrix from (column, row, mm along the normal) to LPS+ mm that a frame's own tags say."""
    parts = (frame.position_mm, frame.orientation, frame.pixel_spacing_mm)
    position, orientation, spacing = (np.array(part, dtype=np.float64) for part in parts)
    affine: Vectors = slice_affine(position, orientation, spacing)
    return affine


def _reach(heights: Vectors, stack: Stack) -> Vectors:
    if len(heights) == 1:
        return np.array([float(np.linalg.norm(stack.affine[:3, 2])) / 2])
    gaps = np.diff(heights)
    reach: Vectors = np.minimum(np.append(gaps, np.inf), np.append(np.inf, gaps)) / 2 + _ROUNDING_MM
    return reach


def _images(stack: Stack) -> dict[Image, int]:
    images: dict[Image, int] = {}
    for number, frame in enumerate(stack.frames):
        header = frame.header
        if header.frame_count == 1:
            images[header.sop_instance_uid, None] = number
        images[header.sop_instance_uid, frame.number] = number
    return images
