"""What a compressed frame says of itself, before a decoder believes it."""

from __future__ import annotations

_JPEG_START, _JPEG_END, _JPEG_2000_START = b"\xff\xd8", b"\xff\xd9", b"\xff\x4f"
_JPEG_2000_SIZE = 0x51  # SIZ, the marker right after the start (ISO/IEC 15444-1 A.5.1)
_FRAME_HEADERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7}  # SOF0 to 15 (ISO/IEC 10918-1 B.2.2), JPEG-LS
_SCAN, _FILL = 0xDA, 0xFF
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}


def claimed_size(frame: bytes) -> tuple[int, int] | None:
    """Return rows and columns of a JPEG, JPEG-LS or JPEG 2000 codestream, or None where it does not say.

    Raises:
        ValueError: It ends before it says.
    """
    try:
        if frame.startswith(_JPEG_2000_START):
            return _jpeg_2000_size(frame)
        if frame.startswith(_JPEG_START):
            return _jpeg_size(frame)
    except IndexError:
        raise ValueError("a codestream without a header") from None
    return None


def is_complete(frame: bytes) -> bool:
    """Whether a JPEG or JPEG-LS codestream has its end; a decoder may search long for one that is cut."""
    return not frame.startswith(_JPEG_START) or frame.rstrip(b"\0").endswith(_JPEG_END)


def _jpeg_2000_size(frame: bytes) -> tuple[int, int] | None:
    if frame[3] != _JPEG_2000_SIZE:
        return None
    right, bottom, left, top = (_number(frame, 8 + 4 * k, 4) for k in range(4))
    return bottom - top, right - left


def _jpeg_size(frame: bytes) -> tuple[int, int] | None:
    """Walk from marker to marker to the frame header."""
    place = 2
    while frame[place] == _FILL:
        marker = frame[place + 1]
        if marker in _FRAME_HEADERS:
            return _number(frame, place + 5, 2), _number(frame, place + 7, 2)
        if marker == _SCAN:
            return None
        if marker == _FILL:
            place += 1
        else:
            place += 2 if marker in _WITHOUT_LENGTH else 2 + _number(frame, place + 2, 2)
    return None


def _number(data: bytes, start: int, size: int) -> int:
    if start + size > len(data):
        raise IndexError
    return int.from_bytes(data[start : start + size], "big")
