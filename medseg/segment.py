"""One study: read, segment, write the label map on the study's own grid."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from medseg.dicom.read import read_folder
from medseg.errors import InputError
from medseg.findings import Finding
from medseg.nifti import case_name, is_nifti, read_nifti, write_nifti
from medseg.segmenter import Segmenter
from medseg.tiles import Advance
from medseg.volume import Volume


@dataclass(frozen=True)
class Study:
    """What is segmented together.

    Attributes:
        source: What the user named: a NIfTI file, or a folder with one DICOM series.
        files: NIfTI files, one a channel; empty for a DICOM folder.
        problem: Why it cannot be segmented, where that is known before anything is read.
    """

    source: Path
    files: tuple[Path, ...] = ()
    problem: InputError | None = None


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


def nifti_study(files: tuple[Path, ...]) -> Study:
    """Return the study of NIfTI files, one a channel."""
    return Study(files[0], files)


def read_study(study: Study) -> list[Volume]:
    """Read the images of a study, one a channel.

    Raises:
        InputError: A file or series cannot be read right.
    """
    if study.files:
        return [read_nifti(file) for file in study.files]
    return [read_folder(study.source)]


def output_name(study: Study, images: list[Volume]) -> str:
    """Return the label map's file name: as the NIfTI input's, or by the series' hash, free of patient data."""
    if not study.files:
        return f"{images[0].source.replace(' ', '_')}.nii.gz"
    return f"{study_name(study)}.nii.gz"


def study_name(study: Study) -> str:
    """Return a short name for messages and files: a NIfTI file's without suffix and channel number."""
    if not study.files:
        return study.source.name
    name = case_name(study.files[0])
    return name.removesuffix("_0000") if len(study.files) > 1 else name


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
    target = output if is_nifti(output) else output / output_name(study, images)
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
    return Segmentation(target, volumes, tuple(f for image in images for f in image.findings))
