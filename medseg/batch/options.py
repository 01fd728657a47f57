"""How a batch is run, and by whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medseg.batch.observer import Observer
from medseg.batch.worker import Crew


@dataclass(frozen=True)
class BatchOptions:
    """How a batch is run; nothing here changes a label map.

    Attributes:
        time_limit_s: Of one study; None for no limit, which does not count while it waits. In one process there is
            none.
        in_process: Read, compute and write one after the other, in this process.
        readers: Processes that read.
        writers: Processes that write.
    """

    time_limit_s: float | None = None
    in_process: bool = False
    readers: int = 1
    writers: int = 1


@dataclass(frozen=True)
class RunContext:
    """What the studies of a batch are done with, on this machine.

    Attributes:
        crew: How reader, network and writer are made.
        devices: One network worker each; in one process the first alone.
        scratch: Folder for volumes between processes, from `medseg.batch.scratch.scratch_folder`.
        observer: Is told what happens.
        options: How it is run.
    """

    crew: Crew
    devices: Sequence[str]
    scratch: Path
    observer: Observer
    options: BatchOptions = field(default_factory=BatchOptions)
