"""The character set of an object: that of its source where it holds all texts, else UTF-8 (PS3.3 C.12.1.1.2)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pydicom.charset import convert_encodings, decode_bytes, encode_string
from pydicom.dataset import Dataset

from medseg.dicom.quiet import quiet_pydicom

UTF_8 = "ISO_IR 192"

_TEXTS = {"LO", "LT", "PN", "SH", "ST", "UC", "UT"}  # PS3.5 6.1.2.3
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_ASCII = {"", "ISO_IR 6", "ISO 2022 IR 6"}


def fit_character_set(dataset: Dataset) -> None:
    """Make an object's SpecificCharacterSet UTF-8 if what it says does not hold its texts; else leave it.

    What comes from the source in another character set is decoded, and written in UTF-8 as well.

    Args:
        dataset: With its texts, those of the source included.
    """
    with quiet_pydicom():
        texts = {text for text in _texts(dataset) if not text.isascii()}
        found = dataset.get("SpecificCharacterSet") or ""
        names = [found] if isinstance(found, str) else [str(name) for name in found]
        if not all(_holds(names, text) for text in texts):
            dataset.SpecificCharacterSet = UTF_8


def _texts(dataset: Dataset) -> Iterator[str]:
    """Return the texts of a dataset and its items; each element is decoded on the way."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from _texts(item)
        elif element.VR in _TEXTS and element.value is not None:
            is_one = isinstance(element.value, str) or not isinstance(element.value, Sequence)
            yield from (str(value) for value in ([element.value] if is_one else element.value))


def _holds(names: list[str], text: str) -> bool:
    """Whether character sets hold a text that is not all ASCII."""
    if all(name.strip() in _ASCII for name in names):
        return False
    try:
        found = zip(names, convert_encodings(list(names)), strict=True)
        encodings = ["ascii" if name.strip() in _ASCII else encoding for name, encoding in found]
        parts = _NOT_ASCII.findall(text)
        return all(decode_bytes(encode_string(part, encodings), encodings, set()) == part for part in parts)
    except (LookupError, ValueError):
        return False
