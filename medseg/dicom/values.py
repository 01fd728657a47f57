"""Raw values of data elements -> text and numbers (PS3.5 6.2); what is not valid becomes "" or None."""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR
from pydicom.uid import UID_dictionary

Numbers = tuple[float, ...]

_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_CHARSET_VRS = {"SH", "LO", "ST", "LT", "UC", "UT", "PN"}
_TEXT_DELIMITERS = {0x0A, 0x0C, 0x0D, 0x5C}
_NAME_DELIMITERS = _TEXT_DELIMITERS | {0x5E}
_LEAST_IDENTITY = 3  # characters; shorter ones would hide ordinary words
_HIDDEN = "***"
_HASH_DIGITS = 12
_DECIMAL = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?\s*", re.ASCII)
_WHOLE = re.compile(r"\s*[+-]?\d{1,18}\s*", re.ASCII)
_DATE = re.compile(r"(\d{4})(\d\d)(\d\d)", re.ASCII)
_DATE_FORMS = (
    "{0}-{1}-{2}",
    "{0}.{1}.{2}",
    "{0}/{1}/{2}",
    "{2}.{1}.{0}",
    "{2}/{1}/{0}",
    "{2}-{1}-{0}",
    "{1}/{2}/{0}",
)
_LEAST_MM, _MOST_MM = 1e-6, 1e6
_LONGEST_DIRECTION = 2.0


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
        return "\\".join(map(str, _binary(raw, vr, is_little_endian)))
    if raw.isascii() and b"\x1b" not in raw:
        text = raw.decode("ascii")
    elif vr in _CHARSET_VRS:
        text = _decoded(raw, vr, charset)
    else:
        text = raw.decode("latin-1")
    return "\\".join(part.strip(" \0\r\n\t") for part in text.split("\\"))


def numbers_of(text: str, count: int | None = None) -> Numbers | None:
    """Return the finite numbers that a text holds, or None where they are not `count` finite numbers."""
    if not text or (count is not None and text.count("\\") + 1 != count):
        return None
    parts = text.split("\\")
    if not all(map(_DECIMAL.fullmatch, parts)):
        return None
    numbers = tuple([float(part) for part in parts])
    return numbers if all(map(math.isfinite, numbers)) else None


def millimetres_of(text: str, count: int) -> Numbers | None:
    """Return numbers as `numbers_of` does, or None where one is beyond a kilometre."""
    numbers = numbers_of(text, count)
    return None if numbers is None or max(map(abs, numbers)) > _MOST_MM else numbers


def spacing_of(text: str) -> Numbers | None:
    """Return the two numbers of a PixelSpacing, or None where they are not two lengths above a nanometre."""
    spacing = millimetres_of(text, 2)
    return None if spacing is None or min(spacing) < _LEAST_MM else spacing


def directions_of(text: str) -> Numbers | None:
    """Return the six numbers of an ImageOrientationPatient, or None where they cannot be two directions."""
    numbers = numbers_of(text, 6)
    return None if numbers is None or max(map(abs, numbers)) > _LONGEST_DIRECTION else numbers


def uid_name(uid: str) -> str:
    """Return the name of a standard UID, or "" for any other text."""
    return UID_dictionary[uid][0] if uid in UID_dictionary else ""


def readable(text: str) -> str:
    """Return a text without letters that a terminal would take as orders."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def whole_of(text: str, default: int = 0) -> int:
    """Return the whole number that a text holds, or the default."""
    return int(text) if _WHOLE.fullmatch(text) else default


def distinct(values: Iterable[str]) -> tuple[str, ...]:
    """Return the different values that are not empty, in the order in which they come."""
    return tuple(dict.fromkeys(value for value in values if value))


def short_hash(*texts: str) -> str:
    """Return the first digits of a SHA-256, which tell texts apart without showing them."""
    return hashlib.sha256("|".join(texts).encode(errors="replace")).hexdigest()[:_HASH_DIGITS]


@lru_cache(maxsize=1024)
def identities(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the parts of a patient's names, numbers and dates that must not be shown, longest first."""
    words = [word for text in texts for word in re.split(r"[\W_]+", text)]
    matches = [match for word in words if (match := _DATE.fullmatch(word))]
    dates = [form.format(*match.groups()) for match in matches for form in _DATE_FORMS]
    parts = {part.casefold() for part in (*words, *dates)}
    telling = [part for part in parts if len(part) >= _LEAST_IDENTITY or (len(part) == 2 and part.isalpha())]
    return tuple(sorted(telling, key=lambda part: (-len(part), part)))


def without_identity(text: str, hidden: tuple[str, ...]) -> str:
    """Return a free text with the parts in `hidden` replaced by stars."""
    folded = text.casefold()
    spans = [span for part in hidden if part in folded for span in _spans(part, folded)]
    if not spans:
        return text
    owners = [index for index, letter in enumerate(text) for _ in letter.casefold()]  # one letter may fold to two
    covered = {owner for start, stop in spans for owner in owners[start:stop]}
    runs = groupby(range(len(text)), covered.__contains__)
    return "".join(_HIDDEN if is_hidden else "".join(text[k] for k in run) for is_hidden, run in runs)


def _spans(part: str, text: str) -> Iterator[tuple[int, int]]:
    """Where a part stands in a text; one of two letters only as a word of its own."""
    start = text.find(part)
    while start >= 0:
        stop = start + len(part)
        around = text[max(start - 1, 0) : start] + text[stop : stop + 1]
        if len(part) >= _LEAST_IDENTITY or not any(map(str.isalnum, around)):
            yield start, stop
        start = text.find(part, start + 1)


def _binary(raw: bytes, vr: str, is_little_endian: bool) -> tuple[float, ...]:
    letter = _BINARY[vr]
    count = len(raw) // struct.calcsize(f"={letter}")
    order = "<" if is_little_endian else ">"
    return struct.unpack_from(f"{order}{count}{letter}", raw)


def _decoded(raw: bytes, vr: str, charset: str) -> str:
    delimiters = _NAME_DELIMITERS if vr == "PN" else _TEXT_DELIMITERS
    parts = raw.split(b"=") if vr == "PN" else [raw]  # each form of a name begins with the first character set
    try:
        encodings = convert_encodings(charset.split("\\"))
        return "=".join(str(decode_bytes(part, encodings, delimiters)) for part in parts)
    except (LookupError, ValueError):
        return raw.decode("latin-1")
