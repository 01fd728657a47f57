"""What a compressed frame says of itself, checked before a decoder believes it.

Decoders written in C allocate what a header claims, search long for an end that is not there, and one ends the
whole process on tables that are missing. So sizes and structure are compared with the DICOM header first.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pydicom.uid import UID, JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

_START, _END = b"\xff\xd8", b"\xff\xd9"
_SOF0, _SOF1, _SOF3, _SOF55 = 0xC0, 0xC1, 0xC3, 0xF7  # ISO/IEC 10918-1 B.2.2, ISO/IEC 14495-1 C.2.2
_DHT, _SOS, _DQT = 0xC4, 0xDA, 0xDB
_PROCESSES = {
    "1.2.840.10008.1.2.4.50": (_SOF0,),
    "1.2.840.10008.1.2.4.51": (_SOF0, _SOF1),
    "1.2.840.10008.1.2.4.57": (_SOF3,),
    "1.2.840.10008.1.2.4.70": (_SOF3,),
    **{str(uid): (_SOF55,) for uid in JPEGLSTransferSyntaxes},
}
_JPEG_2000_HEADER = b"\xff\x4f\xff\x51"  # SOC and SIZ, ISO/IEC 15444-1 A.5.1
_FARTHEST_HEADER = 4096  # of a codestream within a JP2 file, which DICOM does not allow and some write
_MOST_CODES = 256
_PREDICTORS = range(1, 8)
_MOST_SEGMENTS, _RLE_NOTHING = 15, 128

CODESTREAMS = frozenset(map(str, (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes)))
"""Transfer syntaxes whose frames hold their values in another form than stored pixels."""


def check_codestream(syntax: UID, frame: bytes, rows: int, columns: int) -> None:
    """Make sure that a frame of one component is what its transfer syntax and its header say.

    Raises:
        ValueError: It is of another kind or size, it is cut, or what its decoder needs is missing.
    """
    claimed = _jpeg_2000_size(frame) if syntax in JPEG2000TransferSyntaxes else _jpeg_size(frame, str(syntax))
    if claimed != (rows, columns):
        raise ValueError("a codestream of another size")


def check_rle(frame: bytes, pixels: int) -> None:
    """Make sure that each segment of an RLE frame (PS3.5 G) holds a byte for each pixel; decoders drop the rest.

    Raises:
        ValueError: A segment holds fewer or more.
    """
    count = _little(frame, 0)
    if not 1 <= count <= _MOST_SEGMENTS:
        raise ValueError("no RLE header")
    starts = [_little(frame, 4 + 4 * k) for k in range(count)]
    for start, stop in zip(starts, [*starts[1:], len(frame)], strict=True):
        if not pixels <= _unpacked_size(frame[start:stop]) <= pixels + 1:  # one may be padding
            raise ValueError("an RLE segment of another size")


def _unpacked_size(segment: bytes) -> int:
    size = place = 0
    while place < len(segment) - 1:
        code = segment[place]
        if code < _RLE_NOTHING:
            size += min(code + 1, len(segment) - place - 1)
            place += code + 2
        else:
            size += 257 - code if code > _RLE_NOTHING else 0
            place += 2 if code > _RLE_NOTHING else 1
    return size


def _jpeg_2000_size(frame: bytes) -> tuple[int, int]:
    start = frame.find(_JPEG_2000_HEADER, 0, _FARTHEST_HEADER)
    if start < 0:
        raise ValueError("no JPEG 2000 codestream")
    right, bottom, left, top = (_number(frame, start + 8 + 4 * k, 4) for k in range(4))
    return bottom - top, right - left


@dataclass
class _Jpeg:
    """The segments of a JPEG or JPEG-LS codestream that its decoder depends on."""

    process: int = 0
    rows: int = 0
    columns: int = 0
    component: bytes = b""  # identifier, sampling, quantization table
    huffman: set[int] = field(default_factory=set)  # class and number
    quantization: set[int] = field(default_factory=set)


def _jpeg_size(frame: bytes, syntax: str) -> tuple[int, int]:
    frame = frame.rstrip(b"\0")
    if not frame.startswith(_START) or not frame.endswith(_END):
        raise ValueError("no whole JPEG codestream")
    jpeg, place = _Jpeg(), 2
    while True:
        marker, place = _marker(frame, place)
        length = _number(frame, place, 2)
        segment = frame[place + 2 : place + length]
        if length < 2 or len(segment) != length - 2:
            raise ValueError("a segment without an end")
        place += length
        if marker == _SOS:
            break
        _read_segment(jpeg, marker, segment)
    if jpeg.process not in _PROCESSES.get(syntax, ()):
        raise ValueError("another process than the transfer syntax says")
    if jpeg.process != _SOF55:
        _check_scan(jpeg, segment)
        _check_rest(frame[place : -len(_END)])
    return jpeg.rows, jpeg.columns


def _marker(frame: bytes, place: int) -> tuple[int, int]:
    """Return the marker at a place, and the place behind it; fill bytes may come first."""
    if frame[place : place + 1] != b"\xff":
        raise ValueError("no marker where one must be")
    while frame[place : place + 1] == b"\xff":
        place += 1
    return _number(frame, place, 1), place + 1


def _read_segment(jpeg: _Jpeg, marker: int, segment: bytes) -> None:
    if marker in (_SOF0, _SOF1, _SOF3, _SOF55):
        if len(segment) != 9 or segment[5] != 1 or jpeg.process:
            raise ValueError("not one component in one frame")
        jpeg.process, jpeg.component = marker, segment[6:]
        jpeg.rows, jpeg.columns = _number(segment, 1, 2), _number(segment, 3, 2)
    elif marker == _DHT:
        _read_huffman(jpeg, segment)
    elif marker == _DQT:
        while segment:
            jpeg.quantization.add(segment[0] & 15)
            size = 129 if segment[0] >> 4 else 65
            if len(segment) < size:
                raise ValueError("a cut quantization table")
            segment = segment[size:]


def _read_huffman(jpeg: _Jpeg, segment: bytes) -> None:
    while segment:
        counts = segment[1:17]
        codes = sum(counts)
        room = sum(count << (16 - bits) for bits, count in enumerate(counts, start=1))
        if len(segment) < 17 + codes or not 0 < codes <= _MOST_CODES or room > 1 << 16:
            raise ValueError("a Huffman table that cannot be")
        jpeg.huffman.add(segment[0])
        segment = segment[17 + codes :]


def _check_scan(jpeg: _Jpeg, scan: bytes) -> None:
    """Check that a scan has its component, tables and predictor (ISO/IEC 10918-1 B.2.3, H.1.2)."""
    if len(scan) != 6 or scan[0] != 1 or scan[1] != jpeg.component[0]:
        raise ValueError("a scan of another component")
    first, second = scan[2] >> 4, scan[2] & 15
    if jpeg.process == _SOF3:
        is_whole = first in jpeg.huffman and scan[3] in _PREDICTORS and not scan[4]
    else:
        has_tables = first in jpeg.huffman and (16 | second) in jpeg.huffman
        is_whole = has_tables and jpeg.component[2] in jpeg.quantization and scan[3:6] == b"\x00\x3f\x00"
    if not is_whole:
        raise ValueError("a scan without its tables")


def _check_rest(data: bytes) -> None:
    """Check that nothing but coded data and restart markers follows the scan header."""
    place = data.find(b"\xff")
    while 0 <= place < len(data) - 1:
        if data[place + 1] not in (0x00, 0xFF, *range(0xD0, 0xD8)):
            raise ValueError("a marker within the coded data")
        place = data.find(b"\xff", place + 1)


def _little(data: bytes, start: int) -> int:
    return int.from_bytes(data[start : start + 4], "little")


def _number(data: bytes, start: int, size: int) -> int:
    if start + size > len(data):
        raise ValueError("a codestream that ends too early")
    return int.from_bytes(data[start : start + size], "big")
