"""Reading every case of a data set and naming every fault, before a night of training is spent on them."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.data.manifest import Case, Dataset
from medseg.errors import NiftiError
from medseg.files import sha256_of
from medseg.nifti import read_nifti
from medseg.regions import LabelScheme
from medseg.threads import Progress, map_threads
from medseg.volume import Grid, Volume

_MOST_VALUES = 5


class FaultCode(Enum):
    """Stable codes of what can be wrong with a case or with the folds."""

    MISSING_FILE = "missing-file"
    UNREADABLE_FILE = "unreadable-file"
    CHECKSUM = "checksum-differs"
    CHANNEL_GRID = "channel-grid-differs"
    LABEL_GRID = "label-grid-differs"
    NOT_FINITE = "not-finite"
    CONSTANT_IMAGE = "constant-image"
    DUPLICATE_IMAGE = "duplicate-image"
    FRACTIONAL_LABEL = "fractional-label"
    UNKNOWN_LABEL = "unknown-label"
    EMPTY_LABEL = "empty-label"
    NO_LABEL = "no-label"
    NOT_IN_A_FOLD = "not-in-a-fold"
    PATIENT_IN_TWO_FOLDS = "patient-in-two-folds"
    PATIENT_ON_BOTH_SIDES = "patient-on-both-sides"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with one case.

    Attributes:
        code: The stable code.
        case: The id of the case; for a patient in two places, that of the patient's first case.
        message: One sentence for a person.
    """

    code: FaultCode
    case: str
    message: str

    def __str__(self) -> str:
        return f"{self.case}: {self.code.value}: {self.message}"


def check_dataset(dataset: Dataset, progress: Progress | None = None) -> list[Fault]:
    """Read every file of every case and report everything that is wrong; never stops at the first fault.

    At most 4 cases are read at a time, one file of each after the other.

    Args:
        dataset: What to check.
        progress: Called with the number of cases read and their total.

    Returns:
        The faults: those of the cases in the manifest's order, then duplicates, then those of the folds.
    """
    checks = map_threads(lambda case: _check_case(dataset, case), dataset.cases, progress)
    faults = [fault for check in checks for fault in check.faults]
    return [*faults, *_duplicates(checks), *_fold_faults(dataset)]


@dataclass
class _CaseCheck:
    """What is known of a case so far; the voxels of its files are not kept."""

    case: Case
    faults: list[Fault] = field(default_factory=list)
    grids: list[tuple[str, Grid]] = field(default_factory=list)
    digests: list[tuple[str, str]] = field(default_factory=list)

    def add(self, code: FaultCode, message: str) -> None:
        self.faults.append(Fault(code, self.case.id, message))


def _check_case(dataset: Dataset, case: Case) -> _CaseCheck:
    check = _CaseCheck(case)
    for number, path in enumerate(case.images):
        checksum = case.image_sha256[number] if case.image_sha256 else None
        if path is not None:
            _check_image(check, dataset.channels[number].name, path, checksum)
    for name, grid in check.grids[1:]:
        difference = check.grids[0][1].difference(grid)
        if difference:
            check.add(FaultCode.CHANNEL_GRID, f"{name} does not lie on {check.grids[0][0]}: {difference}")
    if case.label is not None:
        _check_label(check, case.label, dataset.scheme)
    return check


def _read(check: _CaseCheck, path: Path, checksum: str | None) -> Volume | None:
    if not path.is_file():
        check.add(FaultCode.MISSING_FILE, f"{path} is not there")
        return None
    try:
        if checksum is not None and sha256_of(path) != checksum:
            check.add(FaultCode.CHECKSUM, f"{path} is not the file whose SHA-256 the manifest names")
        return read_nifti(path)
    except NiftiError as error:
        check.add(FaultCode.UNREADABLE_FILE, str(error))
    except OSError as error:
        check.add(FaultCode.UNREADABLE_FILE, f"{path}: {error.strerror}")
    return None


