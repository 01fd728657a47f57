"""The third stage of a batch that has a pipeline: every output of a study, proved before it has its place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from medseg.batch.job import Job, case_folder
from medseg.batch.readable import reading_files_of
from medseg.batch.scratch import study_folder
from medseg.batch.worker import Images, Segmented, Written, outputs_of
from medseg.data.fingerprint import Fingerprint
from medseg.dicom.origin import read_origin
from medseg.dicom.policy import Policies
from medseg.dicom.source import FileSource, ZipSource
from medseg.errors import UsageError
from medseg.maker import Maker
from medseg.outputs.case import DrawnCase
from medseg.outputs.making import not_dicom
from medseg.outputs.release import names_of, release
from medseg.recipe import Recipe
from medseg.recipe.deliver import HELD_FOLDER
from medseg.study import Study, all_findings, study_name


@dataclass(frozen=True)
class Pipeline:
    """A recipe and what there is to know of its models but the networks.

    Attributes:
        recipe: From `medseg.recipe.packages.find_models`.
        policies: What to do about irregular DICOM series.
        maker: What draws the masks.
        envelopes: Of each model what its training images were like, with the names of the labels that it draws.
    """

    recipe: Recipe
    policies: Policies
    maker: Maker
    envelopes: tuple[tuple[Fingerprint, tuple[str, ...]], ...]


@dataclass(frozen=True)
class PipelineWriter:
    """Writes all outputs of a study.

    Attributes:
        pipeline: Which ones.
        scratch: A folder on the file system of the outputs, which is emptied at the next start.
    """

    pipeline: Pipeline
    scratch: Path

    def __call__(self, job: Job, images: Images, made: Segmented) -> Written:
        """See `medseg.batch.worker.Writer`.

        Raises:
            ProofError: An output that was read back is not the mask.
            DicomError: The series has changed since it was read, or lacks what an object must refer to.
            UnreadableError: Its files cannot be read now, whatever is in them.
        """
        with reading_files_of(job):
            return self._written(job, images, made)

    def _written(self, job: Job, images: Images, made: Segmented) -> Written:
        pipeline = self.pipeline
        stack = job.study(pipeline.policies).stack if self._needs_headers else None
        case = DrawnCase(
            job.target,
            tuple(images),
            made.labels,
            pipeline.maker,
            origin=read_origin(stack) if stack else None,
            envelopes=pipeline.envelopes,
            confidence=made.labels.confidence,
            probabilities=made.probabilities,
            findings=all_findings(images, made.labels.volume),
        )
        released = release(case, pipeline.recipe, study_folder(self.scratch, job.key))
        return Written(
            *outputs_of(released.files), released.volumes_ml, released.findings, released.held, released.timings_s
        )

    @property
    def _needs_headers(self) -> bool:
        """Whether the DICOM headers of a study are looked at: for objects, or for the name of its study."""
        recipe = self.pipeline.recipe
        return recipe.needs_dicom or any("{study}" in delivery.path for delivery in recipe.deliver)


def checked_study(study: Study, recipe: Recipe, output: Path) -> Study:
    """Return a study as it may be planned: with a problem where the recipe wants DICOM objects and it is none.

    Raises:
        UsageError: It lies where its own outputs will: they would overwrite it.
    """
    own = _own_folders(study, recipe, output)
    for folder in _folders_of(study):
        if any(folder.is_relative_to(place) for place in own):
            raise UsageError(
                study.source,
                expected="an input outside of its own outputs",
                found="one in them",
                remedy="choose another -o, or another folder to deliver to",
            )
    if study.files and recipe.needs_dicom and study.problem is None:
        return replace(study, problem=not_dicom(study_name(study)))
    return study


def _own_folders(study: Study, recipe: Recipe, output: Path) -> list[Path]:
    """Return every folder that outputs of a study may come to, delivered or held back, links followed."""
    case = case_folder(study)
    names = names_of(case, study.stack.series if study.stack else None)
    delivered = [delivery.folder(names) for delivery in recipe.deliver]
    held = [Path(HELD_FOLDER) / (case if folder.is_absolute() else folder) for folder in delivered]
    return [(output / folder).resolve() for folder in (*delivered, *held)]


def _folders_of(study: Study) -> set[Path]:
    """Return the folders that the files of a study lie in, links followed."""
    folders: set[Path] = set()
    for frame in study.stack.frames if study.stack else ():
        source = frame.header.source
        if isinstance(source, FileSource | ZipSource):
            folders.add((source.path if isinstance(source, FileSource) else source.archive).parent)
    return {folder.resolve() for folder in folders} | {file.resolve().parent for file in study.files}
