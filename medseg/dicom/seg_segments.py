"""Labels -> the segments of a SEG: what each is, what drew it, its colour (PS3.3 C.8.20.2)."""

from __future__ import annotations

from collections.abc import Sequence

from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentDescription
from pydicom.sequence import Sequence as Items
from pydicom.sr.codedict import codes

from medseg.dicom.identity import Identity
from medseg.dicom.label_names import object_name
from medseg.dicom.terminology import code_item, label_code
from medseg.labels import Label
from medseg.maker import MANUFACTURER, Maker

_LENGTH = 64  # of VR LO


def describe_segments(labels: Sequence[Label], identity: Identity) -> list[SegmentDescription]:
    """Return a segment for each label, numbered from 1.

    Left and right differ by a modifier of the type; where a region of the body is named, the side modifies it too.

    Args:
        labels: In order of the segments.
        identity: Gives the tracking UIDs, and says what drew the mask.
    """
    return [_describe(number, label, identity) for number, label in enumerate(labels, 1)]


def algorithm_of(maker: Maker) -> AlgorithmIdentificationSequence:
    """Return what drew the mask (PS3.3 10.16): the model's name, its version and its hash."""
    parameters = {"model_sha256": maker.model_sha256, "medseg": maker.software_version}
    if maker.settings_sha256:
        parameters["settings_sha256"] = maker.settings_sha256
    return AlgorithmIdentificationSequence(
        name=maker.model[:_LENGTH],
        family=codes.cid7162.ArtificialIntelligence,
        version=maker.model_version,
        source=MANUFACTURER,
        parameters=parameters,
    )


def _describe(number: int, label: Label, identity: Identity) -> SegmentDescription:
    coded, name = label_code(label), object_name(label)
    item = SegmentDescription(
        number,
        name,
        code_item(coded.category),
        code_item(coded.type),
        "AUTOMATIC",
        algorithm_of(identity.maker),
        tracking_uid=identity.tracking_uid(label.name),
        tracking_id=name,
        anatomic_regions=[code_item(coded.region)] if coded.region else None,
        display_color=CIELabColor.from_rgb(*(255 * part for part in label.rgb)),
    )
    if coded.side is not None:
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = Items([code_item(coded.side)])
        for region in item.get("AnatomicRegionSequence", ()):
            region.AnatomicRegionModifierSequence = Items([code_item(coded.side)])
    return item
