"""`Structure`: one thing that a label object outlines: a region of an RTSTRUCT or a segment of a SEG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pydicom.dataset import Dataset

from medseg.dicom.contours import Mask
from medseg.dicom.values import readable, without_identity
from medseg.findings import Finding
from medseg.labels import CodedConcept, Laterality

_SIDES = {
    ("SCT", "7771000"): Laterality.LEFT,
    ("SCT", "24028007"): Laterality.RIGHT,
    ("SRT", "G-A101"): Laterality.LEFT,
    ("SRT", "G-A100"): Laterality.RIGHT,
}
_MODIFIERS = ("SegmentedPropertyTypeModifierCodeSequence", "AnatomicRegionModifierSequence")


class Kind(Enum):
    """The kinds of label objects that are read."""

    RTSTRUCT = "RTSTRUCT"
    SEG = "SEG"


@dataclass(frozen=True)
class Structure:
    """One region of interest or segment, as its object describes it.

    Attributes:
        number: ROINumber or SegmentNumber.
        name: ROIName or SegmentLabel as it stands; `shown` is what may be printed.
        shown: The name without the patient's names and numbers, in one line.
        code: What it is, where the object says so.
        laterality: Its side, where a modifier says so.
        frame_of_reference_uid: That its coordinates count in; "" where none is named.
        images: SOPInstanceUIDs of the images that it was drawn on; empty where it names none.
        is_empty: It has nothing drawn.
    """

    number: int
    name: str = field(repr=False)
    shown: str
    code: CodedConcept | None = None
    laterality: Laterality | None = None
    frame_of_reference_uid: str = field(default="", repr=False)
    images: frozenset[str] = field(default=frozenset(), repr=False)
    is_empty: bool = False


@dataclass(frozen=True)
class Drawing:
    """A structure on the slices of a stack.

    Attributes:
        slices: Index in the stack -> mask (rows, columns); only slices on which something is drawn.
        findings: What was odd about it.
    """

    slices: Mapping[int, Mask] = field(repr=False)
    findings: tuple[Finding, ...]


def shown_name(name: str, hidden: tuple[str, ...]) -> str:
    """Return a name as it may be shown."""
    return without_identity(readable(name), hidden)


def concept_of(items: Sequence[Dataset] | None) -> CodedConcept | None:
    """Return the first concept of a code sequence (PS3.3 8.8), or None where there is no whole one."""
    item = (items or [Dataset()])[0]
    value = text_of_element(item, "CodeValue") or text_of_element(item, "LongCodeValue")
    scheme, meaning = text_of_element(item, "CodingSchemeDesignator"), text_of_element(item, "CodeMeaning")
    if not (value and scheme):
        return None
    return CodedConcept(value=value, scheme=scheme, meaning=meaning or value)


def side_of(item: Dataset) -> Laterality | None:
    """Return the side that a modifier of a code sequence's item, or of a segment, names."""
    for name in _MODIFIERS:
        concept = concept_of(item.get(name))
        if concept and (side := laterality_of(concept)):
            return side
    return None


def laterality_of(concept: CodedConcept) -> Laterality | None:
    """Return the side that a concept is; None where it is no side."""
    return _SIDES.get((concept.scheme, concept.value))


def text_of_element(dataset: Dataset, keyword: str) -> str:
    """Return a single value as text; "" where it is missing."""
    value: Any = dataset.get(keyword)
    return "" if value is None else str(value).strip(" \0")


def whole_number(dataset: Dataset, keyword: str) -> int:
    """Return a single whole number.

    Raises:
        ValueError: It is missing, or none.
    """
    value = dataset.get(keyword)
    if value is None:
        raise ValueError(f"no {keyword}")
    return int(value)
