"""A mask -> an RT Structure Set (PS3.3 A.19): contours on each slice of the source, by that slice's own position.

Holes (PS3.3 C.8.8.6.1, C.8.8.6.3): since 2020 the standard calls all contours of a region that are combined by
exclusive or CLOSEDPLANAR_XOR. Software that is older, validators included, refuses that type or leaves the region
out; it reads nested contours called CLOSED_PLANAR by exclusive or, as `medseg.dicom.rtstruct_read` does. So that is
what is written, unless the options say ``xor-type`` or ``keyhole``: one contour, which the standard always had.

The transfer syntax is Implicit VR Little Endian: ContourData is a DS, whose length in explicit VR has 16 bits
(PS3.5 7.1.2), so that a long contour would have to be of unknown VR.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from medseg.dicom.charset import fit_character_set
from medseg.dicom.contour_items import Contour, encoded, encoded_image, hold_encoded
from medseg.dicom.decimals import decimal_texts
from medseg.dicom.geometry import Vectors
from medseg.dicom.identity import Identity
from medseg.dicom.object_parts import (
    add_file_meta,
    frame_of_reference,
    off_slices,
    sop_class_findings,
    start_object,
)
from medseg.dicom.origin import Origin
from medseg.dicom.output_options import RtstructOptions
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.refusal import refusal
from medseg.dicom.rtstruct_items import describe_regions, image_item, reference_items
from medseg.dicom.shaping import outlines
from medseg.dicom.terminology import add_private_scheme, label_code, uncoded
from medseg.dicom.tracing import signed_area
from medseg.findings import Finding, FindingCode
from medseg.labels import BACKGROUND, Label, LabelMap


@dataclass(frozen=True, eq=False)
class MadeStructureSet:
    """An RTSTRUCT that was made of a mask.

    Attributes:
        dataset: The object, with its file meta information; `medseg.dicom.object_parts.save_object` writes it.
        regions: The labels that are in it: ROINumber 1 is the first one.
        findings: What was odd.
    """

    dataset: Dataset = field(repr=False)
    regions: tuple[Label, ...]
    findings: tuple[Finding, ...]


def make_structure_set(
    origin: Origin, labels: LabelMap, identity: Identity, options: RtstructOptions
) -> MadeStructureSet:
    """Make an RTSTRUCT of a mask. Labels of which there is nothing are left out; the others are numbered from 1.

    Contours lie at 0.5 between the centres of pixels, so that what lies inside is the mask again. Coordinates are
    rounded to a micrometre.

    Args:
        origin: The images that the mask was drawn on.
        labels: The mask.
        identity: UIDs, dates and what drew it.
        options: Holes, smoothing, decimation, series and institution.

    Raises:
        GridError: The mask lies on another grid than the images.
        InputError: It holds a value that its labels do not name, or a label is of both sides.
        DicomError: The mask is empty, or the series lacks what the object must refer to, or a coordinate does not
            fit a decimal string.
    """
    frame_of_reference_uid, findings = frame_of_reference(origin, identity, options)
    values = origin.on_slices(labels)
    with quiet_pydicom():
        images = [image_item(origin, number, options) for number in range(len(origin.frames))]
        contours = _contours(origin, values, images, options)
        regions = tuple(label for label in labels.labels if label.index in contours)
        if not regions:
            expected, found = "a mask with something in it: an object must hold a region", "no label anywhere"
            remedy = "leave DICOM outputs out for it, or see whether the images show what the model draws"
            raise refusal(origin.where, FindingCode.ORGAN_ABSENT, expected, found, remedy)
        dataset = _begin(identity, options, frame_of_reference_uid)
        describe_regions(dataset, regions, frame_of_reference_uid, identity.maker)
        dataset.ReferencedFrameOfReferenceSequence = [reference_items(origin, frame_of_reference_uid, options)]
        add_private_scheme(dataset, [label_code(label) for label in regions])
        fit_character_set(dataset)
        for label, item in zip(regions, dataset.ROIContourSequence, strict=True):
            hold_encoded(item, contours.pop(label.index))
    findings += [*sop_class_findings(origin), *uncoded(regions, origin.where), *off_slices(origin)]
    return MadeStructureSet(dataset, regions, tuple(findings))


def _begin(identity: Identity, options: RtstructOptions, frame_of_reference_uid: str) -> Dataset:
    """Return an object with all but its regions: RT Series, Frame of Reference, Structure Set (PS3.3 A.19.3)."""
    dataset = start_object(RTStructureSetStorage, identity, options)
    add_file_meta(dataset, ImplicitVRLittleEndian)
    del dataset.ContentDate, dataset.ContentTime
    dataset.Modality = "RTSTRUCT"
    dataset.OperatorsName = ""
    dataset.FrameOfReferenceUID = frame_of_reference_uid
    dataset.PositionReferenceIndicator = identity.origin.datasets[0].get("PositionReferenceIndicator") or ""
    dataset.StructureSetLabel = options.label
    dataset.StructureSetDate, dataset.StructureSetTime = identity.date, identity.time
    dataset.ApprovalStatus = "UNAPPROVED"
    return dataset


def _contours(
    origin: Origin,
    values: NDArray[np.integer[Any]],
    images: Sequence[Dataset],
    options: RtstructOptions,
) -> dict[int, bytes]:
    """Return the items of the contours of each label that is there, encoded, slice by slice."""
    found: dict[int, list[Contour]] = defaultdict(list)
    for number, image in enumerate(images):
        head = encoded_image(image)
        drawn = list(_drawn(values[:, :, number].T, origin.frames[number].pixel_spacing_mm, options))
        for (value, points), text in zip(drawn, _texts(origin, number, drawn), strict=True):
            is_hole = options.holes == "xor-type" and signed_area(points) < 0
            found[value].append(Contour(head, len(points), text, is_hole))
    return {value: encoded(found.pop(value)) for value in list(found)}


def _drawn(
    plane: NDArray[np.integer[Any]],
    pixel_spacing_mm: tuple[float, ...] | None,
    options: RtstructOptions,
) -> Iterator[tuple[int, Vectors]]:
    """Return the contours on a slice (rows, columns): label value, and (n, 2) in pixels."""
    between_rows, between_columns = pixel_spacing_mm or (1.0, 1.0)
    for value in _present(plane):
        region = plane == value
        rows = np.flatnonzero(region.any(axis=1))
        region = region[rows[0] : rows[-1] + 1]
        columns = np.flatnonzero(region.any(axis=0))
        contours = outlines(
            region[:, columns[0] : columns[-1] + 1],
            (between_columns, between_rows),
            is_keyhole=options.holes == "keyhole",
            smooth_mm=options.smooth_mm,
            decimate_mm=options.decimate_mm,
        )
        corner = np.array([columns[0], rows[0]])
        for points in contours:
            yield value, points + corner


def _present(plane: NDArray[np.integer[Any]]) -> list[int]:
    """Return the label values of a slice, without the background."""
    is_fast = plane.dtype.itemsize <= 2
    values = np.flatnonzero(np.bincount(plane.ravel())) if is_fast else np.unique(plane)
    found: list[int] = values[values != BACKGROUND].tolist()
    return found


def _texts(origin: Origin, number: int, drawn: Sequence[tuple[int, Vectors]]) -> list[bytes]:
    """Return ContourData of the contours on a slice, in millimetres by the slice's own position."""
    if not drawn:
        return []
    matrix = origin.affine(number)
    pixels = np.concatenate([points for _, points in drawn])
    try:
        return decimal_texts(pixels @ matrix[:3, :2].T + matrix[:3, 3], [3 * len(points) for _, points in drawn])
    except ValueError as error:
        expected, remedy = "slices that lie within a scanner", "correct ImagePositionPatient and PixelSpacing"
        raise refusal(origin.where, FindingCode.NO_GEOMETRY, expected, str(error), remedy) from None
