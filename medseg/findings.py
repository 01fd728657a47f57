"""Findings: what was odd about an input that could be read all the same."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class FindingCode(Enum):
    """Stable codes of the oddities that medseg tolerates and reports."""

    SERIES_UID_MISSING = "series-uid-missing"
    SOP_CLASS_MISSING = "sop-class-missing"
    NOT_AN_IMAGE = "not-an-image"
    FORMS_DISAGREE = "forms-disagree"
    NO_ORIENTATION = "no-orientation"
    NOT_DICOM = "not-dicom"
    DAMAGED_FILE = "damaged-file"


@dataclass(frozen=True)
class Finding:
    """One oddity of one input.

    Attributes:
        code: The stable code.
        message: One sentence for a person; free of patient data.
        where: The file, slice or tag it was seen at.
    """

    code: FindingCode
    message: str
    where: str = ""

    def __str__(self) -> str:
        place = f" ({self.where})" if self.where else ""
        return f"{self.code.value}: {self.message}{place}"
