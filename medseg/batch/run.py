"""A batch from the first study to the last, on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from signal import Signals

from medseg.batch.job import Job
from medseg.batch.ledger import Ledger
from medseg.batch.options import RunContext
from medseg.batch.scratch import forget_study
from medseg.batch.settle import settle, tell, tell_plan
from medseg.batch.stages import Stages
from medseg.batch.worker import Worker
from medseg.training.interrupt import StopRequest, stop_request

_OTHERS_S = 1.0


class StopBatch(Exception):  # noqa: N818 - no error, but a way out
    """Leaves a batch, as it was asked to stop; what was in work is planned again.

    Attributes:
        signal: What asked.
    """

    def __init__(self, number: Signals) -> None:
        super().__init__(number.name)
        self.signal = number


def plan_batch(ledger: Ledger, jobs: Iterable[Job], *, again: bool = False) -> dict[str, Job]:
    """Put jobs into the ledger, one after the other as they come; return them by key."""
    kept: dict[str, Job] = {}

    def keeping() -> Iterator[Job]:
        for job in jobs:
            kept[job.key] = job
            yield job

    ledger.plan(keeping(), again=again)
    return kept


def run_batch(ledger: Ledger, jobs: Mapping[str, Job], context: RunContext) -> None:
    """Do what the ledger has left to do; every study ends done, held back, refused or quarantined.

    Args:
        ledger: After `plan_batch`.
        jobs: From `plan_batch`.
        context: What they are done with.

    Raises:
        StorageError: Nothing more can be written; what was in work is planned again.
        StopBatch: Ctrl-C or SIGTERM.
        MedsegError: The model cannot be loaded, or a worker cannot be started.
    """
    tell_plan(ledger, context.observer)
    with stop_request() as request:
        if ledger.is_over():
            return
        if context.options.in_process:
            _run_here(ledger, jobs, context, request)
        else:
            Stages(ledger, jobs, context).run(request.is_set)
        if request.signal:
            raise StopBatch(request.signal)


def _run_here(ledger: Ledger, jobs: Mapping[str, Job], context: RunContext, request: StopRequest) -> None:
    """Do one study after the other; what others have in work is waited for, in case they give it back."""
    worker, observer = Worker(context.crew, context.devices[0]), context.observer

    def advance(done: int, total: int) -> None:
        ledger.heartbeat()
        if request.is_set():
            raise KeyboardInterrupt
        observer.tiles(done, total)

    while not request.is_set() and not ledger.is_over():
        key = ledger.claim(alone=True)
        if key is None:
            time.sleep(_OTHERS_S)
            continue
        try:
            tell(ledger, observer, key, settle(ledger, worker.run(jobs[key], advance)))
        except KeyboardInterrupt:
            ledger.requeue([key])
            if request.is_set():
                return
            raise
        finally:
            forget_study(context.scratch, key)
