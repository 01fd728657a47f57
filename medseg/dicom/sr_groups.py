"""What was measured on one label -> a measurement group of a report (PS3.16 TID 1411, TID 1501)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from highdicom.sr import (
    AlgorithmIdentification,
    FindingSite,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    ReferencedSegment,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from medseg.dicom.identity import Identity
from medseg.dicom.label_names import object_name
from medseg.dicom.multiframe import group_item
from medseg.dicom.origin import Origin
from medseg.dicom.terminology import ANATOMY, CodedLabel, code_item, label_code
from medseg.maker import MANUFACTURER, Maker
from medseg.measurements import HOUNSFIELD, LabelMeasurement

Group: TypeAlias = VolumetricROIMeasurementsAndQualitativeEvaluations | MeasurementsAndQualitativeEvaluations

_VALUES = {
    "CT": (codes.DCM.AttenuationCoefficient, codes.UCUM.HounsfieldUnit),
    "MR": (codes.DCM.MRSignalIntensity, codes.UCUM.NoUnits),
}
_HOUNSFIELD = ("", "HU")  # RescaleType; nothing means HU in CT (PS3.3 C.8.2.1)
_MILLILITRE = Code("ml", "UCUM", "milliliter")
_DIGITS = 7  # significant ones, so that a value fits the 16 characters of VR DS


@dataclass(frozen=True)
class Region:
    """A segment of a SEG.

    Attributes:
        sop_class_uid: Of the SEG.
        sop_instance_uid: Of the SEG.
        segment: SegmentNumber.
    """

    sop_class_uid: str
    sop_instance_uid: str
    segment: int


class GroupMaker:
    """Makes the measurement groups of one report.

    Args:
        origin: The images that the mask was drawn on.
        identity: Gives the tracking UIDs, and says what drew the mask.
    """

    def __init__(self, origin: Origin, identity: Identity) -> None:
        self._origin = origin
        self._identity = identity
        self._values = meaning_of_values(origin)

    def group(self, one: LabelMeasurement, region: Region | None) -> Group:
        """Return the group of a label: of its segment where it has one."""
        coded = label_code(one.label)
        tracking = TrackingIdentifier(self._identity.tracking_uid(one.label.name), object_name(one.label))
        common: dict[str, Any] = {
            "tracking_identifier": tracking,
            "finding_category": code_item(coded.category),
            "finding_type": code_item(coded.type),
            "finding_sites": _sites(coded),
            "algorithm_id": _algorithm(self._identity.maker),
            "measurements": self._measurements(one),
        }
        group: Group
        if region is None:
            group = MeasurementsAndQualitativeEvaluations(**common)
        else:
            segment = ReferencedSegment(
                region.sop_class_uid,
                region.sop_instance_uid,
                region.segment,
                source_series=SourceSeriesForSegmentation(self._origin.series_uid),
            )
            group = VolumetricROIMeasurementsAndQualitativeEvaluations(referenced_segment=segment, **common)
        return group

    def _measurements(self, one: LabelMeasurement) -> list[Measurement]:
        method = codes.DCM.SumOfSegmentedVoxelMethodForVolume
        found = [Measurement(codes.SCT.Volume, _rounded(one.volume_ml), _MILLILITRE, method=method)]
        if self._values is not None and one.mean is not None and one.deviation is not None:
            name, unit = self._values
            found.append(Measurement(name, _rounded(one.mean), unit, derivation=codes.SCT.Mean))
            deviation = codes.SCT.StandardDeviation
            found.append(Measurement(name, _rounded(one.deviation), unit, derivation=deviation))
        length_mm = _rounded(one.diameter.length_mm)
        found.append(
            Measurement(codes.SCT.LongAxis, length_mm, codes.UCUM.Millimeter, derivation=codes.SCT.Maximum)
        )
        return found


def _algorithm(maker: Maker) -> AlgorithmIdentification:
    """Return what drew the mask (TID 4019)."""
    parameters = [f"model_sha256={maker.model_sha256}", f"medseg={maker.software_version}"]
    if maker.settings_sha256:
        parameters.append(f"settings_sha256={maker.settings_sha256}")
    return AlgorithmIdentification(
        name=maker.model,
        version=maker.model_version,
        parameters=parameters,
        family=codes.cid7162.ArtificialIntelligence,
        manufacturer=MANUFACTURER,
    )


def _sites(coded: CodedLabel) -> list[FindingSite]:
    """Return where a label lies: an organ is its own site; what is none lies in its region, where one is named."""
    place = coded.region or (coded.type if coded.category == ANATOMY else None)
    if place is None:
        return []
    return [FindingSite(code_item(place), None if coded.side is None else code_item(coded.side))]


def meaning_of_values(origin: Origin) -> tuple[Code, Code] | None:
    """Return name and unit of the image's values; None where they mean something else, or nobody knows what.

    A CT whose stored values were taken as they are, for want of a rescale, has no Hounsfield units.
    """
    modality = origin.stack.series.modality
    if modality == "CT":
        is_rescaled = all(frame.rescale is not None for frame in origin.frames)
        if not is_rescaled or any(_rescale_type(dataset) not in _HOUNSFIELD for dataset in origin.datasets):
            return None
    return _VALUES.get(modality)


def unit_of(origin: Origin) -> str:
    """Return the unit of the image's values as tables name it: ``HU``, or nothing where they have none."""
    meaning = meaning_of_values(origin)
    return HOUNSFIELD if meaning is not None and meaning[1] == codes.UCUM.HounsfieldUnit else ""


def _rescale_type(dataset: Dataset) -> str:
    """Return RescaleType of an image, or of the first frame of one that has several (PS3.3 C.7.6.16.2.9)."""
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    groups = [*own[:1], *(dataset.get("SharedFunctionalGroupsSequence") or [])]
    values = group_item(groups, "PixelValueTransformationSequence")
    return str(dataset.get("RescaleType") or values.get("RescaleType") or "").strip()


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
