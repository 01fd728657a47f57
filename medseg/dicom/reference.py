"""A series as a few bytes: which files and frames it is made of, so that it can be read later, or elsewhere."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from medseg.dicom.frame import Frame, Header, Stamp
from medseg.dicom.header import Skip
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.scan import read_all
from medseg.dicom.series import Series
from medseg.dicom.source import FileSource, Source, ZipSource, find_sources
from medseg.errors import DicomError
from medseg.findings import Finding, FindingCode

_NO_ARCHIVE = -1


@dataclass(frozen=True)
class SeriesReference:
    """Which series, without its headers.

    Attributes:
        name: `Series.name`.
        files: Path of each file, or of its archive; may hold a patient's name, so never to be shown.
        offsets: Where each begins in its archive; -1 for a file of its own.
        stamps: By `stamp_of`, as they were.
        frames: (number of the file, number of the frame in it), in the order of the series.
        parts: The fields of `Series` but for its frames.
    """

    name: str
    files: tuple[str, ...] = field(repr=False)
    offsets: tuple[int, ...] = field(repr=False)
    stamps: tuple[Stamp, ...] = field(repr=False)
    frames: tuple[tuple[int, int], ...] = field(repr=False)
    parts: dict[str, Any] = field(repr=False)

    def pack(self) -> bytes:
        """Return it as compressed JSON: about ten bytes a file."""
        return zlib.compress(json.dumps(asdict(self), separators=(",", ":")).encode())

    @classmethod
    def unpack(cls, packed: bytes) -> SeriesReference:
        """Return what `pack` made bytes of."""
        values = json.loads(zlib.decompress(packed))
        return cls(
            values["name"],
            tuple(values["files"]),
            tuple(values["offsets"]),
            tuple(None if stamp is None else (stamp[0], stamp[1]) for stamp in values["stamps"]),
            tuple((file, number) for file, number in values["frames"]),
            values["parts"],
        )


def stamp_of(header: Header) -> Stamp:
    """Return size and time of a file, checksum and time of an archive's member; others where it has changed."""
    if not isinstance(header.source, ZipSource):
        return header.stamp
    info = header.source.info
    return info.CRC, int("".join(f"{part:02}" for part in info.date_time))


def refer_to(series: Series) -> SeriesReference:
    """Return the reference of a series that was scanned."""
    stamps = {frame.header.source: stamp_of(frame.header) for frame in series.frames}
    numbers = {source: number for number, source in enumerate(stamps)}
    places = tuple((numbers[frame.header.source], frame.number) for frame in series.frames)
    findings = [{"code": f.code.value, "message": f.message, "where": f.where} for f in series.findings]
    parts = {
        "suffix": series.suffix,
        "label": series.label,
        "is_four_dimensional": series.is_four_dimensional,
        "damaged_beside": series.damaged_beside,
        "findings": findings,
    }
    files, offsets = zip(*map(_location, stamps), strict=True)
    return SeriesReference(series.name, files, offsets, tuple(stamps.values()), places, parts)


def recall(reference: SeriesReference) -> Series:
    """Read the headers of a series again.

    Raises:
        DicomError: A file is gone, or is no longer what it was.
    """
    sources = _sources(reference)
    with quiet_pydicom():
        by_file = [
            _unchanged(reference, result, stamp)
            for (_, result), stamp in zip(read_all(sources), reference.stamps, strict=True)
        ]
    frames = tuple(_frame(reference, by_file[file], number) for file, number in reference.frames)
    parts = dict(reference.parts)
    findings = tuple(Finding(FindingCode(f["code"]), f["message"], f["where"]) for f in parts.pop("findings"))
    series = Series(frames, findings=findings, **parts)
    if series.name != reference.name:
        raise _changed(reference, "files of another series")
    return series


def _location(source: Source) -> tuple[str, int]:
    if isinstance(source, ZipSource):
        return str(source.archive.absolute()), source.info.header_offset
    if isinstance(source, FileSource):
        return str(source.path.absolute()), _NO_ARCHIVE
    raise TypeError(f"no reference to a {type(source).__name__}")


def _sources(reference: SeriesReference) -> list[Source]:
    members: dict[tuple[str, int], Source] = {}
    archives = {
        file for file, offset in zip(reference.files, reference.offsets, strict=True) if offset != _NO_ARCHIVE
    }
    for archive in archives:
        try:
            members |= _members(archive, Path(archive).stat().st_mtime_ns)
        except OSError as error:
            raise _changed(reference, "an archive that cannot be read") from error
    return [
        FileSource(Path(file)) if offset == _NO_ARCHIVE else _member(reference, members, (file, offset))
        for file, offset in zip(reference.files, reference.offsets, strict=True)
    ]


@lru_cache(maxsize=1)
def _members(archive: str, _: int) -> dict[tuple[str, int], Source]:
    """Return the members of an archive by place; the last list is kept, as series come one after another."""
    return {_location(source): source for source in find_sources(Path(archive)).sources}


def _member(reference: SeriesReference, members: dict[tuple[str, int], Source], place: tuple[str, int]) -> Source:
    if place not in members:
        raise _changed(reference, "an archive without one of them")
    return members[place]


def _unchanged(reference: SeriesReference, result: Sequence[Frame] | Skip, stamp: Stamp) -> Sequence[Frame]:
    if isinstance(result, Skip):
        raise _changed(reference, result.value)
    if stamp_of(result[0].header) != stamp:
        raise _changed(reference, "a file of another size or time")
    return result


def _frame(reference: SeriesReference, frames: Sequence[Frame], number: int) -> Frame:
    found: Iterator[Frame] = (frame for frame in frames if frame.number == number)
    frame = next(found, None)
    if frame is None:
        raise _changed(reference, f"a file without frame {number}")
    return frame


def _changed(reference: SeriesReference, found: str) -> DicomError:
    return DicomError(
        f"series {reference.name}",
        expected="the files as they were when they were found",
        found=found,
        remedy="run the command again",
    )
