"""The pixels of a SEG -> masks, frame by frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pydicom.uid
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import pixel_array

from medseg.dicom.codestream import check_codestream, check_rle
from medseg.dicom.contours import Mask
from medseg.dicom.pixels import MAX_SLICE_PIXELS
from medseg.dicom.quiet import PYDICOM_ERRORS
from medseg.dicom.refusal import refusal
from medseg.dicom.structure import text_of_element, whole_number
from medseg.errors import DicomError
from medseg.findings import FindingCode

_MOST_FRAMES = 1_000_000
_FORMATS = {"BINARY": (1,), "FRACTIONAL": (8,), "LABELMAP": (8, 16)}


class SegmentPixels:
    """Decodes frames of a SEG, one at a time.

    Args:
        dataset: The whole object, with its pixels.

    Attributes:
        kind: BINARY, FRACTIONAL or LABELMAP.

    Raises:
        ValueError: Rows, Columns, NumberOfFrames or the bits are not what the type of the segmentation asks for.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.kind = text_of_element(dataset, "SegmentationType").upper()
        self._rows, self._columns = whole_number(dataset, "Rows"), whole_number(dataset, "Columns")
        self._frames, self._bits = whole_number(dataset, "NumberOfFrames"), whole_number(dataset, "BitsAllocated")
        if self._bits not in _FORMATS.get(self.kind, ()) or whole_number(dataset, "SamplesPerPixel") != 1:
            raise ValueError("bits that its type does not have")
        is_sane = min(self._rows, self._columns) > 0 and self._count <= MAX_SLICE_PIXELS
        if not (is_sane and 0 < self._frames <= _MOST_FRAMES):
            raise ValueError("absurd Rows, Columns or NumberOfFrames")
        self._largest = whole_number(dataset, "MaximumFractionalValue") if self.kind == "FRACTIONAL" else 1
        self._syntax = dataset.file_meta.get("TransferSyntaxUID", "") or pydicom.uid.ImplicitVRLittleEndian
        self._last: tuple[int, NDArray[np.unsignedinteger[Any]]] | None = None

    @property
    def _count(self) -> int:
        return self._rows * self._columns

    def mask(self, number: int, segment: int, where: str) -> Mask:
        """Return the pixels (rows, columns) of a frame that belong to a segment; call it inside `quiet_pydicom`.

        Args:
            number: Of the frame, from 0.
            segment: SegmentNumber; only label maps hold several in one frame.
            where: For the message.

        Raises:
            DicomError: They are missing, truncated or cannot be decoded.
        """
        try:
            values = self._values(number)
        except PYDICOM_ERRORS as error:
            raise _undecodable(where, type(error).__name__) from None
        if self.kind == "LABELMAP":
            return np.asarray(values == segment)
        if self.kind == "FRACTIONAL":
            return np.asarray(2 * values.astype(np.int64) >= max(self._largest, 1))
        return np.asarray(values != 0)

    def _values(self, number: int) -> NDArray[np.unsignedinteger[Any]]:
        if self._last is None or self._last[0] != number:
            values = self._decoded(number) if self._syntax.is_encapsulated else self._native(number)
            if values.shape != (self._rows, self._columns):
                raise ValueError("an image of another shape")
            self._last = number, values
        return self._last[1]

    def _native(self, number: int) -> NDArray[np.unsignedinteger[Any]]:
        """Read a frame that is not compressed; bits are packed lowest first, without a gap between frames."""
        content, start = self._dataset.PixelData, number * self._count
        if self._bits == 1:
            first, last = start // 8, -(-(start + self._count) // 8)
            bits = np.unpackbits(np.frombuffer(content[first:last], np.uint8), bitorder="little")
            flat = bits[start - 8 * first :][: self._count]
        else:
            size = self._bits // 8
            order = "<" if self._syntax.is_little_endian else ">"
            flat = np.frombuffer(content[start * size : (start + self._count) * size], f"{order}u{size}")
        if len(flat) < self._count:
            raise EOFError
        return flat.reshape(self._rows, self._columns)

    def _decoded(self, number: int) -> NDArray[np.unsignedinteger[Any]]:
        frame = bytes(get_frame(self._dataset.PixelData, number, number_of_frames=self._frames))
        plugin = _plugin(self._syntax)
        if self._syntax == pydicom.uid.RLELossless:
            check_rle(frame, self._count)
        else:
            check_codestream(self._syntax, frame, self._rows, self._columns)
        index = number if self._frames > 1 else None
        values: NDArray[np.unsignedinteger[Any]] = pixel_array(
            self._dataset, index=index, raw=True, decoding_plugin=plugin
        )
        return values


def _plugin(syntax: pydicom.uid.UID) -> str:
    """Return the decoder for compressed frames that is safe on damaged ones.

    Raises:
        NotImplementedError: There is none.
    """
    if syntax in pydicom.uid.JPEGLSTransferSyntaxes:
        return "pyjpegls"
    if syntax in pydicom.uid.JPEG2000TransferSyntaxes:
        return "pylibjpeg"
    if syntax == pydicom.uid.RLELossless:
        return "pydicom"
    raise NotImplementedError


def _undecodable(where: str, reason: str) -> DicomError:
    found = f"truncated, undecodable or other pixel data ({reason})"
    remedy = "export the segmentation again, uncompressed"
    return refusal(where, FindingCode.DAMAGED_FILE, "whole pixel data that fits the header", found, remedy)
