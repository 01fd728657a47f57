"""Where the bytes of a pile of DICOM lie: in a folder, a zip archive, beside a DICOMDIR, or in one single file.

Names may hold a patient's name: no finding, error or `repr` shows one from below the path that the user named.
"""

from __future__ import annotations

import io
import ntpath
import os
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import BinaryIO, Protocol

import pydicom

from medseg.dicom.quiet import PYDICOM_ERRORS, quiet_pydicom
from medseg.errors import DicomError
from medseg.findings import Finding, FindingCode

MAX_MEMBERS = 1_000_000
"""A zip archive with more is refused, or with more than 512 bytes for each in its list: no study comes near."""
MAX_FILE_BYTES = 1 << 32
"""A member that unpacks to more is left out: DICOM cannot say how long a longer value is (PS3.5, 7.1.1)."""
MAX_DICOMDIR_BYTES = 1 << 26
"""A larger DICOMDIR is refused: this is room for 100,000 images, and reading it takes 25 times as much memory."""

_HEAD_BYTES, _BLOCK_BYTES = 1 << 12, 1 << 18
_IS_DICOMDIR = re.compile(rb".{128}DICM.*\x02\0\x02\0UI..1\.2\.840\.10008\.1\.3\.10(?![0-9.])", re.DOTALL)
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of name and extra field
_LOCAL_SIGNATURE, _LIST_SIGNATURE = b"PK\3\4", b"PK\1\2"
_ENCRYPTED_FLAGS = 0x1 | 0x40 | 0x2000
_REMEDY = "copy it again, or name a folder with its files"
_Listing = Callable[[str], dict[str, os.DirEntry[str]]]
_Reason = tuple[FindingCode, str]
_UNREADABLE = (FindingCode.UNREADABLE_FILE, "file(s) or folder(s) that cannot be read")
_LINKED = (FindingCode.OUTSIDE_REFERENCE, "link(s) to folders")
_ENCRYPTED = (FindingCode.ENCRYPTED, "encrypted member(s) of the archive")
_TOO_LARGE = (FindingCode.TOO_LARGE, f"member(s) of the archive that unpack to more than {MAX_FILE_BYTES} bytes")
_UNKNOWN_PACKING = (FindingCode.UNREADABLE_FILE, "member(s) of the archive packed in another way than deflate")
_MISPLACED = (FindingCode.UNREADABLE_FILE, "member(s) that overlap others or lie outside the archive")
_OUTSIDE = (FindingCode.OUTSIDE_REFERENCE, "reference(s) of the DICOMDIR that lead out of its folder")
_MISSING = (FindingCode.MISSING_FILE, "file(s) that the DICOMDIR names and that are not there")


