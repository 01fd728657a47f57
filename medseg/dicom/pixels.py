"""The pixels of a frame -> stored values and rescaled values, or the reason why not."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pydicom.config
import pydicom.uid
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder, pixel_array

from medseg.dicom.codestream import CODESTREAMS, check_codestream, check_rle
from medseg.dicom.dataset import load_dataset
from medseg.dicom.elements import MAX_HEADER_BYTES
from medseg.dicom.frame import Frame, Header, frame_bytes
from medseg.dicom.quiet import PYDICOM_ERRORS
from medseg.dicom.refusal import refusal
from medseg.dicom.values import uid_name
from medseg.findings import FindingCode
from medseg.volume import MAX_VOXELS

MAX_SLICE_PIXELS = 1 << 26
"""No slice has more pixels: a header that says so is wrong."""

Values = NDArray[Any]

_PIXEL_DATA = 0x7FE00010
_ALLOCATED_BITS = (8, 16, 32)
_DECODER_PACKAGES = {
    "JPEG-LS": "pyjpegls",
    "JPEG 2000": "pylibjpeg-openjpeg",
    "JPEG": "python-gdcm",
}
_FILES_KEPT = 4
_NATIVE = {
    "",
    pydicom.uid.ImplicitVRLittleEndian,
    pydicom.uid.ExplicitVRLittleEndian,
    pydicom.uid.ExplicitVRBigEndian,
    pydicom.uid.DeflatedExplicitVRLittleEndian,
}


def decoder_problem(transfer_syntax_uid: str) -> str | None:
    """Say why pixels of a transfer syntax cannot be decoded here; name the package that would do it."""
    if transfer_syntax_uid in _NATIVE:
        return None
    uid = pydicom.uid.UID(transfer_syntax_uid, validation_mode=pydicom.config.IGNORE)
    try:
        plugins = get_decoder(uid).available_plugins
        if plugins and _plugin(uid) in ("", *plugins):
            return None
    except PYDICOM_ERRORS:
        return f"a transfer syntax that nothing decodes ({uid_name(transfer_syntax_uid) or 'unknown'})"
    name = uid_name(transfer_syntax_uid)
    package = next((package for part, package in _DECODER_PACKAGES.items() if part in name), "")
    return f"{name}, whose decoder is not installed" + (f" (pip install {package})" if package else "")


def pixel_problem(header: Header) -> str | None:
    """Say what is wrong with the pixel data of a file, as far as its header tells; nothing is allocated."""
    if header.pixels is None or header.pixels.tag != _PIXEL_DATA:
        return "no integer pixel data"
    pixels = header.rows * header.columns
    if pixels > MAX_SLICE_PIXELS or header.frame_count < 1 or pixels * header.frame_count > MAX_VOXELS:
        return "absurd Rows, Columns or NumberOfFrames"
    length = header.pixels.length
    if _is_encapsulated(header.transfer_syntax_uid) != (length is None):
        return "pixel data that is not in its transfer syntax"
    if length is None:
        return None  # compressed: the decoder will tell
    expected = frame_bytes(header) * header.frame_count
    if length > expected + 1:
        return "more pixel data than Rows, Columns and NumberOfFrames say"
    size = header.stamp[0] if header.stamp else header.source.size
    is_cut = header.pixels.offset >= 0 and header.pixels.offset + expected > size
    return "truncated pixel data" if length < expected or is_cut else None


def _is_encapsulated(transfer_syntax_uid: str) -> bool:
    """Whether pixel data stands in fragments (PS3.5 A.4); all but the first four syntaxes ask for it."""
    return transfer_syntax_uid not in _NATIVE


def has_whole_bits(header: Header) -> bool:
    """Whether stored values take 8, 16 or 32 bits each, and the bits that count are where they can be read."""
    allocated, stored, high = header.bits_allocated, header.bits_stored, header.high_bit
    if allocated not in _ALLOCATED_BITS or not 0 < stored <= high + 1 <= allocated:
        return False
    if _is_swapped(header) and header.frame_count > 1 and frame_bytes(header) % 2:
        return False  # frames would begin within a word
    return high == stored - 1 or header.transfer_syntax_uid not in CODESTREAMS


class FrameReader:
    """Reads stored values of frames; may be called from several threads.

    Files that hold many frames and cannot be entered anywhere are kept in memory for the next frame.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[int, Dataset] = OrderedDict()
        self._lock = threading.Lock()

    def values(self, frame: Frame, where: str) -> Values:
        """Return the stored values (rows, columns) of a frame; call it inside `quiet_pydicom`.

        Raises:
            DicomError: They are missing, truncated or cannot be decoded.
        """
        header, values, reason = frame.header, None, ""
        try:
            offset = _offset(header)
            values = self._decoded(frame) if offset is None else _cells(header, _frame_at(frame, offset))
        except PYDICOM_ERRORS as error:
            reason = type(error).__name__  # no more of it: its text may quote the file
        if values is None or values.shape != (header.rows, header.columns):
            raise _undecodable(where, reason or "an image of another shape")
        return values

    def same_values(self, frames: Sequence[Frame], where: str) -> bool:
        """Whether all frames have the same stored values and the same meaning of them."""
        first = frames[0]
        if any(f.rescale != first.rescale or f.header.photometric != first.header.photometric for f in frames):
            return False
        values = self.values(first, where)
        return all(np.array_equal(values, self.values(frame, where)) for frame in frames[1:])

    def _decoded(self, frame: Frame) -> Values:
        """Decode a frame that is compressed, or in a file that has to be unpacked from its beginning."""
        header = frame.header
        dataset = self._dataset(header)
        syntax = dataset.file_meta.get("TransferSyntaxUID", "") or pydicom.uid.ImplicitVRLittleEndian
        if not syntax.is_encapsulated:
            start = frame.number * frame_bytes(header)
            return _cells(header, dataset.PixelData[start : start + frame_bytes(header)])
        index = frame.number if header.frame_count > 1 else None
        if syntax in CODESTREAMS:
            check_codestream(syntax, _encapsulated_frame(dataset, frame), header.rows, header.columns)
            values: Values = pixel_array(dataset, index=index, raw=True, decoding_plugin=_plugin(syntax))
            return values
        check_rle(_encapsulated_frame(dataset, frame), header.rows * header.columns)
        dataset.BitsStored, dataset.HighBit = header.bits_allocated, header.bits_allocated - 1  # RLE: as they stand
        return _significant(pixel_array(dataset, index=index, raw=True), header)

    def _dataset(self, header: Header) -> Dataset:
        if header.frame_count == 1:
            return _load(header)
        with self._lock:
            if id(header) not in self._kept:
                self._kept[id(header)] = _load(header)
                while len(self._kept) > _FILES_KEPT:
                    self._kept.popitem(last=False)
            return self._kept[id(header)]


