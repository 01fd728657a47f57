"""How a batch is run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BatchOptions:
    """How a batch is run; nothing here changes a label map.

    Attributes:
        time_limit_s: Of one study; None for no limit. In one process there is none.
        in_process: Read, compute and write one after the other, in this process.
        readers: Processes that read.
        writers: Processes that write.
    """

    time_limit_s: float | None = None
    in_process: bool = False
    readers: int = 1
    writers: int = 1
