"""A file that HDF5 can always close: the library crashes where it cannot write what it still holds."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


class SteadyFile:
    """A new file for reading and writing whose first failure is kept, and that goes on as if nothing had happened.

    What is written after a failure, as to a full disk, stays in memory, and is read from there: what HDF5 flushes
    when it is closed needs what it wrote before. So a writer should look at `error` after each block, and stop.

    Args:
        raw: Unbuffered.

    Attributes:
        error: The first failure.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        self.error: OSError | None = None
        self._raw = raw
        self._place = self._size = 0
        self._kept: list[tuple[int, bytes]] = []

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place; return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        """Return the place."""
        return self._place

    def write(self, data: bytes | memoryview) -> int:
        """Write all of some bytes, or keep them."""
        view = memoryview(data).cast("B")
        if self.error is None:
            try:
                self._raw.seek(self._place)
                written = 0
                while written < len(view):
                    written += self._raw.write(view[written:])
            except OSError as error:
                self.error = error
        if self.error is not None:
            self._kept.append((self._place, bytes(view)))
        self._place += len(view)
        self._size = max(self._size, self._place)
        return len(view)

    def readinto(self, target: memoryview) -> int:
        """Fill a buffer as far as the file goes; what could not be read is 0."""
        count = max(0, min(len(target), self._size - self._place))
        target[:count] = self._stored(count).ljust(count, b"\0")
        for start, data in self._kept:
            low, high = max(start, self._place), min(start + len(data), self._place + count)
            if low < high:
                target[low - self._place : high - self._place] = data[low - start : high - start]
        self._place += count
        return count

    def read(self, size: int = -1) -> bytes:
        """Read some bytes; all that are left by default."""
        data = bytearray(max(0, self._size - self._place) if size < 0 else size)
        return bytes(data[: self.readinto(memoryview(data))])

    def truncate(self, size: int | None = None) -> int:
        """Cut or extend the file."""
        self._size = self._place if size is None else size
        if self.error is None:
            try:
                self._raw.truncate(self._size)
            except OSError as error:
                self.error = error
        return self._size

    def flush(self) -> None:
        """Nothing is buffered."""

    def check(self) -> None:
        """Raise the first failure.

        Raises:
            OSError: There was one.
        """
        if self.error is not None:
            raise self.error

    def _stored(self, count: int) -> bytes:
        found = b""
        try:
            self._raw.seek(self._place)
            while len(found) < count and (more := self._raw.read(count - len(found))):
                found += more
        except OSError as error:
            self.error = self.error or error
        return found


@contextmanager
def steady_file(path: Path) -> Iterator[SteadyFile]:
    """Make a file; when the block is done, its first failure is raised, whatever else the failure led to.

    Raises:
        OSError: Something could not be written.
    """
    with path.open("w+b", buffering=0) as raw:
        stream = SteadyFile(raw)
        try:
            yield stream
        except Exception as error:
            if stream.error is None or stream.error is error:
                raise
            raise stream.error from error
        stream.check()
