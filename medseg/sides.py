"""Left and right in the names of labels, and whether all that a label says of its side agrees."""

from __future__ import annotations

import re

from medseg.labels import Label, Laterality

_SIDE_WORDS = {"left": Laterality.LEFT, "right": Laterality.RIGHT}
_SHORT_SIDES = {"l": Laterality.LEFT, "r": Laterality.RIGHT, "lt": Laterality.LEFT, "rt": Laterality.RIGHT}
_VERTEBRA = {"vertebra", "vertebrae", "vb"}
_WORD_STARTS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=\d)(?=[A-Z][a-z])|(?:(?<=\b[LR])|(?<=_[LR]))(?=[A-Z][a-z])")


def words_of(name: str) -> tuple[str, ...]:
    """Return the words of a name in lower case: ``left_kidney``, ``Left Kidney`` and ``LeftKidney`` are alike."""
    return tuple(re.findall(r"[^\W_]+", _WORD_STARTS.sub(" ", name).lower()))


def split_side(name: str) -> tuple[tuple[str, ...], Laterality | None]:
    """Split the side off the words of a name: left or right, else l, r, lt or rt; in front, behind or within.

    One that names both sides, or none, stays whole. An l before a number is a level of the spine where nothing or
    a vertebra is before it: ``L 3``, ``vertebra_L_3``.
    """
    words = words_of(name)
    places = [place for place, word in enumerate(words) if word in _SIDE_WORDS]
    places = places or [n for n, word in enumerate(words) if word in _SHORT_SIDES and not _is_level(words, n)]
    if len(places) != 1 or len(words) == 1:
        return words, None
    (place,) = places
    return (*words[:place], *words[place + 1 :]), (_SIDE_WORDS | _SHORT_SIDES)[words[place]]


def _is_level(words: tuple[str, ...], place: int) -> bool:
    is_numbered = len(words) > place + 1 and words[place + 1].isdecimal()
    return is_numbered and (place == 0 or words[place - 1] in _VERTEBRA)


def sides_in(text: str) -> set[Laterality]:
    """Return the sides that a text names by whole words, such as the meaning of a code."""
    return {_SIDE_WORDS[word] for word in words_of(text) if word in _SIDE_WORDS}


def side_problem(label: Label) -> str | None:
    """Return how name, laterality and code of a label contradict one another on its side; None if they agree."""
    in_code = sides_in(label.code.meaning) if label.code else set()
    said = {
        "its name": split_side(label.name)[1],
        "its laterality": label.laterality,
        "its code": in_code.pop() if len(in_code) == 1 else None,
    }
    known = {what: side for what, side in said.items() if side is not None}
    if len(set(known.values())) < 2:
        return None
    return ", ".join(f"{what} says {side.value}" for what, side in known.items())
