"""A file is there whole or not at all, whatever the disk does; and the error says what to do."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
from pathlib import Path

import pytest

from medseg.errors import StorageError
from medseg.files import (
    atomic_path,
    make_folder,
    move_into_place,
    prove_writable,
    sha256_of,
    storage_error,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Refusing:
    """Stands for an os function that fails, from the n-th call on or for some arguments only."""

    def __init__(self, code: int, when=lambda *args: True) -> None:
        self.code, self.when = code, when

    def patch(self, monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> None:
        real = getattr(module, name)

        def function(*args, **kwargs):
            if self.when(*args):
                raise OSError(self.code, os.strerror(self.code))
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, function)


# --- what is written ---


def test_text_is_written_as_it_is_in_utf_8_and_replaces_what_was_there(tmp_path):
    target = tmp_path / "deep" / "er" / "a.txt"
    write_text(target, "first")
    write_text(target, "zweite Zeile\r\n\u00e4\u2028\n")
    assert target.read_bytes() == "zweite Zeile\r\n\u00e4\u2028\n".encode()
    assert names(target.parent) == ["a.txt"]


def test_the_temporary_file_lies_beside_the_target_and_keeps_its_suffix(tmp_path):
    target = tmp_path / "image.nii.gz"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"x")
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".image.nii.gz")
        assert temporary.name.startswith(".")
        assert not target.exists()
    assert names(tmp_path) == ["image.nii.gz"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    target = tmp_path / "a"
    with atomic_path(target) as one, atomic_path(target) as two:
        assert one != two
        one.write_text("one")
        two.write_text("two")
    assert target.read_text() == "one"  # the one that ended last
    assert names(tmp_path) == ["a"]


def test_data_and_folder_are_flushed_before_and_after_the_rename(tmp_path, monkeypatch):
    events: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace
    kind = lambda fd: "folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(f"flush {kind(fd)}"), real_fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda a, b: (events.append("rename"), real_replace(a, b))[1])
    write_text(tmp_path / "a", "x")
    assert events == ["flush file", "rename", "flush folder"]


# --- what goes wrong ---


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt(), SystemExit(1), MemoryError()])
def test_an_interrupted_writer_leaves_what_was_there(tmp_path, error):
    target = tmp_path / "a"
    write_text(target, "old")

    def write() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_text_that_is_not_unicode_leaves_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a", "fine \udcff")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission is denied"),
        (errno.EPERM, "permission is denied"),
        (errno.EIO, "Input/output error"),
    ],
)
@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
def test_a_refusal_at_any_step_leaves_what_was_there_and_says_why(tmp_path, monkeypatch, code, found, call):
    target = tmp_path / "a"
    write_text(target, "old")
    module, name = {"open": (Path, "write_text"), "fsync": (os, "fsync"), "replace": (Path, "replace")}[call]
    with monkeypatch.context() as patch:
        Refusing(code).patch(patch, module, name)
        with pytest.raises(StorageError) as caught:
            write_text(target, "new")
    assert caught.value.found == found
    assert caught.value.where == str(target)
    assert caught.value.exit_status == 4
    assert isinstance(caught.value.__cause__, OSError)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EACCES])
def test_a_folder_that_cannot_be_flushed_does_not_make_a_whole_file_an_error(tmp_path, monkeypatch, code):
    real = os.open
    refuse = lambda path, *_: Path(path).is_dir()
    with monkeypatch.context() as patch:
        Refusing(code, refuse).patch(patch, os, "open")
        write_text(tmp_path / "a", "x")
    assert os.open is real
    assert (tmp_path / "a").read_text() == "x"


def test_a_folder_whose_flush_fails_is_an_error(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        Refusing(errno.EIO, lambda path, *_: Path(path).is_dir()).patch(patch, os, "open")
        with pytest.raises(StorageError, match="Input/output error"):
            write_text(tmp_path / "a", "x")


def test_a_writer_that_wrote_nothing_is_an_error(tmp_path):
    with pytest.raises(StorageError), atomic_path(tmp_path / "a"):
        pass
    assert names(tmp_path) == []


def test_a_file_in_the_place_of_a_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "file" / "a", tmp_path / "file" / "b" / "a"):
        with pytest.raises(StorageError, match="a file is in the place of the folder; choose another name"):
            write_text(target, "x")
    for folder in (tmp_path / "file", tmp_path / "file" / "b"):
        with pytest.raises(StorageError, match="a file is in the place of the folder; choose another name"):
            make_folder(folder)
    assert names(tmp_path) == ["file"]


def test_a_folder_in_the_place_of_the_file_is_kept(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "inside").write_text("x")
    with pytest.raises(StorageError):
        write_text(tmp_path / "a", "x")
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["inside"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere; refusals are simulated above")
def test_a_folder_without_permission(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(StorageError, match="permission is denied"):
        write_text(tmp_path / "closed" / "a", "x")
    with pytest.raises(StorageError, match="permission is denied"):
        make_folder(tmp_path / "closed")


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a tmpfs cannot be mounted here; a full disk is simulated above")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_keeps_what_it_had(tiny_disk):
    write_text(tiny_disk / "a", "old")
    with pytest.raises(StorageError, match="the disk is full; free some space or choose another folder"):
        write_text(tiny_disk / "a", "x" * 200_000)
    assert (tiny_disk / "a").read_text() == "old"
    assert names(tiny_disk) == ["a"]


def test_a_read_only_disk(tiny_disk):
    write_text(tiny_disk / "a", "old")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    for attempt in (lambda: write_text(tiny_disk / "a", "x"), lambda: make_folder(tiny_disk)):
        with pytest.raises(StorageError, match="the file system is read-only"):
            attempt()
    assert names(tiny_disk) == ["a"]


# --- folders, reasons, checksums ---


def test_a_folder_is_made_with_its_parents_and_left_empty(tmp_path):
    folder = tmp_path / "a" / "b"
    assert make_folder(folder) == make_folder(folder) == folder
    assert names(folder) == []


def test_a_folder_that_takes_no_file_is_refused(tmp_path, monkeypatch):
    Refusing(errno.ENOSPC).patch(monkeypatch, Path, "touch")
    with pytest.raises(StorageError, match="the disk is full"):
        make_folder(tmp_path)


def test_an_error_without_a_number_is_told_in_its_own_words():
    assert storage_error(Path("a"), OSError("odd")).found == "odd"


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_sha256_of_any_size(tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()


# --- what is moved ---


def across(monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
    """Let a file lie on another file system: no rename takes it away."""
    real = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if path == source:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return real(path, target)

    monkeypatch.setattr(Path, "replace", replace)


@pytest.mark.parametrize("is_across", [False, True])
def test_a_finished_file_is_moved_and_replaces_what_was_there(tmp_path, monkeypatch, is_across):
    source, target = tmp_path / "source", tmp_path / "deep" / "er" / ("n" * 255)
    target.parent.mkdir(parents=True)
    target.write_text("old")
    source.write_bytes(bytes(range(256)) * 5000)
    if is_across:
        across(monkeypatch, source)
    move_into_place(source, target)
    assert target.read_bytes() == bytes(range(256)) * 5000
    assert (names(target.parent), names(tmp_path)) == (["n" * 255], ["deep"])


def test_across_file_systems_the_copy_is_flushed_before_it_has_the_name(tmp_path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("x")
    across(monkeypatch, source)
    events: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace
    kind = lambda fd: "folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file"
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(f"flush {kind(fd)}"), real_fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda a, b: (events.append("rename"), real_replace(a, b))[1])
    move_into_place(source, target)
    assert events == ["flush file", "rename", "flush file", "rename", "flush folder"]  # the first one does not work


def test_a_copy_that_does_not_fit_leaves_source_and_target_as_they_were(tmp_path, monkeypatch):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("new")
    target.write_text("old")
    across(monkeypatch, source)

    def full(_, copy):
        Path(copy).write_text("n")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copy", full)
    with pytest.raises(StorageError, match="the disk is full"):
        move_into_place(source, target)
    assert (names(tmp_path), source.read_text(), target.read_text()) == (["source", "target"], "new", "old")


def test_a_folder_that_is_not_there_is_not_made_to_be_proved(tmp_path):
    assert prove_writable(tmp_path) == tmp_path
    assert names(tmp_path) == []
    for missing in (tmp_path / "share", tmp_path / "share" / "deeper"):
        with pytest.raises(StorageError, match="No such file"):
            prove_writable(missing)
    assert names(tmp_path) == []
