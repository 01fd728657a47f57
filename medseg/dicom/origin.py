"""`Origin`: the DICOM images that a mask was drawn on: their headers, and where each slice lies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import dcmread

from medseg.dicom.dataset import load_dataset
from medseg.dicom.frame import Frame, Header
from medseg.dicom.geometry import LPS_TO_RAS, Vectors
from medseg.dicom.planes import own_affine
from medseg.dicom.quiet import PYDICOM_ERRORS, quiet_pydicom
from medseg.dicom.refusal import refusal
from medseg.dicom.stack import Stack
from medseg.dicom.tags import tag_of
from medseg.dicom.values import distinct
from medseg.errors import InputError, listed
from medseg.findings import FindingCode
from medseg.labels import BACKGROUND, LabelMap
from medseg.volume import Grid, require_same_grid

_MOST_HEADER_BYTES = 1 << 28
PATIENT_AND_STUDY = (
    "SpecificCharacterSet", "TimezoneOffsetFromUTC", "LongitudinalTemporalInformationModified",
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientIdentityRemoved",
    "DeidentificationMethod", "DeidentificationMethodCodeSequence", "PatientAge", "PatientSize", "PatientWeight",
    "PatientSpeciesDescription", "PatientSpeciesCodeSequence",
    "PatientBreedDescription", "PatientBreedCodeSequence", "BreedRegistrationSequence",
    "StrainDescription", "PatientSexNeutered",
    "ResponsiblePerson", "ResponsiblePersonRole", "ResponsibleOrganization",
    "StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
    "IssuerOfAccessionNumberSequence", "StudyDescription",
)  # fmt: skip
"""What objects made of images have from these (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2, C.12.1)."""

TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip
_OF_EVERY_FILE = (
    "SOPClassUID", "SOPInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "RescaleType", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip
_REPLACEMENT = "\ufffd"  # what a damaged text is read as
_REMEDY = "leave DICOM outputs out for it, or see that the archive fills it in"


@dataclass(frozen=True, eq=False)
class Origin:
    """The images that a mask was drawn on.

    Attributes:
        stack: Their slices, in order along their normal.
        datasets: Header of every file. The first one's is whole, but for the pixels, and attributes of type 2 that
            are missing are there and empty (PS3.5 7.4.3); of the others there is only what each has of its own.
        files: (n,) which of them each slice of the stack stands in.
    """

    stack: Stack
    datasets: tuple[Dataset, ...] = field(repr=False)
    files: NDArray[np.intp] = field(repr=False)

    @property
    def where(self) -> str:
        """The series, by its hashed name."""
        return f"series {self.stack.series.name}"

    @property
    def study_uid(self) -> str:
        """StudyInstanceUID."""
        return self.stack.series.header.study_uid

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID."""
        return self.stack.series.header.series_uid

    @property
    def frame_of_reference_uid(self) -> str:
        """FrameOfReferenceUID, whichever files have it; "" where none has."""
        return next(iter(_frames_of_reference(self.stack)), "")

    @cached_property
    def frames_sha256(self) -> str:
        """SHA-256 of which images the slices are: of their SOPInstanceUIDs and frame numbers, in order of these."""
        images = sorted((frame.header.sop_instance_uid, frame.number) for frame in self.frames)
        return hashlib.sha256(repr(images).encode()).hexdigest()

    @property
    def frames(self) -> tuple[Frame, ...]:
        """Of each slice, in order."""
        return self.stack.frames

    @cached_property
    def grid(self) -> Grid:
        """Of the volume that `medseg.dicom.read.read_stack` makes, RAS+."""
        header = self.stack.frames[0].header
        return Grid((header.columns, header.rows, self.stack.count), LPS_TO_RAS @ self.stack.affine + 0.0)

    def dataset(self, number: int) -> Dataset:
        """Return the header of the file that a slice stands in."""
        return self.datasets[self.files[number]]

    def frame_number(self, number: int) -> int | None:
        """Return the ReferencedFrameNumber of a slice, from 1; None where its file holds nothing else."""
        frame = self.stack.frames[number]
        return frame.number + 1 if frame.header.frame_count > 1 else None

    def affine(self, number: int) -> Vectors:
        """Return the 4x4 matrix from (column, row, mm along the normal) to LPS+ mm that a slice's own tags say."""
        return own_affine(self.stack.frames[number])

    def on_slices(self, labels: LabelMap) -> NDArray[np.integer[Any]]:
        """Return the label values (columns, rows, n) on the slices of the series, in their order.

        Where the volume has slices that the series lacks, they are left out; where the slices were uneven, each
        gets the values of the volume's nearest slice.

        Raises:
            GridError: The label map lies on another grid.
            InputError: It holds a value that its labels do not name.
        """
        require_same_grid(self.grid, labels.grid, owner=self.where, where=labels.volume.source or "label map")
        require_known_values(labels)
        if self.stack.is_plain:
            return labels.array
        return labels.array[:, :, np.rint(self.stack.places).astype(np.intp)]


