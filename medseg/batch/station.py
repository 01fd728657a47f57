"""One stage in a process of its own: what the process does, and how it is told.

Processes are spawned, so that they share nothing with CUDA or with threads. A station ends when its pipe is closed,
and, whatever it is doing, when the process that started it has ended.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from medseg.batch.job import Job
from medseg.batch.scratch import Parked, park, study_folder
from medseg.batch.worker import Advance, Images, Network, Reader, Segmented, Writer, Written, known_error
from medseg.errors import InputError, MedsegError, StorageError
from medseg.volume import Volume

Step = Callable[[Job, Any, Advance], Any]
Build = Callable[[], Step]

_CONTEXT = get_context("spawn")
_PROGRESS_S = 0.2
_KILL_S = 10.0


@dataclass(frozen=True)
class Ready:
    """The station can take a task."""


@dataclass(frozen=True)
class Tiles:
    """How far the task is."""

    done: int
    total: int


@dataclass(frozen=True)
class Made:
    """What became of the task.

    Attributes:
        value: What the stage made.
        seconds: How long it took.
        error: Why there is nothing.
    """

    value: Any
    seconds: float
    error: MedsegError | None = None

    @property
    def is_healthy(self) -> bool:
        """Whether the process may go on: after an error that nobody foresaw, a GPU's context may be lost."""
        return self.error is None or isinstance(self.error, InputError | StorageError)


@dataclass(frozen=True)
class Drawn:
    """A `Segmented` study whose voxels lie in a file.

    Attributes:
        parked: The label values.
        hollow: All else; its label map has one voxel.
    """

    parked: Parked
    hollow: Segmented

    def segmented(self) -> Segmented:
        """Return the study, its label values mapped."""
        return replace(self.hollow, labels=replace(self.hollow.labels, volume=self.parked.volume()))


class Station:
    """A stage's process, as seen by the one that hands out the work.

    Args:
        build: Makes the stage, in the new process; picklable.
        name: For people.
        starts: How often in a row one before it could not start.
    """

    def __init__(self, build: Build, name: str, starts: int = 0) -> None:
        self.build, self.name, self.starts = build, name, starts
        self.born = time.monotonic()
        self.job: Job | None = None
        self.since = 0.0
        self.is_ready = False
        self.connection, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(theirs, build), name=f"medseg {name}", daemon=True)
        self._process.start()
        theirs.close()

    @property
    def is_idle(self) -> bool:
        """Whether it can take a task."""
        return self.is_ready and self.job is None

    @property
    def sentinel(self) -> int:
        """To wait for its end."""
        return self._process.sentinel

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid or 0

    def begin(self, job: Job, given: Any) -> None:
        """Hand over a task; that it has died meanwhile is seen at its sentinel."""
        self.job, self.since = job, time.monotonic()
        try:
            self.connection.send((job, given))
        except OSError:
            return

    def receive(self) -> Ready | Tiles | Made | None:
        """Return its next message; None where it has ended."""
        try:
            message: Ready | Tiles | Made = self.connection.recv()
        except (EOFError, OSError):
            return None
        if isinstance(message, Ready):
            self.is_ready = True
        return message

    def kill(self, wait_s: float = 0.0) -> int:
        """End the process, if it has not ended within some seconds by itself.

        Returns:
            Its exit status; negative for the signal that ended it.
        """
        self._process.join(wait_s)
        status = self._process.exitcode
        self._process.kill()
        self._process.join(_KILL_S)  # one that waits for a device or a share may outlive it
        self.connection.close()
        return -signal.SIGKILL if status is None else status


def reading(make: Callable[[], Reader], scratch: Path) -> Step:
    """Make the first stage; to be called in its process, as the next two."""
    reader = make()

    def step(job: Job, _: Any, __: Advance) -> tuple[Parked | None, ...]:
        images = enumerate(reader(job))
        folder = study_folder(scratch, job.key)
        return tuple(park(image, folder / f"{n}.raw") if image else None for n, image in images)

    return step


def segmenting(make: Callable[[str], Network], device: str, scratch: Path) -> Step:
    """Make the second stage."""
    network = make(device)

    def step(job: Job, given: tuple[Parked | None, ...], advance: Advance) -> Drawn:
        made = network(job, _mapped(given), advance)
        parked = park(made.labels.volume, study_folder(scratch, job.key) / "labels.raw")
        one_voxel = Volume(np.zeros((1, 1, 1), np.uint8), np.eye(4))
        return Drawn(parked, replace(made, labels=replace(made.labels, volume=one_voxel)))

    return step


def writing(make: Callable[[], Writer]) -> Step:
    """Make the third stage."""
    writer = make()

    def step(job: Job, given: tuple[Sequence[Parked | None], Drawn], _: Advance) -> Written:
        images, drawn = given
        return writer(job, _mapped(images), drawn.segmented())

    return step


def _mapped(images: Sequence[Parked | None]) -> Images:
    return [parked.volume() if parked else None for parked in images]


def _serve(connection: Connection[Any, Any], build: Build) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # who started it decides what they mean, and gets them too
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        step = build()
    except Exception as error:  # noqa: BLE001 - it is told to who waits for it
        connection.send(Made(None, 0.0, known_error(error, "a worker of the batch")))
        return
    connection.send(Ready())
    while True:
        try:
            job, given = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(_attempt(step, job, given, connection))


def _attempt(step: Step, job: Job, given: Any, connection: Connection[Any, Any]) -> Made:
    start = told = time.perf_counter()

    def advance(done: int, total: int) -> None:
        nonlocal told
        if time.perf_counter() - told > _PROGRESS_S or done == total:
            told = time.perf_counter()
            connection.send(Tiles(done, total))

    try:
        value = step(job, given, advance)
    except Exception as error:  # noqa: BLE001 - it is recorded against this study
        return Made(None, time.perf_counter() - start, known_error(error, job.name))
    return Made(value, time.perf_counter() - start)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
