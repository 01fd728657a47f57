"""A network of its own for a server: a Linux network namespace in which there is nothing but a loopback interface.

Whoever listens there on every address is heard by nobody outside; every port is free. It lives as long as the one
process that `Namespace.start` runs in it.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from tests.tools.programs import need, run

_AS_ROOT = ("unshare", "--net")
_AS_ANYONE = ("unshare", "--user", "--map-root-user", "--net")
_BARE_PYTHON = (sys.executable, "-I", "-S", "-c")

# SIOCSIFFLAGS of netdevice(7): interface lo is set up, running; then the program takes over this process.
_UP_THEN_EXEC = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))
os.execvp(sys.argv[1], sys.argv[1:])
"""

# A socket stays in the namespace that it was made in, whoever holds it.
_CONNECT = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[2]))) as made:
    socket.send_fds(socket.socket(fileno=int(sys.argv[1])), [b"."], [made.fileno()])
"""


@cache
def _way() -> Sequence[str]:
    """Return the words that run a program in a namespace of its own; skip the test where nothing may do that."""
    need("unshare", "nsenter")
    for way in (_AS_ROOT, _AS_ANYONE):
        if run(*way, *_BARE_PYTHON, _UP_THEN_EXEC, "true").returncode == 0:
            return way
    pytest.skip("this machine lets nobody make a network namespace, without which a server would be open to all")


class Namespace:
    """A program that runs in a network of its own, and what else is run there."""

    def __init__(self, process: subprocess.Popen[bytes], enter: Sequence[str]) -> None:
        self._process = process
        self._enter = enter

    @classmethod
    def start(cls, words: Sequence[str | Path], log: Path) -> Namespace:
        """Run a program, its messages in a file; skip the test where no namespace can be made."""
        way = _way()
        command = [*way, *_BARE_PYTHON, _UP_THEN_EXEC, *map(str, words)]
        with log.open("wb") as stream:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
        user = ["--user", "--preserve-credentials"] if way == _AS_ANYONE else []
        return cls(process, ["nsenter", "--target", str(process.pid), *user, "--net"])

    @property
    def is_running(self) -> bool:
        """Whether the program has not ended."""
        return self._process.poll() is None

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run another program in the namespace to its end."""
        return run(*self._enter, *words)

    def connect(self, port: int) -> socket.socket:
        """Connect this process to a port of the namespace's 127.0.0.1.

        Raises:
            ConnectionError: Nobody listens there.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs:
            command = [*self._enter, *_BARE_PYTHON, _CONNECT, str(theirs.fileno()), str(port)]
            answer = subprocess.run(command, pass_fds=[theirs.fileno()], capture_output=True, check=False)
            if answer.returncode != 0:
                raise ConnectionError(answer.stderr.decode(errors="replace"))
            _, (number,), _, _ = socket.recv_fds(ours, 1, 1)
        return socket.socket(fileno=number)

    def stop(self) -> None:
        """End the program, and with it the namespace."""
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