def read_origin(stack: Stack) -> Origin:
    """Read the headers of a stack's files again, without pixels.

    Raises:
        DicomError: A file is gone or has changed since it was found; the series lacks its StudyInstanceUID,
            SeriesInstanceUID or a SOPInstanceUID, so that nothing can refer to it; it is of several patients or
            frames of reference; or a name or number of patient or study is damaged.
    """
    where = f"series {stack.series.name}"
    headers = {id(frame.header): frame.header for frame in stack.frames}
    numbers = {key: number for number, key in enumerate(headers)}
    for header in headers.values():
        if not (header.study_uid and header.series_uid and header.sop_instance_uid):
            expected = "StudyInstanceUID, SeriesInstanceUID and SOPInstanceUID in every file"
            raise refusal(where, FindingCode.SERIES_UID_MISSING, expected, "a file without one of them", _REMEDY)
    _require_one(where, "patient", len({header.patient for header in headers.values()}))
    _require_one(where, "FrameOfReferenceUID", len(_frames_of_reference(stack)))
    with quiet_pydicom():
        first, *others = headers.values()
        whole = _completed(_load(first, where), first)
        _require_texts(whole, where)
        datasets = (whole, *(_part(_load(header, where, _OF_EVERY_FILE), header) for header in others))
    files = np.array([numbers[id(frame.header)] for frame in stack.frames], dtype=np.intp)
    return Origin(stack, datasets, files)


def require_known_values(labels: LabelMap) -> None:
    """Refuse a label map with values that its labels do not name: nobody could say what they are.

    Raises:
        InputError: There is such a value.
    """
    known = (BACKGROUND, *labels.labels.indices)
    strange: set[int] = set()
    for k in range(labels.array.shape[2]):  # slice by slice: no copy of the whole
        plane = labels.array[:, :, k].T
        strange.update(plane[np.isin(plane, known, invert=True)].tolist())
    if not strange:
        return
    names = listed([f"{label.index} ({label.name})" for label in labels.labels])
    raise InputError(
        labels.volume.source or "label map",
        expected=f"values that the labels name: {BACKGROUND}, {names}",
        found=f"value(s) {listed([str(value) for value in sorted(strange)])}",
        remedy="name them in the labels, or correct the mask",
    )


def _frames_of_reference(stack: Stack) -> tuple[str, ...]:
    return distinct(frame.header.frame_of_reference_uid for frame in stack.frames)


def _require_one(where: str, what: str, count: int) -> None:
    if count > 1:
        remedy = "see which files are of another series, and correct or move them"
        raise refusal(where, FindingCode.CONFLICT, f"one {what}", f"{count} in its files", remedy)


def _require_texts(dataset: Dataset, where: str) -> None:
    """Refuse names and numbers of patient and study that are no texts in their character set.

    An object would have others. What else of patient and study is none is left out of it.
    """
    for keyword in PATIENT_AND_STUDY:
        raw = dataset.get_item(keyword)
        stored = raw.value if isinstance(raw, RawDataElement) else None
        if not isinstance(stored, bytes) or stored.isascii() or _REPLACEMENT not in str(dataset[keyword].value):
            continue
        if _REPLACEMENT.encode() in stored:  # it stands there so
            continue
        if keyword in TYPE_2:
            expected = f"a {keyword} in the SpecificCharacterSet of the file"
            remedy = "correct the SpecificCharacterSet, or the text, of the series"
            raise refusal(where, FindingCode.DAMAGED_FILE, expected, "bytes that are no text in it", remedy)
        delattr(dataset, keyword)


def _load(header: Header, where: str, keywords: tuple[str, ...] | None = None) -> Dataset:
    """Read a header, or some attributes of it."""
    tags = None if keywords is None else [tag_of(keyword) for keyword in keywords]
    try:
        with header.open() as stream:
            if header.transfer_syntax_uid.endswith(".1.99"):
                return load_dataset(stream, header.transfer_syntax_uid, most_bytes=_MOST_HEADER_BYTES, tags=tags)
            dataset: Dataset = dcmread(stream, force=True, stop_before_pixels=True, specific_tags=tags)
            return dataset
    except PYDICOM_ERRORS as error:
        expected, found = (
            "the files as they were when they were found",
            f"one that cannot be read ({type(error).__name__})",
        )
        raise refusal(where, FindingCode.UNREADABLE_FILE, expected, found, "run the command again") from error


def _completed(dataset: Dataset, header: Header) -> Dataset:
    """Add what must be there and may be empty, and a UID that only the file meta information has."""
    if not dataset.get("SOPInstanceUID"):
        dataset.SOPInstanceUID = header.sop_instance_uid
    for keyword in TYPE_2:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    return dataset


def _part(dataset: Dataset, header: Header) -> Dataset:
    """Return what `_OF_EVERY_FILE` names: reading some of a file may have read more."""
    part = Dataset()
    for keyword in _OF_EVERY_FILE:
        if keyword in dataset:
            part[keyword] = dataset[keyword]
    part.SOPInstanceUID = part.get("SOPInstanceUID") or header.sop_instance_uid
    return part
