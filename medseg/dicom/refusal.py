"""Refusing a series: one sentence that says why, with the code of the finding."""

from __future__ import annotations

from medseg.errors import DicomError
from medseg.findings import FindingCode

_EXPORT = "export the series again, or segment another one"


def refusal(where: str, code: FindingCode, expected: str, found: str, remedy: str = _EXPORT) -> DicomError:
    """Return the error that refuses a series.

    Args:
        where: The series, by its hashed name.
        code: Of the finding.
        expected: What should have been there.
        found: What was there; never patient data.
        remedy: What the user can do.
    """
    return DicomError(where, expected=expected, found=found, remedy=remedy, reason=code.value)
