"""Keeping pydicom and its decoders silent: their warnings and logs quote values of the file."""

from __future__ import annotations

import logging
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pydicom.errors import BytesLengthException

PYDICOM_ERRORS = (
    BytesLengthException,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    OverflowError,
    struct.error,
    zlib.error,
)
"""What pydicom and its decoders raise on damaged files."""

_LOGGERS = ("pydicom", "pylibjpeg", "openjpeg", "libjpeg", "jpeg_ls", "gdcm")


class _Silence:
    """How many are inside, and what puts things back after the last of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.undo = ExitStack()

    def enter(self) -> None:
        with self.lock:
            if self.inside == 0:
                self._begin()
            self.inside += 1

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                self.undo.close()

    def _begin(self) -> None:
        self.undo.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            self.undo.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL + 1)


_silence = _Silence()


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom and its decoders; may be nested, and entered from several threads.

    Warning filters belong to the whole process: the first one in sets them, the last one out puts them back.
    """
    _silence.enter()
    try:
        yield
    finally:
        _silence.leave()
