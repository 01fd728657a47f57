"""Raw values of data elements -> text and numbers (PS3.5 6.2); what is not valid becomes "" or None."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR

Numbers = tuple[float, ...]

_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_CHARSET_VRS = {"SH", "LO", "ST", "LT", "UC", "UT", "PN"}
_TEXT_DELIMITERS = {0x0A, 0x0C, 0x0D, 0x5C}
_LEAST_IDENTITY = 3  # characters; shorter ones would hide ordinary words
_HIDDEN = "***"


@lru_cache(maxsize=4096)
def vr_of(tag: int) -> str:
    """Return the value representation of a standard tag: the first of several, ``UN`` if there is none."""
    try:
        return str(dictionary_VR(tag)).partition(" ")[0]
    except KeyError:
        return "UN"


@lru_cache(maxsize=65536)
def text_of(raw: bytes, vr: str, is_little_endian: bool = True, charset: str = "") -> str:
    """Return a value as text: its parts joined by backslashes, without padding.

    Args:
        raw: As it stands in the file.
        vr: Value representation.
        is_little_endian: Of binary numbers.
        charset: SpecificCharacterSet, parts joined by backslashes.
    """
    if vr in _BINARY:
        return "\\".join(f"{number:.9g}" for number in _binary(raw, vr, is_little_endian))
    if raw.isascii() and b"\x1b" not in raw:
        text = raw.decode("ascii")
    elif vr in _CHARSET_VRS:
        text = _decoded(raw, charset)
    else:
        text = raw.decode("latin-1")
    return "\\".join(part.strip(" \0\r\n\t") for part in text.split("\\"))


def numbers_of(text: str, count: int | None = None) -> Numbers | None:
    """Return the finite numbers that a text holds, or None where they are not `count` finite numbers."""
    if not text:
        return None
    try:
        numbers = tuple([float(part) for part in text.split("\\")])
    except ValueError:
        return None
    if (count is not None and len(numbers) != count) or not all(map(math.isfinite, numbers)):
        return None
    return numbers


def whole_of(text: str, default: int = 0) -> int:
    """Return the whole number that a text holds, or the default."""
    try:
        return int(text) if text else default
    except ValueError:
        return default


def distinct(values: Iterable[str]) -> tuple[str, ...]:
    """Return the different values that are not empty, in the order in which they come."""
    return tuple(dict.fromkeys(value for value in values if value))


def identities(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the parts of a patient's names and numbers that must not be shown, longest first."""
    parts = {part.casefold() for text in texts for part in re.split(r"[\^=\s\\]+", text)}
    return tuple(
        sorted((part for part in parts if len(part) >= _LEAST_IDENTITY), key=lambda part: (-len(part), part))
    )


def without_identity(text: str, hidden: tuple[str, ...]) -> str:
    """Return a free text with the parts in `hidden` replaced by stars."""
    low = text.casefold()
    if not any(part in low for part in hidden):
        return text
    return re.sub("|".join(map(re.escape, hidden)), _HIDDEN, text, flags=re.IGNORECASE)


def _binary(raw: bytes, vr: str, is_little_endian: bool) -> tuple[float, ...]:
    letter = _BINARY[vr]
    count = len(raw) // struct.calcsize(f"={letter}")
    order = "<" if is_little_endian else ">"
    return struct.unpack_from(f"{order}{count}{letter}", raw)


def _decoded(raw: bytes, charset: str) -> str:
    try:
        encodings = convert_encodings(charset.split("\\"))
        return str(decode_bytes(raw, encodings, _TEXT_DELIMITERS))
    except (LookupError, ValueError):
        return raw.decode("latin-1")
