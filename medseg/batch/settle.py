"""A result -> the ledger: done, held back, refused, or a strike; the batch stops where nothing can be written."""

from __future__ import annotations

from contextlib import suppress

from medseg.batch.job import JobResult
from medseg.batch.ledger import Ledger
from medseg.batch.observer import Observer
from medseg.batch.rows import ENDED, State
from medseg.errors import InputError, OutOfMemoryError, StorageError, UnreadableError
from medseg.files import is_of_the_whole_disk, make_folder


def settle(ledger: Ledger, result: JobResult) -> State | None:
    """Record what became of a study that this process had claimed.

    Args:
        ledger: Where.
        result: Of a `medseg.batch.worker.Worker`.

    Returns:
        The state; FAILED is tried again. None where another process has taken the study over.

    Raises:
        StorageError: Outputs or ledger cannot be written: nothing more can be done. The study is planned again.
    """
    error = result.error
    if error is None:
        try:
            return ledger.finish(result)
        except (StorageError, InputError) as unwritten:
            error = unwritten
    if isinstance(error, StorageError) and _stops_all(ledger, error):
        ledger.requeue([result.key])
        raise error
    record = result.without_outputs().record()
    try:
        if isinstance(error, InputError) and not isinstance(error, OutOfMemoryError | UnreadableError):
            return ledger.refuse(result.key, error, record)
        return ledger.fail(result.key, error.code, str(error), record)
    except StorageError:
        with suppress(StorageError):
            ledger.requeue([result.key])
        raise


def tell_plan(ledger: Ledger, observer: Observer) -> None:
    """Tell how many studies were planned here, and how many of them have ended before."""
    summary = ledger.summary(mine=True)
    observer.planned(sum(summary.values()), sum(summary[state] for state in ENDED))


def tell(ledger: Ledger, observer: Observer, key: str, state: State | None) -> None:
    """Tell of a study that has ended here: not of one that is tried again, nor of one that another process has."""
    row = ledger.row(key) if state not in (None, State.FAILED) else None
    if row:
        observer.ended(row)


def _stops_all(ledger: Ledger, error: StorageError) -> bool:
    """Whether no other study can be written either."""
    try:
        make_folder(ledger.folder)
    except StorageError:
        return True
    return is_of_the_whole_disk(error)
