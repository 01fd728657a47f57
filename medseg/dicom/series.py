"""`Series`: frames that may be one volume, named without patient data."""

from __future__ import annotations

from dataclasses import dataclass, field

from medseg.dicom.frame import Frame, Header
from medseg.dicom.values import distinct, readable, short_hash, without_identity
from medseg.findings import Finding


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
        uids = [self.header.series_uid] if self.header.series_uid else self._instance_uids()
        return short_hash(*uids) + self.suffix

    def _instance_uids(self) -> list[str]:
        return sorted(frame.header.sop_instance_uid for frame in self.frames)

    @property
    def study_name(self) -> str:
        """A short hash of the StudyInstanceUID, safe to show."""
        return short_hash(self.header.study_uid)

    @property
    def modality(self) -> str:
        """Modality of the first file: ``CT``, ``MR``, ..."""
        return self.header.modality

    @property
    def slices(self) -> int:
        """How many there are; the same slice twice counts once."""
        return len({frame.position_mm or number for number, frame in enumerate(self.frames)})

    def shown(self, text: str) -> str:
        """Return a text of a header as it may be shown: without the patient's names and numbers, in one line."""
        return without_identity(readable(text), self.header.hidden)

    def values(self, tag: int) -> tuple[str, ...]:
        """Return the different values of a tag, of those that are read from every header."""
        return distinct(frame.tags.get(tag, "") for frame in self.frames)
