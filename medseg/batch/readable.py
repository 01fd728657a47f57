"""A study whose files cannot be read for now, told from one that cannot be read right: another try may do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medseg.batch.job import Job
from medseg.dicom.reference import SeriesReference
from medseg.errors import InputError, UnreadableError


@contextmanager
def reading_files_of(job: Job) -> Iterator[None]:
    """Turn the refusal of a study whose files cannot be read now, whatever is in them, into an `UnreadableError`.

    Raises:
        UnreadableError: A file cannot be read; `InputError` as it was where all of them can.
    """
    try:
        yield
    except InputError as error:
        reason = None if job.problem else _unread(job, error)
        if reason is None:
            raise
        raise UnreadableError(
            job.name,
            expected="files that can be read",
            found=reason,
            remedy="see that their storage is there, and try again",
        ) from error


def files_of(job: Job) -> tuple[Path, ...]:
    """Return the files of a study, an archive once for each of its members; they may hold a patient's name."""
    return tuple(map(Path, SeriesReference.unpack(job.series).files)) if job.series else job.files


def _unread(job: Job, error: InputError) -> str | None:
    """Return why the files of a study cannot be read, where it is the storage that does not give them."""
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno:
        return cause.strerror or type(cause).__name__
    try:
        for file in files_of(job):
            with file.open("rb") as stream:
                stream.read(1)
    except OSError as now:
        return now.strerror or type(now).__name__
    return None
