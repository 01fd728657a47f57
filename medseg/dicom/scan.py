"""A pile of DICOM -> its image series, from headers only."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from medseg.dicom.frame import Frame, Header, content_order
from medseg.dicom.header import Skip, read_header
from medseg.dicom.multiframe import functional_frames
from medseg.dicom.pixels import pixel_problem
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.series import Series
from medseg.dicom.source import Source, find_sources
from medseg.dicom.split import split_series
from medseg.dicom.tags import DESCRIBING
from medseg.dicom.values import distinct
from medseg.findings import Finding, FindingCode

Progress = Callable[[int, int], None]
Key = tuple[str, ...]

_MOST_THREADS = 8
_FILES_A_TASK = 64
_WAITING = 2.0  # times as long as the work itself
_SKIP_CODES = {
    Skip.NOT_DICOM: FindingCode.NOT_DICOM,
    Skip.NOT_AN_IMAGE: FindingCode.NOT_AN_IMAGE,
    Skip.DAMAGED: FindingCode.DAMAGED_FILE,
    Skip.UNREADABLE: FindingCode.UNREADABLE_FILE,
}
_LOST = {
    FindingCode.DAMAGED_FILE,
    FindingCode.UNREADABLE_FILE,
    FindingCode.OUTSIDE_REFERENCE,
    FindingCode.MISSING_FILE,
    FindingCode.TOO_LARGE,
    FindingCode.ENCRYPTED,
}  # what was left out may have been a slice of any series, so each series says so


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
    (`medseg.dicom.split`). Pixels are not read. Files without a SeriesInstanceUID go with those of their study,
    folder and patient that have none either.

    Args:
        path: Where to look.
        extra: Tags to read beside the usual ones, for rules that ask for them.
        progress: Called with (files done, files).

    Raises:
        DicomError: There is no such path, or the zip or DICOMDIR is damaged.
    """
    pile = find_sources(path)
    return scan_sources(pile.sources, pile.findings, extra=extra, progress=progress)


def scan_sources(
    sources: Sequence[Source],
    beside: tuple[Finding, ...] = (),
    *,
    extra: frozenset[int] = frozenset(),
    counts_skipped: bool = True,
    progress: Progress | None = None,
) -> Scan:
    """Find the image series in some files of a pile; see `scan_pile`.

    Args:
        sources: The files.
        beside: What was found about the pile they are of.
        extra: Tags to read beside the usual ones.
        counts_skipped: Whether files that are of no series become findings; not where `beside` tells of them.
        progress: Called with (files done, files).
    """
    groups: dict[Key, list[Frame]] = {}
    skipped: Counter[tuple[str, Skip]] = Counter()
    with quiet_pydicom():
        for source, result in read_all(sources, extra, progress):
            if isinstance(result, Skip):
                skipped[source.folder, result] += 1
            else:
                groups.setdefault(key_of(result[0].header), []).extend(result)
        damaged = _damaged_beside(groups, skipped)
        findings = (*beside, *(skip_findings(skipped) if counts_skipped else ()))
        lost = tuple(finding for finding in findings if finding.code in _LOST)
        series = [part for key, frames in groups.items() for part in _series(frames, damaged[key], lost)]
    return Scan(tuple(series), findings, len(sources))


def read_all(
    sources: Sequence[Source], extra: frozenset[int] = frozenset(), progress: Progress | None = None
) -> Iterator[tuple[Source, list[Frame] | Skip]]:
    """Read all headers, a few files at a time; the results are in the order of the sources.

    Threads are used where the first files were waited for (a network share, a cold disk): they wait together. Where
    files come at once, threads would only take the interpreter's lock from one another.
    """
    tasks = [sources[start : start + _FILES_A_TASK] for start in range(0, len(sources), _FILES_A_TASK)]

    def read(task: Sequence[Source]) -> list[list[Frame] | Skip]:
        return [_read(source, extra) for source in task]

    done = 0
    with ThreadPoolExecutor(_MOST_THREADS) as pool:
        try:
            wall, busy = time.perf_counter(), time.thread_time()
            first = [read(task) for task in tasks[:1]]
            has_waited = time.perf_counter() - wall > _WAITING * (time.thread_time() - busy)
            rest = pool.map(read, tasks[1:]) if has_waited else map(read, tasks[1:])
            for task, results in zip(tasks, chain(first, rest), strict=True):
                yield from zip(task, results, strict=True)
                done += len(task)
                if progress:
                    progress(done, len(sources))
        finally:
            pool.shutdown(cancel_futures=True)


def _read(source: Source, extra: frozenset[int]) -> list[Frame] | Skip:
    try:
        frame = read_header(source, extra)
        if isinstance(frame, Skip):
            return frame
        has_own_frames = frame.header.has_functional_groups and pixel_problem(frame.header) is None
        return functional_frames(frame.header) if has_own_frames else [frame]
    except ValueError:
        return Skip.DAMAGED
    except OSError:
        return Skip.UNREADABLE


def key_of(header: Header) -> Key:
    """Return what tells series apart: the study first; folder and patient where there is no SeriesInstanceUID."""
    without_uid = () if header.series_uid else (header.source.folder, header.patient)
    return (header.study_uid, header.series_uid, *without_uid)


def _damaged_beside(groups: dict[Key, list[Frame]], skipped: Counter[tuple[str, Skip]]) -> Counter[Key]:
    """Count, for each series, the damaged files of folders that hold no other series."""
    owners: dict[str, set[Key]] = {}
    for key, frames in groups.items():
        for folder in {frame.header.source.folder for frame in frames}:
            owners.setdefault(folder, set()).add(key)
    damaged: Counter[Key] = Counter()
    for (folder, skip), count in skipped.items():
        if skip in (Skip.DAMAGED, Skip.UNREADABLE) and len(owners.get(folder, ())) == 1:
            damaged[next(iter(owners[folder]))] += count
    return damaged


def _series(frames: Sequence[Frame], damaged: int, lost: tuple[Finding, ...]) -> Iterator[Series]:
    parts = split_series(sorted(frames, key=content_order))  # so that names do not depend on those of the files
    for number, part in enumerate(parts, start=1):
        suffix = f"-{number}" if len(parts) > 1 else ""
        series = Series(part.frames, suffix, part.label, part.is_four_dimensional, damaged)
        series = replace(series, label=series.shown(part.label))
        findings = (*_oddities(series, number, len(parts)), *lost)
        yield replace(series, findings=findings)


def _oddities(part: Series, number: int, parts: int) -> Iterator[Finding]:
    headers = [frame.header for frame in part.frames]
    if parts > 1:
        message = f"volume {number} of {parts} of its series" + (f": {part.label}" if part.label else "")
        yield Finding(FindingCode.SPLIT, message)
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


def skip_findings(skipped: Counter[tuple[str, Skip]]) -> Iterator[Finding]:
    """Yield what is said of files that are of no series, counted by folder and reason."""
    for skip, code in _SKIP_CODES.items():
        count = sum(n for (_, what), n in skipped.items() if what is skip)
        if count:
            yield Finding(code, f"{count} file(s) left out: {skip.value}")
