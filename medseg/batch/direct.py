"""A few studies, one after the other in this process, without a ledger; no bad study stops the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.batch.worker import known_error
from medseg.errors import InputError, MedsegError, UsageError, is_out_of_memory
from medseg.inference.tiles import Advance
from medseg.nifti import is_nifti
from medseg.segment import Segmentation, segment_study
from medseg.segmenter import Segmenter
from medseg.study import Study, output_name, study_name


@dataclass(frozen=True)
class Outcome:
    """What became of one study: a segmentation, or the error that refused it."""

    study: Study
    segmentation: Segmentation | None
    error: MedsegError | None


def segment_all(
    segmenter: Segmenter,
    studies: Sequence[Study],
    output: Path,
    *,
    tiles: Advance | None = None,
    finished: Callable[[Outcome], None] | None = None,
    save_probabilities: bool = False,
) -> list[Outcome]:
    """Segment studies; one that cannot be segmented is recorded, and the next one follows.

    Args:
        segmenter: The model.
        studies: From `find_studies`.
        output: A folder, or a file where there is one study.
        tiles: Called with (tiles done, tiles in all) of the study in work.
        finished: Called with each outcome.
        save_probabilities: Whether they are written beside the label maps.

    Raises:
        UsageError: An output would overwrite an input.
        StorageError: The disk is full or read-only: nothing more can be written.
    """
    check_outputs(studies, output)
    outcomes: list[Outcome] = []
    written: set[Path] = set()

    def segment(study: Study) -> Segmentation:
        return segment_study(
            segmenter, study, output, taken=written, advance=tiles, save_probabilities=save_probabilities
        )

    for study in studies:
        outcome = _segment_or_refuse(study, segment, is_alone=len(studies) == 1)
        outcomes.append(outcome)
        if outcome.segmentation:
            written.add(outcome.segmentation.output)
        if finished:
            finished(outcome)
    return outcomes


def _segment_or_refuse(study: Study, segment: Callable[[Study], Segmentation], *, is_alone: bool) -> Outcome:
    """Segment a study or say why not; a bug is an outcome too, but that of a single study, which is to be seen."""
    if study.problem:
        return Outcome(study, None, study.problem)
    try:
        return Outcome(study, segment(study), None)
    except InputError as error:
        return Outcome(study, None, error)
    except MedsegError:
        raise
    except Exception as error:
        if is_alone and not is_out_of_memory(error):
            raise
        return Outcome(study, None, known_error(error, study_name(study)))


def check_outputs(studies: Sequence[Study], output: Path) -> None:
    """Refuse to write over an input, or several label maps to one file.

    Raises:
        UsageError: An output would be an input, or `output` is a file and there are several studies.
    """
    is_file = is_nifti(output)
    if is_file and len(studies) > 1:
        raise UsageError(
            output,
            expected="a folder for several studies",
            found="the name of one file",
            remedy="give a folder as -o",
        )
    for study in studies:
        target = output if is_file else output / output_name(study)
        if target.resolve() in {file.resolve() for file in study.files}:
            raise UsageError(
                target,
                expected="an output that is no input",
                found="the input itself",
                remedy="choose another -o",
            )
