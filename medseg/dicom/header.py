"""The header of one DICOM file -> `Header` and its `Frame`s: what grouping, choosing and geometry need."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import BinaryIO

from pydicom.uid import UID

from medseg.dicom.elements import DamagedError, Elements, NotDicomError, PixelLocation, read_elements
from medseg.dicom.quiet import PYDICOM_ERRORS, quiet_pydicom
from medseg.dicom.source import Source
from medseg.dicom.tags import (
    DESCRIBING,
    IDENTIFYING,
    IMAGE,
    MEDIA_STORAGE_SOP_CLASS_UID,
    MOSAIC_SLICES,
    PATIENT,
    PRIVATE_B_VALUES,
    SIEMENS_HEADER,
    WANTED,
)
from medseg.dicom.values import Numbers, identities, numbers_of, text_of, vr_of, whole_of, without_identity

__all__ = ["PYDICOM_ERRORS", "Frame", "Header", "Skip", "Tags", "quiet_pydicom", "read_header", "rescale_of"]

Tags = Mapping[int, str]
"""Tag -> value as text, its parts joined by backslashes."""

Stamp = tuple[int, int] | None

_IMAGE_CLASS = "Image Storage"
_FREE_TEXT_VRS = {"SH", "LO", "ST", "LT", "UC", "UT", "PN"}
_RESCALED_MODALITIES = {"CT", "PT"}
_GE_B_OFFSET = 1_000_000_000  # GE adds it to b-values
_B_VALUE = DESCRIBING["DiffusionBValue"]


class Skip(Enum):
    """Why a file is not part of any image series."""

    NOT_DICOM = "not a DICOM file"
    NOT_AN_IMAGE = "a DICOM object that is not an image"
    DAMAGED = "a DICOM file that is damaged"
    UNREADABLE = "a file that cannot be read from the disk"


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of one image file says; values that are missing or not valid are None, "" or 0.

    Attributes:
        source: The file.
        study_uid: StudyInstanceUID; an identifier, kept out of `repr`, messages and names, as the next three.
        series_uid: SeriesInstanceUID.
        sop_instance_uid: SOPInstanceUID.
        frame_of_reference_uid: FrameOfReferenceUID.
        sop_class_uid: SOPClassUID.
        transfer_syntax_uid: How the pixels are encoded; "" where there is no file meta information.
        is_little_endian: Of the data set.
        has_file_meta: Whether the file begins as PS3.10 asks.
        modality: ``CT``, ``MR``, ...
        image_type: ImageType in capitals.
        photometric: PhotometricInterpretation.
        rows: Pixels down.
        columns: Pixels across.
        samples_per_pixel: 1 for grey.
        frame_count: NumberOfFrames.
        bits_allocated: Bits of a stored pixel.
        bits_stored: Bits of it that count.
        high_bit: The highest of these.
        is_signed: Whether stored values have a sign.
        has_lookup_table: Whether a ModalityLUTSequence stands in the place of slope and intercept.
        has_functional_groups: Whether geometry stands frame by frame (PS3.3 C.7.6.16).
        is_mosaic: Whether one image holds many slices side by side.
        pixels: Where the pixels lie in the file, if there are any.
        stamp: Size and time of the file, where it has any.
        tags: Describing values, without parts of the patient's name or numbers.
    """

    source: Source = field(repr=False)
    study_uid: str = field(repr=False)
    series_uid: str = field(repr=False)
    sop_instance_uid: str = field(repr=False)
    frame_of_reference_uid: str = field(repr=False)
    sop_class_uid: str
    transfer_syntax_uid: str
    is_little_endian: bool
    has_file_meta: bool
    modality: str
    image_type: tuple[str, ...]
    photometric: str
    rows: int
    columns: int
    samples_per_pixel: int
    frame_count: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    has_lookup_table: bool
    has_functional_groups: bool
    is_mosaic: bool
    pixels: PixelLocation | None
    stamp: Stamp
    tags: Tags = field(repr=False)

    def open(self) -> BinaryIO:
        """Open the file again, to read its pixels.

        Raises:
            OSError: It cannot be read, or has changed since its header was read.
        """
        stream = self.source.open()
        if stamp_of(stream) != self.stamp:
            stream.close()
            raise OSError("the file has changed since its header was read")
        return stream


@dataclass(frozen=True, slots=True)
class Frame:
    """One image plane: a whole single-frame file, or one frame of a multi-frame one.

    Attributes:
        header: Of the file.
        number: Of the frame within the file, from 0.
        position_mm: ImagePositionPatient, LPS: centre of the first pixel.
        orientation: ImageOrientationPatient, LPS: direction of a row, then of a column.
        pixel_spacing_mm: PixelSpacing: between rows, between columns.
        rescale: Slope and intercept; None where the header has none, or no valid ones.
        tags: What tells it from other frames at the same place.
    """

    header: Header
    number: int
    position_mm: Numbers | None
    orientation: Numbers | None
    pixel_spacing_mm: Numbers | None
    rescale: tuple[float, float] | None
    tags: Tags = field(repr=False)


