"""A result -> the ledger: done, refused, or a strike; the whole batch stops where the disk is full."""

from __future__ import annotations

from medseg.batch.job import JobResult
from medseg.batch.ledger import Ledger
from medseg.batch.rows import State
from medseg.errors import InputError, OutOfMemoryError, StorageError


def settle(ledger: Ledger, result: JobResult) -> State:
    """Record what became of a study that this process had claimed.

    Args:
        ledger: Where.
        result: Of a `medseg.batch.worker.Worker`.

    Returns:
        The state; FAILED is tried again.

    Raises:
        StorageError: Outputs or ledger cannot be written: nothing more can be done. The study is planned again.
    """
    error = result.error
    if error is None:
        return ledger.finish(result)
    if isinstance(error, StorageError):
        ledger.requeue([result.key])
        raise error
    if isinstance(error, InputError) and not isinstance(error, OutOfMemoryError):
        return ledger.refuse(result.key, error, result.record())
    return ledger.fail(result.key, error.code, str(error), result.record())
