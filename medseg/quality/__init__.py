"""Quality flags: whether a mask, and the image that it was drawn on, are like those that the model learnt from."""

from medseg.quality.flags import quality_findings, uncheckable, unchecked, unchecked_findings
from medseg.quality.settings import FLAGS, Flag, QualitySettings, VolumeRange, is_held

__all__ = [
    "FLAGS",
    "Flag",
    "QualitySettings",
    "VolumeRange",
    "is_held",
    "quality_findings",
    "uncheckable",
    "unchecked",
    "unchecked_findings",
]
