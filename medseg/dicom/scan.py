"""A folder -> its image series, from headers only."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medseg.dicom.header import Header, Skip, quiet_pydicom, read_header
from medseg.errors import DicomError
from medseg.findings import Finding, FindingCode

_NAME_DIGITS = 12
_SKIP_CODES = {
    Skip.NOT_DICOM: FindingCode.NOT_DICOM,
    Skip.NOT_AN_IMAGE: FindingCode.NOT_AN_IMAGE,
    Skip.DAMAGED: FindingCode.DAMAGED_FILE,
}


@dataclass(frozen=True)
class Series:
    """The image files of one DICOM series, in no particular order.

    Attributes:
        uid: SeriesInstanceUID, "" where the files have none; an identifier, kept out of `repr` and messages.
        headers: One for each file.
        findings: What was odd about the series, and the files beside it that were skipped.
    """

    uid: str = field(repr=False)
    headers: tuple[Header, ...] = field(repr=False)
    findings: tuple[Finding, ...] = ()

    @property
    def name(self) -> str:
        """A short hash of the UID, which is safe to show; of the slices' UIDs where the series has none."""
        return series_name(self.uid or "|".join(sorted(header.sop_instance_uid for header in self.headers)))

    @property
    def modality(self) -> str:
        """Modality of the first file: ``CT``, ``MR``, ..."""
        return self.headers[0].modality

    @property
    def files(self) -> tuple[Path, ...]:
        """The files, in the order of `headers`."""
        return tuple(header.path for header in self.headers)


def series_name(uid: str) -> str:
    """Return the first digits of the SHA-256 of a series UID."""
    return hashlib.sha256(uid.encode()).hexdigest()[:_NAME_DIGITS]


def scan_folder(folder: Path) -> list[Series]:
    """Find the image series in a folder and its subfolders; reads headers only.

    Files without a SeriesInstanceUID form one series with an empty UID. Files that are not DICOM, not an image or
    damaged are skipped, with a finding on the series that lie in the same folder, or on all series where none does.
    Findings count files and do not name them: file names may hold a patient's name.

    Args:
        folder: Where to look.

    Returns:
        The series, ordered by the path of their first file.

    Raises:
        DicomError: There is no such folder.
    """
    if not folder.is_dir():
        raise DicomError(folder, expected="a folder", found="no such folder", remedy="check the path")
    groups: dict[str, list[Header]] = {}
    skipped: list[tuple[Path, Skip]] = []
    with quiet_pydicom():
        for path in _files(folder):
            result = read_header(path)
            if isinstance(result, Skip):
                skipped.append((path.parent, result))
            else:
                groups.setdefault(result.series_uid, []).append(result)
    image_folders = {header.path.parent for headers in groups.values() for header in headers}
    return [
        Series(uid, tuple(headers), (*_oddities(headers), *_skip_findings(headers, skipped, image_folders)))
        for uid, headers in groups.items()
    ]


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(parent) / name
            if path.is_file():
                yield path


def _oddities(headers: list[Header]) -> Iterator[Finding]:
    count = len(headers)
    if not headers[0].series_uid:
        message = f"{count} files have no SeriesInstanceUID and are taken as one series"
        yield Finding(FindingCode.SERIES_UID_MISSING, message, "SeriesInstanceUID")
    without = sum(not header.sop_class_uid for header in headers)
    if without:
        message = f"{without} of {count} files have no SOPClassUID"
        yield Finding(FindingCode.SOP_CLASS_MISSING, message, "SOPClassUID")


def _skip_findings(
    headers: list[Header], skipped: list[tuple[Path, Skip]], image_folders: set[Path]
) -> Iterator[Finding]:
    own = {header.path.parent for header in headers}
    for kind, code in _SKIP_CODES.items():
        count = sum(what is kind and (folder in own or folder not in image_folders) for folder, what in skipped)
        if count:
            yield Finding(code, f"skipped {count} file(s): {kind.value}")
