"""Outputs on their way to their place: the ledger knows of each file and folder before it is there.

So what a power cut leaves behind is found and deleted later, wherever it lies: in the output folder, in a subfolder
made for it, or in another folder, even on another file system.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path, PurePath
from types import TracebackType

from medseg.batch.job import JobResult
from medseg.errors import InputError
from medseg.files import copy_flushed, move_into_place, name_beside, storage_error


class Placing:
    """The outputs of a study, to be moved to their place: all of them, or none stays there.

    As a context manager it deletes what it has brought, unless it was left after `move` without an error.

    Args:
        folder: The output folder.
        result: Of the study; where `JobResult.made` is empty, its outputs are in their place already.
    """

    def __init__(self, folder: Path, result: JobResult) -> None:
        self._folder, self._key = folder, result.key
        self._paths = [output.path for output in result.outputs]
        made = zip(self._paths, result.made, strict=False)
        self._moves = {folder / path: lies for path, lies in made}
        self._copies = {
            target: name_beside(target)
            for target, lies in self._moves.items()
            if _device_of(target.parent) != _device_of(lies)
        }
        self._new: list[str] = []
        self._moved: list[Path] = []

    def __enter__(self) -> Placing:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        for path in (*self._copies.values(), *(self._moved if kind else ())):
            with suppress(OSError):
                path.unlink()

    def announce(self, database: sqlite3.Connection) -> None:
        """Enter the files that will be there, and the folders that will be made for them.

        Args:
            database: Within a transaction.

        Raises:
            InputError: An output of another study lies in the place of one.
        """
        for path in self._paths:
            others = database.execute("SELECT 1 FROM files WHERE path = ? AND key != ?", (path, self._key))
            if others.fetchone():
                raise InputError(
                    self._folder / path,
                    expected="a place that no other study has",
                    found="an output of another study",
                    remedy="let the names of outputs hold that of the study, or write it into another folder",
                )
        for path in (*self._paths, *map(str, self._copies.values())):
            entered = database.execute("INSERT OR IGNORE INTO files VALUES (?, ?)", (path, self._key))
            self._new += [path] * entered.rowcount
            missing = [str(parent) for parent in PurePath(path).parents if not (self._folder / parent).exists()]
            database.executemany("INSERT OR IGNORE INTO folders VALUES (?)", [(parent,) for parent in missing])

    def copy(self) -> None:
        """Copy what must come to another file system, beside its place.

        Raises:
            StorageError: It cannot be written there.
        """
        for target, copy in self._copies.items():
            copy_flushed(self._moves[target], copy)

    def move(self, database: sqlite3.Connection) -> None:
        """Give all files their names, and delete those that the study had before.

        Args:
            database: Within the transaction that says what became of the study.

        Raises:
            StorageError: One cannot be moved, or deleted.
        """
        for target, lies in self._moves.items():
            move_into_place(self._copies.get(target, lies), target)
            self._moved.append(target)
        delete_files(database, self._folder, self._key, but=self._paths)

    def forget(self, database: sqlite3.Connection) -> None:
        """Take back what was announced, after it was not moved; an earlier output in its place is still known.

        Args:
            database: Within a transaction.
        """
        for path in self._new:
            database.execute("DELETE FROM files WHERE path = ?", (path,))
            _remove_empty(database, self._folder, path)


def delete_files(database: sqlite3.Connection, folder: Path, key: str, *, but: Iterable[str] = ()) -> None:
    """Delete what was written for a study, as it is no longer what the ledger says, and folders left empty by that.

    Args:
        database: Within a transaction.
        folder: The output folder.
        key: Of the study.
        but: Files to keep.

    Raises:
        StorageError: One cannot be deleted.
    """
    kept = set(but)
    for (path,) in database.execute("SELECT path FROM files WHERE key = ?", (key,)).fetchall():
        if path in kept:
            continue
        try:
            (folder / path).unlink(missing_ok=True)
        except (IsADirectoryError, NotADirectoryError):
            pass  # something else is in its place, or in that of its folder: it is gone
        except OSError as error:
            raise storage_error(folder / path, error) from error
        database.execute("DELETE FROM files WHERE path = ?", (path,))
        _remove_empty(database, folder, path)


def _remove_empty(database: sqlite3.Connection, folder: Path, path: str) -> None:
    """Remove the folders of a file that were made for outputs, from the lowest one on, while they are empty."""
    for parent in PurePath(path).parents:
        if not database.execute("SELECT 1 FROM folders WHERE path = ?", (str(parent),)).fetchone():
            return
        try:
            (folder / parent).rmdir()
        except FileNotFoundError:
            pass
        except OSError:  # it holds something
            return
        database.execute("DELETE FROM folders WHERE path = ?", (str(parent),))


def _device_of(path: Path) -> int | None:
    """Return the file system of a path, or of the first folder above it that is there."""
    for place in _upwards(path):
        try:
            return place.stat().st_dev
        except OSError:
            continue
    return None


def _upwards(path: Path) -> Iterator[Path]:
    yield path
    yield from path.parents
