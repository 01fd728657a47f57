"""The data elements that are read from every header, by their keywords in the data dictionary (PS3.6)."""

from __future__ import annotations

from pydicom.datadict import tag_for_keyword


def tag_of(keyword: str) -> int:
    """Return the tag of a keyword of the data dictionary.

    Raises:
        ValueError: There is no such keyword.
    """
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"no DICOM attribute is called {keyword}")
    return int(tag)


def _by_keyword(keywords: str) -> dict[str, int]:
    return {keyword: tag_of(keyword) for keyword in keywords.split()}


IMAGE = _by_keyword(
    "SpecificCharacterSet StudyInstanceUID SeriesInstanceUID SOPClassUID SOPInstanceUID FrameOfReferenceUID "
    "Modality PhotometricInterpretation Rows Columns SamplesPerPixel NumberOfFrames BitsAllocated BitsStored "
    "HighBit PixelRepresentation ImagePositionPatient ImageOrientationPatient PixelSpacing RescaleSlope "
    "RescaleIntercept ModalityLUTSequence SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence"
)
"""What grouping, geometry and decoding need."""

DESCRIBING = _by_keyword(
    "ImageType BodyPartExamined SeriesDescription ProtocolName StudyDescription SeriesNumber SeriesDate SeriesTime "
    "StudyDate StudyTime AcquisitionDate AcquisitionTime ContentTime AcquisitionNumber TemporalPositionIdentifier "
    "EchoNumbers EchoTime InversionTime TriggerTime DiffusionBValue DiffusionGradientOrientation "
    "ContrastBolusAgent ContrastBolusAgentSequence ConvolutionKernel ComplexImageComponent StackID SliceThickness "
    "RescaleSlope KVP InstanceNumber Manufacturer"
)
"""What choosing and splitting look at."""

_PATIENT = _by_keyword(
    "PatientName PatientID OtherPatientIDs OtherPatientNames PatientBirthDate PatientBirthName AccessionNumber"
)
PATIENT_NAME, PATIENT_ID = _PATIENT["PatientName"], _PATIENT["PatientID"]
PATIENT = tuple(_PATIENT.values())
"""The patient's names and numbers: read so that they can be kept out of everything that is shown."""

IDENTIFYING = frozenset(PATIENT) | frozenset(
    _by_keyword(
        "PatientBirthTime PatientAddress PatientTelephoneNumbers PatientMotherBirthName MedicalRecordLocator "
        "IssuerOfPatientID ReferringPhysicianName PerformingPhysicianName OperatorsName StudyID "
        "StudyInstanceUID SeriesInstanceUID SOPInstanceUID FrameOfReferenceUID"
    ).values()
)
"""Tags whose values are never shown."""

MEDIA_STORAGE_SOP_CLASS_UID, MEDIA_STORAGE_SOP_INSTANCE_UID = 0x00020002, 0x00020003
MOSAIC_SLICES, SIEMENS_HEADER = 0x0019100A, (0x00190010, "SIEMENS MR HEADER")

PRIVATE_B_VALUES = {
    0x0019100C: (*SIEMENS_HEADER, "IS"),
    0x00431039: (0x00430010, "GEMS_PARM_01", "IS"),
    0x20011003: (0x20010010, "Philips Imaging DD 001", "FL"),
}
"""Private tag of a b-value -> tag and value of its private creator, and its value representation."""

WANTED = frozenset(
    {*IMAGE.values(), *DESCRIBING.values(), *PATIENT, *PRIVATE_B_VALUES, MOSAIC_SLICES}
    | {MEDIA_STORAGE_SOP_CLASS_UID, MEDIA_STORAGE_SOP_INSTANCE_UID}
    | {creator for creator, _, _ in PRIVATE_B_VALUES.values()}
)
"""Every header is read for these."""
