"""What else lies in a folder beside regular series: other kinds of images, damaged files, objects without pixels.

The dictionaries are changes of a `SeriesSpec`: ``write_series(folder, **SECONDARY_CAPTURE)``.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet

from tests.dicom.builder import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    SeriesSpec,
    common_dataset,
    instance_uid,
    variants,
    write_series,
)
from tests.dicom.builder_parts import KINDS, make_uid, save, set_attributes

RGB: dict[str, Any] = {"photometric": "RGB", "bits_allocated": 8, "is_signed": False}
SECONDARY_CAPTURE: dict[str, Any] = {
    "modality": "OT",
    "sop_class": uid.SecondaryCaptureImageStorage,
    "image_type": ("DERIVED", "SECONDARY"),
    "bits_allocated": 8,
    "is_signed": False,
    "has_geometry": False,
}
LOCALIZER: dict[str, Any] = {
    "image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER"),
    "shape": (40, 36, 3),
    "attributes": {"ImageOrientationPatient": lambda k: [*(AXIAL, SAGITTAL, CORONAL)[k]]},
}
PET_SLOPES: dict[str, Any] = {
    "modality": "PT",
    "slopes": lambda k: (1.0, 0.0005, 50.5)[min(k, 1 + k % 2)],
}
"""A rescale slope of 1 on the first slice and of 0.0005 or 50.5 on the others."""


def time_series(count: int, spec: SeriesSpec | None = None) -> list[SeriesSpec]:
    """Return the volumes of an fMRI series, two seconds apart."""
    return variants(
        spec or SeriesSpec(modality="MR"),
        TemporalPositionIdentifier=range(1, count + 1),
        NumberOfTemporalPositions=[count] * count,
        AcquisitionNumber=range(1, count + 1),
        AcquisitionTime=[f"1011{2 * number:02d}" for number in range(count)],
        TriggerTime=[2000 * number for number in range(count)],
    )


def diffusion_series(b_values: Sequence[float], spec: SeriesSpec | None = None) -> list[SeriesSpec]:
    """Return the volumes of a DTI series: one direction per b-value above 0."""
    generator = np.random.default_rng(5)
    turns = [generator.standard_normal(3) for _ in b_values]
    return variants(
        spec or SeriesSpec(modality="MR"),
        DiffusionBValue=[float(b) for b in b_values],
        DiffusionDirectionality=["DIRECTIONAL" if b else "NONE" for b in b_values],
        DiffusionGradientOrientation=[
            (turn / np.linalg.norm(turn)).tolist() if b else None for turn, b in zip(turns, b_values, strict=True)
        ],
    )


def duplicate(path: Path, *, new_uid: bool = False, other_pixels: bool = False) -> Path:
    """Copy an instance under another name: as it is, or as another instance with the same or other pixels."""
    copy = path.with_name(f"copy_{path.name}")
    copy.write_bytes(path.read_bytes())
    if new_uid or other_pixels:

        def change(dataset: Dataset) -> None:
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = make_uid(dataset.SOPInstanceUID)
            if other_pixels:
                words = np.frombuffer(dataset.PixelData, f"u{dataset.BitsAllocated // 8}")
                dataset.PixelData = words[::-1].tobytes()

        edit(copy, change)
    return copy


def edit(path: Path, function: Callable[[Dataset], None] | None = None, **values: Any) -> Path:
    """Change a file in place: absurd sizes, missing attributes (None), moved positions."""
    dataset = pydicom.dcmread(path, force=True)
    if function:
        function(dataset)
    set_attributes(dataset, values, 0)
    dataset.save_as(path)
    return path


def truncate(path: Path, lost_bytes: int = 100) -> Path:
    """Cut the end off a file, as a transfer that broke."""
    path.write_bytes(path.read_bytes()[:-lost_bytes])
    return path


def shorten_pixels(path: Path, lost_bytes: int = 100) -> Path:
    """Leave out the last pixels in a file that is well formed otherwise."""
    return edit(path, lambda dataset: setattr(dataset, "PixelData", dataset.PixelData[:-lost_bytes]))


def make_odd(path: Path, keyword: str = "SeriesDescription") -> Path:
    """Cut the last byte off a value of an explicit little endian file: an odd length, against PS3.5 7.1.1."""
    value = pydicom.dcmread(path, force=True).get_item(keyword)
    head = value.tag.group.to_bytes(2, "little") + value.tag.element.to_bytes(2, "little") + value.VR.encode()
    data = path.read_bytes()
    at = data.index(head) + 6
    at, width = (at + 2, 4) if value.VR in ("OB", "OW", "UN", "UT", "SQ") else (at, 2)
    length = int.from_bytes(data[at : at + width], "little")
    end = at + width + length
    if length % 2:
        raise ValueError(f"{keyword} is of odd length already")
    path.write_bytes(data[:at] + (length - 1).to_bytes(width, "little") + data[at + width : end - 1] + data[end:])
    return path


def write_mosaic(folder: Path, tiles: int = 3) -> Path:
    """Write a Siemens mosaic: tiles x tiles slices side by side in one image."""
    image_type = ("ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC")
    shape = (40 * tiles, 36 * tiles, 1)
    (path,) = write_series(folder, name="mosaic", modality="MR", image_type=image_type, shape=shape)

    def add_count(dataset: Dataset) -> None:
        dataset.Manufacturer = "SIEMENS"
        dataset.private_block(0x19, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", tiles * tiles)

    return edit(path, add_count)


def write_non_images(folder: Path, spec: SeriesSpec | None = None) -> dict[str, Path]:
    """Write a report, a presentation state and a structure set of the study of a specification."""
    spec = spec or SeriesSpec()
    folder.mkdir(parents=True, exist_ok=True)
    code, image = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "126000", "DCM", "Imaging Measurement Report"
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = KINDS["CT"].sop_class, instance_uid(spec, 0)
    series, roi = Dataset(), Dataset()
    series.SeriesInstanceUID, series.ReferencedImageSequence = spec.series_uid, [image]
    roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = 1, "liver", make_uid("frame", spec.study)
    roi.ROIGenerationAlgorithm = ""
    report = {"ValueType": "CONTAINER", "ContinuityOfContent": "SEPARATE", "ConceptNameCodeSequence": [code]}
    report |= {"CompletionFlag": "COMPLETE", "VerificationFlag": "UNVERIFIED", "PerformedProcedureCodeSequence": []}
    state = {"ContentLabel": "STATE", "PresentationCreationDate": "20010203", "ReferencedSeriesSequence": [series]}
    structures = {"StructureSetLabel": "organs", "StructureSetROISequence": [roi], "ROIContourSequence": []}
    kinds = {
        "SR": (uid.ComprehensiveSRStorage, report | {"ContentDate": "20010203", "ContentTime": "101112"}),
        "PR": (uid.GrayscaleSoftcopyPresentationStateStorage, state | {"PresentationCreationTime": "101112"}),
        "RTSTRUCT": (uid.RTStructureSetStorage, structures | {"StructureSetDate": "20010203"}),
    }
    paths = {}
    for modality, (sop_class, values) in kinds.items():
        other = replace(spec, name=f"{spec.name} {modality}", series="", is_bare=False, transfer_syntax="explicit")
        dataset = common_dataset(replace(other, modality=modality, sop_class=sop_class), 0)
        set_attributes(dataset, {"InstanceNumber": 1, **values}, 0)
        paths[modality] = folder / f"{modality}.dcm"
        save(dataset, paths[modality], other)
    return paths


def write_fileset(folder: Path, target: Path) -> Path:
    """Copy the files below a folder into a DICOM file-set and return its DICOMDIR."""
    files = FileSet()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        files.add(path)
    files.write(target)
    return target / "DICOMDIR"


def zip_folder(folder: Path, target: Path) -> Path:
    """Pack the files below a folder into a zip file."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(folder))
    return target
