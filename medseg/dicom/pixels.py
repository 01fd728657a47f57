"""The pixels of a frame -> stored values and rescaled values, or the reason why not."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pydicom.uid
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder, pixel_array

from medseg.dicom.dataset import load_dataset
from medseg.dicom.header import Frame, Header
from medseg.dicom.quiet import PYDICOM_ERRORS
from medseg.dicom.refusal import refusal
from medseg.findings import FindingCode
from medseg.volume import MAX_VOXELS

MAX_SLICE_PIXELS = 1 << 26
"""No slice has more pixels: a header that says so is wrong."""

Values = NDArray[Any]

_PIXEL_DATA = 0x7FE00010
_ALLOCATED_BITS = (8, 16, 32)
_OPENJPEG = "pylibjpeg"
_JPEG_2000 = (
    pydicom.uid.JPEG2000,
    pydicom.uid.JPEG2000Lossless,
    pydicom.uid.HTJ2K,
    pydicom.uid.HTJ2KLossless,
    pydicom.uid.HTJ2KLosslessRPCL,
)
_DECODER_PACKAGES = {
    "JPEG-LS": "pyjpegls",
    "JPEG 2000": "pylibjpeg-openjpeg",
    "JPEG": "python-gdcm",
}
_DATASETS_KEPT = 4


def decoder_problem(transfer_syntax_uid: str) -> str | None:
    """Say why pixels of a transfer syntax cannot be decoded here; name the package that would do it."""
    if not transfer_syntax_uid:
        return None  # not encapsulated, or it would say so
    uid = pydicom.uid.UID(transfer_syntax_uid)
    try:
        if get_decoder(uid).is_available:
            return None
    except PYDICOM_ERRORS:
        return f"an unknown transfer syntax, {uid.name}" if uid.is_valid else "a transfer syntax that is no UID"
    package = next((package for name, package in _DECODER_PACKAGES.items() if name in uid.name), "")
    return f"{uid.name}, whose decoder is not installed" + (f" (pip install {package})" if package else "")


def pixel_problem(header: Header) -> str | None:
    """Say what is wrong with the pixel data of a file, as far as its header tells; nothing is allocated."""
    if header.pixels is None or header.pixels.tag != _PIXEL_DATA:
        return "no integer pixel data"
    pixels = header.rows * header.columns
    if pixels > MAX_SLICE_PIXELS or header.frame_count < 1 or pixels * header.frame_count > MAX_VOXELS:
        return "absurd Rows, Columns or NumberOfFrames"
    offset, length = header.pixels.offset, header.pixels.length
    if length is None or offset < 0:
        return None  # compressed: the decoder will tell
    expected = _frame_bytes(header) * header.frame_count
    if length > expected + 1:
        return "more pixel data than Rows, Columns and NumberOfFrames say"
    if length < expected or offset + expected > header.source.size:
        return "truncated pixel data"
    return None


def has_whole_bits(header: Header) -> bool:
    """Whether stored values take 8, 16 or 32 bits each, and the bits that count lie within."""
    allocated, stored, high = header.bits_allocated, header.bits_stored, header.high_bit
    return allocated in _ALLOCATED_BITS and 0 < stored <= high + 1 <= allocated


def _frame_bytes(header: Header) -> int:
    return header.rows * header.columns * header.samples_per_pixel * header.bits_allocated // 8


class FrameReader:
    """Reads stored values of frames; may be called from several threads.

    Files that hold many frames, or have to be decoded whole, are kept for the next frame.
    """

    def __init__(self) -> None:
        self._datasets: OrderedDict[int, Dataset] = OrderedDict()
        self._lock = threading.Lock()

    def values(self, frame: Frame, where: str) -> Values:
        """Return the stored values (rows, columns) of a frame; call it inside `quiet_pydicom`.

        Raises:
            DicomError: They are missing, truncated or cannot be decoded.
        """
        header = frame.header
        try:
            location = _native_location(header)
            if location is not None:
                return _native_values(frame, location)
            values = self._decoded(frame)
        except PYDICOM_ERRORS as error:
            raise _undecodable(where, type(error).__name__) from error
        if values.shape != (header.rows, header.columns):
            raise _undecodable(where, f"an image of shape {values.shape}")
        return values

    def same_values(self, frames: Sequence[Frame], where: str) -> bool:
        """Whether all frames have the same stored values and the same meaning of them."""
        first = frames[0]
        if any(f.rescale != first.rescale or f.header.photometric != first.header.photometric for f in frames):
            return False
        values = self.values(first, where)
        return all(np.array_equal(values, self.values(frame, where)) for frame in frames[1:])

    def _decoded(self, frame: Frame) -> Values:
        header = frame.header
        dataset = self._dataset(header)
        if not header.transfer_syntax_uid:
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        plugin = _OPENJPEG if header.transfer_syntax_uid in _JPEG_2000 else ""
        index = frame.number if header.frame_count > 1 else None
        values: Values = pixel_array(dataset, index=index, raw=True, decoding_plugin=plugin)
        return values

    def _dataset(self, header: Header) -> Dataset:
        """Load a file; files of many frames are kept for the next ones."""
        if header.frame_count == 1:
            return _load(header)
        with self._lock:
            if id(header) not in self._datasets:
                self._datasets[id(header)] = _load(header)
                while len(self._datasets) > _DATASETS_KEPT:
                    self._datasets.popitem(last=False)
            return self._datasets[id(header)]


def _load(header: Header) -> Dataset:
    with header.open() as stream:
        return load_dataset(stream, header.transfer_syntax_uid)


def _native_location(header: Header) -> int | None:
    """Return the offset of stored values that stand in the file as they are, or None."""
    pixels = header.pixels
    return None if pixels is None or pixels.length is None or pixels.offset < 0 else pixels.offset


def _native_values(frame: Frame, offset: int) -> Values:
    """Read values that are not compressed (PS3.5 8.1.1), straight from their place in the file."""
    header = frame.header
    size = _frame_bytes(header)
    with header.open() as stream:
        stream.seek(offset + frame.number * size)
        content = stream.read(size)
    if len(content) < size:
        raise EOFError
    order = "<" if header.is_little_endian else ">"
    kind = "i" if header.is_signed else "u"
    raw = np.frombuffer(content, dtype=np.dtype(f"{order}{kind}{header.bits_allocated // 8}"))
    return _significant(raw, header).reshape(header.rows, header.columns)


def _significant(raw: Values, header: Header) -> Values:
    """Take the bits that count, up to the high bit, and extend their sign."""
    above = header.bits_allocated - 1 - header.high_bit
    unused = header.bits_allocated - header.bits_stored
    if not unused:
        return raw
    values: Values = np.right_shift(np.left_shift(raw, above), unused)
    return values


def rescale_into(out: NDArray[np.float32], values: Values, rescale: tuple[float, float]) -> None:
    """Write ``slope * values + intercept`` in float32."""
    slope, intercept = rescale
    np.multiply(values, np.float32(slope), out=out, casting="unsafe")
    if intercept:
        np.add(out, np.float32(intercept), out=out)


def _undecodable(where: str, reason: str) -> Exception:
    found = f"truncated, undecodable or other pixel data ({reason})"
    remedy = "copy or export the series again"
    return refusal(where, FindingCode.DAMAGED_FILE, "whole pixel data that fits the header", found, remedy)
