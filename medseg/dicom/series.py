"""`Series`: frames that may be one volume, named without patient data."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from medseg.dicom.header import Frame, Header
from medseg.dicom.values import distinct
from medseg.findings import Finding

_NAME_DIGITS = 12


@dataclass(frozen=True)
class Series:
    """Frames of one SeriesInstanceUID that may be one volume, in no particular order.

    Attributes:
        frames: At least one.
        suffix: Tells the parts of a SeriesInstanceUID apart: ``-2`` is the second one.
        label: What tells it from the others, such as ``EchoTime 4.92``.
        is_four_dimensional: It holds many volumes at one place: fMRI, diffusion tensors, time series.
        damaged_beside: Damaged files that lie beside, and can only be of this series.
        findings: What was odd about it.
    """

    frames: tuple[Frame, ...] = field(repr=False)
    suffix: str = ""
    label: str = ""
    is_four_dimensional: bool = False
    damaged_beside: int = 0
    findings: tuple[Finding, ...] = ()

    @property
    def header(self) -> Header:
        """Of the first frame."""
        return self.frames[0].header

    @property
    def name(self) -> str:
        """A short hash of the SeriesInstanceUID, safe to show; of the slices' UIDs where the series has none.

        Parts of a series that was split have their suffix: ``0a1b2c3d4e5f-2``.
        """
        uid = self.header.series_uid or "|".join(sorted(frame.header.sop_instance_uid for frame in self.frames))
        return short_hash(uid) + self.suffix

    @property
    def study_name(self) -> str:
        """A short hash of the StudyInstanceUID, safe to show."""
        return short_hash(self.header.study_uid)

    @property
    def modality(self) -> str:
        """Modality of the first file: ``CT``, ``MR``, ..."""
        return self.header.modality

    def values(self, tag: int) -> tuple[str, ...]:
        """Return the different values of a tag, of those that are read from every header."""
        return distinct(frame.tags.get(tag, "") for frame in self.frames)


def short_hash(uid: str) -> str:
    """Return the first digits of the SHA-256 of a UID."""
    return hashlib.sha256(uid.encode()).hexdigest()[:_NAME_DIGITS]
