"""The source of a SEG, slice by slice: what highdicom is shown of it, and what frames refer to in the end."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import CTImageStorage
from pydicom.valuerep import format_number_as_ds

from medseg.dicom.geometry import slice_normal
from medseg.dicom.multiframe import group_item
from medseg.dicom.object_parts import sop_class_of
from medseg.dicom.origin import Origin
from medseg.dicom.output_options import SegOptions
from medseg.dicom.seg_frames import Key
from medseg.dicom.tags import DESCRIBING
from medseg.dicom.values import Numbers, numbers_of

_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber", "Modality",
)  # fmt: skip


def slice_views(origin: Origin, frame_of_reference_uid: str) -> list[Dataset]:
    """Return an image of one pixel for each slice, where the slice lies; its UID says which one it is.

    Nothing of the patient is in it: values that are not valid would be refused.
    """
    source, views, thickness_mm = origin.datasets[0], [], _thickness_mm(origin)
    for number, frame in enumerate(origin.frames):
        view = Dataset()
        for keyword in _EMPTY:
            setattr(view, keyword, "")
        view.SOPClassUID, view.SOPInstanceUID = CTImageStorage, f"1.{number + 1}"
        view.StudyInstanceUID, view.SeriesInstanceUID = origin.study_uid, origin.series_uid
        view.Rows = view.Columns = 1
        view.FrameOfReferenceUID = frame_of_reference_uid
        view.PositionReferenceIndicator = source.get("PositionReferenceIndicator", "")
        view.ImagePositionPatient = _decimals(frame.position_mm)
        view.ImageOrientationPatient = _decimals(origin.frames[0].orientation)
        view.PixelSpacing = _decimals(origin.frames[0].pixel_spacing_mm)
        view.SliceThickness = thickness_mm
        for keyword in _LOSSY:
            if keyword in source:
                view[keyword] = source[keyword]
        views.append(view)
    return views


def _decimals(values: Numbers | None) -> list[str]:
    """Return numbers as decimal strings of at most 16 characters (PS3.5 6.2)."""
    return [format_number_as_ds(value + 0.0) for value in values or ()]


def _thickness_mm(origin: Origin) -> float:
    """Return SliceThickness of the source; the distance of its slices along their normal where it says none."""
    frame = origin.frames[0]
    said = numbers_of(frame.tags.get(DESCRIBING["SliceThickness"], ""), 1)
    if said and said[0] > 0:
        return said[0]
    return abs(float(origin.stack.affine[:3, 2] @ slice_normal(np.array(frame.orientation))))


def frame_keys(dataset: Dataset) -> list[Key]:
    """Return what each frame holds, by what highdicom says of it."""
    shared, keys = dataset.SharedFunctionalGroupsSequence[0], []
    for group in dataset.PerFrameFunctionalGroupsSequence:
        segment = group_item((group, shared), "SegmentIdentificationSequence").get("ReferencedSegmentNumber", 0)
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        keys.append((int(segment), int(source.ReferencedSOPInstanceUID.partition(".")[2]) - 1))
    return keys


def refer_to_source(dataset: Dataset, origin: Origin, keys: Sequence[Key], options: SegOptions) -> None:
    """Let the frames and the object refer to the images of the source in place of those of one pixel."""
    for (_, number), group in zip(keys, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        item = group.DerivationImageSequence[0].SourceImageSequence[0]
        item.ReferencedSOPClassUID = sop_class_of(origin, number, options)
        item.ReferencedSOPInstanceUID = origin.dataset(number).SOPInstanceUID
        frame_number = origin.frame_number(number)
        if frame_number is not None:
            item.ReferencedFrameNumber = frame_number
    series = Dataset()
    series.SeriesInstanceUID = origin.series_uid
    series.ReferencedInstanceSequence = Items(_instances(origin, options))
    dataset.ReferencedSeriesSequence = Items([series])
    dataset.SourceImageSequence = Items(_instances(origin, options))


def _instances(origin: Origin, options: SegOptions) -> list[Dataset]:
    """Return a reference to every file of the source."""
    items = []
    for number in np.unique(origin.files, return_index=True)[1]:
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class_of(origin, int(number), options)
        item.ReferencedSOPInstanceUID = origin.dataset(int(number)).SOPInstanceUID
        items.append(item)
    return items


def place_frames(dataset: Dataset, origin: Origin, keys: Sequence[Key]) -> None:
    """Give each frame the orientation and pixel spacing of its own slice, where the slices are not all alike."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for sequence, keyword, field_name in (
        ("PlaneOrientationSequence", "ImageOrientationPatient", "orientation"),
        ("PixelMeasuresSequence", "PixelSpacing", "pixel_spacing_mm"),
    ):
        values = [getattr(frame, field_name) for frame in origin.frames]
        if all(value == values[0] for value in values):
            continue
        common = shared[sequence].value[0]
        for (_, number), group in zip(keys, dataset.PerFrameFunctionalGroupsSequence, strict=True):
            item = deepcopy(common)
            setattr(item, keyword, _decimals(values[number]))
            setattr(group, sequence, Items([item]))
        delattr(shared, sequence)
