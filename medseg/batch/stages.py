"""Reading, computing and writing at the same time, each in processes of its own, watched by this one.

The watching process owns the ledger. It hands out the work, holds every study to its time, notices a process that
crashed, hung or was killed, records that against the study that was in it, and starts another one in its place.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from medseg.batch.job import Job, JobResult
from medseg.batch.ledger import Ledger
from medseg.batch.observer import Observer, StopAsked
from medseg.batch.options import BatchOptions
from medseg.batch.rows import State
from medseg.batch.scratch import Parked
from medseg.batch.settle import settle
from medseg.batch.station import Build, Drawn, Made, Station, Tiles, reading, segmenting, writing
from medseg.batch.worker import BugError, Crew, Written
from medseg.errors import MedsegError
from medseg.findings import Finding

MOST_WAITING = 2
"""Volumes that were read and wait for the network, and label maps that wait to be written."""

_POLL_S = 0.5
_OTHERS_S = 2.0
_MOST_STARTS = 3
_GRACE_S = 20.0
_DYING_S = 5.0  # until a process that closed its pipe has ended


@dataclass
class _Flight:
    """A study between claim and end."""

    job: Job
    timings: dict[str, float] = field(default_factory=dict)
    images: tuple[Parked | None, ...] = ()
    drawn: Drawn | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        read = [finding for image in self.images if image for finding in image.findings]
        return tuple(dict.fromkeys([*read, *(self.drawn.parked.findings if self.drawn else ())]))


@dataclass(eq=False)
class _Stage:
    """The stations of one stage, how each is built, and what waits for them."""

    name: str
    builds: Sequence[Build]
    stations: list[Station] = field(default_factory=list)
    waiting: deque[tuple[Job, Any]] = field(default_factory=deque)
    starts: int = 0

    def start(self) -> None:
        self.stations = [Station(build, self.name) for build in self.builds]

    def replace(self, station: Station) -> None:
        place = self.stations.index(station)
        self.stations[place] = Station(self.builds[place], self.name)

    @property
    def busy(self) -> int:
        return sum(station.job is not None for station in self.stations)


class Stages:
    """The three stages of a batch.

    Args:
        ledger: With the studies planned.
        jobs: By key, all that the ledger may hand out.
        crew: How each stage is made.
        devices: One network worker each.
        scratch: Folder for volumes between processes.
        observer: Is told what happens.
        options: The time limit of a study, which does not count while it waits, and the number of readers.
    """

    def __init__(
        self,
        ledger: Ledger,
        jobs: Mapping[str, Job],
        crew: Crew,
        devices: Sequence[str],
        scratch: Path,
        observer: Observer,
        options: BatchOptions,
    ) -> None:
        self._ledger, self._jobs, self._observer, self._scratch = ledger, jobs, observer, scratch
        self._limit_s = options.time_limit_s
        self._most_waiting = max(MOST_WAITING, len(devices))
        networks = [partial(segmenting, crew.network, device, scratch) for device in devices]
        self._read = _Stage("read", [partial(reading, crew.reader, scratch)] * options.readers)
        self._segment = _Stage("segment", networks)
        self._write = _Stage("write", [partial(writing, crew.writer)])
        self._stages = (self._read, self._segment, self._write)
        self._flights: dict[str, _Flight] = {}
        self._next_claim = 0.0

    def run(self, stop: StopAsked) -> None:
        """Work until every study has ended.

        Args:
            stop: Asked often; where it is true, what is being written is finished, and the rest is planned again.

        Raises:
            StorageError: Nothing more can be written. What was in work is planned again.
            MedsegError: A stage cannot be started, such as `ModelError`.
        """
        try:
            for stage in self._stages:
                stage.start()
            while not stop():
                self._hand_out()
                if not self._flights and self._ledger.is_over():
                    return
                self._listen(_POLL_S if self._flights else _OTHERS_S)
            self._finish_writing()
        finally:
            for stage in self._stages:
                for station in stage.stations:
                    station.kill()
            with suppress(MedsegError):  # the ledger sees at the next start that this process is gone
                self._ledger.requeue(list(self._flights))

    def _hand_out(self) -> None:
        """Give every idle station the next study, the last stage first."""
        for stage, after in ((self._write, None), (self._segment, self._write)):
            for station in stage.stations:
                room = after is None or len(after.waiting) + stage.busy < self._most_waiting
                if station.is_idle and stage.waiting and room:
                    station.begin(*stage.waiting.popleft())
        for station in self._read.stations:
            if station.is_idle and len(self._segment.waiting) + self._read.busy < self._most_waiting:
                self._claim(station)

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
        watched: dict[Any, tuple[_Stage, Station]] = {
            thing: (stage, station)
            for stage in self._stages
            for station in stage.stations
            for thing in (station.connection, station.sentinel)
        }
        heard = dict.fromkeys(id(watched[thing][1]) for thing in wait(list(watched), seconds))
        for stage, station in dict.fromkeys(watched.values()):
            if id(station) in heard:
                self._hear(stage, station)
            elif self._is_late(station):
                self._replace(stage, station, is_late=True)
        self._ledger.heartbeat()

    def _is_late(self, station: Station) -> bool:
        if station.job is None or self._limit_s is None:
            return False
        before = sum(self._flights[station.job.key].timings.values())
        return before + time.monotonic() - station.since > self._limit_s

    def _hear(self, stage: _Stage, station: Station) -> None:
        message = station.receive()
        if message is None:
            self._replace(stage, station)
        elif isinstance(message, Tiles):
            self._observer.tiles(message.done, message.total)
        elif isinstance(message, Made):
            if station.job is None:
                raise message.error or BugError("batch", expected="a start", found="none", remedy="report it")
            job, station.job, stage.starts = station.job, None, 0
            if not message.is_healthy:
                station.kill()
                stage.replace(station)
            self._take(stage, self._flights[job.key], message)

    def _take(self, stage: _Stage, flight: _Flight, made: Made) -> None:
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
            for image in flight.images:
                if image:
                    image.drop()
            self._write.waiting.append((flight.job, flight.drawn))
        else:
            self._end(_done(flight, made.value))

    def _end(self, result: JobResult) -> None:
        self._land(result.key)
        self._told(settle(self._ledger, result), result.key)

    def _told(self, state: State, key: str) -> None:
        self._next_claim = 0.0
        if state is not State.FAILED:  # it is tried again
            self._observer.ended(self._ledger.row(key))

    def _land(self, key: str) -> None:
        del self._flights[key]
        for file in self._scratch.glob(f"{key}.*"):
            with suppress(OSError):
                file.unlink()

    def _replace(self, stage: _Stage, station: Station, *, is_late: bool = False) -> None:
        """Record a process that died, or took too long, against its study; start another one."""
        job = station.job
        status = station.kill(0 if is_late else _DYING_S)
        stage.starts += not station.is_ready
        if stage.starts >= _MOST_STARTS:
            raise BugError(
                f"the process that is to {stage.name}",
                expected="a process that starts",
                found=f"{_cause(status)}, {stage.starts} times",
                remedy="look for memory or a driver that is missing, or use --in-process",
            )
        stage.replace(station)
        if job is None:
            return
        code, why = ("TIME", f"took more than {self._limit_s:g} s") if is_late else ("CRASH", _cause(status))
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
    rung, device = (flight.drawn.rung, flight.drawn.device) if flight.drawn else ("", "")
    done = (written.outputs, written.volumes_ml, flight.findings, flight.timings, rung, device)
    return JobResult(flight.job.key, *done)


def _cause(status: int) -> str:
    if status == -signal.SIGKILL:
        return "was killed (signal 9), as the system does when memory is used up"
    if status < 0:
        return f"crashed (signal {-status}, {signal.Signals(-status).name})"
    return f"ended with status {status}"
