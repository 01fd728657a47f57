"""`Worker`: a whole study from files to files, in whatever process it lives; its three stages can live apart."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

from medseg.batch.job import Job, JobResult, Output
from medseg.batch.readable import reading_files_of
from medseg.batch.scratch import study_folder
from medseg.dicom.object_parts import require_references
from medseg.dicom.origin import read_origin
from medseg.dicom.output_options import ObjectOptions
from medseg.dicom.policy import Policies
from medseg.errors import InputError, MedsegError, OutOfMemoryError, is_out_of_memory
from medseg.files import sha256_of
from medseg.findings import Finding
from medseg.labels import LabelMap
from medseg.nifti import case_name, write_nifti
from medseg.study import all_findings, read_study
from medseg.volume import Volume

Advance = Callable[[int, int], None]
Images = list[Volume | None]

LABELS_FILE = "labels.nii.gz"
"""Name of a label map in its study's scratch folder; the final one may be as long as names can be."""


class BugError(MedsegError):
    """Something that medseg does not know of; without the exception's own text, which may name a patient."""

    code = "BUG"


@dataclass(frozen=True)
class Segmented:
    """What a network made of a study.

    Attributes:
        labels: The label map on the images' own grid.
        rung: How it was made to fit into memory; "" for as planned.
        device: That computed.
        extra: Further files, in the study's scratch folder; named as `LABELS_FILE`, with another ending.
        probabilities: File of `medseg.inference.probabilities`, in the study's scratch folder; None if not saved.
    """

    labels: LabelMap
    rung: str = ""
    device: str = ""
    extra: tuple[Path, ...] = ()
    probabilities: Path | None = None


@dataclass(frozen=True)
class Written:
    """What was written of a study.

    Attributes:
        outputs: Its files.
        made: Where each lies, until it is moved to its place.
        volumes_ml: Volume of every label, by name.
        findings: What was odd about the mask, or when its outputs were made.
        held: Codes of why the outputs are held back for review; empty where they are not.
        timings_s: Seconds by part of the writing, under names that no stage has.
    """

    outputs: tuple[Output, ...]
    made: tuple[Path, ...]
    volumes_ml: Mapping[str, float]
    findings: tuple[Finding, ...] = ()
    held: tuple[str, ...] = ()
    timings_s: Mapping[str, float] = field(default_factory=dict)


def outputs_of(files: Iterable[tuple[Path, str]]) -> tuple[tuple[Output, ...], tuple[Path, ...]]:
    """Measure finished files.

    Args:
        files: Where each lies, and its place: relative to the output folder, or absolute.

    Returns:
        The outputs, and where they lie: what `Written` begins with.
    """
    listed = list(files)
    outputs = (Output(place, sha256_of(file), file.stat().st_size) for file, place in listed)
    return tuple(outputs), tuple(file for file, _ in listed)


class Reader(Protocol):
    """First stage: the images of a study, one a channel, None for one that is missing."""

    def __call__(self, job: Job) -> Images:
        """Read; `InputError` where a file or series cannot be read right."""


class Network(Protocol):
    """Second stage: a model ready to use."""

    def __call__(self, job: Job, images: Images, advance: Advance | None = None) -> Segmented:
        """Segment; `InputError` where the images are not what the model was trained on."""


class Writer(Protocol):
    """Third stage: the outputs of a study."""

    def __call__(self, job: Job, images: Images, made: Segmented) -> Written:
        """Write; `StorageError` where the disk is full, `ProofError` where an output is not what it was made from.

        The images are there where the crew says that they are needed; else the list is empty.
        """


@dataclass(frozen=True)
class StudyReader:
    """Reads NIfTI and DICOM.

    Attributes:
        policies: What to do about irregular DICOM series; the safest by default.
        objects: Options of the DICOM objects that are to be made: a series that they cannot be made of is refused,
            and not segmented. None where there are none.
    """

    policies: Policies = field(default_factory=Policies)
    objects: tuple[ObjectOptions, ...] | None = None

    def __call__(self, job: Job) -> Images:
        """See `Reader`.

        Raises:
            UnreadableError: A file cannot be read now, whatever is in it.
            DicomError: No object can be made of the series.
        """
        with reading_files_of(job):
            study = job.study(self.policies)
            if study.stack and self.objects is not None:
                origin = read_origin(study.stack)
                for options in self.objects:
                    require_references(origin, options)
            return read_study(study)


