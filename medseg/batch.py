"""Many studies, one after the other: weights loaded once, and no bad study stops the others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.dicom.policy import Policies
from medseg.dicom.select import SeriesRules
from medseg.errors import InputError, MedsegError, OutOfMemoryError, UsageError, is_out_of_memory
from medseg.model import ModelPackage
from medseg.nifti import case_name, is_nifti
from medseg.reading import nifti_files
from medseg.segment import Segmentation, Study, dicom_studies, nifti_study, segment_study, study_name
from medseg.segmenter import Segmenter
from medseg.tiles import Advance

Progress = Callable[[int, int], None]

_CHANNEL_NAME = re.compile(r"(.+)_\d{4}")


@dataclass(frozen=True)
class Outcome:
    """What became of one study: a segmentation, or the error that refused it."""

    study: Study
    segmentation: Segmentation | None
    error: MedsegError | None


def find_studies(
    inputs: Sequence[Path],
    package: ModelPackage,
    rules: SeriesRules | None = None,
    policies: Policies | None = None,
    *,
    progress: Progress | None = None,
) -> list[Study]:
    """Find the studies that inputs stand for.

    Args:
        inputs: NIfTI files, folders of NIfTI files, or DICOM: folders with their subfolders, zips, DICOMDIRs. With
            several channels, the NIfTI files of a study are named ``CASE_0000``, ``CASE_0001``, ...; some may be
            missing where the model was trained for that.
        package: The model, which says what it takes.
        rules: Which DICOM series are wanted. By default the one series of each study that is of the model's
            modality; a study with several of them is refused.
        policies: What to do about irregular series; the safest by default.
        progress: Called with (DICOM headers read, headers) of the input in work.

    Raises:
        UsageError: Two studies would be written to the same file.
    """
    studies = [
        study
        for path in inputs
        for study in _nifti_studies(path, package)
        or dicom_studies(path, package, rules, policies, progress=progress)
    ]
    names = Counter(study_name(study) for study in studies if study.files)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UsageError(
            "INPUT",
            expected="inputs with different names",
            found=f"{names[twice[0]]} inputs called {twice[0]}",
            remedy="segment them into different folders",
        )
    return studies


def segment_all(
    segmenter: Segmenter,
    studies: Sequence[Study],
    output: Path,
    *,
    tiles: Advance | None = None,
    finished: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Segment studies; one that cannot be segmented is recorded, and the next one follows.

    Args:
        segmenter: The model.
        studies: From `find_studies`.
        output: A folder, or a file where there is one study.
        tiles: Called with (tiles done, tiles in all) of the study in work.
        finished: Called with each outcome.

    Raises:
        UsageError: An output would overwrite an input.
        StorageError: The disk is full or read-only: nothing more can be written.
    """
    _check_outputs(studies, output)
    outcomes: list[Outcome] = []
    written: set[Path] = set()
    for study in studies:
        outcome = _segment_or_refuse(segmenter, study, output, taken=written, tiles=tiles)
        outcomes.append(outcome)
        if outcome.segmentation:
            written.add(outcome.segmentation.output)
        if finished:
            finished(outcome)
    return outcomes


def _segment_or_refuse(
    segmenter: Segmenter, study: Study, output: Path, *, taken: Container[Path], tiles: Advance | None
) -> Outcome:
    if study.problem:
        return Outcome(study, None, study.problem)
    try:
        return Outcome(study, segment_study(segmenter, study, output, taken=taken, advance=tiles), None)
    except InputError as error:
        return Outcome(study, None, error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        shortage = OutOfMemoryError(
            study.source,
            expected="an image that fits into memory",
            found="out of memory",
            remedy="free memory, or use --device cpu",
        )
        return Outcome(study, None, shortage)


def _nifti_studies(path: Path, package: ModelPackage) -> list[Study]:
    """Return the studies of NIfTI files at a path; none where it holds no such files."""
    try:
        files = nifti_files(path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        problem = InputError(path, expected="a file or folder that can be read", found=reason, remedy="check it")
        return [Study(path, problem=problem)]
    channels = len(package.modalities)
    if channels == 1 or not path.is_dir():
        return [nifti_study((file,)) for file in files]
    return list(_by_case(files, channels, may_lack=package.preprocessing.channel_flags))


def _by_case(files: Sequence[Path], channels: int, *, may_lack: bool) -> Iterator[Study]:
    """Group ``CASE_0000``, ``CASE_0001``, ...; a case that lacks one, or a name of another form, is refused."""
    cases: dict[str, list[Path]] = {}
    for file in files:
        match = _CHANNEL_NAME.fullmatch(case_name(file))
        cases.setdefault(match[1] if match else case_name(file), []).append(file)
    for case, found in cases.items():
        wanted = [f"{case}_{channel:04d}" for channel in range(channels)]
        names = [case_name(file) for file in found]
        if names == wanted:
            yield nifti_study(tuple(found))
        elif may_lack and set(names) < set(wanted):
            yield nifti_study(tuple(found), tuple(name in names for name in wanted))
        else:
            problem = InputError(
                found[0],
                expected=f"{channels} files: {', '.join(wanted)}",
                found=", ".join(names),
                remedy="name each channel's file so",
            )
            yield Study(found[0], tuple(found), problem=problem)


def _check_outputs(studies: Sequence[Study], output: Path) -> None:
    is_file = is_nifti(output)
    if is_file and len(studies) > 1:
        raise UsageError(
            output,
            expected="a folder for several studies",
            found="the name of one file",
            remedy="give a folder as -o",
        )
    for study in studies:
        target = output if is_file else output / f"{study_name(study)}.nii.gz"
        if target.resolve() in {file.resolve() for file in study.files}:
            raise UsageError(
                target,
                expected="an output that is no input",
                found="the input itself",
                remedy="choose another -o",
            )
