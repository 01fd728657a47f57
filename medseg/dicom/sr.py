"""Measurements -> a report for other programs: Comprehensive 3D SR by template TID 1500 (PS3.16), by highdicom.

Each label has a group of its own (TID 1411) that refers to its segment of a SEG; without a SEG, or where it does
not hold the label, a group without a region (TID 1501). Where slices of the volume are interpolated, the whole mask
is measured, which no segment holds: no group has a region then, as the numbers would not be the region's.

All images of the source are named as evidence. The report is COMPLETE, as all that was to be measured is in it,
UNVERIFIED, as nobody vouches for it, and PRELIMINARY, as a report of a person may follow (PS3.3 C.17.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from highdicom.sr import (
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    MeasurementReport,
    ObservationContext,
    ObserverContext,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage

from medseg.dicom.charset import fit_character_set
from medseg.dicom.identity import Identity, uid_of
from medseg.dicom.object_parts import add_file_meta, off_slices, sop_class_findings, sop_class_of, start_object
from medseg.dicom.origin import Origin
from medseg.dicom.output_options import SrOptions
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.refusal import refusal
from medseg.dicom.sr_groups import Group, GroupMaker, Region
from medseg.dicom.terminology import add_private_scheme, label_code, uncoded
from medseg.findings import Finding, FindingCode
from medseg.maker import MANUFACTURER, Maker
from medseg.measurements import LabelMeasurement

_PROCEDURES = {
    "CT": codes.LN.CTUnspecifiedBodyRegion,
    "MR": codes.LN.MRIUnspecifiedBodyRegion,
    "PT": codes.LN.PETUnspecifiedBodyRegion,
}  # of CID 100
_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip
_ANY_PROCEDURE = codes.SCT.ImagingProcedure


@dataclass(frozen=True, eq=False)
class MadeReport:
    """A report that was made of measurements.

    Attributes:
        dataset: The object, with its file meta information; `medseg.dicom.object_parts.save_object` writes it.
        findings: What was odd.
    """

    dataset: Dataset = field(repr=False)
    findings: tuple[Finding, ...]


def make_measurement_report(
    origin: Origin,
    measurements: Sequence[LabelMeasurement],
    identity: Identity,
    options: SrOptions,
    segmentation: Dataset | None = None,
) -> MadeReport:
    """Make a report of measurements.

    Each group holds the volume in ml, mean and standard deviation of the image where its values have a known
    meaning (Hounsfield units of CT, signal of MR without unit), and the longest axial diameter in mm. The template
    has no place for the ends of a diameter.

    Args:
        origin: The images that the mask was drawn on.
        measurements: Of each label that is there, as `medseg.measurements.measure` gives them.
        identity: UIDs, dates and what drew the mask.
        options: Series and institution.
        segmentation: The SEG of the same mask, of the same study.

    Raises:
        DicomError: There is no measurement, or the series lacks what the object must refer to.
    """
    if not measurements:
        expected, found = "a mask with something in it: a report must hold a measurement", "no label anywhere"
        remedy = "leave DICOM outputs out for it, or see whether the images show what the model draws"
        raise refusal(origin.where, FindingCode.ORGAN_ABSENT, expected, found, remedy)
    if not origin.stack.is_plain:
        segmentation = None  # its segments lack slices that were measured
    maker = GroupMaker(origin, identity)
    regions = {} if segmentation is None else _regions(segmentation)
    with quiet_pydicom():
        base = start_object(Comprehensive3DSRStorage, identity, options)
        evidence = _evidence(origin, options, segmentation)
        groups = [maker.group(one, _region_of(one, identity, regions)) for one in measurements]
        dataset = Dataset()  # a plain one: highdicom's keeps a second content tree
        dataset.update(_by_highdicom(_report(origin, identity.maker, groups), evidence, base))
        dataset.update(base)
        del dataset.ContributingEquipmentSequence  # of the library, at the time of day
        add_file_meta(dataset)
        add_private_scheme(dataset, [label_code(one.label) for one in measurements])
        fit_character_set(dataset)
    labels = [one.label for one in measurements]
    findings = (*sop_class_findings(origin), *uncoded(labels, origin.where), *off_slices(origin, is_measured=True))
    return MadeReport(dataset, findings)


def _report(origin: Origin, maker: Maker, groups: Sequence[Group]) -> MeasurementReport:
    return MeasurementReport(
        observation_context=ObservationContext(observer_device_context=_observer(maker)),
        procedure_reported=_PROCEDURES.get(origin.stack.series.modality, _ANY_PROCEDURE),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )


def _observer(maker: Maker) -> ObserverContext:
    """Return what measured (TID 1004): the model, by a UID that is always the same for it."""
    return ObserverContext(
        codes.DCM.Device,
        DeviceObserverIdentifyingAttributes(
            uid=uid_of("device", maker.model_sha256, maker.settings_sha256, maker.software_version),
            name=MANUFACTURER,
            manufacturer_name=MANUFACTURER,
            model_name=maker.model,
            serial_number=maker.model_version,
        ),
    )


def _by_highdicom(report: MeasurementReport, evidence: Sequence[Dataset], base: Dataset) -> Comprehensive3DSR:
    return Comprehensive3DSR(
        evidence=evidence,
        content=report,
        series_instance_uid=base.SeriesInstanceUID,
        series_number=base.SeriesNumber,
        sop_instance_uid=base.SOPInstanceUID,
        instance_number=1,
        manufacturer=base.Manufacturer,
        is_complete=True,
        is_final=False,
        is_verified=False,
    )


def _evidence(origin: Origin, options: SrOptions, segmentation: Dataset | None) -> list[Dataset]:
    """Return what the report is based on: every file of the source, and the SEG, as references need them."""
    instances = []
    for number in np.unique(origin.files, return_index=True)[1].tolist():
        uid = origin.dataset(number).SOPInstanceUID
        instances.append((sop_class_of(origin, number, options), uid, origin.series_uid))
    if segmentation is not None:
        one = segmentation
        instances.append((str(one.SOPClassUID), str(one.SOPInstanceUID), str(one.SeriesInstanceUID)))
    evidence: list[Dataset] = []
    for class_uid, instance_uid, series_uid in instances:
        item = Dataset()
        for keyword in () if evidence else _EMPTY:  # highdicom takes them from the first one, and `base` has them
            setattr(item, keyword, "")
        item.StudyInstanceUID = origin.study_uid
        item.SOPClassUID, item.SOPInstanceUID, item.SeriesInstanceUID = class_uid, instance_uid, series_uid
        evidence.append(item)
    return evidence


def _regions(segmentation: Dataset) -> dict[str, Region]:
    """Return the segments of a SEG by TrackingUID."""
    object_uids = str(segmentation.SOPClassUID), str(segmentation.SOPInstanceUID)
    return {
        str(item.TrackingUID): Region(*object_uids, int(item.SegmentNumber))
        for item in segmentation.SegmentSequence
        if "TrackingUID" in item
    }


def _region_of(one: LabelMeasurement, identity: Identity, regions: Mapping[str, Region]) -> Region | None:
    return regions.get(identity.tracking_uid(one.label.name))
