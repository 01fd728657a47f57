"""`Frame`: one image plane; `Header`: the file that it stands in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from medseg.dicom.elements import PixelLocation
from medseg.dicom.source import Source
from medseg.dicom.values import Numbers

Tags = Mapping[int, str]
"""Tag -> value as text, its parts joined by backslashes."""

Stamp = tuple[int, int] | None


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
        hidden: Parts of the patient's names, numbers and dates, which must not be shown.
        patient: A hash of the patient's name and number.
        tags: Describing values, as they stand; `Series.shown` is to be asked before one is shown.
    """

    source: Source = field(repr=False)
    study_uid: str = field(repr=False)
    series_uid: str = field(repr=False)
    sop_instance_uid: str = field(repr=False)
    frame_of_reference_uid: str = field(repr=False)
    sop_class_uid: str = field(repr=False)
    transfer_syntax_uid: str = field(repr=False)
    is_little_endian: bool
    has_file_meta: bool
    modality: str = field(repr=False)
    image_type: tuple[str, ...] = field(repr=False)
    photometric: str = field(repr=False)
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
    stamp: Stamp = field(repr=False)
    hidden: tuple[str, ...] = field(repr=False)
    patient: str = field(repr=False)
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


def content_order(frame: Frame) -> tuple[object, ...]:
    """Return what frames are sorted by, whatever their files are called: instance, number, place."""
    parts = frame.header.sop_instance_uid.split(".")
    return [(len(part), part) for part in parts], frame.number, frame.position_mm or ()


def frame_bytes(header: Header) -> int:
    """Return the size of one frame that is not compressed."""
    return header.rows * header.columns * header.samples_per_pixel * header.bits_allocated // 8


def stamp_of(stream: BinaryIO) -> Stamp:
    """Return size and modification time of an open file; None for what is no file of its own."""
    try:
        status = os.fstat(stream.fileno())
    except OSError:  # a member of an archive
        return None
    return status.st_size, status.st_mtime_ns
