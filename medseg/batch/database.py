"""The ledger's file, and what opening, reading and writing it may run into."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

from medseg.batch.schema import SCHEMA_VERSION, TABLES
from medseg.errors import StorageError, UsageError

Item = TypeVar("Item")

_BUSY_SECONDS = 60.0
_REASONS = {
    "SQLITE_FULL": ("the disk is full", "free some space, and run the command again: what is done stays done"),
    "SQLITE_READONLY": ("a ledger that cannot be written to", "choose a folder that you may write to"),
    "SQLITE_CANTOPEN": ("a ledger that cannot be opened", "choose a folder that you may write to"),
    "SQLITE_IOERR": ("the disk fails, or is full", "free some space, and run the command again"),
    "SQLITE_BUSY": ("a ledger that another program has locked", "end that program, and run the command again"),
    "SQLITE_NOTADB": ("another file in its place", "delete or move it, or choose another folder"),
    "SQLITE_CORRUPT": ("a damaged ledger", "move it away, and run the command again: it is made anew"),
}


def connect(path: Path, *, busy_s: float = _BUSY_SECONDS) -> sqlite3.Connection:
    """Open a ledger, or make it: write-ahead log, every commit flushed to the disk.

    Args:
        path: The file.
        busy_s: How long to wait for another process that writes.

    Raises:
        StorageError: It cannot be opened or written to, or is damaged.
        UsageError: A later version of medseg has made it.
    """
    with storing(path):
        connection = sqlite3.connect(path, timeout=busy_s, isolation_level=None)
        try:
            connection.row_factory = sqlite3.Row
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise UsageError(
                    path,
                    expected=f"a ledger of version {SCHEMA_VERSION} or before",
                    found=f"version {version}",
                    remedy="use the medseg that made it",
                )
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA temp_store=MEMORY")
            connection.executescript(TABLES + f"PRAGMA user_version={SCHEMA_VERSION};")
        except BaseException:
            connection.close()
            raise
    return connection


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Cut items into lists of at most a size."""
    stream = iter(items)
    while some := list(islice(stream, size)):
        yield some


@contextmanager
def writing(connection: sqlite3.Connection, path: Path) -> Iterator[sqlite3.Connection]:
    """Give the database within one transaction, which is on the disk at the end or has never been.

    Raises:
        StorageError: The ledger cannot be written.
    """
    with storing(path):
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn an SQLite error into a `StorageError` that says what to do.

    Raises:
        StorageError: The ledger cannot be read or written.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        reason = next((kind for kind in _REASONS if name.startswith(kind)), "")
        if not reason:
            raise
        found, remedy = _REASONS[reason]
        raise StorageError(path, expected="a ledger to write to", found=found, remedy=remedy) from error
