"""Ray, joined or started, with what a hospital wants of it: a token, no telemetry, no dashboard of our own."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from medseg.errors import ClusterError, UsageError
from medseg.extras import import_extra

_STORE_BYTES = 100 * 2**20  # Ray's least is 75 MiB; only paths and results go through it
_KNOCK_S = 10.0


@contextmanager
def ray_session(address: str) -> Iterator[ModuleType]:
    """Give the module ``ray``, connected; at the end the connection is closed, and a cluster of our own ended.

    Token authentication is on unless the environment variable RAY_AUTH_MODE says otherwise; the token is in
    RAY_AUTH_TOKEN, in the file named by RAY_AUTH_TOKEN_PATH or in ``~/.ray/auth_token``.

    Args:
        address: ``auto`` (that of RAY_ADDRESS, else a cluster that this machine is part of, else a new one of this
            machine alone), or HOST:PORT of the head of a cluster that this machine is part of.

    Raises:
        UsageError: Ray is not installed, or the address is not one.
        ClusterError: The cluster cannot be reached, or refuses the token.
    """
    if "://" in address:
        raise UsageError(
            "--cluster",
            expected="auto or HOST:PORT",
            found=address,
            remedy="run medseg on a machine of the cluster: Ray's client protocol does not see its files",
        )
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if "ray" not in sys.modules:  # it looks at the mode when it is imported
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    ray = import_extra("ray", feature="--cluster", extra="cluster")
    import_extra("ray.util.scheduling_strategies", feature="--cluster", extra="cluster")
    if ray.is_initialized():
        yield ray
        return
    with _own_sigterm():
        _join(ray, address)
    try:
        yield ray
    finally:
        ray.shutdown()


def _join(ray: ModuleType, address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
    try:
        _knock(os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address)
        if address == "auto" and not os.environ.get("RAY_ADDRESS"):
            try:
                ray.init(address="auto", **quiet)
            except ConnectionError:
                ray.init(address="local", include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        is_token = (
            isinstance(error, ray.exceptions.AuthenticationError) or "uthenticat" in f"{error} {error.__cause__}"
        )
        raise ClusterError(
            "--cluster",
            expected="the token of the cluster" if is_token else f"a Ray cluster at {address}",
            found="none, or another one" if is_token else f"{type(error).__name__} on joining it",
            remedy="check ray status, the address, that ~/.ray/auth_token or RAY_AUTH_TOKEN is that of its head, "
            "and that the Ray versions are the same",
        ) from error


def _knock(address: str) -> None:
    """Try whether anybody listens there at all; Ray itself tries for many minutes."""
    host, separator, port = address.rpartition(":")
    if separator and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep the program's own handler of SIGTERM, which Ray replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
