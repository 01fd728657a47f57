"""What an RTSTRUCT says of its regions, and which images it says that it was drawn on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset

from medseg.dicom.label_names import object_name
from medseg.dicom.object_parts import sop_class_of
from medseg.dicom.origin import Origin
from medseg.dicom.output_options import ObjectOptions
from medseg.dicom.terminology import ANATOMY, code_item, label_code
from medseg.labels import Label
from medseg.maker import Maker

_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management: retired, and what every reader expects


def describe_regions(dataset: Dataset, regions: Sequence[Label], frame_of_reference_uid: str, maker: Maker) -> None:
    """Add regions, numbered from 1, and what they are; their contours are missing.

    They stand in StructureSetROISequence (PS3.3 C.8.8.5), ROIContourSequence (C.8.8.6) and
    RTROIObservationsSequence (C.8.8.8).
    """
    numbers = range(1, len(regions) + 1)
    dataset.StructureSetROISequence = [
        _region(number, object_name(label), frame_of_reference_uid, maker)
        for number, label in zip(numbers, regions, strict=True)
    ]
    dataset.ROIContourSequence = [_look(number, label) for number, label in zip(numbers, regions, strict=True)]
    dataset.RTROIObservationsSequence = [
        _observation(number, label) for number, label in zip(numbers, regions, strict=True)
    ]


def reference_items(origin: Origin, frame_of_reference_uid: str, options: ObjectOptions) -> Dataset:
    """Return the frame of reference with the study, the series and every image that the object was drawn on."""
    series = Dataset()
    series.SeriesInstanceUID = origin.series_uid
    series.ContourImageSequence = [
        _file(origin, file, options) for file in range(len(origin.datasets)) if (origin.files == file).any()
    ]
    study = Dataset()
    study.ReferencedSOPClassUID = _STUDY_CLASS
    study.ReferencedSOPInstanceUID = origin.study_uid
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = frame_of_reference_uid
    frame.RTReferencedStudySequence = [study]
    return frame


def image_item(origin: Origin, number: int, options: ObjectOptions) -> Dataset:
    """Return the reference to the image of a slice.

    Raises:
        DicomError: Its file has no SOPClassUID, and it may not be inferred.
    """
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_of(origin, number, options)
    item.ReferencedSOPInstanceUID = origin.dataset(number).SOPInstanceUID
    frame_number = origin.frame_number(number)
    if frame_number is not None:
        item.ReferencedFrameNumber = frame_number
    return item


def _file(origin: Origin, file: int, options: ObjectOptions) -> Dataset:
    """Return the reference to a file; its frames are listed where the slices are not all of them (PS3.3 10.3)."""
    slices = np.flatnonzero(origin.files == file)
    item = image_item(origin, int(slices[0]), options)
    frames = sorted(origin.frame_number(int(number)) or 1 for number in slices)
    if "ReferencedFrameNumber" in item:
        del item.ReferencedFrameNumber
        if len(frames) < origin.frames[slices[0]].header.frame_count:
            item.ReferencedFrameNumber = frames
    return item


def _region(number: int, name: str, frame_of_reference_uid: str, maker: Maker) -> Dataset:
    item = Dataset()
    item.ROINumber = number
    item.ReferencedFrameOfReferenceUID = frame_of_reference_uid
    item.ROIName = name
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    item.ROIGenerationDescription = f"{maker.model[:50]} {maker.model_version}"
    return item


def _look(number: int, label: Label) -> Dataset:
    item = Dataset()
    item.ROIDisplayColor = [round(255 * part) for part in label.rgb]
    item.ReferencedROINumber = number
    return item


def _observation(number: int, label: Label) -> Dataset:
    """Return what a region is: ORGAN if it is anatomy; what a lesion means in a plan is not ours to say."""
    coded = label_code(label)
    item = Dataset()
    item.ObservationNumber = number
    item.ReferencedROINumber = number
    item.RTROIInterpretedType = "ORGAN" if coded.category == ANATOMY else ""
    item.ROIInterpreter = ""
    item.SegmentedPropertyCategoryCodeSequence = [code_item(coded.category)]
    code = code_item(coded.type)
    if coded.side is not None:
        code.SegmentedPropertyTypeModifierCodeSequence = [code_item(coded.side)]
    item.RTROIIdentificationCodeSequence = [code]
    return item
