"""Many studies, one after the other: weights loaded once, and no bad study stops the others."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from medseg.errors import InputError, MedsegError, UsageError
from medseg.nifti import case_name, is_nifti
from medseg.segment import Segmentation, Study, nifti_study, segment_study, study_name
from medseg.segmenter import Segmenter
from medseg.tiles import Advance

log = logging.getLogger(__name__)

_CHANNEL_SUFFIX_LENGTH = len("_0000")


@dataclass(frozen=True)
class Outcome:
    """What became of one study: a segmentation, or the error that refused it."""

    study: Study
    segmentation: Segmentation | None
    error: MedsegError | None


def find_studies(inputs: Sequence[Path], channels: int = 1) -> list[Study]:
    """Find the studies that inputs stand for.

    Args:
        inputs: NIfTI files, folders of NIfTI files, or folders with one DICOM series. With several channels, the
            files of a study are named ``CASE_0000``, ``CASE_0001``, ... .
        channels: Of the model.

    Raises:
        UsageError: Two studies would be written to the same file.
    """
    studies = [study for path in inputs for study in _studies_at(path, channels)]
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
    outcomes = []
    for study in studies:
        outcome = _segment_or_refuse(segmenter, study, output, tiles)
        outcomes.append(outcome)
        if finished:
            finished(outcome)
    return outcomes


def _segment_or_refuse(segmenter: Segmenter, study: Study, output: Path, tiles: Advance | None) -> Outcome:
    try:
        return Outcome(study, segment_study(segmenter, study, output, tiles), None)
    except InputError as error:
        return Outcome(study, None, error)
    except (MemoryError, torch.OutOfMemoryError) as error:
        log.info("out of memory: %s", error)
        refusal = InputError(
            study.source,
            expected="an image that fits into memory",
            found="out of memory",
            remedy="free memory, or use --device cpu",
        )
        return Outcome(study, None, refusal)


def _studies_at(path: Path, channels: int) -> Iterator[Study]:
    if not path.is_dir():
        yield nifti_study((path,))
        return
    files = sorted(file for file in path.iterdir() if file.is_file() and is_nifti(file))
    if not files:
        yield Study(path)
    elif channels == 1:
        yield from (nifti_study((file,)) for file in files)
    else:
        yield from _by_case(files)


def _by_case(files: Sequence[Path]) -> Iterator[Study]:
    cases: dict[str, list[Path]] = {}
    for file in files:
        cases.setdefault(case_name(file)[:-_CHANNEL_SUFFIX_LENGTH], []).append(file)
    yield from (nifti_study(tuple(channels)) for channels in cases.values())


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
