"""`Study`: what is segmented together, and its images. Nothing here needs a network, nor imports torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from medseg.dicom.read import read_stack
from medseg.dicom.stack import Stack
from medseg.errors import InputError
from medseg.findings import Finding
from medseg.nifti import case_name, read_nifti
from medseg.volume import Volume


@dataclass(frozen=True)
class Study:
    """What is segmented together.

    Attributes:
        source: What the user named: a NIfTI file, or where DICOM lies.
        files: NIfTI files, one a channel; empty for DICOM.
        present: Which channels the files are; empty where they are all.
        stack: The slices of a DICOM series.
        problem: Why it cannot be segmented, where that is known before anything is read.
    """

    source: Path
    files: tuple[Path, ...] = ()
    stack: Stack | None = None
    problem: InputError | None = None
    present: tuple[bool, ...] = ()


def nifti_study(files: tuple[Path, ...], present: tuple[bool, ...] = ()) -> Study:
    """Return the study of NIfTI files, one a channel; `present` says which channels they are, all by default."""
    return Study(files[0], files, present=present)


def read_study(study: Study) -> list[Volume | None]:
    """Read the images of a study, one a channel, None for one that is missing.

    Raises:
        InputError: A file or series cannot be read right.
    """
    if study.problem:
        raise study.problem
    if study.stack:
        return [read_stack(study.stack)]
    files = iter(study.files)
    return [read_nifti(next(files)) if there else None for there in study.present or [True] * len(study.files)]


class HasFindings(Protocol):
    """A volume, or what stands for one."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was odd about it."""


def all_findings(images: Iterable[HasFindings | None], labels: HasFindings) -> tuple[Finding, ...]:
    """Return what was odd about the images of a study and about how they were segmented, each once."""
    found = [finding for image in images if image is not None for finding in image.findings]
    return tuple(dict.fromkeys([*found, *labels.findings]))


def study_name(study: Study) -> str:
    """Return a short name for messages and files: a NIfTI file's without suffix and channel number."""
    if not study.files:
        return f"series {study.stack.series.name}" if study.stack else study.source.name
    name = case_name(study.files[0])
    return re.sub(r"_\d{4}$", "", name) if len(study.files) > 1 or study.present else name


def output_name(study: Study) -> str:
    """Return the label map's file name: as the NIfTI input's, or by the series' hash, free of patient data."""
    return f"{study_name(study).replace(' ', '_') if study.stack else study_name(study)}.nii.gz"