def _plugin(syntax: pydicom.uid.UID) -> str:
    """Return the one decoder to use where others are less safe on damaged frames; "" for any."""
    if syntax in pydicom.uid.JPEGLSTransferSyntaxes:
        return "pyjpegls"
    return "pylibjpeg" if syntax in pydicom.uid.JPEG2000TransferSyntaxes else ""


def _load(header: Header) -> Dataset:
    expected = frame_bytes(header) * header.frame_count
    with header.open() as stream:
        return load_dataset(stream, header.transfer_syntax_uid, most_bytes=expected + MAX_HEADER_BYTES)


def _encapsulated_frame(dataset: Dataset, frame: Frame) -> bytes:
    table = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
    offsets = (table[0], table[1]) if table[0] and table[1] else None
    count = frame.header.frame_count
    return bytes(get_frame(dataset.PixelData, frame.number, extended_offsets=offsets, number_of_frames=count))


def _offset(header: Header) -> int | None:
    """Return where in the file stored values stand as they are, or None where they have to be unpacked."""
    pixels = header.pixels
    if pixels is None or pixels.length is None or pixels.offset < 0:
        return None
    must_unpack = header.frame_count > 1 and header.stamp is None  # each seek would unpack all before it
    return None if must_unpack else pixels.offset


def _frame_at(frame: Frame, offset: int) -> bytes:
    size = frame_bytes(frame.header)
    with frame.header.open() as stream:
        stream.seek(offset + frame.number * size)
        return stream.read(size + size % 2)


def _cells(header: Header, content: bytes) -> Values:
    """Return the values (rows, columns) of a frame that is not compressed (PS3.5 8.1.1)."""
    size = frame_bytes(header)
    if len(content) < size:
        raise EOFError
    if _is_swapped(header):
        content = np.frombuffer(content[: len(content) // 2 * 2], "<u2").byteswap().tobytes()
    order = "<" if header.is_little_endian else ">"
    kind = "i" if header.is_signed else "u"
    raw = np.frombuffer(content[:size], dtype=np.dtype(f"{order}{kind}{header.bits_allocated // 8}"))
    return _significant(raw, header).reshape(header.rows, header.columns)


def _is_swapped(header: Header) -> bool:
    """Whether bytes stand as words of 16 bits in big endian (PS3.5 8.1.2, 7.3)."""
    is_word = header.pixels is not None and header.pixels.vr == "OW"
    return is_word and header.bits_allocated == 8 and not header.is_little_endian


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
