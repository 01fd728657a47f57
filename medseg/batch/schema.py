"""The ledger's tables, and what opening them may run into."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

from medseg.errors import StorageError, UsageError

Item = TypeVar("Item")

LEDGER_FILE = "ledger.sqlite"
SCHEMA_VERSION = 1

_BUSY_SECONDS = 60.0
_TABLES = """
CREATE TABLE IF NOT EXISTS studies (
  key TEXT PRIMARY KEY,
  number INTEGER NOT NULL,
  name TEXT NOT NULL,
  source TEXT NOT NULL,
  target TEXT NOT NULL,
  state TEXT NOT NULL,
  model TEXT NOT NULL,
  settings TEXT NOT NULL,
  version TEXT NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  strikes INTEGER NOT NULL DEFAULT 0,
  alone INTEGER NOT NULL DEFAULT 0,
  worker TEXT NOT NULL DEFAULT '',
  lease REAL NOT NULL DEFAULT 0,
  started REAL,
  ended REAL,
  code TEXT NOT NULL DEFAULT '',
  message TEXT NOT NULL DEFAULT '',
  result TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX IF NOT EXISTS by_state ON studies (state);
CREATE INDEX IF NOT EXISTS by_target ON studies (target);
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TEMP TABLE mine (key TEXT PRIMARY KEY);
"""
PUT = """
INSERT INTO studies (number, key, name, source, target, model, settings, version, state, code, message)
VALUES ((SELECT coalesce(max(number), 0) + 1 FROM studies), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET
  name = excluded.name, source = excluded.source, target = excluded.target, model = excluded.model,
  settings = excluded.settings, version = excluded.version, state = excluded.state, code = excluded.code,
  message = excluded.message, attempts = 0, strikes = 0, alone = 0, worker = '', lease = 0, started = NULL,
  ended = NULL, result = '{}'
"""
"""Plan a study, or refuse it: key, name, source, target, model, settings, version, state, code, message."""
NEXT = """
SELECT key FROM studies JOIN mine USING (key) WHERE state IN ('planned', 'failed') AND model = ? AND settings = ?
ORDER BY state = 'failed', attempts, number LIMIT 1
"""
"""The study to claim next: model, settings."""
CLAIM = """
UPDATE studies SET state = 'running', attempts = attempts + 1, worker = ?, lease = ?, alone = ?, started = ?,
  ended = NULL WHERE key = ?
"""
"""Claim it: worker, lease, alone, started, key."""
FORGET_PROBLEMS = """
DELETE FROM studies WHERE target = '' AND key NOT IN (SELECT key FROM mine)
  AND source IN (SELECT source FROM studies JOIN mine USING (key))
"""
"""Forget what was wrong with folders and archives that were looked at again."""

LEFT = """
SELECT count(*) FROM studies JOIN mine USING (key)
WHERE state IN ('planned', 'running', 'failed') AND model = ? AND settings = ?
"""
"""How many have not ended: model, settings."""
RIVAL = """
SELECT key FROM studies JOIN mine USING (key) WHERE target = ? AND target != '' AND key != ? AND state != 'refused'
"""
"""Who else has a target: target, key."""
TAKE_BACK = "UPDATE studies SET state = ?, strikes = ?, code = ?, message = ? WHERE key = ?"
END = """
UPDATE studies SET state = ?, code = ?, message = ?, result = ?, ended = ?, lease = 0, version = ?,
  strikes = strikes + ? WHERE key = ? AND state = 'running' AND worker = ?
"""
"""Record how a study ended: state, code, message, result, ended, version, strike, key, worker."""
RENEW = "UPDATE studies SET lease = ? WHERE state = 'running' AND worker = ?"
REQUEUE = """
UPDATE studies SET state = 'planned', attempts = max(attempts - 1, 0), worker = '', lease = 0
WHERE key = ? AND state = 'running' AND worker = ?
"""
"""Give a study back: key, worker."""
RETRY = "UPDATE studies SET state = 'planned', attempts = 0, strikes = 0, code = '', message = '' WHERE state = ?"

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
            connection.executescript(_TABLES + f"PRAGMA user_version={SCHEMA_VERSION};")
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
