"""The header of one DICOM file -> `Header` and its `Frame`s: what grouping, choosing and geometry need."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from medseg.dicom.elements import DamagedError, Elements, NotDicomError, read_elements
from medseg.dicom.frame import Frame, Header, Stamp, stamp_of
from medseg.dicom.source import Source
from medseg.dicom.tags import (
    DESCRIBING,
    IMAGE,
    MEDIA_STORAGE_SOP_CLASS_UID,
    MEDIA_STORAGE_SOP_INSTANCE_UID,
    MOSAIC_SLICES,
    PATIENT,
    PATIENT_ID,
    PATIENT_NAME,
    PRIVATE_B_VALUES,
    SIEMENS_HEADER,
    WANTED,
)
from medseg.dicom.values import (
    directions_of,
    identities,
    millimetres_of,
    numbers_of,
    short_hash,
    spacing_of,
    text_of,
    uid_name,
    vr_of,
    whole_of,
)

_IMAGE_CLASS = "Image Storage"
_FREE_TEXT_VRS = {"SH", "LO", "ST", "LT", "UC", "UT", "PN"}
_LONGEST_CACHED, _LONGEST_KEPT = 256, 1024  # of a value, in bytes and characters
_RESCALED_MODALITIES = {"CT", "PT"}
_LEAST_SLOPE, _MOST_SLOPE, _MOST_INTERCEPT = 1e-30, 1e25, 1e35
_GE_B_OFFSET = 1_000_000_000  # GE adds it to b-values
_DESCRIBING = frozenset(DESCRIBING.values())
_B_VALUE = DESCRIBING["DiffusionBValue"]


class Skip(Enum):
    """Why a file is not part of any image series."""

    NOT_DICOM = "not a DICOM file"
    NOT_AN_IMAGE = "a DICOM object that is not an image"
    DAMAGED = "a DICOM file that is damaged"
    UNREADABLE = "a file that cannot be read from the disk"


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
    class_name = uid_name(sop_class or values[MEDIA_STORAGE_SOP_CLASS_UID])
    if class_name and _IMAGE_CLASS not in class_name:
        return Skip.NOT_AN_IMAGE
    if values.whole("Rows") and values.whole("Columns"):
        return _frame(source, stamp, values, extra)
    return Skip.DAMAGED if class_name or elements.pixels else Skip.NOT_AN_IMAGE


def rescale_of(slope: str, intercept: str, modality: str) -> tuple[float, float] | None:
    """Return slope and intercept, or None where they are missing, no numbers, the slope is 0, or float32 too small.

    Where both are missing or empty, stored values are the values; CT and PET need them for their unit.
    """
    if not slope and not intercept and modality not in _RESCALED_MODALITIES:
        return 1.0, 0.0
    slopes, intercepts = numbers_of(slope, 1), numbers_of(intercept, 1)
    if slopes is None or intercepts is None:
        return None
    is_sane = _LEAST_SLOPE < abs(slopes[0]) < _MOST_SLOPE and abs(intercepts[0]) < _MOST_INTERCEPT
    if not is_sane:
        return None
    return slopes[0], intercepts[0]


class _Values:
    """The values of one file as text, on demand."""

    def __init__(self, elements: Elements) -> None:
        self.elements = elements
        self.charset = ""
        self.charset = self.text("SpecificCharacterSet")

    def __getitem__(self, tag: int) -> str:
        return self.decode(tag, vr_of(tag)) if tag in self.elements.values else ""

    def decode(self, tag: int, vr: str) -> str:
        raw = self.elements.values.get(tag)
        if not raw:
            return ""
        charset = self.charset if vr in _FREE_TEXT_VRS else ""
        decode = text_of if len(raw) <= _LONGEST_CACHED else text_of.__wrapped__
        return decode(raw, vr, self.elements.is_little_endian, charset)

    def hidden(self) -> tuple[str, ...]:
        return identities(tuple(self[tag] for tag in PATIENT))

    def text(self, keyword: str) -> str:
        return self[IMAGE[keyword]]

    def whole(self, keyword: str, default: int = 0) -> int:
        return whole_of(self[IMAGE[keyword]], default)

    def describing(self, extra: Iterable[int]) -> dict[int, str]:
        wanted = _DESCRIBING.union(extra)
        found = {tag: self[tag][:_LONGEST_KEPT] for tag in wanted & self.elements.values.keys()}
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
        position_mm=millimetres_of(values.text("ImagePositionPatient"), 3),
        orientation=directions_of(values.text("ImageOrientationPatient")),
        pixel_spacing_mm=spacing_of(values.text("PixelSpacing")),
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
        sop_instance_uid=values.text("SOPInstanceUID") or values[MEDIA_STORAGE_SOP_INSTANCE_UID],
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
        hidden=values.hidden(),
        patient=short_hash(values[PATIENT_NAME], values[PATIENT_ID]),
        tags=tags,
    )
