"""The top-level data elements of one DICOM file, up to its pixel data: fast, bounded, safe on damaged files.

A walk from head to head (PS3.5 7.1) that keeps the raw values of the tags asked for and steps over all others.
Nothing is allocated because a length says so: only what the stream really holds is read.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Set
from dataclasses import dataclass, field
from io import BytesIO
from typing import BinaryIO, NamedTuple
from zipfile import BadZipFile

MAX_HEADER_BYTES = 64 * 1024 * 1024
"""The most that is read, or inflated, of one file before its pixel data; values stepped over do not count."""
MAX_DEPTH, MAX_VALUE_BYTES = 64, 1 << 16
"""The most sequences of undefined length inside one another; a longer value counts as empty."""

_CHUNK = 16 * 1024
_PREAMBLE_BYTES, _START, _SHORT_HEAD, _LONG_HEAD, _UNDEFINED = 128, 132, 8, 12, 0xFFFFFFFF
_TRANSFER_SYNTAX = 0x00020010
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_META, _COMMANDS, _DATASET = (0x00020000, 0x00030000), (0, 0x00010000), (0, _PIXELS[0])
_IN_ITEM = (0, 0xFFFE0000)
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LITTLE_ITEM, _LITTLE_SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_IMPLICIT_LITTLE, _EXPLICIT_BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
_DEFLATED = {"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"}  # the last two: JPIP

_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())


class NotDicomError(ValueError):
    """The bytes are no DICOM file."""


class DamagedError(ValueError):
    """A DICOM file that ends too early or cannot be walked."""


@dataclass(frozen=True, slots=True)
class PixelLocation:
    """Where the pixel data is, as declared; the file may end before.

    Attributes:
        tag: 0x7FE00010, 0x7FE00008 (float) or 0x7FE00009 (double).
        vr: Its value representation, "" when implicit.
        offset: Of the value, in bytes from the start of the file; -1 in a deflated data set.
        length: In bytes; None: undefined length (encapsulated, PS3.5 A.4).
    """

    tag: int
    vr: str
    offset: int
    length: int | None


@dataclass(frozen=True, slots=True)
class Elements:
    """What `read_elements` found.

    Attributes:
        values: Wanted tag -> raw value, the last of several; b"" for sequences and undefined lengths: not kept.
        transfer_syntax_uid: "" where the file meta information, or the tag in it, is missing.
        is_implicit: How the data set is really encoded, whatever the transfer syntax says.
        is_little_endian: Its byte order.
        has_file_meta: Whether there is a group 0002, with a preamble or without.
        is_deflated: Whether the data set had to be inflated.
        pixels: None where there is no pixel data.
    """

    values: dict[int, bytes] = field(repr=False)
    transfer_syntax_uid: str
    is_implicit: bool
    is_little_endian: bool
    has_file_meta: bool
    is_deflated: bool
    pixels: PixelLocation | None


def read_elements(stream: BinaryIO, wanted: frozenset[int]) -> Elements:
    """Walk over a DICOM file up to its pixel data and keep the raw values of some tags.

    The file meta information, always explicit little endian (PS3.10 7.1), is walked by its tags, whatever
    (0002,0000) says. The data set is read as its first element is really encoded, implicit or explicit, whatever
    the transfer syntax says. A tag beyond that of the pixel data ends the walk, as the end of the file does.

    Args:
        stream: The file, seekable and at its start.
        wanted: Tags (group << 16 | element) of the file meta information and of the data set's top level.

    Returns:
        The values, the encoding, and where the pixel data is.

    Raises:
        NotDicomError: There is neither the prefix ``DICM`` nor a plausible first element.
        DamagedError: A value reaches past the end, the stream is corrupt (deflated or zipped), sequences are broken
            or nested too deeply, or there is more than `MAX_HEADER_BYTES` before the pixel data.
        OSError: Raised by the stream.
    """
    try:
        return _read(stream, wanted)
    except (EOFError, zlib.error, BadZipFile) as error:
        raise DamagedError("the compressed data is corrupt") from error


def _read(stream: BinaryIO, wanted: frozenset[int]) -> Elements:
    values: dict[int, bytes] = {}
    walker = _Walker(stream, values)
    walker.pos = _start(walker.move(0, _START + _LONG_HEAD))
    has_meta = walker.data.startswith(b"\2\0", walker.pos)
    walker.walk(_Coding(False, True), *_META, wanted | {_TRANSFER_SYNTAX})
    syntax = values.get(_TRANSFER_SYNTAX, b"").decode("ascii", "replace").strip(" \0")
    if _TRANSFER_SYNTAX not in wanted:
        values.pop(_TRANSFER_SYNTAX, None)
    if syntax in _DEFLATED:
        walker = _Walker(_inflate(stream, walker.data[walker.pos :]), values)
    walker.walk(_Coding(True, True), *_COMMANDS, wanted)  # PS3.7 6.3.1: implicit in every file
    coding = _dataset_coding(walker.data[walker.pos : walker.pos + _SHORT_HEAD], syntax)
    head = walker.walk(coding, *_DATASET, wanted)
    pixels = None
    if head and head[0] in _PIXELS:
        tag, vr, length, value = head
        offset = -1 if syntax in _DEFLATED else walker.origin + value
        pixels = PixelLocation(tag, vr.decode("latin-1"), offset, None if length == _UNDEFINED else length)
    return Elements(values, syntax, *coding, has_meta, syntax in _DEFLATED, pixels)


def _start(data: bytes) -> int:
    """Where the first element begins (PS3.10 7.1)."""
    if data[_PREAMBLE_BYTES:_START] == b"DICM":
        if len(data) >= _START + _SHORT_HEAD:
            return _START
    elif _is_bare(data):
        return 0
    elif len(data) >= _START or any(data[:_PREAMBLE_BYTES]):
        raise NotDicomError("neither the prefix DICM nor a plausible first element")
    raise DamagedError("the file ends within its preamble, or right after it")


def _is_bare(data: bytes) -> bool:
    """Whether an element of group 0002 or 0008 begins the file; if implicit, a second one must follow."""
    if len(data) < _LONG_HEAD or data[:2] not in (b"\2\0", b"\x08\0", b"\0\x08"):
        return False
    group, element, length = struct.unpack_from("<HHL", data)
    following = struct.unpack("<HH", data[_SHORT_HEAD + length :][:4].ljust(4, b"\0"))
    return data[4:6] in _SHORT_VRS | _LONG_VRS or (group, element) < following < (0x0029, 0)


def _dataset_coding(start: bytes, syntax: str) -> _Coding:
    """How the data set that begins with this head is encoded (PS3.5 A.1 to A.4); where unsure, as pydicom does."""
    is_implicit = not _has_vr(start, 0) if start else syntax == _IMPLICIT_LITTLE
    is_little = syntax != _EXPLICIT_BIG if syntax or is_implicit else not start[:1] < b"\4" <= start[1:2]
    return _Coding(is_implicit, is_little)


def _has_vr(data: bytes, pos: int) -> bool:
    """Whether two capital letters are where the head of an explicit element has its VR."""
    vr = data[pos + 4 : pos + 6]
    return vr.isalpha() and vr.isupper()


def _inflate(stream: BinaryIO, start: bytes) -> BytesIO:
    """A deflated data set (PS3.5 A.5), or as much of it as a walker may read."""
    inflater, output, most = zlib.decompressobj(-zlib.MAX_WBITS), bytearray(), MAX_HEADER_BYTES + 1
    while not inflater.eof and len(output) < most:
        if not start:
            raise DamagedError("the deflated data ends too early")
        output += inflater.decompress(start, most - len(output))
        start = stream.read(_CHUNK)
    return BytesIO(output)


class _Coding(NamedTuple):
    is_implicit: bool
    is_little: bool


_HEAD = {True: struct.Struct("<HH2sH"), False: struct.Struct(">HH2sH")}  # by byte order: group, element, VR, length
_ITEM_HEAD = {True: struct.Struct("<HHL"), False: struct.Struct(">HHL")}
_NUMBER = {True: struct.Struct("<L"), False: struct.Struct(">L")}
_Head = tuple[int, bytes, int, int]  # tag, VR (b"" when implicit), length, where in the window the value begins


class _Walker:
    """A window `data` that moves forward over a stream; `origin` is its place there, `pos` the next head's."""

    def __init__(self, stream: BinaryIO | BytesIO, values: dict[int, bytes]) -> None:
        self._stream, self._values = stream, values
        self._left, self._depth = MAX_HEADER_BYTES, 0
        self.data, self.pos, self.origin = b"", 0, 0

    def move(self, pos: int, need: int) -> bytes:
        """Let the window begin at `pos` and hold `need` bytes, or all that the stream still has."""
        if (gap := pos - len(self.data)) > 0:
            self._stream.seek(gap - 1, os.SEEK_CUR)
            if not self._stream.read(1):
                raise DamagedError("a value reaches past the end of the file")
        data = self.data[pos:]
        while (lack := need - len(data)) > 0:
            size = max(_CHUNK, min(lack, len(data)))  # at most as much again as there really is
            if not (more := self._stream.read(min(size, self._left + 1))):
                break
            self._left -= len(more)
            if self._left < 0:
                raise DamagedError(f"more than {MAX_HEADER_BYTES} bytes before the pixel data")
            data += more
        self.data, self.pos = data, 0
        self.origin += pos
        return data

    def walk(self, coding: _Coding, first: int, last: int, wanted: Set[int]) -> _Head | None:
        """Keep wanted values up to the first tag out of range, and return its head; None at the end of the data."""
        data, pos = self.data, self.pos
        is_implicit, is_little = coding
        unpack, number = _HEAD[is_little].unpack_from, _NUMBER[is_little].unpack_from
        short_vrs, long_vrs = (frozenset(), frozenset()) if is_implicit else (_SHORT_VRS, _LONG_VRS)
        while True:  # the hot loop: 100 to 300 turns for a slice
            try:
                group, element, vr, length = unpack(data, pos)
                value = pos + 8
                if vr not in short_vrs:
                    if vr in long_vrs:
                        (length,) = number(data, value)
                        value += 4
                    elif is_implicit or not b"AA" <= vr <= b"ZZ":  # as pydicom: one element may be implicit
                        (length,) = number(data, pos + 4)
                        vr = b""
            except struct.error:
                data, pos = self._next_head(pos, long_vrs), 0
                if not data:
                    return None
                continue
            tag = group << 16 | element
            if not first <= tag < last:
                self.pos = pos
                return tag, vr, length, value
            if length != _UNDEFINED and tag not in wanted:
                pos = value + length
                continue
            content = self._take(coding, vr, length, value)
            if tag in wanted:
                self._values[tag] = content
            data, pos = self.data, self.pos

    def _next_head(self, pos: int, long_vrs: Set[bytes]) -> bytes:
        """The window, moved to the head at `pos`; nothing where too little is left for another head."""
        data = self.move(pos, _LONG_HEAD)
        if _SHORT_HEAD <= len(data) < _LONG_HEAD and data[4:6] in long_vrs:
            raise DamagedError("the file ends within the head of an element")
        return data if len(data) >= _SHORT_HEAD else b""

    def _take(self, coding: _Coding, vr: bytes, length: int, value: int) -> bytes:
        """Step over a value and return it, b"" for a sequence; moves the window to it where it reaches beyond."""
        self.pos = value + length
        if length == _UNDEFINED:
            self._skip_sequence(coding, value)
        if length == _UNDEFINED or vr == b"SQ" or length > MAX_VALUE_BYTES:
            return b""
        if self.pos > len(self.data):
            self.move(value, length)
            value, self.pos = 0, length
        content = self.data[value : self.pos]
        if len(content) < length:
            raise DamagedError("a value reaches past the end of the file")
        return b"" if vr in (b"", b"UN") and content.startswith(_LITTLE_ITEM) else content

    def _skip_sequence(self, coding: _Coding, value: int) -> None:
        """Step over a value of undefined length, item by item to its delimiter (PS3.5 7.5.2, A.4)."""
        self.pos, self._depth = value, self._depth + 1
        if not coding.is_little and self.move(value, _SHORT_HEAD).startswith((_LITTLE_ITEM, _LITTLE_SEQUENCE_END)):
            coding = _Coding(coding.is_implicit, True)  # UN is little endian in every file, PS3.5 6.2.2
        tag, length = self._item_head(coding)
        while tag == _ITEM and self._depth <= MAX_DEPTH:
            if length == _UNDEFINED:
                inner = coding if _has_vr(self.data, self.pos) else _Coding(True, coding.is_little)
                self.walk(inner, *_IN_ITEM, frozenset())
                if self._item_head(coding)[0] != _ITEM_END:
                    raise DamagedError("an item of a sequence has no end")
            else:
                self.pos += length
            tag, length = self._item_head(coding)
        if tag != _SEQUENCE_END:
            raise DamagedError(f"a sequence is broken, or lies within more than {MAX_DEPTH} others")
        self._depth -= 1

    def _item_head(self, coding: _Coding) -> tuple[int, int]:
        """Tag and length of an item or a delimiter, which have no VR in any encoding (PS3.5 7.5)."""
        if self.pos + 2 * _SHORT_HEAD > len(self.data):  # the head of the item's first element, too
            self.move(self.pos, 2 * _SHORT_HEAD)
        start, self.pos = self.pos, self.pos + _SHORT_HEAD
        if self.pos > len(self.data):
            raise DamagedError("the file ends within a sequence")
        group, element, length = _ITEM_HEAD[coding.is_little].unpack_from(self.data, start)
        return group << 16 | element, length
