"""One stage of a batch: its processes, those that are to be started again, and what waits for them."""

from __future__ import annotations

import logging
import signal
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from medseg.batch.job import Job
from medseg.batch.station import Build, Station
from medseg.batch.worker import BugError, known_error
from medseg.errors import MedsegError

MOST_STARTS = 4
"""How often a process may fail to start, one time after the other, until it is left."""
PAUSE_S = 5.0
"""Before another start, times the starts that failed: what the last process held may not be free yet."""
START_LIMIT_S = 900.0

_DYING_S = 5.0  # until a process that closed its pipe has ended
_log = logging.getLogger(__name__)


class Stage:
    """The processes of one stage.

    Args:
        name: ``read``, ``segment`` or ``write``.
        builds: How each of its processes is made.
    """

    def __init__(self, name: str, builds: Sequence[Build]) -> None:
        self.name = name
        self.stations: list[Station] = []
        self.waiting: deque[tuple[Job, Any]] = deque()
        self._due = [(0.0, build, 0) for build in builds]
        self._works = False

    @property
    def busy(self) -> int:
        """How many processes have a study."""
        return sum(station.job is not None for station in self.stations)

    def tend(self) -> None:
        """Start what is due; give up what takes too long to start.

        Raises:
            MedsegError: The last process cannot be started.
        """
        now = time.monotonic()
        for entry in [entry for entry in self._due if entry[0] <= now]:
            self._due.remove(entry)
            try:
                self.stations.append(Station(entry[1], self.name, entry[2]))
            except OSError as error:  # no more processes, or no memory for one
                self._later(entry[1], entry[2] + 1, known_error(error, f"the process that is to {self.name}"))
        for station in list(self.stations):
            if not station.is_ready and now - station.born > START_LIMIT_S:
                self.replace(station, error=self._hangs())

    def kill(self) -> None:
        """End all processes."""
        for station in self.stations:
            station.kill()

    def replace(self, station: Station, *, at_once: bool = False, error: MedsegError | None = None) -> int:
        """End a process, and have another one started in its place: later, where it has never worked.

        Args:
            station: The process.
            at_once: Do not wait until it ends by itself.
            error: Why it says that it could not start.

        Returns:
            Its exit status; see `Station.kill`.

        Raises:
            MedsegError: It could not start, and each of this stage has tried and none could, or none is left.
        """
        status = station.kill(0 if at_once or error else _DYING_S)
        self.stations.remove(station)
        self._works = self._works or station.is_ready
        if station.is_ready:
            self._due.append((0.0, station.build, 0))
            self.tend()
            return status
        if error and not self._may_work():
            raise error
        starts = station.starts + 1
        unknown = BugError(
            f"the process that is to {self.name}",
            expected="a process that starts",
            found=f"{cause(status)}, {starts} times",
            remedy="look for memory or a driver that is missing, or use --in-process",
        )
        self._later(station.build, starts, error or unknown)
        return status

    def _may_work(self) -> bool:
        """Whether one of this stage has ever worked, or has not yet tried to start."""
        untried = any(not starts for _, _, starts in self._due)
        return self._works or untried or any(other.is_ready or not other.starts for other in self.stations)

    def _hangs(self) -> MedsegError:
        return BugError(
            f"the process that is to {self.name}",
            expected=f"a process that starts within {START_LIMIT_S:g} s",
            found="one that does not",
            remedy="look for a device or a share that does not answer, or use --in-process",
        )

    def _later(self, build: Build, starts: int, why: MedsegError) -> None:
        """Plan another start of a process that could not start, or leave it out."""
        if starts < MOST_STARTS:
            self._due.append((time.monotonic() + PAUSE_S * starts, build, starts))
        elif self.stations or self._due:
            _log.warning("one of the processes that %s is left out: %s", self.name, why)
        else:
            raise why


def cause(status: int) -> str:
    """Say why a process ended."""
    if status == -signal.SIGKILL:
        return "was killed (signal 9), as the system does when memory is used up"
    if status < 0:
        return f"crashed (signal {-status}, {signal.Signals(-status).name})"
    return f"ended with status {status}"
