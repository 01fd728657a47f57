"""Who works on a study: a process, told from an earlier one with the same number; and whether it is still there."""

from __future__ import annotations

import os
import platform
import secrets
from pathlib import Path

_START_FIELD = 19  # of /proc/PID/stat after the name in brackets: starttime, see proc_pid_stat(5)


def this_process() -> str:
    """Return ``HOST:PID:START:TOKEN`` of this process; the token is another one at every call."""
    return f"{platform.node()}:{os.getpid()}:{_start_of(os.getpid())}:{secrets.token_hex(3)}"


def is_gone(owner: str) -> bool:
    """Whether a process of this machine has ended; False for one of another machine, as nobody can tell."""
    host, pid, start, *_ = (*owner.split(":"), "", "", "")
    if host != platform.node() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's
    return _start_of(int(pid)) != start


def is_held(owner: str, lease: float, now: float) -> bool:
    """Whether somebody still works on a study: a living process of this machine, or any within its lease.

    A living process keeps a study for as long as it lives, as reading and writing renew no lease. What this very
    process has left behind is nobody's after the lease.
    """
    host, pid, *_ = (*owner.split(":"), "", "")
    if not owner or is_gone(owner):
        return False
    return lease >= now or (host == platform.node() and pid.isdecimal() and int(pid) != os.getpid())


def _start_of(pid: int) -> str:
    """Return when a process began, in ticks since the machine did; "" where the system does not tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[_START_FIELD]