class Source(Protocol):
    """One file of a pile, not opened yet."""

    @property
    def size(self) -> int:
        """Length in bytes; `OSError` where the file is gone."""

    @property
    def folder(self) -> str:
        """Which folder of the pile it lies in; for grouping, never to be shown."""

    def open(self) -> BinaryIO:
        """Open a seekable stream of its own, which the caller closes; any number of threads may do so at once.

        Raises:
            OSError: As reading does: nothing else, whatever is wrong with the file or its archive.
        """


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file on disk."""

    path: Path = field(repr=False)

    @property
    def size(self) -> int:
        """See `Source`; asked of the disk each time."""
        with _open(self.path) as stream:
            return os.fstat(stream.fileno()).st_size

    @property
    def folder(self) -> str:
        """See `Source`."""
        return str(self.path.parent)

    def open(self) -> BinaryIO:
        """See `Source`."""
        return io.BufferedReader(_open(self.path))


@dataclass(frozen=True, slots=True)
class ZipSource:
    """A member of a zip archive, read in place; `size` is what the archive's list says, and no stream gives more.

    Every stream opens the archive anew. One `zipfile.ZipFile` for all would be wrong: its count of streams has no
    lock, and from Python 3.12.0 to 3.13.1 it mixes up what is read at the same time (CPython issue 127847).
    """

    archive: Path = field(repr=False)
    info: zipfile.ZipInfo = field(repr=False)
    folder: str = field(repr=False)
    size: int

    def open(self) -> BinaryIO:
        """See `Source`; the CRC-32 is checked before the last byte is given. No seek goes past the end."""
        stream = io.BufferedReader(_open(self.archive))
        stream.seek(self.info.header_offset)
        header = stream.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(_LOCAL_SIGNATURE):
            stream.close()
            raise OSError("a member of the archive is damaged")
        stream.seek(sum(_LOCAL_HEADER.unpack(header)[1:]), os.SEEK_CUR)
        return io.BufferedReader(_Member(stream, "r", self.info, close_fileobj=True))


class _Member(zipfile.ZipExtFile):
    """Unpacks a bounded block at a time, however little a bomb says it holds; fails with nothing but `OSError`."""

    MAX_SEEK_READ = _BLOCK_BYTES
    name = property(lambda self: "", lambda self, name: None)

    def read(self, n: int | None = -1) -> bytes:
        try:
            return super().read(_BLOCK_BYTES if n is None or n < 0 else min(n, _BLOCK_BYTES))
        except (zipfile.BadZipFile, zlib.error, EOFError):
            raise OSError("a member of the archive is damaged") from None


@dataclass(frozen=True)
class Pile:
    """The files that a path stands for, in the order of their names or of a DICOMDIR, and what was left out."""

    sources: tuple[Source, ...] = field(repr=False)
    findings: tuple[Finding, ...]


def find_sources(path: Path) -> Pile:
    """Find the files that a path stands for: a folder tree, a zip archive, a DICOMDIR or one single file.

    Its bytes say what a file is, not its name. Below a folder, archives and DICOMDIRs are files like others.

    Raises:
        DicomError: There is no such path, it cannot be read, or it is a damaged or too large archive or DICOMDIR.
    """
    try:
        if path.is_dir():
            os.scandir(path).close()
            return _from_folder(path)
        if path.exists() and not path.is_file():
            raise OSError(0, "a device or a pipe")
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
        is_zip = head[128:132] != b"DICM" and (head.startswith(_LOCAL_SIGNATURE) or zipfile.is_zipfile(path))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        found = getattr(error, "strerror", None) or str(error)
        raise DicomError(path, expected="a folder or file to read", found=found, remedy="check the path") from None
    if is_zip:
        return _from_zip(path)
    return _from_dicomdir(path) if _IS_DICOMDIR.match(head) else _pile([FileSource(path)], Counter())


def _pile(sources: Iterable[Source], left_out: Counter[_Reason]) -> Pile:
    findings = (Finding(code, f"left out {count} {text}") for (code, text), count in left_out.items() if count)
    return Pile(tuple(sources), tuple(findings))


def _open(path: str | Path) -> io.FileIO:
    """Open a file so that neither errors nor warnings tell its name."""
    try:
        raw = io.FileIO(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror) from None
    raw.name = ""
    return raw


def _from_folder(root: Path) -> Pile:
    sources, left_out, folders = list[Source](), Counter[_Reason](), [root]
    while folders:
        below = []
        for entry in _entries(folder := folders.pop(), left_out):
            try:
                if entry.is_dir(follow_symlinks=False):
                    below.append(folder / entry.name)
                elif entry.is_dir():
                    left_out[_LINKED] += 1
                elif entry.is_file():
                    if not os.access(entry.path, os.R_OK):  # some network shares deny what they then open
                        _open(entry.path).close()
                    sources.append(FileSource(folder / entry.name))
                else:
                    raise OSError("a link to nothing, or a device")
            except OSError:
                left_out[_UNREADABLE] += 1
        folders += reversed(below)
    return _pile(sources, left_out)


def _entries(folder: str | Path, left_out: Counter[_Reason]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        left_out[_UNREADABLE] += 1
        return []


class _Archive(io.BufferedReader):
    """An archive whose list of members is looked over before `zipfile` makes objects of it."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size) if (size or 0) <= 512 * MAX_MEMBERS else b""
        return data if data.count(_LIST_SIGNATURE) <= MAX_MEMBERS else b""  # which `zipfile` calls damaged


