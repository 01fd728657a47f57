"""One study: read, segment, write the label map on the study's own grid."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.dicom.plan import Decision, plan_pile
from medseg.dicom.policy import Policies
from medseg.dicom.read import read_stack
from medseg.dicom.select import SeriesRules
from medseg.dicom.stack import Stack
from medseg.errors import DicomError, InputError, listed
from medseg.findings import Finding
from medseg.model import ModelPackage
from medseg.nifti import case_name, is_nifti, read_nifti, write_nifti
from medseg.reading import nothing_taken
from medseg.segmenter import ANY_MODALITY, Segmenter
from medseg.tiles import Advance
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


@dataclass(frozen=True)
class Segmentation:
    """What became of a study that was segmented.

    Attributes:
        output: The label map.
        volumes_ml: Volume of every label, by name.
        findings: What was odd about the input.
    """

    output: Path
    volumes_ml: dict[str, float]
    findings: tuple[Finding, ...]


def nifti_study(files: tuple[Path, ...], present: tuple[bool, ...] = ()) -> Study:
    """Return the study of NIfTI files, one a channel; `present` says which channels they are, all by default."""
    return Study(files[0], files, present=present)


def dicom_studies(
    path: Path,
    package: ModelPackage,
    rules: SeriesRules | None = None,
    policies: Policies | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Study]:
    """Find the series of a pile of DICOM that a model can take.

    Args:
        path: A folder with its subfolders, a zip, a DICOMDIR or a file.
        package: The model.
        rules: Which series are wanted; by default the one series of each study that is of the model's modality.
        policies: What to do about irregular series.
        progress: Called with (headers read, headers).

    Yields:
        A study for each series; one with a problem for each that is wanted and cannot be read right, and for a pile
        that holds none.
    """
    channels = len(package.modalities)
    if channels > 1:
        remedy = "write each channel as NIfTI, CASE_0000.nii.gz and so on"
        yield Study(path, problem=InputError(path, expected=f"{channels} channels", found="DICOM", remedy=remedy))
        return
    try:
        plan = plan_pile(path, rules or _rules_of(package), policies, progress=progress)
    except DicomError as error:
        yield Study(path, problem=error)
        return
    wanted: dict[str, list[Decision]] = {}
    for decision in plan.decisions:
        if decision.is_wanted:
            wanted.setdefault(decision.series.header.study_uid, []).append(decision)
    if not wanted:
        yield Study(path, problem=nothing_taken(path, plan))
    for decisions in wanted.values():
        if rules is None and len(decisions) > 1:
            yield Study(path, problem=_ambiguous(path, decisions))
        else:
            yield from (Study(path, stack=decision.stack, problem=decision.error) for decision in decisions)


def _rules_of(package: ModelPackage) -> SeriesRules:
    """Return what a model takes without rules: its modality, and more than one slice where it is 3-D."""
    modality, slices = package.modalities[0], 2 if package.network.spatial_dims == 3 else 1
    wanted = {} if modality == ANY_MODALITY else {"modality": [modality]}
    return SeriesRules.model_validate(wanted | {"slices": {"min": slices}})


def _ambiguous(path: Path, decisions: Sequence[Decision]) -> DicomError:
    several = [decision.series for decision in decisions]
    named = [f"{series.name} ({series.shown(series.modality)}, {series.slices} slices)" for series in several]
    return DicomError(
        path,
        expected="one image series a study that fits the model",
        found=f"{len(decisions)}: {listed(named)}",
        remedy="choose by --recipe, or name the folder of one series; see medseg dicom plan",
    )


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


def output_name(study: Study, images: list[Volume]) -> str:
    """Return the label map's file name: as the NIfTI input's, or by the series' hash, free of patient data."""
    if not study.files:
        return f"{images[0].source.replace(' ', '_')}.nii.gz"
    return f"{study_name(study)}.nii.gz"


def study_name(study: Study) -> str:
    """Return a short name for messages and files: a NIfTI file's without suffix and channel number."""
    if not study.files:
        return f"series {study.stack.series.name}" if study.stack else study.source.name
    name = case_name(study.files[0])
    return re.sub(r"_\d{4}$", "", name) if len(study.files) > 1 or study.present else name


def segment_study(
    segmenter: Segmenter,
    study: Study,
    output: Path,
    *,
    taken: Container[Path] = (),
    advance: Advance | None = None,
) -> Segmentation:
    """Segment one study and write its label map.

    Args:
        segmenter: The model.
        study: What to segment.
        output: A folder, or a file that ends with ``.nii`` or ``.nii.gz``.
        taken: Label maps of other studies, which are not overwritten.
        advance: Called with (tiles done, tiles in all).

    Raises:
        InputError: The study cannot be read right, is not what the model was trained on, or would overwrite the
            label map of another study.
        StorageError: The label map cannot be written.
    """
    images = read_study(study)
    given = [image for image in images if image is not None]
    target = output if is_nifti(output) else output / output_name(study, given)
    if target in taken:
        raise InputError(
            study.source,
            expected="a label map of its own",
            found=f"{target.name}, which another study of this batch has made",
            remedy="segment it into another folder",
        )
    labels = segmenter.segment(images, advance)
    write_nifti(target, labels)
    volumes = {label.name: labels.volume_ml(label) for label in labels.labels}
    return Segmentation(target, volumes, tuple(f for image in given for f in image.findings))
