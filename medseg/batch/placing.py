"""Outputs on their way to their place: the ledger knows of each file and folder before it is there.

So what a power cut leaves behind is found and deleted later, wherever it lies: in the output folder, in a subfolder
made for it, or in another folder, even on another file system.
"""

from __future__ import annotations

import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from types import TracebackType

from medseg.batch.delivery import place_of
from medseg.batch.job import JobResult
from medseg.batch.schema import TELL_OF
from medseg.errors import InputError, StorageError
from medseg.files import copy_flushed, move_into_place, name_beside, sha256_of, storage_error


class Placing:
    """The outputs of a study, to be moved to their place: all of them, or none stays there.

    As a context manager it deletes what it has brought, unless it was left after `move` without an error.

    Args:
        folder: The output folder.
        result: Of the study; where `JobResult.made` is empty, its outputs are in their place already.
    """

    def __init__(self, folder: Path, result: JobResult) -> None:
        self._folder, self._key = folder, result.key
        outputs = {place_of(folder, output.path): output for output in result.outputs}
        made = dict(zip((output.path for output in result.outputs), result.made, strict=False))
        self._paths = list(outputs)
        self._hashes = {folder / path: output.sha256 for path, output in outputs.items()}
        self._moves = {folder / path: made[output.path] for path, output in outputs.items() if output.path in made}
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
            InputError: An output of another study lies in the place of one; or, outside of the output folder, a
                file that the ledger does not know.
            StorageError: It cannot be seen what lies there.
        """
        for path in self._paths:
            with _seeing(self._folder / path):
                self._require_free(database, path)
        beside = [str(PurePath(path).with_name(copy.name)) for path, copy in self._copies_by_place()]
        for path in (*self._paths, *beside):
            entered = database.execute("INSERT OR IGNORE INTO files VALUES (?, ?)", (path, self._key))
            self._new += [path] * entered.rowcount
            with _seeing(self._folder / path):
                missing = [str(parent) for parent in PurePath(path).parents if not (self._folder / parent).exists()]
            database.executemany("INSERT OR IGNORE INTO folders VALUES (?)", [(parent,) for parent in missing])
        database.execute("INSERT OR IGNORE INTO moving VALUES (?)", (self._key,))

    def _copies_by_place(self) -> Iterator[tuple[str, Path]]:
        for path in self._paths:
            if copy := self._copies.get(self._folder / path):
                yield path, copy

    def _require_free(self, database: sqlite3.Connection, path: str) -> None:
        """Refuse to write over what is not the study's own, whatever its name is on this file system."""
        target = self._folder / path
        found = database.execute("SELECT key FROM files WHERE path = ?", (path,)).fetchone()
        owner = found["key"] if found else _owner_of(database, self._folder, target)
        if owner == self._key:
            return
        if owner is not None:
            what, remedy = "another study", "let the names of outputs hold that of the study, or write it elsewhere"
            raise _taken(target, f"an output of {what}", remedy)
        is_strange = PurePath(path).is_absolute() and target in self._moves and target.is_file()
        if is_strange and sha256_of(target) != self._hashes[target]:
            remedy = "move it away, or deliver elsewhere, and run medseg batch retry"
            raise _taken(target, "a file that this batch has not written", remedy)

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
        for error in delete_files(database, self._folder, self._key, but=self._paths):
            raise error
        database.execute("DELETE FROM moving WHERE key = ?", (self._key,))

    def forget(self, database: sqlite3.Connection) -> None:
        """Take back what was announced, after it was not moved; an earlier output in its place is still known.

        Args:
            database: Within a transaction.
        """
        database.execute("DELETE FROM moving WHERE key = ?", (self._key,))
        for path in self._new:
            database.execute("DELETE FROM files WHERE path = ?", (path,))
            _remove_empty(database, self._folder, path)


def delete_files(
    database: sqlite3.Connection, folder: Path, key: str, *, but: Iterable[str] = ()
) -> list[StorageError]:
    """Delete what was written for a study, as it is no longer what the ledger says, and folders left empty by that.

    Args:
        database: Within a transaction.
        folder: The output folder.
        key: Of the study.
        but: Files to keep, as `medseg.batch.delivery.place_of` names them; another name of one is kept too.

    Returns:
        Why files are still there; the ledger still knows them.
    """
    kept = set(but)
    same = {_identity(folder / path) for path in kept} - {None}
    left: list[StorageError] = []
    for (path,) in database.execute("SELECT path FROM files WHERE key = ?", (key,)).fetchall():
        if path in kept or (same and _identity(folder / path) in same):
            continue
        try:
            (folder / path).unlink(missing_ok=True)
        except (IsADirectoryError, NotADirectoryError):
            pass  # something else is in its place, or in that of its folder: it is gone
        except OSError as error:
            left.append(storage_error(folder / path, error))
            continue
        database.execute("DELETE FROM files WHERE path = ?", (path,))
        _remove_empty(database, folder, path)
    return left


def drop_files(database: sqlite3.Connection, folder: Path, key: str) -> None:
    """Delete all that was written for a study; what cannot be deleted is told in its reason, and stops nothing.

    Args:
        database: Within a transaction.
        folder: The output folder.
        key: Of the study.
    """
    left = delete_files(database, folder, key)
    if left:
        more = f", and {len(left) - 1} more" * (len(left) > 1)
        told = f"; an earlier output could not be deleted: {left[0].where} ({left[0].found}){more}"
        database.execute(TELL_OF, (told, key, told.removeprefix("; ")))
    database.execute("DELETE FROM moving WHERE key = ?", (key,))


def _taken(target: Path, found: str, remedy: str) -> InputError:
    return InputError(target, expected="a place that no other study has", found=found, remedy=remedy)


@contextmanager
def _seeing(path: Path) -> Iterator[None]:
    """Turn what the file system says against looking at a place into a `StorageError`."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from every other one; None where none is seen."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status.st_ino else None


def _owner_of(database: sqlite3.Connection, folder: Path, target: Path) -> str | None:
    """Return the study that has the file in a place under another name, such as one in other case, if one has."""
    identity = _identity(target)
    if identity is None:
        return None
    for path, key in database.execute("SELECT path, key FROM files").fetchall():
        if _plain(PurePath(path).name) == _plain(target.name) and _identity(folder / path) == identity:
            return str(key)
    return None


def _plain(name: str) -> str:
    """Return a name as file systems compare it that tell neither case nor the forms of an accented letter."""
    return unicodedata.normalize("NFC", name).casefold()


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