def _check_image(check: _CaseCheck, name: str, path: Path, checksum: str | None) -> None:
    image = _read(check, path, checksum)
    if image is None:
        return
    check.grids.append((name, image.grid))
    check.digests.append((name, _digest(image.array)))
    with np.errstate(invalid="ignore"):  # a NaN among the values is what is looked for
        low, high = float(image.array.min()), float(image.array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        count = int(np.count_nonzero(~np.isfinite(image.array)))
        check.add(FaultCode.NOT_FINITE, f"{name} holds NaN or infinity in {count} voxel(s)")
    elif low == high:
        check.add(FaultCode.CONSTANT_IMAGE, f"{name} is {low:g} everywhere")


def _check_label(check: _CaseCheck, path: Path, scheme: LabelScheme) -> None:
    labels, ignore_value = scheme.labels, scheme.ignore_value
    label = _read(check, path, check.case.label_sha256)
    if label is None:
        return
    difference = check.grids[0][1].difference(label.grid) if check.grids else None
    if difference:
        check.add(FaultCode.LABEL_GRID, f"the label does not lie on {check.grids[0][0]}: {difference}")
    values = _distinct(label.array)
    whole = np.isfinite(values) & (values == np.rint(values))
    unknown = labels.unknown_values(values[whole], ignore_value)
    if not whole.all():
        check.add(FaultCode.FRACTIONAL_LABEL, f"the label holds {_list(values[~whole])}: not whole numbers")
    if unknown:
        known = ", ".join(str(value) for value in labels.class_values(ignore_value))
        check.add(FaultCode.UNKNOWN_LABEL, f"the label holds {_list(unknown)}; the table has {known}")
    if not (values[values != ignore_value] if ignore_value is not None else values).any():
        ignored = " or ignored" * (ignore_value in values)
        check.add(FaultCode.EMPTY_LABEL, f"the label is background{ignored} everywhere")


def _distinct(array: NDArray[Any]) -> NDArray[Any]:
    """Return the distinct values of an array, found slice by slice so that little memory is needed."""
    return np.unique(np.concatenate([np.unique(array[:, :, k]) for k in range(array.shape[2])]))


def _digest(array: NDArray[Any]) -> str:
    digest = hashlib.sha256(f"{array.shape} {array.dtype}".encode())
    for k in range(array.shape[2]):
        digest.update(array[:, :, k].tobytes(order="F"))
    return digest.hexdigest()


def _list(values: Iterable[float]) -> str:
    texts = [f"{value:.9g}" for value in values]
    return ", ".join(texts[:_MOST_VALUES]) + (
        f" and {len(texts) - _MOST_VALUES} more" * (len(texts) > _MOST_VALUES)
    )


def _duplicates(checks: Iterable[_CaseCheck]) -> Iterator[Fault]:
    """Yield a fault for each image with the same voxels as one before it, however the files are packed."""
    seen: dict[str, str] = {}
    for check in checks:
        for name, digest in check.digests:
            here = f"{name} of {check.case.id}"
            first = seen.setdefault(digest, here)
            if first is not here:
                yield Fault(FaultCode.DUPLICATE_IMAGE, check.case.id, f"{name} has the voxels of {first}")


def _fold_faults(dataset: Dataset) -> Iterator[Fault]:
    splits = dataset.manifest.splits
    if splits is None:
        return
    validation = {fold: dataset.manifest.validation_ids(fold) for fold in splits.folds}
    named = {name for names in splits.folds.values() for name in names}
    patients: dict[str, list[str]] = defaultdict(list)
    for case in dataset.cases:
        if case.label is not None:
            patients[case.patient].append(case.id)
        elif case.id in named:
            yield Fault(FaultCode.NO_LABEL, case.id, "stands in a fold and has no label")
    for cases in patients.values():
        yield from _patient_faults(cases, validation)


def _patient_faults(cases: Sequence[str], validation: Mapping[int, frozenset[str]]) -> Iterator[Fault]:
    """Yield what is wrong with the folds of one patient, given the ids of all labelled cases of the patient."""
    inside = {fold: [case for case in cases if case in ids] for fold, ids in validation.items()}
    folds = [fold for fold, ids in inside.items() if ids]
    if len(folds) > 1:
        message = f"folds {_list(folds)} are all validated on this patient"
        yield Fault(FaultCode.PATIENT_IN_TWO_FOLDS, cases[0], message)
    for fold in folds:
        outside = [case for case in cases if case not in inside[fold]]
        if outside:
            message = f"fold {fold} trains on {', '.join(outside)} of a patient whom it is validated on"
            yield Fault(FaultCode.PATIENT_ON_BOTH_SIDES, inside[fold][0], message)
    if len(validation) > 1:
        for case in sorted(set(cases).difference(*validation.values())):
            yield Fault(FaultCode.NOT_IN_A_FOLD, case, "no fold is validated on this case")
