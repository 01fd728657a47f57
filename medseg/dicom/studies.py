"""A pile of DICOM study by study: memory holds the headers of one study, not those of a whole archive.

A header takes some kilobytes, and a hospital's pile has millions of them. A large pile is read twice: first to
learn which file is of which study (a few bytes a file are kept), then study by study. The series are those of
`scan_pile`.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from medseg.dicom.header import Skip
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.scan import Key, Progress, Scan, key_of, read_all, scan_sources, skip_findings
from medseg.dicom.source import Source, find_sources

SMALL_PILE = 20_000
"""Files whose headers fit into memory at once (100 MB): a pile of no more is read once."""

_NO_STUDY = -1
_OWN = (Skip.DAMAGED, Skip.UNREADABLE)


def scan_studies(
    path: Path,
    *,
    extra: frozenset[int] = frozenset(),
    progress: Progress | None = None,
    small: int = SMALL_PILE,
) -> Iterator[Scan]:
    """Find the image series of a pile; every study is whole within one of the scans.

    Args:
        path: A folder with its subfolders, a zip, a DICOMDIR or a file.
        extra: Tags to read beside the usual ones, for rules that ask for them.
        progress: Called with (files done, files).
        small: A pile of no more files gives one scan of all its studies.

    Yields:
        The series of one study, and what was found about the pile; of all studies where the pile is small, and of
        none where it holds no image.

    Raises:
        DicomError: There is no such path, or the zip or DICOMDIR is damaged.
    """
    pile = find_sources(path)
    if len(pile.sources) <= small:
        yield scan_sources(pile.sources, pile.findings, extra=extra, progress=progress)
        return
    studies, skipped = _index(pile.sources, progress)
    findings = (*pile.findings, *skip_findings(skipped))
    if not studies:
        yield Scan((), findings, len(pile.sources))
    for places in studies:
        sources = [pile.sources[place] for place in places]
        yield scan_sources(sources, findings, extra=extra, counts_skipped=False)


def _index(
    sources: Sequence[Source], progress: Progress | None
) -> tuple[list[np.ndarray[tuple[int], np.dtype[np.intp]]], Counter[tuple[str, Skip]]]:
    """Return the places of each study's files, and what was skipped by folder and reason.

    A damaged file goes with the only series of its folder, as `scan_pile` counts it there.
    """
    series: dict[Key, int] = {}
    series_of = array("q")
    skipped: Counter[tuple[str, Skip]] = Counter()
    damaged: dict[int, str] = {}
    with quiet_pydicom():
        for place, (source, result) in enumerate(read_all(sources, progress=progress)):
            if isinstance(result, Skip):
                skipped[source.folder, result] += 1
                damaged |= {place: source.folder} if result in _OWN else {}
                series_of.append(_NO_STUDY)
            else:
                series_of.append(series.setdefault(key_of(result[0].header), len(series)))
    owners = _owners(sources, series_of, set(damaged.values()))
    for place, folder in damaged.items():
        if len(owners.get(folder, ())) == 1:
            series_of[place] = next(iter(owners[folder]))
    study_uids = {key[0]: number for number, key in reversed(list(enumerate(series)))}  # of its first series
    study_of = np.array([study_uids[key[0]] for key in series] + [_NO_STUDY])
    numbers = study_of[np.frombuffer(series_of, dtype=np.int64)]
    order = np.argsort(numbers, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
    return [part for part in parts if part.size and numbers[part[0]] != _NO_STUDY], skipped


def _owners(sources: Sequence[Source], series_of: array[int], folders: set[str]) -> dict[str, set[int]]:
    """Return which series lie in some folders."""
    owners: dict[str, set[int]] = {}
    for source, number in zip(sources, series_of, strict=True):
        if folders and number != _NO_STUDY and source.folder in folders:
            owners.setdefault(source.folder, set()).add(number)
    return owners