@dataclass(frozen=True)
class StudyWriter:
    """Writes label maps into a scratch folder; who owns the ledger moves them to their place.

    So neither a half-written one is ever seen in the output folder, nor one of a process that has lost its study.

    Attributes:
        scratch: A folder on the file system of the outputs, which is emptied at the next start.
    """

    scratch: Path

    def __call__(self, job: Job, images: Images, made: Segmented) -> Written:
        """See `Writer`."""
        temporary = study_folder(self.scratch, job.key) / LABELS_FILE
        write_nifti(temporary, made.labels)
        target, own = PurePosixPath(job.target), case_name(temporary)
        stem = case_name(Path(job.target))
        extra = [(file, str(target.with_name(stem + file.name.removeprefix(own)))) for file in made.extra]
        labels = made.labels
        volumes = {label.name: labels.volume_ml(label) for label in labels.labels}
        return Written(*outputs_of([(temporary, job.target), *extra]), volumes)


@dataclass(frozen=True)
class Crew:
    """How each stage is made, in the process where it lives; each is called once there.

    Attributes:
        reader: Makes the first stage.
        network: Makes the second stage, on a device such as ``cuda:1``.
        writer: Makes the third stage.
        needs_images: Whether the writer looks at the images; they are kept until a study is written then.
    """

    reader: Callable[[], Reader]
    network: Callable[[str], Network]
    writer: Callable[[], Writer]
    needs_images: bool = False


class Worker:
    """Does whole studies, one at a time; the weights are loaded once.

    Args:
        crew: How its stages are made.
        device: Where the network computes: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ModelError: The model is missing or damaged.
        DeviceError: The device is not there.
    """

    def __init__(self, crew: Crew, device: str = "auto") -> None:
        self._reader, self._network, self._writer = crew.reader(), crew.network(device), crew.writer()
        self._needs_images = crew.needs_images

    def run(self, job: Job, advance: Advance | None = None) -> JobResult:
        """Segment a study and write its outputs; whatever goes wrong is in the result.

        Args:
            job: The study.
            advance: Called with (tiles done, tiles in all).
        """
        timings: dict[str, float] = {}
        clock = time.perf_counter
        try:
            start = clock()
            images = self._reader(job)
            timings["read"] = clock() - start
            start = clock()
            made = self._network(job, images, advance)
            timings["segment"] = clock() - start
            start = clock()
            written = self._writer(job, images if self._needs_images else [], made)
            timings["write"] = clock() - start
        except Exception as error:  # noqa: BLE001 - it is recorded against this study, and the next one follows
            return JobResult(job.key, timings_s=timings, error=known_error(error, job.name))
        return result_from(job.key, all_findings(images, made.labels.volume), made, written, timings)


def result_from(
    key: str, findings: Sequence[Finding], made: Segmented, written: Written, timings: Mapping[str, float]
) -> JobResult:
    """Put together what the three stages say of a study that is done.

    Args:
        key: Of the job.
        findings: What was odd about the images and how they were segmented.
        made: By the network.
        written: By the writer.
        timings: Seconds by stage.
    """
    found = tuple(dict.fromkeys([*findings, *written.findings]))
    seconds = {**written.timings_s, **timings}
    done = (written.outputs, written.volumes_ml, found, seconds, made.rung, made.device)
    return JobResult(key, *done, made=written.made, held=written.held)


def known_error(error: Exception, name: str) -> MedsegError:
    """Return an error that may be shown and sent: itself, `OutOfMemoryError`, or `BugError` with where it rose."""
    if isinstance(error, MedsegError):
        return error
    if is_out_of_memory(error):
        return OutOfMemoryError(
            name,
            expected="a study that fits into memory",
            found="out of memory",
            remedy="free memory, see --memory",
        )
    if isinstance(error, OSError) and not isinstance(error, InputError):
        found = f"{type(error).__name__}: {error.strerror or 'no reason given'}"
        return BugError(name, expected="files that can be read and written", found=found, remedy=_REMEDY)
    last = traceback.extract_tb(error.__traceback__ or sys.exc_info()[2])[-1:]
    place = "".join(f" in {Path(frame.filename).name}:{frame.lineno}" for frame in last)
    return BugError(name, expected="no bug", found=f"{type(error).__name__}{place}", remedy=_REMEDY)


_REMEDY = "run this study alone with medseg --debug segment, and report it"
