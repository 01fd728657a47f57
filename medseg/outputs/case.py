"""`DrawnCase`: a study with its mask: all that outputs are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from medseg.data.fingerprint import Fingerprint
from medseg.dicom.origin import Origin
from medseg.findings import Finding
from medseg.labels import LabelMap
from medseg.maker import Maker
from medseg.volume import Volume

_ANY_MODALITY = "OT"  # what models say of a channel that they know nothing of


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
        """The first channel that is there, which pictures show; its modality is what it or else the model says."""
        place, image = next((place, image) for place, image in enumerate(self.images) if image is not None)
        return replace(image, modality=self.modality_of(place))

    @property
    def measured(self) -> Volume | None:
        """The first channel, whose values are measured; None where it is missing: no other one stands in for it."""
        return self.images[0]

    @property
    def channel(self) -> str:
        """Which channel is measured, such as ``0 (MR)``; nothing where there is one only."""
        if len(self.images) == 1:
            return ""
        modality = self.modality_of(0)
        return f"0 ({modality})" if modality else "0"

    def modality_of(self, channel: int) -> str | None:
        """Return the modality of a channel: what the image says, else what the models take; None if nobody says."""
        image = self.images[channel]
        if image is not None and image.modality:
            return image.modality
        for envelope, _ in self.envelopes:
            if len(envelope.modalities) == len(self.images) and envelope.modalities[channel] != _ANY_MODALITY:
                return envelope.modalities[channel]
        return None
