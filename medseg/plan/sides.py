"""Whether labels tell left from right: mirrored images would teach such a network the wrong names."""

from __future__ import annotations

import re
import unicodedata

from medseg.labels import LabelSet

_WORDS = re.compile(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*")
_NAMES = {"l", "r", "lt", "rt", "lh", "rh", "gauche", "droit", "droite", "sinister", "dexter"}
_NAMES |= {"links", "linke", "linker", "linkes", "rechts", "rechte", "rechter", "rechtes"}
_PART = re.compile(r"(left(?!over)|right).*|.{3,}(left|right)")  # 'leftlung', 'kidneyright'; not 'bright', 'cleft'


def has_sides(labels: LabelSet) -> bool:
    """Whether labels tell left from right, by their laterality or their names.

    A name does where one of its words says a side: ``kidney_left``, ``LeftKidney``, ``leftlung``, ``KidneyL``,
    ``lh``. A name that is mistaken for one costs the training its mirrored images, and nothing else.
    """
    return any(label.laterality is not None or _is_sided(label.name) for label in labels)


def _is_sided(name: str) -> bool:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    words = [word.lower() for word in _WORDS.findall(plain)]
    return any(word in _NAMES or _PART.fullmatch(word) for word in words)
