"""Writing files so that a half-written one never bears its final name."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medseg.errors import StorageError, UsageError

_BLOCK_BYTES = 1 << 20

_CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)
_REASONS = {
    errno.ENOSPC: ("the disk is full", "free some space or choose another folder"),
    errno.EDQUOT: ("the disk quota is used up", "free some space or choose another folder"),
    errno.EROFS: ("the file system is read-only", "choose a folder that can be written to"),
    errno.EACCES: ("permission is denied", "choose a folder that you may write to"),
    errno.EPERM: ("permission is denied", "choose a folder that you may write to"),
    errno.ENOTDIR: ("a file is in the place of the folder", "choose another name"),
    errno.EEXIST: ("a file is in the place of the folder", "choose another name"),
}


def storage_error(path: Path, error: OSError) -> StorageError:
    """Turn an `OSError` from writing into a `StorageError` that says what to do."""
    found, remedy = _REASONS.get(error.errno or 0, (error.strerror or str(error), "choose another folder"))
    return StorageError(path, expected="a place that can be written to", found=found, remedy=remedy)


def is_of_the_whole_disk(error: StorageError) -> bool:
    """Whether nothing else can be written either: the disk or its quota is full, or it is read-only."""
    return error.found in [_REASONS[number][0] for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)]


def make_folder(path: Path) -> Path:
    """Make a folder and its parents, and prove that a file can be written there.

    Raises:
        StorageError: The folder cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error
    return prove_writable(path)


def prove_writable(folder: Path) -> Path:
    """Prove that a file can be written in a folder that is there.

    Raises:
        StorageError: It cannot, or there is no folder.
    """
    try:
        probe = folder / f".probe-{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise storage_error(folder, error) from error
    return folder


def require_new_folder(path: Path) -> None:
    """Refuse a folder that holds something already.

    Raises:
        UsageError: There is a file in its place, or a file in it.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(path, expected="a new or empty folder", found="something there", remedy="name another one")


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target`; on success it is flushed to disk and renamed.

    The temporary name ends with the target's own name, so that writers that look at the suffix work.

    Raises:
        StorageError: The file cannot be written. Nothing is left behind.
    """
    temporary = target.with_name(f".{secrets.token_hex(4)}.{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        temporary.replace(target)
        _flush_folder(target.parent)
    except OSError as error:
        raise storage_error(target, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def move_into_place(source: Path, target: Path) -> None:
    """Give a finished file its final name, at once and for good.

    On another file system it is copied beside the target under a temporary name, and renamed.

    Raises:
        StorageError: It cannot be moved. Nothing is left beside the target.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _flush(source)
        try:
            source.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _move_across(source, target)
        _flush_folder(target.parent)
    except OSError as error:
        raise storage_error(target, error) from error


def copy_flushed(source: Path, copy: Path) -> None:
    """Copy the bytes of a file, and its permissions, and flush them to the disk.

    Raises:
        StorageError: It cannot be copied. Nothing is left behind.
    """
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, copy)
        _flush(copy)
    except OSError as error:
        with suppress(OSError):
            copy.unlink()
        raise storage_error(copy, error) from error


def name_beside(target: Path) -> Path:
    """Return a temporary name in a target's folder that nobody else has; it is short, whatever the target's."""
    return target.with_name(f".medseg-{secrets.token_hex(8)}")


def _move_across(source: Path, target: Path) -> None:
    temporary = name_beside(target)
    copy_flushed(source, temporary)
    try:
        temporary.replace(target)
    finally:
        with suppress(OSError):
            temporary.unlink()
    with suppress(OSError):
        source.unlink()


def write_text(target: Path, text: str) -> None:
    """Write a UTF-8 text file atomically.

    Raises:
        StorageError: The file cannot be written.
    """
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _flush_folder(path: Path) -> None:
    """Flush a folder's entries where that is possible: some network shares and write-only folders refuse it."""
    try:
        _flush(path)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
