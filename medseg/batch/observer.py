"""Who is told how a batch gets on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from medseg.batch.rows import Row

StopAsked = Callable[[], bool]


class Observer(Protocol):
    """Is told what happens, in the process that watches the batch."""

    def planned(self, total: int, ended: int) -> None:
        """So many studies there are, and so many of them have ended before: done, held, refused or quarantined."""

    def tiles(self, done: int, total: int) -> None:
        """So many tiles of a study are done."""

    def ended(self, row: Row) -> None:
        """A study has ended; one that failed and is tried again has not."""
