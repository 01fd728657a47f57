"""What a label is called in objects: in all of them alike, and as a VR LO may be (PS3.5 6.2)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from medseg.labels import Label

_LENGTH = 64  # of VR LO
_DIGITS = 8


def object_names(labels: Iterable[Label]) -> dict[int, str]:
    """Return the names of labels in objects, by label value; see `object_name`."""
    return {label.index: object_name(label) for label in labels}


def object_name(label: Label) -> str:
    """Return the name of a label in SEG, RTSTRUCT and SR: its own one where it may stand there.

    Else it has at most 64 characters, each backslash and control character is an underscore, and a tilde and a hash
    of the whole name follow, so that different names stay different whatever other labels there are.
    """
    text = "".join("_" if letter == "\\" or not letter.isprintable() else letter for letter in label.name).strip()
    if text == label.name and len(text) <= _LENGTH:
        return text
    digest = hashlib.sha256(label.name.encode(errors="surrogatepass")).hexdigest()[:_DIGITS]
    return f"{text[: _LENGTH - 1 - _DIGITS].strip()}~{digest}"
