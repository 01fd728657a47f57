"""What an object says that its parts are, compared with the labels: type, category and side."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydicom.dataset import Dataset

from medseg.dicom.structure import concept_of, side_of, text_of_element, whole_number
from medseg.dicom.terminology import label_code
from medseg.labels import CodedConcept, Label, LabelSet, Laterality
from medseg.proof import proof_error

_WORD_ENDS = re.compile(r"[\W_]+|(?<=[a-z])(?=[A-Z])")
_SIDES = {"left": Laterality.LEFT, "right": Laterality.RIGHT}
_LAST_LETTERS = {"l": Laterality.LEFT, "r": Laterality.RIGHT}


@dataclass(frozen=True)
class Coded:
    """What an object says of one of its parts.

    Attributes:
        type: What it is.
        category: What kind of thing.
        side: What a modifier says.
    """

    type: CodedConcept | None
    category: CodedConcept | None
    side: Laterality | None


def check_segments(dataset: Dataset, classes: Mapping[int, int], labels: LabelSet, where: str) -> None:
    """Check the codes of every segment of a SEG.

    Args:
        dataset: The SEG.
        classes: SegmentNumber -> class index of the label, from 1.
        labels: Of the mask.
        where: For messages.

    Raises:
        ProofError: One has the type, category or side of another label, or none.
    """
    for item in dataset.SegmentSequence:
        if number := classes.get(whole_number(item, "SegmentNumber")):
            check_coded(_coded(item, "SegmentedPropertyTypeCodeSequence"), tuple(labels)[number - 1], where)


def check_regions(dataset: Dataset, classes: Mapping[int, int], labels: LabelSet, where: str) -> None:
    """Check the codes of every region of an RTSTRUCT; as `check_segments` does.

    Raises:
        ProofError: As there; or a region is not observed once.
    """
    observed = {whole_number(item, "ReferencedROINumber"): item for item in dataset.RTROIObservationsSequence}
    if set(observed) != set(classes) or len(dataset.RTROIObservationsSequence) != len(classes):
        raise proof_error(where, "an observation of each region", f"{len(observed)} for {len(classes)} regions")
    for number, own in classes.items():
        check_coded(_coded(observed[number], "RTROIIdentificationCodeSequence"), tuple(labels)[own - 1], where)


def check_coded(found: Coded, label: Label, where: str) -> None:
    """Check what an object says that a label is.

    Type and category are the label's own where it has them, else those that terminology has for its name. The side
    is read here, from the label and from its name, on its own.

    Raises:
        ProofError: Something else is said.
    """
    at, known = f"{where}, label {label.name}", label_code(label)
    for what, want, got in (
        ("type", label.code or known.type, found.type),
        ("category", label.category or known.category, found.category),
    ):
        if got is None or (got.scheme, got.value) != (want.scheme, want.value):
            found_text = "no code" if got is None else f"{got.value} ({got.meaning})"
            raise proof_error(at, f"the {what} {want.value} ({want.meaning})", found_text)
    want_side, said = label_side(label), _named(found.type.meaning if found.type else "")
    sides = {side for side in (found.side, said) if side is not None}
    if want_side is None and found.side in (None, said):
        return
    if sides != {want_side}:
        names = " and ".join(sorted(side.value for side in sides)) or "none"
        raise proof_error(at, f"the side {want_side.value}" if want_side else "no side", names)


def label_side(label: Label) -> Laterality | None:
    """Return the side of a label: its own, else what its name says."""
    if label.laterality is not None:
        return label.laterality
    words = [word.lower() for word in _WORD_ENDS.split(label.name) if word]
    if len(words) < 2:
        return None
    return _named(label.name) or (None if set(_SIDES) & set(words) else _LAST_LETTERS.get(words[-1]))


def _named(text: str) -> Laterality | None:
    """Return the side that a text names; None where it names none, or more than one."""
    sides = [word.lower() for word in _WORD_ENDS.split(text) if word.lower() in _SIDES]
    return _SIDES[sides[0]] if len(sides) == 1 else None


def _coded(item: Dataset, keyword: str) -> Coded:
    """Return what an item says; both modifiers, that of the type and that of the region, count."""
    types: Iterable[Dataset] = item.get(keyword) or ()
    regions: Iterable[Dataset] = item.get("AnatomicRegionSequence") or ()
    sides = {side for one in (*types, *regions) if (side := side_of(one)) is not None}
    category = concept_of(item.get("SegmentedPropertyCategoryCodeSequence"))
    if len(sides) > 1:
        name = text_of_element(item, "SegmentLabel")
        raise proof_error(name or "an object", "one side", "the type's and the region's differ")
    return Coded(concept_of(item.get(keyword)), category, next(iter(sides), None))
