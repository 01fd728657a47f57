"""One study: read, segment, write the label map on the study's own grid."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.dicom.plan import Decision, Plan, plan_scan
from medseg.dicom.policy import Policies
from medseg.dicom.select import SeriesRules
from medseg.dicom.studies import SMALL_PILE, scan_studies
from medseg.errors import DicomError, InputError, listed
from medseg.findings import Finding
from medseg.inference.accepted import ANY_MODALITY
from medseg.inference.saved import probabilities_path
from medseg.inference.tiles import Advance
from medseg.labels import AS_PLANNED
from medseg.model import ModelPackage
from medseg.nifti import is_nifti, write_nifti
from medseg.reading import nothing_taken
from medseg.segmenter import Segmenter
from medseg.study import Study, all_findings, output_name, read_study


@dataclass(frozen=True)
class Segmentation:
    """What became of a study that was segmented.

    Attributes:
        output: The label map.
        volumes_ml: Volume of every label, by name.
        findings: What was odd about the input.
        rung: How it was made to fit into memory.
    """

    output: Path
    volumes_ml: dict[str, float]
    findings: tuple[Finding, ...]
    rung: str = AS_PLANNED


def dicom_studies(
    path: Path,
    package: ModelPackage,
    rules: SeriesRules | None = None,
    policies: Policies | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
    small: int = SMALL_PILE,
) -> Iterator[Study]:
    """Find the series of a pile of DICOM that a model can take; of a large pile study by study.

    Args:
        path: A folder with its subfolders, a zip, a DICOMDIR or a file.
        package: The model.
        rules: Which series are wanted; by default the one series of each study that is of the model's modality.
        policies: What to do about irregular series.
        progress: Called with (headers read, headers).
        small: A pile of more files is read twice, and only the headers of one study are kept at a time.

    Yields:
        A study for each series; one with a problem for each that is wanted and cannot be read right, and for a pile
        that holds none.
    """
    channels = len(package.modalities)
    if channels > 1:
        remedy = "write each channel as NIfTI, CASE_0000.nii.gz and so on"
        yield Study(path, problem=InputError(path, expected=f"{channels} channels", found="DICOM", remedy=remedy))
        return
    chosen = rules or _rules_of(package)
    found = False
    left: list[Decision] = []
    try:
        for scan in scan_studies(path, extra=chosen.extra_tags, progress=progress, small=small):
            plan = plan_scan(scan, chosen, policies)
            studies = list(_wanted(path, plan.decisions, takes_several=rules is not None))
            found = found or bool(studies)
            left = [] if found else left + [_of_one_frame(decision) for decision in plan.decisions]
            yield from studies
    except DicomError as error:
        yield Study(path, problem=error)
        return
    if not found:
        yield Study(path, problem=nothing_taken(path, Plan(tuple(left), ())))


def _wanted(path: Path, decisions: Sequence[Decision], *, takes_several: bool) -> Iterator[Study]:
    wanted: dict[str, list[Decision]] = {}
    for decision in decisions:
        if decision.is_wanted:
            wanted.setdefault(decision.series.header.study_uid, []).append(decision)
    for of_study in wanted.values():
        if len(of_study) > 1 and not takes_several:
            yield Study(path, problem=_ambiguous(path, of_study))
        else:
            yield from (Study(path, stack=decision.stack, problem=decision.error) for decision in of_study)


def _of_one_frame(decision: Decision) -> Decision:
    """Return what `nothing_taken` needs of a decision, without the headers of all its files."""
    series = decision.series
    frames = series.frames[:1] if series.header.series_uid else series.frames  # else its name is made of them all
    return replace(decision, series=replace(series, frames=frames))


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


def segment_study(
    segmenter: Segmenter,
    study: Study,
    output: Path,
    *,
    taken: Container[Path] = (),
    advance: Advance | None = None,
    save_probabilities: bool = False,
) -> Segmentation:
    """Segment one study and write its label map.

    Args:
        segmenter: The model.
        study: What to segment.
        output: A folder, or a file that ends with ``.nii`` or ``.nii.gz``.
        taken: Label maps of other studies, which are not overwritten.
        advance: Called with (tiles done, tiles in all).
        save_probabilities: Whether they are written beside the label map.

    Raises:
        InputError: The study cannot be read right, is not what the model was trained on, or would overwrite the
            label map of another study.
        StorageError: The label map cannot be written.
    """
    images = read_study(study)
    target = output if is_nifti(output) else output / output_name(study)
    if target in taken:
        raise InputError(
            study.source,
            expected="a label map of its own",
            found=f"{target.name}, which another study of this batch has made",
            remedy="segment it into another folder",
        )
    probabilities = probabilities_path(target) if save_probabilities else None
    labels = segmenter.segment(images, advance, probabilities=probabilities)
    write_nifti(target, labels)
    volumes = {label.name: labels.volume_ml(label) for label in labels.labels}
    return Segmentation(target, volumes, all_findings(images, labels.volume), labels.rung)
