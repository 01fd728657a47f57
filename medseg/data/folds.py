"""Splitting patients into folds for cross-validation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from medseg.errors import UsageError


def patient_folds(patients: Sequence[str], folds: int, seed: int) -> list[list[str]]:
    """Deal patients into folds at random, each patient into exactly one.

    The order is that of the SHA-256 of ``"<seed>:<patient>"``: it depends neither on the order of the input
    nor on the version of any library, and anyone can compute it again.

    Args:
        patients: Patient ids; a patient with several cases may be named several times.
        folds: Number of folds, at least 2.
        seed: Another seed gives another split.

    Returns:
        The validation patients of each fold, sorted. Sizes differ by one at most, larger folds first.

    Raises:
        UsageError: There are fewer than 2 folds, or fewer patients than folds.
    """
    different = set(patients)
    if folds < 2:
        raise UsageError("folds", expected="at least 2", found=str(folds), remedy="give 2 folds or more")
    if len(different) < folds:
        raise UsageError(
            "folds",
            expected=f"at least one patient for each of {folds} folds",
            found=f"{len(different)} patient(s)",
            remedy=f"give at most {len(different)} folds" if len(different) > 1 else "add patients",
        )
    dealt = sorted(different, key=lambda patient: (_draw(patient, seed), patient))
    return [sorted(dealt[start::folds]) for start in range(folds)]


def _draw(patient: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{patient}".encode()).digest()
