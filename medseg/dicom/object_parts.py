"""What all objects that are made of a mask have in common: the patient and study of their source, who made them."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medseg.dicom.identity import NO_DATE, NO_TIME, Identity
from medseg.dicom.origin import PATIENT_AND_STUDY, TYPE_2, Origin
from medseg.dicom.output_options import ObjectOptions
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.refusal import refusal
from medseg.files import atomic_path
from medseg.findings import Finding, FindingCode
from medseg.maker import MANUFACTURER, Maker

IMPLEMENTATION_CLASS_UID = "2.25.131423419411236934424133573838294374161"
IMPLEMENTATION_VERSION = "MEDSEG"

_SOP_CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
}


def start_object(sop_class_uid: str, identity: Identity, options: ObjectOptions, number: int = 1) -> Dataset:
    """Return an object with all that does not depend on its kind.

    That is: file meta information, SOP common, patient and general study (of the source, character set included),
    general series without Modality, general equipment, instance number and dates.

    Args:
        sop_class_uid: Of the object.
        identity: Its UIDs.
        options: Series and institution.
        number: InstanceNumber.
    """
    dataset = Dataset()
    source = identity.origin.datasets[0]
    for keyword in PATIENT_AND_STUDY:
        if keyword in source and (keyword in TYPE_2 or not source[keyword].is_empty):  # 1C must not be empty
            dataset[keyword] = deepcopy(source[keyword])  # an element of its own: setting it leaves the source
    dataset.SOPClassUID = sop_class_uid
    dataset.SOPInstanceUID = identity.instance_uid(number)
    dataset.InstanceNumber = number
    dataset.SeriesInstanceUID = identity.series_uid
    dataset.ContentDate, dataset.ContentTime = identity.date or NO_DATE, identity.time or NO_TIME  # of type 1
    if identity.date:
        dataset.SeriesDate = dataset.InstanceCreationDate = identity.date
    if identity.time:
        dataset.SeriesTime = dataset.InstanceCreationTime = identity.time
    describe_maker(dataset, identity.maker, options)
    add_file_meta(dataset)
    return dataset


def describe_maker(dataset: Dataset, maker: Maker, options: ObjectOptions) -> None:
    """Set general equipment, institution, series number and description (PS3.3 C.7.5.1, C.7.3.1)."""
    dataset.SeriesNumber = options.series_number
    dataset.SeriesDescription = options.series_description
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = maker.model[:64]
    dataset.DeviceSerialNumber = maker.model_version
    dataset.SoftwareVersions = maker.software_version
    if options.institution:
        dataset.InstitutionName = options.institution
    if options.department:
        dataset.InstitutionalDepartmentName = options.department


def add_file_meta(dataset: Dataset, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> None:
    """Add the file meta information of an object (PS3.10 7.1)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = transfer_syntax_uid
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    dataset.file_meta = meta


def save_object(dataset: Dataset, path: Path) -> None:
    """Write an object; its file is whole when it has its name.

    Raises:
        StorageError: It cannot be written. Nothing is left behind.
    """
    with atomic_path(path) as temporary, quiet_pydicom():
        dataset.save_as(temporary, enforce_file_format=True)


def frame_of_reference(origin: Origin, identity: Identity, options: ObjectOptions) -> tuple[str, list[Finding]]:
    """Return the FrameOfReferenceUID that an object's coordinates count in, and what is to be said of it.

    Raises:
        DicomError: The series has none, and none may be made up.
    """
    if origin.frame_of_reference_uid:
        return origin.frame_of_reference_uid, []
    _require_frame_of_reference(origin, options)
    message = "the series has no frame of reference: one was made up, so viewers may not lay the object over it"
    return identity.made_frame_of_reference_uid, [
        Finding(FindingCode.MADE_FRAME_OF_REFERENCE, message, origin.where)
    ]


def require_references(origin: Origin, options: ObjectOptions) -> None:
    """Refuse a series that an object with coordinates could not refer to, before it is segmented.

    Raises:
        DicomError: It has no frame of reference, or files without a SOP class, and neither may be made up.
    """
    _require_frame_of_reference(origin, options)
    for number in range(len(origin.frames)):
        sop_class_of(origin, number, options)


def _require_frame_of_reference(origin: Origin, options: ObjectOptions) -> None:
    if not origin.frame_of_reference_uid and options.without_frame_of_reference == "refuse":
        expected = "a FrameOfReferenceUID, which the object's coordinates count in"
        remedy = "have the scanner's series exported whole, or set without_frame_of_reference: make"
        raise refusal(origin.where, FindingCode.MADE_FRAME_OF_REFERENCE, expected, "none in the series", remedy)


def sop_class_of(origin: Origin, number: int, options: ObjectOptions) -> str:
    """Return the SOPClassUID that a reference to the file of a slice names; see `sop_class_findings`.

    Raises:
        DicomError: The file has none, and it may not be inferred.
    """
    found = str(origin.dataset(number).get("SOPClassUID") or "")
    if found:
        return found
    modality = origin.stack.series.modality
    if options.without_sop_class == "refuse" or modality not in _SOP_CLASSES:
        expected = "a SOPClassUID in every file, which a reference must name"
        remedy = "correct the files, or set without_sop_class: infer"
        raise refusal(origin.where, FindingCode.SOP_CLASS_MISSING, expected, "a file without one", remedy)
    return _SOP_CLASSES[modality]


def sop_class_findings(origin: Origin) -> list[Finding]:
    """Return what is to be said of files whose SOP class was inferred."""
    lacking = sum(not dataset.get("SOPClassUID") for dataset in origin.datasets)
    if not lacking:
        return []
    message = f"{lacking} file(s) without a SOPClassUID: references name the one of the modality"
    return [Finding(FindingCode.INFERRED_SOP_CLASS, message, origin.where)]


def off_slices(origin: Origin, *, is_measured: bool = False) -> list[Finding]:
    """Return what is to be said of a mask with slices that the series lacks, or that lie between those of it.

    Args:
        origin: The images that the mask was drawn on.
        is_measured: Whether the object holds what was measured on the whole mask, and not its slices.
    """
    if origin.stack.is_plain:
        return []
    told = (
        "all of the mask was measured, so no segment is referred to"
        if is_measured
        else "each slice of the series has the mask's nearest one, the others are left out"
    )
    message = f"the mask has {origin.stack.count} slices and the series {len(origin.frames)}: {told}"
    return [Finding(FindingCode.NOT_ON_SLICES, message, origin.where)]
