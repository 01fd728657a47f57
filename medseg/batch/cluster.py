"""A batch on the machines of a Ray cluster. The ledger stays here, with one owner; the workers own nothing.

A study that is lost with its worker or machine is tried again elsewhere: a strike, as a crash on one machine is.
The answer of a worker that was given up is never looked at, and what it wrote is in no one's way.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from medseg.batch.job import Job, JobResult
from medseg.batch.ledger import Ledger
from medseg.batch.node import PROBE_FILE, Order, Unseen, sees, text_of
from medseg.batch.observer import Observer, StopAsked
from medseg.batch.ray_session import ray_session
from medseg.batch.roster import Member, Roster
from medseg.batch.rows import State
from medseg.batch.run import StopBatch
from medseg.batch.scratch import forget_study
from medseg.batch.settle import settle, tell, tell_plan
from medseg.errors import ClusterError, InputError, MedsegError, StorageError, UnreadableError
from medseg.files import write_text
from medseg.training.interrupt import stop_request

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClusterOptions:
    """How a batch is run on a cluster; nothing here changes a label map but for rounding.

    Attributes:
        address: ``auto`` or HOST:PORT; see `medseg.batch.ray_session.ray_session`.
        device: ``auto``, ``cpu`` or ``cuda``; see `Roster`.
        time_limit_s: Of one study, from hand-out to answer; None for no limit.
        patience_s: How long no machine may be ready to work, until the batch is given up.
        tick_s: How often leases are renewed and machines that joined are looked for.
    """

    address: str = "auto"
    device: str = "auto"
    time_limit_s: float | None = None
    patience_s: float = 600.0
    tick_s: float = 2.0


@dataclass(frozen=True)
class _Flight:
    """What a worker was asked: to open, where there is no job, or to segment."""

    member: Member
    job: Job | None
    deadline: float


def run_on_cluster(
    ledger: Ledger,
    jobs: Mapping[str, Job],
    order: Order,
    output: Path,
    observer: Observer,
    options: ClusterOptions,
) -> None:
    """Do what the ledger has left to do on a Ray cluster; every study ends done, held back, refused or quarantined.

    Args:
        ledger: After `medseg.batch.run.plan_batch`.
        jobs: From `plan_batch`.
        order: What each machine is to do; all its paths absolute, its scratch folder there.
        output: Folder of the outputs, on the file system of the scratch folder.
        observer: Is told what happens.
        options: How.

    Raises:
        UsageError: Ray is not installed.
        ClusterError: The cluster cannot be joined, none of its machines can be used, or it is lost.
        StorageError: Nothing more can be written; what was in work is planned again.
        StopBatch: Ctrl-C or SIGTERM.
    """
    tell_plan(ledger, observer)
    if ledger.is_over():
        return
    with ray_session(options.address) as ray, stop_request() as request:
        Cluster(ray, ledger, jobs, order, output, observer, options).run(request.is_set)
        if request.signal:
            raise StopBatch(request.signal)


class Cluster:
    """Hands the studies of a batch to the machines of a cluster.

    Args:
        ray: From `medseg.batch.ray_session.ray_session`.
        ledger: With the studies planned; this process is the only one that may write it.
        jobs: By key, all that the ledger may hand out.
        order: What each machine is to do; all its paths absolute, its scratch folder there.
        output: Folder of the outputs, on the file system of the scratch folder.
        observer: Is told what happens.
        options: How.
    """

    def __init__(
        self,
        ray: ModuleType,
        ledger: Ledger,
        jobs: Mapping[str, Job],
        order: Order,
        output: Path,
        observer: Observer,
        options: ClusterOptions,
    ) -> None:
        self._ray, self._ledger, self._jobs, self._observer = ray, ledger, jobs, observer
        self._output, self._options = output, options
        self._order = replace(order, probe=secrets.token_hex(16))
        self._roster = Roster(ray, self._order, options.device, max(len(jobs), 1))
        self._flights: dict[Any, _Flight] = {}
        self._next_tick = 0.0
        self._last_ready = time.monotonic()

    def run(self, stop: StopAsked) -> None:
        """Work until every study has ended.

        Args:
            stop: Asked often; where it is true, what is in work is planned again.

        Raises:
            StorageError: Nothing more can be written. What was in work is planned again.
            ClusterError: No machine can be used, or Ray itself is lost. What was in work is planned again.
        """
        write_text(self._order.scratch / PROBE_FILE, self._order.probe)
        try:
            while not stop():
                self._tick()
                self._hand_out()
                if not self._in_work() and self._ledger.is_over():
                    return
                self._listen()
        except self._ray.exceptions.RayError as error:
            raise ClusterError(
                "--cluster",
                expected="a cluster that answers",
                found=type(error).__name__,
                remedy="look at its head with ray status, and run the command again: what is done stays done",
            ) from error
        finally:
            self._roster.close()
            with suppress(MedsegError):  # the ledger sees at the next start that this process is gone
                self._ledger.requeue(self._in_work())

    def _in_work(self) -> list[str]:
        return [flight.job.key for flight in self._flights.values() if flight.job]

    def _tick(self) -> None:
        """Now and then: renew the leases, take in machines that joined, give up those that take too long."""
        now = time.monotonic()
        if any(member.is_open for member in self._roster.members):
            self._last_ready = now
        elif now - self._last_ready > self._options.patience_s:
            raise ClusterError(
                "--cluster",
                expected="a machine that is ready to work",
                found=f"none for {self._options.patience_s:g} s",
                remedy="see with ray status whether others use the machines, and run the command again",
            )
        if now < self._next_tick:
            return
        self._next_tick = now + self._options.tick_s
        self._ledger.heartbeat()
        for member in self._roster.hire():
            _log.info("machine %s: a worker starts", member.place)
            self._flights[member.actor.open.remote()] = _Flight(member, None, float("inf"))
        for ref, flight in list(self._flights.items()):
            if flight.job and now > flight.deadline:
                limit = f"took more than {self._options.time_limit_s:g} s"
                self._give_up(ref, flight, "TIME", limit)

    def _hand_out(self) -> None:
        """Give every idle worker the next study."""
        busy = {flight.member for flight in self._flights.values()}
        for member in list(self._roster.members):
            if not member.is_open or member in busy:
                continue
            if self._roster.is_refused(member):
                self._roster.dismiss(member)
                continue
            key = self._ledger.claim()
            if key is None:
                return
            limit = self._options.time_limit_s
            deadline = float("inf") if limit is None else time.monotonic() + limit
            job = self._jobs[key]
            self._flights[member.actor.run.remote(job)] = _Flight(member, job, deadline)

    def _listen(self) -> None:
        """Take what workers answer within a tick."""
        if not self._flights:
            time.sleep(self._options.tick_s)
            return
        ready, _ = self._ray.wait(list(self._flights), timeout=self._options.tick_s)
        for ref in ready:
            self._hear(ref, self._flights[ref])

    def _hear(self, ref: Any, flight: _Flight) -> None:
        try:
            answer = self._ray.get(ref)
        except self._ray.exceptions.OutOfMemoryError:
            self._give_up(ref, flight, "MEMORY", "was ended by Ray, as the machine's memory is used up")
        except self._ray.exceptions.RayError as error:
            self._give_up(ref, flight, "CRASH", f"was lost ({type(error).__name__})")
        else:
            if flight.job is None:
                self._open(flight.member, answer)
            elif isinstance(answer, Unseen):
                self._unseen(flight.member, flight.job)
            else:
                self._end(flight.member, flight.job, answer)
            del self._flights[ref]

    def _give_up(self, ref: Any, flight: _Flight, code: str, why: str) -> None:
        """End a worker that is lost or late, and record it against its study; its answer is not waited for."""
        member, job = flight.member, flight.job
        _log.warning("machine %s: a worker %s", member.place, why)
        if job is None:
            self._roster.lost_at_start(member, why)
        else:
            self._roster.dismiss(member)
            self._told(job, self._ledger.fail(job.key, code, f"{job.name}: its worker on {member.place} {why}"))
        del self._flights[ref]
        self._next_tick = 0.0  # another one is hired

    def _open(self, member: Member, error: MedsegError | None) -> None:
        if error is None and text_of(self._order.scratch / member.name / PROBE_FILE) != self._order.probe:
            error = StorageError(
                self._output,
                expected="an output folder that every machine writes to",
                found="nothing of what this machine writes",
                remedy="mount the shared storage on it under the same path",
            )
        if error:
            self._roster.refuse(member, error)
        else:
            member.is_open = True

    def _unseen(self, member: Member, job: Job) -> None:
        """Tell a machine that lacks the storage of the inputs from a study that is gone."""
        if sees(job):
            self._ledger.requeue([job.key])
            error = StorageError(
                "the inputs",
                expected="files that every machine sees under the same path",
                found="some that this machine cannot read",
                remedy="mount the shared storage on it under the same path",
            )
            self._roster.refuse(member, error)
            return
        gone = UnreadableError(
            job.name,
            expected="files that can be read",
            found="none",
            remedy="see that their storage is there, and try again",
        )
        self._told(job, settle(self._ledger, JobResult(job.key, error=gone)))

    def _end(self, member: Member, job: Job, result: JobResult) -> None:
        """Record a study, its outputs moved to their place."""
        wrote = zip(result.outputs, result.made, strict=True)  # neither where there is an error
        if any(_size_of(made) != output.size_bytes for output, made in wrote):
            why = f"{job.name}: what {member.place} wrote has not arrived whole"
            self._told(job, self._ledger.fail(job.key, "STORAGE", why, result.without_outputs().record()))
        else:
            self._told(job, settle(self._ledger, result))
        forget_study(self._order.scratch / member.name, job.key)
        if not isinstance(result.error, InputError | StorageError | None):  # a GPU's context may be lost with it
            self._roster.dismiss(member)

    def _told(self, job: Job, state: State | None) -> None:
        tell(self._ledger, self._observer, job.key, state)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
