"""Existing data sets -> manifests: Medical Segmentation Decathlon, nnU-Net raw and BIDS folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from medseg.data.bids import read_bids
from medseg.data.folds import patient_folds
from medseg.data.layouts import (
    FoundCase,
    FoundDataset,
    Layout,
    describe_problems,
    detect_layout,
    name_first,
    read_decathlon,
    read_nnunet_raw,
)
from medseg.data.schema import CaseEntry, Channel, Manifest, Modality, Splits
from medseg.errors import ManifestError, UsageError
from medseg.files import sha256_of
from medseg.labels import LabelSet
from medseg.threads import Progress, map_threads

_MODALITIES = (
    (r"CBCT|CTA?", Modality.CT),
    (r"MR[IA]?|T1\w*|T2\w*|FLAIR|ADC|DWI|SWI|PD", Modality.MR),
    (r"PET|PT|SUV|FDG", Modality.PET),
    (r"US|ULTRASOUND", Modality.ULTRASOUND),
)


@dataclass(frozen=True)
class ImportOptions:
    """What an import adds to what the folder says.

    Attributes:
        name: Name of the data set; the one in dataset.json where it is None.
        patient_regex: Searched in each case id; its first group (or the whole match) is the patient.
            Each case is a patient of its own where it is None.
        folds: Number of cross-validation folds that are drawn and written down; 0 for none.
        seed: Of the folds.
        derivative: Folder below ``derivatives`` that holds the labels of a BIDS data set.
    """

    name: str | None = None
    patient_regex: str | None = None
    folds: int = 5
    seed: int = 0
    derivative: str | None = None


def import_folder(folder: Path, options: ImportOptions | None = None, progress: Progress | None = None) -> Manifest:
    """Import a folder of whichever layout its dataset.json shows; see `import_decathlon` for the rest."""
    return _IMPORTERS[detect_layout(folder)](folder, options, progress)


def import_decathlon(
    folder: Path, options: ImportOptions | None = None, progress: Progress | None = None
) -> Manifest:
    """Make a manifest of a Medical Segmentation Decathlon folder, with the checksum of every file.

    Args:
        folder: Holds dataset.json, imagesTr and labelsTr.
        options: Name, patients and folds.
        progress: Called with the number of cases read and their total.

    Returns:
        The manifest, without a root: its paths start from `folder`.

    Raises:
        ManifestError: dataset.json is wrong, files are missing or unreadable, or images are 4-D.
        UsageError: The patient pattern or the number of folds does not fit.
    """
    return _manifest(read_decathlon(folder), options or ImportOptions(), progress)


def import_nnunet_raw(
    folder: Path, options: ImportOptions | None = None, progress: Progress | None = None
) -> Manifest:
    """Make a manifest of an nnU-Net 2 raw folder, with the checksum of every file.

    Args:
        folder: Holds dataset.json, imagesTr (``CASE_0000.nii.gz``, one file a channel) and labelsTr, unless the
            ``dataset`` key of dataset.json lists the files.
        options: Name, patients and folds.
        progress: Called with the number of cases read and their total.

    Returns:
        The manifest, without a root: its paths start from `folder`.

    Raises:
        ManifestError: dataset.json is wrong, files are missing, unreadable or left over, or they are not NIfTI.
        UsageError: The patient pattern or the number of folds does not fit.
    """
    return _manifest(read_nnunet_raw(folder), options or ImportOptions(), progress)


def import_bids(folder: Path, options: ImportOptions | None = None, progress: Progress | None = None) -> Manifest:
    """Make a manifest of a BIDS data set whose labels lie below ``derivatives``, with the checksum of every file.

    Args:
        folder: Holds dataset_description.json, ``sub-XX[/ses-YY]/anat`` and ``derivatives``.
        options: Name, patients and folds; the subject is the patient where no pattern is given.
        progress: Called with the number of cases read and their total.

    Returns:
        The manifest, without a root: its paths start from `folder`.

    Raises:
        ManifestError: Files are missing or wrong; see `medseg.data.bids.read_bids`.
        UsageError: The patient pattern or the number of folds does not fit.
    """
    options = options or ImportOptions()
    return _manifest(read_bids(folder, options.derivative), options, progress)


_IMPORTERS = {
    Layout.DECATHLON: import_decathlon,
    Layout.NNUNET_RAW: import_nnunet_raw,
    Layout.BIDS: import_bids,
}


def _manifest(found: FoundDataset, options: ImportOptions, progress: Progress | None) -> Manifest:
    patients = {case.name: case.patient for case in found.cases if case.patient}
    patients |= _patients([case.name for case in found.cases], options.patient_regex)
    owners = [patients.get(case.name, case.name) for case in found.cases]
    folds = patient_folds(owners, options.folds, options.seed) if options.folds else []
    try:
        return Manifest(
            name=options.name or found.name,
            description=found.description,
            license=found.license,
            channels=tuple(Channel(name=name, modality=modality_of(name)) for name in found.channels),
            labels=LabelSet.from_names(found.labels),
            cases=tuple(_checksummed(found, patients, progress)),
            regions=found.regions,
            ignore_value=found.ignore_value,
            splits=Splits(seed=options.seed, folds=dict(enumerate(map(tuple, folds)))) if folds else None,
        )
    except ValidationError as error:
        raise ManifestError(
            found.folder,
            expected="facts that fit together",
            found=describe_problems(error),
            remedy="correct dataset.json",
        ) from error


def _patients(cases: Sequence[str], pattern: str | None) -> dict[str, str]:
    """Return the patient of each case, or nothing where each case is a patient of its own."""
    if pattern is None:
        return {}
    try:
        matches = {case: re.search(pattern, case) for case in cases}
    except re.error as error:
        raise UsageError(
            "--patient-regex", expected="a regular expression", found=f"{pattern} ({error})", remedy="correct it"
        ) from error
    groups = {case: (match[1 if match.re.groups else 0] or "") if match else "" for case, match in matches.items()}
    bare = [case for case, patient in groups.items() if not patient]
    if bare:
        raise UsageError(
            "--patient-regex",
            expected=f"{pattern} to name the patient in each case id",
            found=f"no match in {len(bare)}: {name_first(bare)}",
            remedy="correct the pattern; its first group is the patient",
        )
    return groups


def modality_of(channel: str) -> Modality:
    """Guess how an image was made from the name of its channel; `Modality.OTHER` where it says nothing."""
    for names, modality in _MODALITIES:
        if re.search(rf"(?<![a-z])({names})(?![a-z])", channel, re.IGNORECASE):
            return modality
    return Modality.OTHER


def _checksummed(found: FoundDataset, patients: dict[str, str], progress: Progress | None) -> list[CaseEntry]:
    def entry(case: FoundCase) -> CaseEntry:
        return CaseEntry(
            id=case.name,
            patient=patients.get(case.name),
            images=tuple(case.images),
            label=case.label,
            image_sha256=tuple(sha256_of(found.folder / image) if image else None for image in case.images),
            label_sha256=sha256_of(found.folder / case.label),
        )

    try:
        return map_threads(entry, found.cases, progress)
    except OSError as error:
        raise ManifestError(
            found.folder, expected="readable files", found=type(error).__name__, remedy="check their permissions"
        ) from error