def _from_zip(path: Path) -> Pile:
    try:
        with _Archive(_open(path)) as stream, zipfile.ZipFile(stream) as archive:
            members = [info for info in archive.infolist() if not info.filename.endswith("/")]
            archive_bytes = stream.seek(0, os.SEEK_END)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error, OSError):
        found = f"a damaged one, or one of more than {MAX_MEMBERS} files"
        raise DicomError(path, expected="a whole zip archive", found=found, remedy=_REMEDY) from None
    left_out = Counter(filter(None, map(_why_not, members)))
    usable = [info for info in members if not _why_not(info)]
    apart = sorted(_apart(usable, archive_bytes), key=lambda info: info.filename)
    left_out[_MISPLACED] += len(usable) - len(apart)
    return _pile([ZipSource(path, info, ntpath.dirname(info.filename), info.file_size) for info in apart], left_out)


def _why_not(info: zipfile.ZipInfo) -> _Reason | None:
    if info.flag_bits & _ENCRYPTED_FLAGS:
        return _ENCRYPTED
    if info.file_size > MAX_FILE_BYTES:
        return _TOO_LARGE
    return None if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) else _UNKNOWN_PACKING


def _apart(members: list[zipfile.ZipInfo], archive_bytes: int) -> Iterator[zipfile.ZipInfo]:
    """Yield the members that lie within the archive and share no bytes with one before."""
    free_from = 0
    for info in sorted(members, key=lambda info: info.header_offset):
        end = info.header_offset + _LOCAL_HEADER.size + info.compress_size
        if free_from <= info.header_offset and end <= archive_bytes:
            free_from = end
            yield info


def _from_dicomdir(path: Path) -> Pile:
    if path.stat().st_size > MAX_DICOMDIR_BYTES:
        raise DicomError(path, expected=f"at most {MAX_DICOMDIR_BYTES} bytes", found="more", remedy=_REMEDY)
    listing = cache(_listing)
    found = [_find(path.parent, parts, listing) for parts in dict.fromkeys(_references(path))]
    files = dict.fromkeys(place for place in found if isinstance(place, str))
    left_out = Counter(place for place in found if not isinstance(place, str))
    return _pile((FileSource(Path(file)) for file in files), left_out)


def _references(path: Path) -> list[tuple[str, ...]]:
    """Return the path, in parts, of every file that a DICOMDIR names (PS3.3, F.3.2.2)."""
    try:
        with quiet_pydicom():
            if pydicom.filereader.read_file_meta_info(path).TransferSyntaxUID.is_deflated:
                raise ValueError("it could inflate to any size, and PS3.10 (8.6) does not permit it")
            dataset = pydicom.dcmread(path)
            raw = dataset.get_item("DirectoryRecordSequence")
            if isinstance(raw, pydicom.dataelem.RawDataElement) and len(raw.value or b"") != raw.length:
                raise EOFError("pydicom would take what there is")
            values = [record.get("ReferencedFileID") for record in dataset.DirectoryRecordSequence]
            lists = [[value] if isinstance(value, str) else list(value) for value in values if value]
    except PYDICOM_ERRORS:
        raise DicomError(path, expected="a whole DICOMDIR", found="a damaged one", remedy=_REMEDY) from None
    return [tuple(part.strip() for part in "/".join(map(str, parts)).split("/")) for parts in lists]


def _find(root: Path, parts: tuple[str, ...], listing: _Listing) -> str | _Reason:
    """Find a file below a root as a file system that does not tell cases apart would, without leaving the root."""
    if any(part in ("", ".", "..") or set(part) & set("\\:\0") for part in parts):
        return _OUTSIDE
    place = os.fspath(root)
    for part in parts:
        entry = listing(place).get(part) or listing(place).get(_folded(part))
        if entry is None:
            return _MISSING
        place = entry.path
        if entry.is_symlink() and not Path(os.path.realpath(place)).is_relative_to(os.path.realpath(root)):
            return _OUTSIDE
    return place if os.access(place, os.F_OK) and Path(place).is_file() else _MISSING


def _listing(folder: str) -> dict[str, os.DirEntry[str]]:
    entries = _entries(folder, Counter())
    return {_folded(entry.name): entry for entry in entries} | {entry.name: entry for entry in entries}


def _folded(name: str) -> str:
    return name.partition(";")[0].rstrip(".").casefold()  # ISO 9660 ends names with a version