def read_header(source: Source, extra: frozenset[int] = frozenset()) -> Frame | Skip:
    """Read the header of a file, without its pixels; call it inside `quiet_pydicom`.

    The frames of a multi-frame file stand in its functional groups, which `medseg.dicom.multiframe` reads.

    Args:
        source: The file.
        extra: Tags to keep beside the usual ones.

    Returns:
        The first frame of an image, or why the file is none.

    Raises:
        OSError: The file cannot be read.
    """
    try:
        with source.open() as stream:
            elements = read_elements(stream, WANTED | extra)
            stamp = stamp_of(stream)
    except NotDicomError:
        return Skip.NOT_DICOM
    except DamagedError:
        return Skip.DAMAGED
    values = _Values(elements)
    sop_class = values.text("SOPClassUID")
    uid = UID(sop_class or values[MEDIA_STORAGE_SOP_CLASS_UID])
    is_standard_class = uid.name != str(uid)
    if is_standard_class and _IMAGE_CLASS not in uid.name:
        return Skip.NOT_AN_IMAGE
    if values.whole("Rows") and values.whole("Columns"):
        return _frame(source, stamp, values, extra)
    return Skip.DAMAGED if is_standard_class or elements.pixels else Skip.NOT_AN_IMAGE


def stamp_of(stream: BinaryIO) -> Stamp:
    """Return size and modification time of an open file; None for what is no file of its own."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:  # a member of an archive
        return None
    return status.st_size, status.st_mtime_ns


def rescale_of(slope: str, intercept: str, modality: str) -> tuple[float, float] | None:
    """Return slope and intercept, or None where they are missing, not numbers, or the slope is 0.

    Where both are missing or empty, stored values are the values; CT and PET need them for their unit.
    """
    if not slope and not intercept and modality not in _RESCALED_MODALITIES:
        return 1.0, 0.0
    slopes, intercepts = numbers_of(slope, 1), numbers_of(intercept, 1)
    if slopes is None or intercepts is None or slopes[0] == 0:
        return None
    return slopes[0], intercepts[0]


class _Values:
    """The values of one file as text, on demand."""

    def __init__(self, elements: Elements) -> None:
        self.elements = elements
        self.charset = ""
        self.charset = self.text("SpecificCharacterSet")
        self.hidden = identities([self[tag] for tag in PATIENT])

    def __getitem__(self, tag: int) -> str:
        return self.decode(tag, vr_of(tag))

    def decode(self, tag: int, vr: str) -> str:
        raw = self.elements.values.get(tag)
        if not raw:
            return ""
        is_text = vr in _FREE_TEXT_VRS
        text = text_of(raw, vr, self.elements.is_little_endian, self.charset if is_text else "")
        return without_identity(text, self.hidden) if is_text and tag not in IDENTIFYING else text

    def text(self, keyword: str) -> str:
        return self[IMAGE[keyword]]

    def whole(self, keyword: str, default: int = 0) -> int:
        return whole_of(self[IMAGE[keyword]], default)

    def describing(self, extra: Iterable[int]) -> dict[int, str]:
        wanted = {*DESCRIBING.values(), *extra}
        found = {tag: self[tag] for tag in self.elements.values if tag in wanted}
        b_value = self._private_b_value() if not found.get(_B_VALUE) else ""
        if b_value:
            found[_B_VALUE] = b_value
        return found

    def _private_b_value(self) -> str:
        for tag, (creator, name, vr) in PRIVATE_B_VALUES.items():
            if tag in self.elements.values and self.decode(creator, "LO") == name:
                numbers = numbers_of(self.decode(tag, vr))
                return f"{numbers[0] % _GE_B_OFFSET:g}" if numbers else ""
        return ""


def _frame(source: Source, stamp: Stamp, values: _Values, extra: Iterable[int]) -> Frame:
    header = _header(source, stamp, values, extra)
    return Frame(
        header,
        0,
        position_mm=numbers_of(values.text("ImagePositionPatient"), 3),
        orientation=numbers_of(values.text("ImageOrientationPatient"), 6),
        pixel_spacing_mm=numbers_of(values.text("PixelSpacing"), 2),
        rescale=rescale_of(values.text("RescaleSlope"), values.text("RescaleIntercept"), header.modality),
        tags=header.tags,
    )


def _header(source: Source, stamp: Stamp, values: _Values, extra: Iterable[int]) -> Header:
    elements = values.elements
    tags = values.describing(extra)
    image_type = tuple(tags.get(DESCRIBING["ImageType"], "").upper().split("\\"))
    siemens_tag, siemens = SIEMENS_HEADER
    is_mosaic = MOSAIC_SLICES in elements.values and values.decode(siemens_tag, "LO") == siemens
    bits_allocated = values.whole("BitsAllocated", 16)
    bits_stored = values.whole("BitsStored", bits_allocated)
    return Header(
        source=source,
        study_uid=values.text("StudyInstanceUID"),
        series_uid=values.text("SeriesInstanceUID"),
        sop_instance_uid=values.text("SOPInstanceUID"),
        frame_of_reference_uid=values.text("FrameOfReferenceUID"),
        sop_class_uid=values.text("SOPClassUID"),
        transfer_syntax_uid=elements.transfer_syntax_uid,
        is_little_endian=elements.is_little_endian,
        has_file_meta=elements.has_file_meta,
        modality=values.text("Modality").upper(),
        image_type=image_type,
        photometric=values.text("PhotometricInterpretation").upper(),
        rows=values.whole("Rows"),
        columns=values.whole("Columns"),
        samples_per_pixel=values.whole("SamplesPerPixel", 1),
        frame_count=values.whole("NumberOfFrames", 1),
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        high_bit=values.whole("HighBit", bits_stored - 1),
        is_signed=values.whole("PixelRepresentation") == 1,
        has_lookup_table=IMAGE["ModalityLUTSequence"] in elements.values,
        has_functional_groups=IMAGE["PerFrameFunctionalGroupsSequence"] in elements.values,
        is_mosaic=is_mosaic or "MOSAIC" in image_type,
        pixels=elements.pixels,
        stamp=stamp,
        tags=tags,
    )
