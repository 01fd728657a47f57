"""`DrawnCase`: a study with its mask: all that outputs are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from medseg.data.fingerprint import Fingerprint
from medseg.dicom.origin import Origin
from medseg.findings import Finding
from medseg.labels import LabelMap
from medseg.maker import Maker
from medseg.volume import Volume


@dataclass(frozen=True, eq=False)
class DrawnCase:
    """A study with its mask.

    Attributes:
        name: Of the study in files and messages; free of patient data.
        images: One a channel, on the mask's grid; None for one that is missing.
        labels: The mask.
        maker: What drew it.
        origin: The DICOM images it was drawn on; None where it came from NIfTI.
        envelopes: What the images of each model's training were like, with the names of the labels it drew.
        confidence: By label name: mean probability of the label at its boundary, 0 to 1; empty if not measured.
        probabilities: File of `medseg.inference.probabilities`; None if not saved.
        findings: What was odd about the images and how they were segmented.
    """

    name: str
    images: tuple[Volume | None, ...]
    labels: LabelMap
    maker: Maker
    origin: Origin | None = None
    envelopes: tuple[tuple[Fingerprint, tuple[str, ...]], ...] = ()
    confidence: Mapping[str, float] = field(default_factory=dict)
    probabilities: Path | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def image(self) -> Volume:
        """The first channel that is there."""
        return next(image for image in self.images if image is not None)
