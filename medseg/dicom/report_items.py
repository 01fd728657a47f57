"""Content items of a report that is read (PS3.3 C.17.3): by their names, at any depth."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset

from medseg.dicom.structure import concept_of

Code = tuple[str, str]
"""Coding scheme and code value."""


def found_items(item: Dataset, code: Code) -> Iterator[Dataset]:
    """Yield the content items of a name at any depth, but within one another."""
    for one in item.get("ContentSequence") or ():
        if code_of(one, "ConceptNameCodeSequence") == code:
            yield one
        else:
            yield from found_items(one, code)


def code_of(item: Dataset, keyword: str) -> Code:
    """Return the first code of a sequence; empty where there is none."""
    concept = concept_of(item.get(keyword))
    return (concept.scheme, concept.value) if concept else ("", "")
