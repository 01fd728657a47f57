"""RTSTRUCT -> structures, and their contours as masks on the slices of a series (PS3.3 C.8.8.5, C.8.8.6)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from medseg.dicom.contours import Mask, combine
from medseg.dicom.geometry import VOXEL_TOLERANCE, Vectors
from medseg.dicom.planes import Image, Planes
from medseg.dicom.refusal import refusal
from medseg.dicom.structure import (
    Drawing,
    Structure,
    concept_of,
    shown_name,
    side_of,
    text_of_element,
    whole_number,
)
from medseg.dicom.tags import tag_of
from medseg.dicom.values import numbers_of
from medseg.findings import Finding, FindingCode

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR")
"""Types of contours that hold pixels; the second is how PS3.3 C.8.8.6.3 spells it, the third a likely slip."""

_CONTOUR_DATA = tag_of("ContourData")
_LEAST_CORNERS = 3
_DECIMALS_MM = 0.01  # coordinates are often written with two decimals
_REMEDY = "export the label object again, or leave the structure out of the map"


@dataclass(frozen=True)
class _Contour:
    """One contour.

    Attributes:
        kind: ContourGeometricType.
        points_mm: (n, 3) in LPS+; None where ContourData is malformed.
        image: What it was drawn on, where it says so.
    """

    kind: str
    points_mm: Vectors | None = field(repr=False)
    image: Image | None = field(repr=False)


@dataclass(frozen=True)
class _Placed:
    """A contour on a slice: the corners (n, 2) in pixels, and how far it is off the plane."""

    number: int
    corners: Vectors
    off_mm: float


def list_regions(dataset: Dataset, hidden: tuple[str, ...]) -> list[Structure]:
    """Return the regions of interest of an RTSTRUCT; call it inside `quiet_pydicom`.

    Raises:
        ValueError: A region has no number, or two have the same.
        Exception: What else pydicom raises; see `medseg.dicom.quiet.PYDICOM_ERRORS`.
    """
    contours = {whole_number(item, "ReferencedROINumber"): item for item in dataset.get("ROIContourSequence") or ()}
    codes = {
        whole_number(item, "ReferencedROINumber"): item.get("RTROIIdentificationCodeSequence")
        for item in dataset.get("RTROIObservationsSequence") or ()
    }
    found = [
        _region(item, contours.get(whole_number(item, "ROINumber")), codes, hidden)
        for item in dataset.get("StructureSetROISequence") or ()
    ]
    if len({structure.number for structure in found}) < len(found):
        raise ValueError("a ROINumber that stands twice")
    return found


def draw_region(dataset: Dataset, structure: Structure, planes: Planes) -> Drawing:
    """Fill the contours of a region on the slices that they lie on; call it inside `quiet_pydicom`.

    A contour lies on a slice where no point of it is further from the plane than half the distance to the next
    slice. Contours of one slice are combined by XOR. POINT and OPEN contours hold no pixel.

    Args:
        dataset: The whole object.
        structure: One of `list_regions`.
        planes: Of the series that it was drawn on.

    Raises:
        DicomError: A contour is malformed, or lies on no slice, or on another one than it names.
    """
    where = f"{planes.where}, structure {structure.shown}"
    contours = list(_contours(dataset, structure.number))
    closed = [contour for contour in contours if contour.kind in CLOSED]
    placed = _placed(closed, planes, where)
    slices, findings = _filled(placed, planes, where)
    findings += _left_out(contours, closed, where)
    findings += _off_slice(placed, planes, where)
    findings += _gaps(slices, where)
    return Drawing(slices, tuple(findings))


def referenced_series(dataset: Dataset) -> tuple[frozenset[str], frozenset[str]]:
    """Return the series and the images that an RTSTRUCT says it refers to."""
    series, images = set(), set()
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ():
        for study in frame.get("RTReferencedStudySequence") or ():
            for item in study.get("RTReferencedSeriesSequence") or ():
                series.add(text_of_element(item, "SeriesInstanceUID"))
                for image in item.get("ContourImageSequence") or ():
                    images.add(text_of_element(image, "ReferencedSOPInstanceUID"))
    return frozenset(series - {""}), frozenset(images - {""})


def _region(
    item: Dataset, contours: Dataset | None, codes: dict[int, list[Dataset] | None], hidden: tuple[str, ...]
) -> Structure:
    number, name = whole_number(item, "ROINumber"), text_of_element(item, "ROIName")
    drawn = (contours.get("ContourSequence") or ()) if contours is not None else ()
    code = codes.get(number)
    return Structure(
        number,
        name,
        shown_name(name, hidden),
        concept_of(code),
        side_of(code[0]) if code else None,
        text_of_element(item, "ReferencedFrameOfReferenceUID"),
        frozenset(
            text_of_element(image, "ReferencedSOPInstanceUID")
            for contour in drawn
            for image in contour.get("ContourImageSequence") or ()
        )
        - {""},
        is_empty=len(drawn) == 0,
    )


def _contours(dataset: Dataset, number: int) -> Iterator[_Contour]:
    for item in dataset.ROIContourSequence:
        if whole_number(item, "ReferencedROINumber") != number:
            continue
        for contour in item.get("ContourSequence") or ():
            kind = text_of_element(contour, "ContourGeometricType").upper()
            yield _Contour(kind, _points(contour), _image(contour))


def _points(contour: Dataset) -> Vectors | None:
    """Return the points (n, 3) of a contour, straight from the bytes: pydicom takes ten times as long."""
    element = contour.get_item(_CONTOUR_DATA) if _CONTOUR_DATA in contour else None
    if isinstance(element, RawDataElement):
        text = bytes(element.value or b"").decode("latin-1")
    else:
        text = "\\".join(map(str, contour.get("ContourData") or ()))
    numbers = numbers_of(text.strip(" \0"))
    declared = contour.get("NumberOfContourPoints")
    if numbers is None or len(numbers) % 3 or (declared is not None and 3 * int(declared) != len(numbers)):
        return None
    return np.array(numbers).reshape(-1, 3)


def _image(contour: Dataset) -> Image | None:
    items = contour.get("ContourImageSequence")
    if not items or len(items) > 1:
        return None
    uid, frame = text_of_element(items[0], "ReferencedSOPInstanceUID"), items[0].get("ReferencedFrameNumber")
    is_one = isinstance(frame, str | int | float)
    return (uid, int(frame) - 1 if is_one else None) if uid else None


def _placed(contours: list[_Contour], planes: Planes, where: str) -> list[_Placed]:
    malformed = sum(contour.points_mm is None for contour in contours)
    if malformed:
        found = f"{malformed} of {len(contours)} without (ContourData, NumberOfContourPoints)"
        raise refusal(where, FindingCode.BAD_CONTOUR, "contours with three finite numbers a point", found, _REMEDY)
    placed, lost, elsewhere = [], 0, 0
    for contour in contours:
        if contour.points_mm is None or len(contour.points_mm) < _LEAST_CORNERS:
            continue
        number, named = _slice(contour.points_mm, planes), planes.images.get(contour.image or ("", None))
        if named is not None and _off(contour.points_mm, planes, named) <= planes.reach_mm[named]:
            number = named
        if number is None:
            lost += 1
        elif named is not None and number != named:
            elsewhere += 1
        else:
            points = planes.pixels(number, contour.points_mm)
            placed.append(_Placed(number, points[:, :2], float(np.abs(points[:, 2]).max())))
    if lost:
        found = f"{lost} of {len(contours)} off every slice, by more than half the distance between slices"
        raise refusal(where, FindingCode.OFF_SLICE, "contours that lie on slices", found, _REMEDY)
    if elsewhere:
        found = f"{elsewhere} of {len(contours)} that lie on another one"
        raise refusal(where, FindingCode.OFF_SLICE, "contours on the slices that they name", found, _REMEDY)
    return placed


def _slice(points_mm: Vectors, planes: Planes) -> int | None:
    """Return the slice that points lie on, or None."""
    number = planes.nearest(float(np.median(points_mm @ planes.normal)))
    return number if _off(points_mm, planes, number) <= planes.reach_mm[number] else None


def _off(points_mm: Vectors, planes: Planes, number: int) -> float:
    return float(np.abs(points_mm @ planes.normal - planes.heights_mm[number]).max())


def _filled(placed: list[_Placed], planes: Planes, where: str) -> tuple[dict[int, Mask], list[Finding]]:
    corners: dict[int, list[Vectors]] = defaultdict(list)
    for contour in placed:
        corners[contour.number].append(contour.corners)
    try:
        filled = {number: combine(corners[number], planes.shape) for number in sorted(corners)}
    except ValueError as error:
        raise refusal(where, FindingCode.BAD_CONTOUR, "contours near the image", str(error), _REMEDY) from None
    findings = []
    overlapping = sum(result.overlapping > 0 for result in filled.values())
    if overlapping:
        message = f"contours that overlap on {overlapping} slice(s), neither inside the other: combined by XOR"
        findings.append(Finding(FindingCode.CONTOUR_OVERLAP, message, where))
    cut = sum(result.is_cut for result in filled.values())
    if cut:
        message = f"contours that leave the image on {cut} slice(s)"
        findings.append(Finding(FindingCode.BEYOND_IMAGE, message, where))
    return {number: result.mask for number, result in filled.items() if result.mask.any()}, findings


def _left_out(contours: list[_Contour], closed: list[_Contour], where: str) -> Iterator[Finding]:
    kinds = Counter(contour.kind for contour in contours if contour.kind not in CLOSED)
    for kind, count in sorted(kinds.items()):
        known = kind if kind in ("POINT", "OPEN_PLANAR", "OPEN_NONPLANAR") else "unknown"
        message = f"{count} of {len(contours)} contour(s) of the type {known}: left out"
        yield Finding(FindingCode.OPEN_CONTOUR, message, where)
    short = sum(contour.points_mm is not None and len(contour.points_mm) < _LEAST_CORNERS for contour in closed)
    if short:
        message = f"{short} of {len(contours)} contour(s) of fewer than three points: left out"
        yield Finding(FindingCode.OPEN_CONTOUR, message, where)


def _off_slice(placed: list[_Placed], planes: Planes, where: str) -> Iterator[Finding]:
    tolerance = VOXEL_TOLERANCE * planes.spacing_mm + _DECIMALS_MM
    off = [contour.off_mm for contour in placed if contour.off_mm > tolerance]
    if off:
        message = f"{len(off)} contour(s) up to {max(off):.3g} mm off their slices: taken as on them"
        yield Finding(FindingCode.OFF_SLICE, message, where)


def _gaps(slices: dict[int, Mask], where: str) -> Iterator[Finding]:
    """Say how many slices between others have no contour; nothing is interpolated."""
    if slices and (missing := max(slices) - min(slices) + 1 - len(slices)):
        message = f"{missing} slice(s) without a contour between the first and the last one that have some"
        yield Finding(FindingCode.CONTOUR_GAP, message, where)
