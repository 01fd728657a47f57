"""A pile of DICOM -> its image series, from headers only."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from medseg.dicom.header import Frame, Skip, read_header
from medseg.dicom.multiframe import functional_frames
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.series import Series
from medseg.dicom.source import Source, find_sources
from medseg.dicom.split import Part, split_series
from medseg.dicom.tags import DESCRIBING
from medseg.dicom.values import distinct
from medseg.findings import Finding, FindingCode

Progress = Callable[[int, int], None]

_MOST_THREADS = 8
_FILES_A_TASK = 64
_SKIP_CODES = {
    Skip.NOT_DICOM: FindingCode.NOT_DICOM,
    Skip.NOT_AN_IMAGE: FindingCode.NOT_AN_IMAGE,
    Skip.DAMAGED: FindingCode.DAMAGED_FILE,
    Skip.UNREADABLE: FindingCode.UNREADABLE_FILE,
}


@dataclass(frozen=True)
class Scan:
    """What a pile of DICOM holds.

    Attributes:
        series: By the path of their first file.
        findings: Files that are of no series; counted and not named, as file names may hold a patient's name.
        files: How many there were.
    """

    series: tuple[Series, ...]
    findings: tuple[Finding, ...]
    files: int


def scan_pile(path: Path, *, extra: frozenset[int] = frozenset(), progress: Progress | None = None) -> Scan:
    """Find the image series in a folder with its subfolders, a zip, a DICOMDIR or a single file.

    Files are grouped by StudyInstanceUID and SeriesInstanceUID, and a series is split where it is not one volume
    (`medseg.dicom.split`). Pixels are not read. A file that lacks a SeriesInstanceUID goes with the others that do.

    Args:
        path: Where to look.
        extra: Tags to read beside the usual ones, for rules that ask for them.
        progress: Called with (files done, files).

    Raises:
        DicomError: There is no such path, or the zip or DICOMDIR is damaged.
    """
    pile = find_sources(path)
    groups: dict[tuple[str, str], list[Frame]] = {}
    skipped: Counter[tuple[str, Skip]] = Counter()
    with quiet_pydicom():
        for source, result in _read_all(pile.sources, extra, progress):
            if isinstance(result, Skip):
                skipped[source.folder, result] += 1
            else:
                header = result[0].header
                groups.setdefault((header.study_uid, header.series_uid), []).extend(result)
    damaged = {folder: count for (folder, skip), count in skipped.items() if skip is Skip.DAMAGED}
    owners = _owners(groups)
    series = [
        part
        for key, frames in groups.items()
        for part in _series(frames, sum(n for folder, n in damaged.items() if owners.get(folder) == {key}))
    ]
    return Scan(tuple(series), (*pile.findings, *_skip_findings(skipped)), len(pile.sources))


def _read_all(
    sources: Sequence[Source], extra: frozenset[int], progress: Progress | None
) -> Iterator[tuple[Source, list[Frame] | Skip]]:
    """Read all headers, a few files at a time in each thread; the results are in the order of the sources."""
    tasks = [sources[start : start + _FILES_A_TASK] for start in range(0, len(sources), _FILES_A_TASK)]

    def read(task: Sequence[Source]) -> list[list[Frame] | Skip]:
        return [_read(source, extra) for source in task]

    done = 0
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        try:
            for task, results in zip(tasks, pool.map(read, tasks), strict=True):
                yield from zip(task, results, strict=True)
                done += len(task)
                if progress:
                    progress(done, len(sources))
        finally:
            pool.shutdown(cancel_futures=True)


def _read(source: Source, extra: frozenset[int]) -> list[Frame] | Skip:
    try:
        frame = read_header(source, extra)
        if isinstance(frame, Skip) or not frame.header.has_functional_groups:
            return frame if isinstance(frame, Skip) else [frame]
        return functional_frames(frame.header)
    except ValueError:
        return Skip.DAMAGED
    except OSError:
        return Skip.UNREADABLE


def _owners(groups: dict[tuple[str, str], list[Frame]]) -> dict[str, set[tuple[str, str]]]:
    """Return which series have files in each folder."""
    owners: dict[str, set[tuple[str, str]]] = {}
    for key, frames in groups.items():
        for folder in {frame.header.source.folder for frame in frames}:
            owners.setdefault(folder, set()).add(key)
    return owners


def _series(frames: Sequence[Frame], damaged: int) -> Iterator[Series]:
    parts = split_series(frames)
    for number, part in enumerate(parts, start=1):
        findings = tuple(_oddities(part, number, len(parts), damaged))
        suffix = f"-{number}" if len(parts) > 1 else ""
        yield Series(part.frames, suffix, part.label, part.is_four_dimensional, damaged, findings)


def _oddities(part: Part, number: int, parts: int, damaged: int) -> Iterator[Finding]:
    headers = [frame.header for frame in part.frames]
    if parts > 1:
        message = f"volume {number} of {parts} of its series" + (f": {part.label}" if part.label else "")
        yield Finding(FindingCode.SPLIT, message)
    if damaged:
        yield Finding(FindingCode.DAMAGED_FILE, f"{damaged} damaged file(s) beside the slices")
    for code, tag, count in (
        (FindingCode.SERIES_UID_MISSING, "SeriesInstanceUID", sum(not header.series_uid for header in headers)),
        (FindingCode.SOP_CLASS_MISSING, "SOPClassUID", sum(not header.sop_class_uid for header in headers)),
    ):
        if count:
            yield Finding(code, f"{count} of {len(headers)} slices have none", tag)
    without_meta = sum(not header.has_file_meta for header in headers)
    if without_meta:
        message = f"{without_meta} of {len(headers)} slices come from files without file meta information"
        yield Finding(FindingCode.NO_FILE_META, message)
    acquisitions = distinct(frame.tags.get(DESCRIBING["AcquisitionNumber"], "") for frame in part.frames)
    if len(acquisitions) > 1 and not part.is_four_dimensional:
        message = f"slices of {len(acquisitions)} acquisitions that lie in one row"
        yield Finding(FindingCode.SEVERAL_ACQUISITIONS, message, "AcquisitionNumber")


def _skip_findings(skipped: Counter[tuple[str, Skip]]) -> Iterator[Finding]:
    for skip, code in _SKIP_CODES.items():
        count = sum(n for (_, what), n in skipped.items() if what is skip)
        if count:
            yield Finding(code, f"{count} file(s) left out: {skip.value}")
