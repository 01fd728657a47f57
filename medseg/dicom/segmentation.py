"""SEG -> segments, and their frames as masks on the slices of a series (PS3.3 C.8.20, and C.7.6.16 for the frames).

BINARY, FRACTIONAL and LABELMAP objects are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from pydicom.dataset import Dataset

from medseg.dicom.contours import Mask
from medseg.dicom.geometry import VOXEL_TOLERANCE, Vectors, slice_affine
from medseg.dicom.multiframe import group_item
from medseg.dicom.planes import Planes
from medseg.dicom.refusal import refusal
from medseg.dicom.segment_pixels import SegmentPixels
from medseg.dicom.structure import (
    Drawing,
    Structure,
    concept_of,
    shown_name,
    side_of,
    text_of_element,
    whole_number,
)
from medseg.dicom.values import directions_of, millimetres_of, spacing_of
from medseg.findings import Finding, FindingCode

_MOST_OFF_VOXELS = 0.1  # no rounding is larger, and no other pixel is meant
_REMEDY = "export the segmentation on the grid of its series, or leave it out"


@dataclass(frozen=True)
class SegmentFrame:
    """One frame of a SEG.

    Attributes:
        number: From 0.
        segment: Whose it is; 0 for all, as in a label map.
        affine: (column, row, mm along the normal) to LPS+ mm; None where it has no valid place.
        images: SOPInstanceUIDs that it was derived from.
    """

    number: int
    segment: int
    affine: Vectors | None = field(repr=False)
    images: frozenset[str] = field(repr=False)


@dataclass(frozen=True)
class _Cut:
    """Where a frame lies on a slice: indices of its pixels for the rows and columns of the slice."""

    slice_number: int
    rows: Vectors
    columns: Vectors
    is_turned: bool
    off_voxels: float


def list_segments(dataset: Dataset, hidden: tuple[str, ...]) -> list[Structure]:
    """Return the segments of a SEG; call it inside `quiet_pydicom`. Segment 0, a label map's background, is none.

    Raises:
        ValueError: A segment has no number, or the frames cannot be told.
        Exception: What else pydicom raises; see `medseg.dicom.quiet.PYDICOM_ERRORS`.
    """
    frames = list_frames(dataset)
    frame_of_reference = text_of_element(dataset, "FrameOfReferenceUID")
    found = []
    for item in dataset.SegmentSequence:
        number, name = whole_number(item, "SegmentNumber"), text_of_element(item, "SegmentLabel")
        if number == 0:
            continue
        codes = item.get("SegmentedPropertyTypeCodeSequence")
        regions = item.get("AnatomicRegionSequence") or []
        sides = [side_of(part) for part in (*(codes or ()), *regions)]
        own = [frame for frame in frames if frame.segment in (0, number)]
        found.append(
            Structure(
                number,
                name,
                shown_name(name, hidden),
                concept_of(codes),
                next((side for side in sides if side), None),
                frame_of_reference,
                frozenset(uid for frame in own for uid in frame.images),
                is_empty=not own,
            )
        )
    if len({structure.number for structure in found}) < len(found):
        raise ValueError("a SegmentNumber that stands twice")
    return found


def list_frames(dataset: Dataset) -> list[SegmentFrame]:
    """Return the frames of a SEG, from its functional groups; a frame's own group goes before the shared one.

    Raises:
        ValueError: The groups are not as many as NumberOfFrames says, or a frame names no segment.
        Exception: What else pydicom raises; see `medseg.dicom.quiet.PYDICOM_ERRORS`.
    """
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    groups = dataset.PerFrameFunctionalGroupsSequence
    if whole_number(dataset, "NumberOfFrames") != len(groups):
        raise ValueError("functional groups that are not as many as the frames")
    is_label_map = text_of_element(dataset, "SegmentationType") == "LABELMAP"
    return [_frame(number, (group, shared), is_label_map) for number, group in enumerate(groups)]


def referenced_series(dataset: Dataset) -> tuple[frozenset[str], frozenset[str]]:
    """Return the series and the images that a SEG says it refers to."""
    items = dataset.get("ReferencedSeriesSequence") or ()
    series = {text_of_element(item, "SeriesInstanceUID") for item in items}
    images = {
        text_of_element(image, "ReferencedSOPInstanceUID")
        for item in items
        for image in item.get("ReferencedInstanceSequence") or ()
    }
    return frozenset(series - {""}), frozenset(images - {""})


def draw_segment(
    frames: Sequence[SegmentFrame], pixels: SegmentPixels, structure: Structure, planes: Planes
) -> Drawing:
    """Put the frames of a segment onto the slices that they lie on; call it inside `quiet_pydicom`.

    A frame belongs on a slice where its pixels are those of the slice, to a tenth of a voxel: rows and columns may
    be swapped, reversed or fewer, but not resampled. A FRACTIONAL pixel counts from half of its maximum on.

    Args:
        frames: Of the object, as `list_frames` gives them.
        pixels: Of the same object.
        structure: One of its segments.
        planes: Of the series.

    Raises:
        DicomError: A frame lies on no slice or on another grid, two frames lie on one slice, or pixels cannot be
            decoded.
    """
    where = f"{planes.where}, segment {structure.shown}"
    slices: dict[int, Mask] = {}
    worst = 0.0
    for frame in frames:
        if frame.segment not in (0, structure.number):
            continue
        mask = pixels.mask(frame.number, structure.number, where)
        if not mask.any():
            continue
        cut = _cut(frame, mask, planes, where)
        worst = max(worst, cut.off_voxels)
        if cut.slice_number in slices:
            found = f"slice {cut.slice_number + 1} with several"
            raise refusal(where, FindingCode.CONFLICT, "one frame a slice", found, _REMEDY)
        slices[cut.slice_number] = _placed(mask, cut, planes, where)
    return Drawing(slices, tuple(_findings(pixels.kind, worst, where)))


def _frame(number: int, groups: Sequence[Dataset], is_label_map: bool) -> SegmentFrame:
    position = millimetres_of(_joined(group_item(groups, "PlanePositionSequence"), "ImagePositionPatient"), 3)
    orientation = directions_of(_joined(group_item(groups, "PlaneOrientationSequence"), "ImageOrientationPatient"))
    spacing = spacing_of(_joined(group_item(groups, "PixelMeasuresSequence"), "PixelSpacing"))
    affine = None
    if position and orientation and spacing and np.linalg.norm(np.cross(orientation[:3], orientation[3:])) > 0:
        affine = slice_affine(np.array(position), np.array(orientation), np.array(spacing))
    identification = group_item(groups, "SegmentIdentificationSequence")
    segment = 0 if is_label_map else whole_number(identification, "ReferencedSegmentNumber")
    images = {
        text_of_element(source, "ReferencedSOPInstanceUID")
        for group in groups
        for derivation in group.get("DerivationImageSequence") or ()
        for source in derivation.get("SourceImageSequence") or ()
    }
    return SegmentFrame(number, segment, affine, frozenset(images - {""}))


def _joined(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    return "" if value is None or isinstance(value, str) else "\\".join(map(str, value))


def _cut(frame: SegmentFrame, mask: Mask, planes: Planes, where: str) -> _Cut:
    """Find the slice of a frame and which of its pixels are those of the slice."""
    if frame.affine is None:
        found = "a frame without a valid position, orientation or pixel spacing"
        raise refusal(where, FindingCode.NO_GEOMETRY, "a place for every frame", found, _REMEDY)
    number = planes.nearest(float(frame.affine[:3, 3] @ planes.normal))
    matrix = planes.to_pixels[number] @ frame.affine  # (column, row) of the frame to column, row, mm off the slice
    is_turned = abs(matrix[0, 1]) > abs(matrix[0, 0])
    exact = np.zeros((3, 3))  # the same with whole numbers
    exact[:2, :2] = np.sign(matrix[:2, :2]) * (np.array([[0, 1], [1, 0]]) if is_turned else np.eye(2))
    exact[:2, 2] = np.rint(matrix[:2, 3])
    corners = np.array([[c, r, 1] for c in (0, mask.shape[1] - 1) for r in (0, mask.shape[0] - 1)], dtype=float).T
    off = np.abs(matrix[:3][:, [0, 1, 3]] @ corners - exact @ corners)  # (3, 4) in pixels, pixels and mm
    off_voxels = float(max(off[:2].max(), off[2].max() / planes.spacing_mm))
    if off_voxels > _MOST_OFF_VOXELS:
        found = f"frame {frame.number + 1} with corners {off_voxels:.3g} voxels off those of the nearest slice"
        raise refusal(where, FindingCode.OTHER_GRID, "frames on the pixels of the series", found, _REMEDY)
    columns, rows = np.arange(mask.shape[1]), np.arange(mask.shape[0])
    along = (exact[0, :2].sum() * (rows if is_turned else columns) + exact[0, 2]).astype(int)
    down = (exact[1, :2].sum() * (columns if is_turned else rows) + exact[1, 2]).astype(int)
    return _Cut(number, down, along, bool(is_turned), off_voxels)


def _placed(mask: Mask, cut: _Cut, planes: Planes, where: str) -> Mask:
    """Return the pixels (rows, columns) of a slice that a frame's mask covers."""
    turned = mask.T if cut.is_turned else mask
    rows, columns = planes.shape
    is_row = (cut.rows >= 0) & (cut.rows < rows)
    is_column = (cut.columns >= 0) & (cut.columns < columns)
    inside = turned[np.ix_(is_row, is_column)]
    if inside.sum() < mask.sum():
        found = f"{int(mask.sum() - inside.sum())} pixel(s) outside the image"
        raise refusal(where, FindingCode.BEYOND_IMAGE, "segments within the series", found, _REMEDY)
    placed = np.zeros(planes.shape, dtype=bool)
    placed[np.ix_(cut.rows[is_row].astype(int), cut.columns[is_column].astype(int))] = inside
    return placed


def _findings(kind: str, worst: float, where: str) -> Iterator[Finding]:
    if kind == "FRACTIONAL":
        yield Finding(FindingCode.FRACTIONAL, "a fractional segment: taken from half of its maximum on", where)
    if worst > VOXEL_TOLERANCE:
        message = f"frames up to {worst:.3g} voxels off their slices: taken as on them"
        yield Finding(FindingCode.OFF_SLICE, message, where)
