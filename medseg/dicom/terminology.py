"""What a label is, as coded concepts that other programs know: by its own code, else by its name (PS3.16).

A name is looked up in the context groups of DICOM for anatomy, lesions and tissue. It has to be a name that stands
there, but for capitals, separators, the side, and a table of synonyms; nothing is guessed. A name that is not found
gets a private code, which is said.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from highdicom.sr import CodedConcept as CodeItem
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from medseg.dicom.synonyms import ALSO_AMOUNTS, AMBIGUOUS, LESIONS, RIBS, SYNONYMS
from medseg.errors import InputError
from medseg.findings import Finding, FindingCode
from medseg.labels import CodedConcept, Label, Laterality
from medseg.sides import side_problem, sides_in, split_side, words_of

PRIVATE_SCHEME = "99MEDSEG"
"""Coding scheme of labels whose name no terminology at hand knows."""

ANATOMY = CodedConcept(value="91723000", meaning="Anatomical Structure")
LESION = CodedConcept(value="49755003", meaning="Morphologically Abnormal Structure")
TISSUE = CodedConcept(value="85756007", meaning="Tissue")
LEFT = CodedConcept(value="7771000", meaning="Left")
RIGHT = CodedConcept(value="24028007", meaning="Right")

_SIDES = {Laterality.LEFT: LEFT, Laterality.RIGHT: RIGHT}
_LESION_GROUP, _TISSUE_GROUP = 7194, 7191
_GROUPS = (7192, _LESION_GROUP, _TISSUE_GROUP, 7602, 4031, 4, 3010, 3630, 6117, 6116, 6114, 1005)  # the first wins
_CODE_LENGTH, _MEANING_LENGTH = 16, 64  # of VR SH and LO
_VERTEBRA = re.compile(r"(?:vertebrae?|vb) ([ctl]\d{1,2})|([ctl]\d{1,2}) vertebrae?")
_RIB = re.compile(r"ribs? ?0?(\d{1,2})")


@dataclass(frozen=True)
class CodedLabel:
    """What a label is.

    Attributes:
        category: What kind of thing (CID 7150): an anatomical structure, a lesion, tissue.
        type: What it is; of a paired organ without its side, where there is no concept of its own for a side.
        side: Modifier of the type, left or right; None where the type says the side itself or there is none.
        region: Where in the body it lies, of what is no organ itself.
        is_private: Whether the type is a code of medseg's own, which no other program knows.
    """

    category: CodedConcept
    type: CodedConcept
    side: CodedConcept | None = None
    region: CodedConcept | None = None
    is_private: bool = False


def label_code(label: Label) -> CodedLabel:
    """Return what a label is: what it says itself, else what its name says, else a private code.

    Raises:
        InputError: Its name, laterality and code are of different sides.
    """
    if problem := side_problem(label):
        remedy = "correct the label; the recipe's labels may say what it is"
        raise InputError(f"label {label.name}", expected="one side", found=problem, remedy=remedy)
    words, named_side = split_side(label.name)
    side = label.laterality or named_side
    if label.code is not None:
        names_side = sides_in(label.code.meaning)
        modifier = None if names_side or side is None else _SIDES[side]
        found = CodedLabel(_category(label.code), label.code, modifier)
    else:
        found = _by_name(label.name, words, side)
    return CodedLabel(
        label.category or found.category, found.type, found.side, label.region or found.region, found.is_private
    )


def uncoded(labels: Iterable[Label], where: str) -> list[Finding]:
    """Return what is to be said of labels that get private codes.

    Raises:
        InputError: A label is of both sides; see `label_code`.
    """
    names = [label.name for label in labels if label_code(label).is_private]
    if not names:
        return []
    message = f"no code is known for {', '.join(names)}: private ones were taken; give each label a code"
    return [Finding(FindingCode.NO_CODE, message, where)]


def code_item(concept: CodedConcept) -> CodeItem:
    """Return the item of a code sequence (PS3.3 8.8); a meaning is cut to the 64 characters of its VR."""
    return CodeItem(concept.value, concept.scheme, concept.meaning[:_MEANING_LENGTH])


def add_private_scheme(dataset: Dataset, coded: Sequence[CodedLabel]) -> None:
    """Say what the private coding scheme is (PS3.3 C.12.1.1.1), where an object uses it."""
    if not any(label.is_private for label in coded):
        return
    item = Dataset()
    item.CodingSchemeDesignator = PRIVATE_SCHEME
    item.CodingSchemeName = "Names of labels that have no code"
    item.CodingSchemeResponsibleOrganization = "medseg"
    dataset.CodingSchemeIdentificationSequence = [item]


def _by_name(name: str, words: tuple[str, ...], side: Laterality | None) -> CodedLabel:
    """Look a name up: with its side as one concept, then without, then as a lesion of an organ."""
    modifier = None if side is None else _SIDES[side]
    with_side = () if side is None else (" ".join(words_of(name)), " ".join((side.value, *words)))
    for text in with_side:
        if (concept := _known(text)) is not None:
            return CodedLabel(_category(concept), concept)
    if (concept := _known(" ".join(words))) is not None:
        return CodedLabel(_category(concept), concept, modifier)
    if words and words[-1] in LESIONS:
        organ, is_amount = _known(" ".join(words[:-1])), words[-1] in ALSO_AMOUNTS
        is_of_organ = organ is not None and (not is_amount or _category(organ) == ANATOMY)
        if is_of_organ or (len(words) == 1 and not is_amount):  # what else is before it may say that it is none
            return CodedLabel(LESION, _lesion(words[-1]), modifier, organ)
    return CodedLabel(ANATOMY, _private(name, words), modifier, is_private=True)


def _known(text: str) -> CodedConcept | None:
    """Return the concept of a normalised name."""
    if text in AMBIGUOUS:
        return None
    text = SYNONYMS.get(text, text)
    if level := _VERTEBRA.fullmatch(text):
        text = f"{level[1] or level[2]} vertebra"
    if (rib := _RIB.fullmatch(text)) and (number := int(rib[1])) in RIBS:
        ordinal, value = RIBS[number]
        return CodedConcept(value=value, meaning=f"{ordinal} rib")
    return _dictionary()[0].get(text)


def _lesion(word: str) -> CodedConcept:
    return _dictionary()[0][LESIONS[word]]


def _category(concept: CodedConcept) -> CodedConcept:
    group = _dictionary()[1].get((concept.scheme, concept.value))
    return {_LESION_GROUP: LESION, _TISSUE_GROUP: TISSUE}.get(group or 0, ANATOMY)


@cache
def _dictionary() -> tuple[dict[str, CodedConcept], dict[tuple[str, str], int]]:
    """Return the concepts by normalised name, and the first group that each code stands in."""
    names: dict[str, CodedConcept] = {}
    groups: dict[tuple[str, str], int] = {}
    for group in _GROUPS:
        for code in getattr(codes, f"cid{group}").concepts.values():
            concept = CodedConcept(value=code.value, meaning=code.meaning, scheme=code.scheme_designator)
            names.setdefault(" ".join(words_of(code.meaning)), concept)
            groups.setdefault((concept.scheme, concept.value), group)
    return names, groups


def _private(name: str, words: tuple[str, ...]) -> CodedConcept:
    """Return a code of a name without its side: the name itself where it fits, else a hash of it."""
    text = "_".join(words) or name
    fits = len(text) <= _CODE_LENGTH and text.isascii()
    value = text if fits else hashlib.sha256(text.encode()).hexdigest()[:_CODE_LENGTH]
    return CodedConcept(value=value, meaning=(" ".join(words) or name)[:_MEANING_LENGTH], scheme=PRIVATE_SCHEME)
