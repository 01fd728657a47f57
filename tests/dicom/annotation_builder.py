"""Writes RTSTRUCT and SEG objects attribute by attribute, from the tables of PS3.3 C.8.8.5, C.8.8.6 and C.8.20."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import RTStructureSetStorage, SegmentationStorage

from tests.dicom.builder import CANARY, SeriesSpec, instance_uid, positions_mm
from tests.dicom.builder_parts import KINDS, decimals, make_uid

Points = NDArray[np.float64]
LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"


def item(**values: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def code(value: str, meaning: str, scheme: str = "SCT") -> Dataset:
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def to_mm(spec: SeriesSpec, k: int, corners: Points) -> Points:
    """Where corners (n, 2), column and row, of slice k lie: the formula of PS3.3 C.7.6.2.1.1."""
    x, y = np.array(spec.orientation, dtype=float).reshape(2, 3)
    columns, rows = np.asarray(corners, dtype=float).T
    return (
        positions_mm(spec)[k] + np.outer(columns, x * spec.spacing_mm[0]) + np.outer(rows, y * spec.spacing_mm[1])
    )


def contour(spec: SeriesSpec, k: int, corners: Any, **changes: Any) -> Dataset:
    """A contour on slice k, through corners (n, 2) in pixels or points (n, 3) in mm; changes of None delete."""
    points = np.asarray(corners, dtype=float)
    points = to_mm(spec, k, points) if points.shape[1] == 2 else points
    dataset = item(
        ContourImageSequence=[image(spec, k)],
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=len(points),
        ContourData=decimals(points.ravel()),
    )
    for keyword, value in changes.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    return dataset


def image(spec: SeriesSpec, k: int) -> Dataset:
    return item(
        ReferencedSOPClassUID=spec.sop_class or KINDS[spec.modality].sop_class,
        ReferencedSOPInstanceUID=instance_uid(spec, k),
    )


def box(left: float, top: float, right: float, bottom: float) -> list[tuple[float, float]]:
    """The corners of a rectangle of whole pixels; right and bottom are the first ones outside."""
    return [
        (left - 0.5, top - 0.5),
        (right - 0.5, top - 0.5),
        (right - 0.5, bottom - 0.5),
        (left - 0.5, bottom - 0.5),
    ]


def rtstruct(
    spec: SeriesSpec, regions: Mapping[str, Sequence[Dataset]], seed: str = "rtstruct", **changes: Any
) -> Dataset:
    """An RTSTRUCT with one region a name; `changes` are set on every item of StructureSetROISequence."""
    dataset = _common(spec, RTStructureSetStorage, "RTSTRUCT", seed)
    dataset.StructureSetLabel = "planning"
    series = item(
        SeriesInstanceUID=spec.series_uid, ContourImageSequence=[image(spec, k) for k in range(spec.shape[2])]
    )
    study = item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
        ReferencedSOPInstanceUID=make_uid("study", spec.study),
        RTReferencedSeriesSequence=[series],
    )
    frame = make_uid("frame", spec.study)
    dataset.ReferencedFrameOfReferenceSequence = [
        item(FrameOfReferenceUID=frame, RTReferencedStudySequence=[study])
    ]
    numbers = [7 * number for number in range(1, len(regions) + 1)]
    dataset.StructureSetROISequence = [
        item(
            **{
                "ROINumber": n,
                "ReferencedFrameOfReferenceUID": frame,
                "ROIName": name,
                "ROIGenerationAlgorithm": "MANUAL",
                **changes,
            }
        )
        for n, name in zip(numbers, regions, strict=True)
    ]
    dataset.ROIContourSequence = [
        item(ReferencedROINumber=n, ROIDisplayColor=[255, 0, 0], ContourSequence=list(drawn))
        for n, drawn in zip(numbers, regions.values(), strict=True)
    ]
    dataset.RTROIObservationsSequence = [
        item(ObservationNumber=n, ReferencedROINumber=n, RTROIInterpretedType="ORGAN", ROIInterpreter="")
        for n in numbers
    ]
    return dataset


def segmentation(
    spec: SeriesSpec,
    frames: Sequence[tuple[int, Dataset, NDArray[np.generic]]],
    segments: Sequence[Dataset],
    kind: str = "BINARY",
    seed: str = "seg",
) -> Dataset:
    """A SEG of frames: number of the segment, its functional groups, values (rows, columns)."""
    is_map = kind == "LABELMAP"
    dataset = _common(spec, LABEL_MAP_STORAGE if is_map else SegmentationStorage, "SEG", seed)
    dataset.FrameOfReferenceUID = make_uid("frame", spec.study)
    dataset.SegmentationType = kind
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    values = np.stack([frame[2] for frame in frames])
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = values.shape
    bits = {"BINARY": 1, "FRACTIONAL": 8, "LABELMAP": 8 * values.dtype.itemsize}[kind]
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0
    if kind == "FRACTIONAL":
        dataset.SegmentationFractionalType, dataset.MaximumFractionalValue = "OCCUPANCY", 255
    dataset.SegmentSequence = list(segments)
    dataset.SharedFunctionalGroupsSequence = [Dataset()]
    groups = []
    for number, group, _ in frames:
        if not is_map:
            group.SegmentIdentificationSequence = [item(ReferencedSegmentNumber=number)]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    data = np.packbits(values.ravel() > 0, bitorder="little").tobytes() if bits == 1 else values.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if bits <= 8 else "OW"
    return dataset


def segment(number: int, name: str, **more: Any) -> Dataset:
    return item(
        SegmentNumber=number,
        SegmentLabel=name,
        SegmentAlgorithmType="MANUAL",
        SegmentedPropertyCategoryCodeSequence=[code("123037004", "Anatomical Structure")],
        **more,
    )


def place(spec: SeriesSpec, k: int, position: Any = None, orientation: Any = None, spacing: Any = None) -> Dataset:
    """The functional groups of a frame on slice k, with other values where these are given."""
    source = image(spec, k)
    return item(
        DerivationImageSequence=[item(SourceImageSequence=[source])],
        PlanePositionSequence=[
            item(ImagePositionPatient=decimals(positions_mm(spec)[k] if position is None else position))
        ],
        PlaneOrientationSequence=[
            item(ImageOrientationPatient=decimals(spec.orientation if orientation is None else orientation))
        ],
        PixelMeasuresSequence=[
            item(PixelSpacing=decimals((spec.spacing_mm[1], spec.spacing_mm[0]) if spacing is None else spacing))
        ],
    )


def save_object(dataset: Dataset, path: Path, syntax: uid.UID = uid.ExplicitVRLittleEndian) -> Path:
    meta = dataset.file_meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def _common(spec: SeriesSpec, sop_class: str, modality: str, seed: str) -> Dataset:
    return item(
        SpecificCharacterSet="ISO_IR 192",
        SOPClassUID=sop_class,
        SOPInstanceUID=make_uid("instance", seed, spec.name),
        PatientName=CANARY["name"],
        PatientID=CANARY["patient_id"],
        PatientBirthDate=CANARY["birth_date"],
        PatientSex="O",
        StudyInstanceUID=make_uid("study", spec.study),
        StudyID="1",
        AccessionNumber=CANARY["accession"],
        StudyDate="20010203",
        StudyTime="101112",
        SeriesInstanceUID=make_uid("series", seed, spec.name),
        SeriesNumber=9,
        InstanceNumber=1,
        Modality=modality,
        Manufacturer="builder",
    )
