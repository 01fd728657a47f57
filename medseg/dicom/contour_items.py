"""Contours -> the bytes of a ContourSequence (PS3.3 C.8.8.6; PS3.5 7.5, A.1).

A study has tens of thousands of contours, which all look alike: pydicom takes a millisecond for each, more than it
takes to trace it. It is given the sequence as bytes, as if it had been read from a file, and decodes it when asked.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag

PLAIN, EXCLUSIVE = b"CLOSED_PLANAR ", b"CLOSEDPLANAR_XOR"
"""Types of contours, of an even number of bytes."""

_SEQUENCE = Tag("ContourSequence")
_TYPE, _COUNT, _DATA = 0x0042, 0x0046, 0x0050  # of group 3006
_ENCODING = "iso8859"  # what pydicom takes a new dataset to be in; there is no text in it


@dataclass(frozen=True)
class Contour:
    """One contour.

    Attributes:
        image: ContourImageSequence, encoded.
        count: How many points it has.
        text: ContourData, of an even number of bytes.
        is_hole: Whether it is one, and its type is to say so.
    """

    image: bytes = field(repr=False)
    count: int
    text: bytes = field(repr=False)
    is_hole: bool = False


def encoded_image(item: Dataset) -> bytes:
    """Encode a ContourImageSequence of one item, implicit VR little endian."""
    holder = Dataset()
    holder.ContourImageSequence = [item]
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = True, True
    write_dataset(stream, holder)
    return bytes(stream.getvalue())


def encoded(contours: Sequence[Contour]) -> bytes:
    """Encode the items of a ContourSequence; with a hole among them all are of the type CLOSEDPLANAR_XOR."""
    kind = _element(_TYPE, EXCLUSIVE if any(contour.is_hole for contour in contours) else PLAIN)
    parts = []
    for contour in contours:
        count = str(contour.count).encode()
        body = contour.image + kind + _element(_COUNT, count + b" " * (len(count) % 2))
        data = _element(_DATA, contour.text)
        parts += [struct.pack("<HHL", 0xFFFE, 0xE000, len(body) + len(data)), body, data]
    return b"".join(parts)


def hold_encoded(dataset: Dataset, items: bytes) -> None:
    """Give an item of ROIContourSequence its ContourSequence; nothing is decoded until it is asked for."""
    dataset[_SEQUENCE] = RawDataElement(_SEQUENCE, None, len(items), items, 0, True, True)
    dataset.set_original_encoding(True, True, _ENCODING)


def _element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0x3006, number, len(value)) + value
