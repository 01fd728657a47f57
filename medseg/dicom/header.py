"""The header of one DICOM file -> `Header`: what grouping and geometry need, read tolerantly."""

from __future__ import annotations

import logging
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError

Numbers = tuple[float, ...]

PYDICOM_ERRORS = (
    BytesLengthException,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    OverflowError,
    struct.error,
    zlib.error,
)
"""What pydicom and its decoders raise on damaged files."""

_KEYWORDS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "ImageType",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "BitsStored",
    "PixelRepresentation",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
]
_LOGGERS = ("pydicom", "pylibjpeg", "openjpeg", "libjpeg")
_IDENTITY_RESCALE = (1.0, 0.0)
_IMAGE_CLASS = "Image Storage"
_PREAMBLE_BYTES, _MAGIC = 128, b"DICM"


class Skip(Enum):
    """Why a file is not part of any image series."""

    NOT_DICOM = "not a DICOM file"
    NOT_AN_IMAGE = "a DICOM object that is not an image"
    DAMAGED = "a DICOM file that is damaged or cannot be read"


@dataclass(frozen=True)
class Header:
    """What the header of one image file says; values that are missing or not valid are None, "" or 0.

    Attributes:
        path: The file.
        series_uid: SeriesInstanceUID; an identifier, kept out of `repr`, messages and names.
        sop_class_uid: SOPClassUID.
        sop_instance_uid: SOPInstanceUID; an identifier too.
        transfer_syntax_uid: How the pixels are encoded.
        modality: ``CT``, ``MR``, ...
        image_type: ImageType in capitals.
        photometric: PhotometricInterpretation.
        rows: Pixels down.
        columns: Pixels across.
        samples_per_pixel: 1 for grey.
        frames: NumberOfFrames.
        bits_stored: Bits of a stored value.
        is_signed: Whether stored values have a sign.
        position_mm: ImagePositionPatient, LPS: centre of the first pixel.
        orientation: ImageOrientationPatient, LPS: direction of a row, then of a column.
        pixel_spacing_mm: PixelSpacing: between rows, between columns.
        rescale: Slope and intercept; (1, 0) where the header has none and needs none.
    """

    path: Path = field(repr=False)
    series_uid: str = field(repr=False)
    sop_class_uid: str
    sop_instance_uid: str = field(repr=False)
    transfer_syntax_uid: str
    modality: str
    image_type: tuple[str, ...]
    photometric: str
    rows: int
    columns: int
    samples_per_pixel: int
    frames: int
    bits_stored: int
    is_signed: bool
    position_mm: Numbers | None
    orientation: Numbers | None
    pixel_spacing_mm: Numbers | None
    rescale: tuple[float, float] | None


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom and its decoders from warning and logging, since they quote values of the file."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def read_header(path: Path) -> Header | Skip:
    """Read the header of a file, without its pixels; call it inside `quiet_pydicom`.

    Returns:
        The header of an image, or why the file is none.
    """
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_KEYWORDS)
    except InvalidDicomError:
        return Skip.DAMAGED if _is_cut_preamble(path) else Skip.NOT_DICOM
    except PYDICOM_ERRORS:
        return Skip.DAMAGED
    sop_class = _text(dataset, "SOPClassUID")
    uid = pydicom.uid.UID(sop_class or _text(dataset.file_meta, "MediaStorageSOPClassUID"))
    is_standard_class = uid.name != str(uid)
    if is_standard_class and _IMAGE_CLASS not in uid.name:
        return Skip.NOT_AN_IMAGE
    rows, columns = _whole(dataset, "Rows"), _whole(dataset, "Columns")
    if rows and columns:
        return _header(path, dataset, sop_class, rows, columns)
    is_private_class = uid.is_valid and not is_standard_class
    return Skip.NOT_AN_IMAGE if is_private_class else Skip.DAMAGED


def _is_cut_preamble(path: Path) -> bool:
    """Whether a file is empty or ends within the zeros that most DICOM files begin with."""
    with path.open("rb") as stream:
        start = stream.read(_PREAMBLE_BYTES + len(_MAGIC))
    return len(start) < _PREAMBLE_BYTES + len(_MAGIC) and not any(start[:_PREAMBLE_BYTES])


def _header(path: Path, dataset: Any, sop_class: str, rows: int, columns: int) -> Header:
    return Header(
        path=path,
        series_uid=_text(dataset, "SeriesInstanceUID"),
        sop_class_uid=sop_class,
        sop_instance_uid=_text(dataset, "SOPInstanceUID"),
        transfer_syntax_uid=_text(dataset.file_meta, "TransferSyntaxUID"),
        modality=_text(dataset, "Modality").upper(),
        image_type=_texts(dataset, "ImageType"),
        photometric=_text(dataset, "PhotometricInterpretation").upper(),
        rows=rows,
        columns=columns,
        samples_per_pixel=_whole(dataset, "SamplesPerPixel", 1),
        frames=_whole(dataset, "NumberOfFrames", 1),
        bits_stored=_whole(dataset, "BitsStored"),
        is_signed=_whole(dataset, "PixelRepresentation") == 1,
        position_mm=_numbers(dataset, "ImagePositionPatient", 3),
        orientation=_numbers(dataset, "ImageOrientationPatient", 6),
        pixel_spacing_mm=_numbers(dataset, "PixelSpacing", 2),
        rescale=_rescale(dataset),
    )


def _rescale(dataset: Any) -> tuple[float, float] | None:
    if "ModalityLUTSequence" in dataset:
        return None
    there = [_value(dataset, keyword) is not None for keyword in ("RescaleSlope", "RescaleIntercept")]
    if not any(there) and not any(k in dataset for k in ("RescaleSlope", "RescaleIntercept")):
        return None if _text(dataset, "Modality").upper() == "CT" else _IDENTITY_RESCALE
    slope, intercept = (_numbers(dataset, k, 1) for k in ("RescaleSlope", "RescaleIntercept"))
    if slope is None or intercept is None or slope[0] == 0:
        return None
    return slope[0], intercept[0]


def _value(dataset: Any, keyword: str) -> Any:
    try:
        return dataset.get(keyword)
    except PYDICOM_ERRORS:
        return None


def _text(dataset: Any, keyword: str) -> str:
    value = _value(dataset, keyword)
    return "" if value is None else str(value).strip()


def _texts(dataset: Any, keyword: str) -> tuple[str, ...]:
    value = _value(dataset, keyword)
    if value is None:
        return ()
    return tuple(str(part).strip().upper() for part in ([value] if isinstance(value, str) else value))


def _whole(dataset: Any, keyword: str, default: int = 0) -> int:
    value = _value(dataset, keyword)
    try:
        return default if value in (None, "") else int(value)
    except PYDICOM_ERRORS:
        return default


def _numbers(dataset: Any, keyword: str, count: int) -> Numbers | None:
    value = _value(dataset, keyword)
    try:
        numbers = tuple(float(part) for part in ([value] if count == 1 else value))
    except PYDICOM_ERRORS:
        return None
    return numbers if len(numbers) == count and all(map(math.isfinite, numbers)) else None
