"""Writes multi-frame CT, MR and PET objects with functional groups (PS3.3 C.7.6.16), from `SeriesSpec`s.

Frames are shuffled over the whole object. A group whose content is the same for all frames is shared, unless it is
asked for per frame.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset

from tests.dicom import builder
from tests.dicom.builder import SeriesSpec
from tests.dicom.builder_parts import KINDS, add_pixels, decimals, make_uid, save, set_attributes, shuffled

SOP_CLASSES = {
    "CT": uid.EnhancedCTImageStorage,
    "MR": uid.EnhancedMRImageStorage,
    "PT": uid.EnhancedPETImageStorage,
}
ALL = "all"

FRAME_CONTENT = "FrameContentSequence"
FRAME_TYPE = "FrameTypeSequence"  # of any modality
UNASSIGNED = "UnassignedPerFrameConvertedAttributesSequence"
GROUP_OF = {
    "StackID": FRAME_CONTENT,
    "InStackPositionNumber": FRAME_CONTENT,
    "TemporalPositionIndex": FRAME_CONTENT,
    "FrameAcquisitionNumber": FRAME_CONTENT,
    "FrameType": FRAME_TYPE,
    "ComplexImageComponent": FRAME_TYPE,
    "AcquisitionContrast": FRAME_TYPE,
    "EffectiveEchoTime": "MREchoSequence",
    "NominalCardiacTriggerDelayTime": "CardiacSynchronizationSequence",
    "ConvolutionKernel": "CTReconstructionSequence",
    "DiffusionBValue": "MRDiffusionSequence",
    "DiffusionDirectionality": "MRDiffusionSequence",
    "DiffusionGradientOrientation": "MRDiffusionSequence",
}
"""Attributes of a specification that belong to a frame, and the group that holds them."""

_POINTERS = ("TemporalPositionIndex", "EffectiveEchoTime", "DiffusionBValue", "NominalCardiacTriggerDelayTime")
_FRAME_TYPES = {"CT": "CTImageFrameTypeSequence", "MR": "MRImageFrameTypeSequence", "PT": "PETFrameTypeSequence"}
_KIND_OF_IMAGE = {
    "PixelPresentation": "MONOCHROME",
    "VolumetricProperties": "VOLUME",
    "VolumeBasedCalculationTechnique": "NONE",
}
_KIND_OF_MR = {"AcquisitionContrast": "T1", "ComplexImageComponent": "MAGNITUDE"}
_COMMON: dict[str, Any] = {
    **_KIND_OF_IMAGE,
    "InstanceNumber": 1,
    "PositionReferenceIndicator": "",
    "PatientPosition": "HFS",
    "ManufacturerModelName": "builder",
    "DeviceSerialNumber": "1",
    "SoftwareVersions": "1",
    "AcquisitionDateTime": "20010203101112",
    "AcquisitionDuration": 1.0,
    "AcquisitionContextSequence": [],
    "ContentQualification": "RESEARCH",
    "BurnedInAnnotation": "NO",
    "LossyImageCompression": "00",
    "PresentationLUTShape": "IDENTITY",
}
_FRAME: dict[str, Any] = {
    "StackID": "1",
    "FrameAcquisitionNumber": 1,
    "FrameReferenceDateTime": "20010203101112",
    "FrameAcquisitionDateTime": "20010203101112",
    "FrameAcquisitionDuration": 100.0,
}


def write_enhanced(
    folder: Path, *specs: SeriesSpec, per_frame: Collection[str] = (), name: str = "enhanced.dcm", **changes: Any
) -> Path:
    """Write one multi-frame object that holds the volumes of all specifications.

    Args:
        folder: May exist.
        specs: The default one if none. The first decides what the object as a whole is. Volumes of one object
            differ by attributes of `GROUP_OF`: `variants(spec, EffectiveEchoTime=[5.0, 10.0])`.
        per_frame: Keywords of groups that are per frame even if all frames agree; `ALL` for all groups.
        name: Of the file.
        changes: Of the fields of all specifications.
    """
    specs = tuple(replace(spec, **changes) for spec in specs or (SeriesSpec(),))
    first = specs[0]
    frames = [(spec, k) for spec in specs for k in spec.slices]
    order = [number - 1 for number in shuffled(len(frames), f"{first.name} frames")]
    frames = [frames[number] for number in order]
    dataset = _header(first, len(frames))
    pointer = _third_dimension(frames)
    _add_dimensions(dataset, pointer)
    _add_groups(dataset, [_groups(spec, k, _index(specs, spec, k, pointer)) for spec, k in frames], per_frame)
    stored = {id(spec): builder.stored_values(spec) for spec in specs}
    pixels = np.stack([stored[id(spec)][:, :, k].swapaxes(0, 1) for spec, k in frames])
    add_pixels(dataset, first, pixels)
    set_attributes(dataset, {key: new for key, new in first.attributes.items() if key not in GROUP_OF}, 0)
    folder.mkdir(parents=True, exist_ok=True)
    save(dataset, folder / name, first)
    return folder / name


def _header(spec: SeriesSpec, count: int) -> Dataset:
    dataset = builder.common_dataset(replace(spec, sop_class=spec.sop_class or SOP_CLASSES[spec.modality]), 0)
    dataset.ImageType = _frame_type(spec)
    dataset.NumberOfFrames = count
    dataset.FrameOfReferenceUID = make_uid("frame", spec.study)
    of_mr = _KIND_OF_MR | {"ApplicableSafetyStandardAgency": "IEC"}
    set_attributes(dataset, _COMMON | (of_mr if spec.modality == "MR" else {}), 0)
    return dataset


def _frame_type(spec: SeriesSpec) -> list[str]:
    """Return four values, as the enhanced objects want them."""
    return [*(spec.image_type or KINDS[spec.modality].image_type[:2]), "VOLUME", "NONE"][:4]


def _third_dimension(frames: list[tuple[SeriesSpec, int]]) -> str:
    """Return the attribute by which the volumes differ, or nothing."""
    present = [key for key in _POINTERS if any(key in spec.attributes for spec, _ in frames)]
    return present[0] if present else ""


def _index(specs: tuple[SeriesSpec, ...], spec: SeriesSpec, k: int, pointer: str) -> list[int]:
    """Return DimensionIndexValues: stack, position in it, volume."""
    return [1, spec.slices.index(k) + 1, *([specs.index(spec) + 1] if pointer else [])]


def _add_dimensions(dataset: Dataset, pointer: str) -> None:
    organization = Dataset()
    organization.DimensionOrganizationUID = make_uid("dimensions", dataset.SOPInstanceUID)
    dataset.DimensionOrganizationSequence = [organization]
    items = []
    for keyword in ("StackID", "InStackPositionNumber", *([pointer] if pointer else [])):
        item = Dataset()
        item.DimensionOrganizationUID = organization.DimensionOrganizationUID
        item.DimensionIndexPointer = tag_for_keyword(keyword)
        item.FunctionalGroupPointer = tag_for_keyword(GROUP_OF[keyword])
        items.append(item)
    dataset.DimensionIndexSequence = items


def _add_groups(dataset: Dataset, frames: list[dict[str, Dataset]], per_frame: Collection[str]) -> None:
    shared, items = Dataset(), [Dataset() for _ in frames]
    for keyword in dict.fromkeys(keyword for frame in frames for keyword in frame):
        groups = [frame.get(keyword) for frame in frames]
        alike = all(group == groups[0] for group in groups) and keyword not in (FRAME_CONTENT, UNASSIGNED)
        if alike and per_frame != ALL and keyword not in per_frame:
            setattr(shared, keyword, [groups[0]])
            continue
        for item, group in zip(items, groups, strict=True):
            if group is not None:
                setattr(item, keyword, [group])
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], items


def _groups(spec: SeriesSpec, k: int, index: list[int]) -> dict[str, Dataset]:
    """Return the functional groups of one frame by keyword."""
    kind = _KIND_OF_IMAGE | (_KIND_OF_MR if spec.modality == "MR" else {})
    values: dict[str, dict[str, Any]] = {
        FRAME_CONTENT: _FRAME | {"InStackPositionNumber": index[1], "DimensionIndexValues": index},
        FRAME_TYPE: kind | {"FrameType": _frame_type(spec)},
        **(_geometry(spec, k) if spec.has_geometry else {}),
    }
    for keyword, value in spec.attributes.items():
        if keyword in GROUP_OF:
            values.setdefault(GROUP_OF[keyword], {})[keyword] = value(k) if callable(value) else value
    values[_FRAME_TYPES[spec.modality]] = values.pop(FRAME_TYPE)
    groups = {keyword: _item(content) for keyword, content in values.items()}
    if direction := values.get("MRDiffusionSequence", {}).get("DiffusionGradientOrientation"):
        del groups["MRDiffusionSequence"].DiffusionGradientOrientation
        item = _item({"DiffusionGradientOrientation": direction})
        groups["MRDiffusionSequence"].DiffusionGradientDirectionSequence = [item]
    groups["PixelValueTransformationSequence"] = rescale = Dataset()
    builder.add_rescale(rescale, spec, k, is_required=True)
    rescale.RescaleType = "HU" if spec.modality == "CT" else "US"
    groups["FrameAnatomySequence"] = _item({"FrameLaterality": "U", "AnatomicRegionSequence": [_abdomen()]})
    if spec.modality == "CT":
        event = {"IrradiationEventUID": make_uid("irradiation", spec.name)}
        groups["IrradiationEventIdentificationSequence"] = _item(event)
    if "Legacy" in uid.UID(spec.sop_class).name:
        groups[UNASSIGNED] = Dataset()
    return groups


def _geometry(spec: SeriesSpec, k: int) -> dict[str, dict[str, Any]]:
    measures = {"PixelSpacing": decimals((spec.spacing_mm[1], spec.spacing_mm[0]))}
    return {
        "PlanePositionSequence": {"ImagePositionPatient": decimals(builder.positions_mm(spec)[k])},
        "PlaneOrientationSequence": {"ImageOrientationPatient": decimals(spec.orientation)},
        "PixelMeasuresSequence": measures | {"SliceThickness": decimals(spec.spacing_mm[2:])[0]},
    }


def _abdomen() -> Dataset:
    return _item({"CodeValue": "818981001", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Abdomen"})


def _item(values: dict[str, Any]) -> Dataset:
    item = Dataset()
    set_attributes(item, values, 0)
    return item
