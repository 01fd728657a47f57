"""Leaving at a good moment: the first Ctrl-C asks, the second one interrupts."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopRequest:
    """Whether and by what the program was asked to stop.

    Attributes:
        signal: SIGINT (Ctrl-C) or SIGTERM (a batch scheduler); None where nobody asked.
    """

    signal: signal.Signals | None = None

    def is_set(self) -> bool:
        """Whether the program was asked to stop."""
        return self.signal is not None


class StopTraining(Exception):  # noqa: N818 - no error, but a way out
    """Leaves what a training is doing, as it was asked to stop.

    Attributes:
        signal: What asked.
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.signal = number


@contextmanager
def leaving_on_sigterm(status: int) -> Iterator[None]:
    """Let SIGTERM end the program with a status, wherever `stop_request` does not catch it to save first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(status))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Give a request that SIGINT and SIGTERM set, instead of ending the program.

    A second one raises `KeyboardInterrupt`. Outside the main thread, where signals cannot be caught, the request
    is never set.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if request.is_set():
            raise KeyboardInterrupt
        request.signal = signal.Signals(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
