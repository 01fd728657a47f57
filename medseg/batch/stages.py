"""Reading, computing and writing at the same time, each in processes of its own, watched by this one.

The watching process owns the ledger. It hands out the work, holds every study to its time, notices a process that
crashed, hung or was killed, records that against the study that was in it, and starts another one in its place.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from typing import Any

from medseg.batch.job import Job, JobResult
from medseg.batch.ledger import Ledger
from medseg.batch.observer import StopAsked
from medseg.batch.options import RunContext
from medseg.batch.rows import State
from medseg.batch.scratch import Parked, forget_study
from medseg.batch.settle import settle, tell
from medseg.batch.stage import Stage, cause
from medseg.batch.station import Drawn, Made, Station, Tiles, reading, segmenting, writing
from medseg.batch.worker import BugError, Written, result_from
from medseg.errors import MedsegError
from medseg.study import all_findings

MOST_WAITING = 2
"""Volumes that were read and wait for the network, and label maps that wait to be written, with their images where
the writer needs these."""

_POLL_S = 0.5
_OTHERS_S = 2.0
_GRACE_S = 20.0


@dataclass
class _Flight:
    """A study between claim and end."""

    job: Job
    timings: dict[str, float] = field(default_factory=dict)
    images: tuple[Parked | None, ...] = ()
    drawn: Drawn | None = None


class Stages:
    """The three stages of a batch.

    Args:
        ledger: With the studies planned.
        jobs: By key, all that the ledger may hand out.
        context: What they are done with.
    """

    def __init__(self, ledger: Ledger, jobs: Mapping[str, Job], context: RunContext) -> None:
        crew, scratch, options = context.crew, context.scratch, context.options
        self._ledger, self._jobs, self._observer, self._scratch = ledger, jobs, context.observer, scratch
        self._limit_s, self._needs_images = options.time_limit_s, crew.needs_images
        self._room = max(MOST_WAITING, len(context.devices)) - 1
        networks = [partial(segmenting, crew.network, device, scratch) for device in context.devices]
        self._read = Stage("read", [partial(reading, crew.reader, scratch)] * options.readers)
        self._segment = Stage("segment", networks)
        self._write = Stage("write", [partial(writing, crew.writer)] * options.writers)
        self._stages = (self._read, self._segment, self._write)
        self._flights: dict[str, _Flight] = {}
        self._next_claim = 0.0
        self._stop: StopAsked = bool

    def run(self, stop: StopAsked) -> None:
        """Work until every study has ended.

        Args:
            stop: Asked often; where it is true, what is being written is finished, and the rest is planned again.

        Raises:
            StorageError: Nothing more can be written. What was in work is planned again.
            MedsegError: A stage cannot be started, such as `ModelError`.
        """
        self._stop = stop
        try:
            while not stop():
                for stage in self._stages:
                    stage.tend()
                self._hand_out()
                if not self._flights and self._ledger.is_over():
                    return
                self._listen(_POLL_S if self._flights else _OTHERS_S)
            self._finish_writing()
        finally:
            for stage in self._stages:
                stage.kill()
            with suppress(MedsegError):  # the ledger sees at the next start that this process is gone
                self._ledger.requeue(list(self._flights))

    def _hand_out(self) -> None:
        """Give every idle station the next study, the last stage first."""
        for stage, after in ((self._write, None), (self._segment, self._write)):
            for station in stage.stations:
                room = after is None or self._has_room(stage, after)
                if station.is_idle and stage.waiting and room:
                    station.begin(*stage.waiting.popleft())
        for station in self._read.stations:
            if station.is_idle and self._has_room(self._read, self._segment):
                self._claim(station)

    def _has_room(self, stage: Stage, after: Stage) -> bool:
        """Whether what one more station makes may wait for the next stage."""
        return len(after.waiting) + stage.busy < self._room + len(stage.stations)

    def _claim(self, station: Station) -> None:
        if time.monotonic() < self._next_claim:
            return
        key = self._ledger.claim()
        if key is None:
            self._next_claim = time.monotonic() + _OTHERS_S
            return
        self._flights[key] = _Flight(self._jobs[key])
        station.begin(self._jobs[key], None)

    def _listen(self, seconds: float) -> None:
        """Take what stations say within some seconds; see who has died, and who takes too long."""
        watched: dict[Any, tuple[Stage, Station]] = {
            thing: (stage, station)
            for stage in self._stages
            for station in stage.stations
            for thing in (station.connection, station.sentinel)
        }
        for stage, station in dict.fromkeys(watched[thing] for thing in wait(list(watched), seconds)):
            if station in stage.stations:
                self._hear(stage, station)
        for stage in self._stages:
            for station in list(stage.stations):
                if self._is_late(station):
                    self._replace(stage, station, is_late=True)
        self._ledger.heartbeat()

    def _is_late(self, station: Station) -> bool:
        if station.job is None or self._limit_s is None:
            return False
        before = sum(self._flights[station.job.key].timings.values())
        return before + time.monotonic() - station.since > self._limit_s

    def _hear(self, stage: Stage, station: Station) -> None:
        message = station.receive()
        if message is None:
            self._replace(stage, station)
        elif isinstance(message, Tiles):
            self._observer.tiles(message.done, message.total)
        elif isinstance(message, Made):
            if station.job is None:
                stage.replace(station, error=message.error)
                return
            job, station.job = station.job, None
            if not message.is_healthy:
                stage.replace(station, at_once=True)
            self._take(stage, self._flights[job.key], message)

    def _take(self, stage: Stage, flight: _Flight, made: Made) -> None:
        """Hand what a stage made to the next one, or end the study."""
        flight.timings[stage.name] = made.seconds
        key = flight.job.key
        if made.error:
            self._end(JobResult(key, timings_s=flight.timings, error=made.error))
        elif stage is self._read:
            flight.images = made.value
            self._segment.waiting.append((flight.job, flight.images))
        elif stage is self._segment:
            flight.drawn = made.value
            kept = flight.images if self._needs_images else ()
            for image in flight.images:
                if image and not kept:
                    image.drop()
            self._write.waiting.append((flight.job, (kept, flight.drawn)))
        else:
            self._end(_done(flight, made.value))

    def _end(self, result: JobResult) -> None:
        try:
            state = settle(self._ledger, result)
        finally:
            self._land(result.key)
        self._told(state, result.key)

    def _told(self, state: State | None, key: str) -> None:
        self._next_claim = 0.0
        tell(self._ledger, self._observer, key, state)

    def _land(self, key: str) -> None:
        del self._flights[key]
        forget_study(self._scratch, key)

    def _replace(self, stage: Stage, station: Station, *, is_late: bool = False) -> None:
        """Record a process that died, or took too long, against its study; start another one."""
        job = station.job
        if job and self._stop():  # what ended this program's work ended the process too: it is no one's fault
            station.job = None
            stage.replace(station, at_once=is_late)
            return
        status = stage.replace(station, at_once=is_late)
        if job is None:
            return
        code, why = ("TIME", f"took more than {self._limit_s:g} s") if is_late else ("CRASH", cause(status))
        code = "KILLED" if not is_late and status == -signal.SIGKILL else code
        record = JobResult(job.key, timings_s=self._flights[job.key].timings).record()
        self._land(job.key)
        state = self._ledger.fail(
            job.key, code, f"{job.name}: the process that was to {stage.name} it {why}", record
        )
        self._told(state, job.key)

    def _finish_writing(self) -> None:
        """Let the writer finish what it has in hand."""
        end = time.monotonic() + _GRACE_S
        while self._write.busy and time.monotonic() < end:
            self._listen(_POLL_S)


def _done(flight: _Flight, written: Written) -> JobResult:
    drawn = flight.drawn
    if drawn is None:
        raise BugError("batch", expected="a label map before it is written", found="none", remedy="report it")
    findings = all_findings(flight.images, drawn.parked)
    return result_from(flight.job.key, findings, drawn.hollow, written, flight.timings)
