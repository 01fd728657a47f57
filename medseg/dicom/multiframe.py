"""Multi-frame files -> their frames, from shared and per-frame functional groups (PS3.3 C.7.6.16)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydicom.dataset import Dataset

from medseg.dicom.dataset import load_dataset
from medseg.dicom.elements import MAX_HEADER_BYTES
from medseg.dicom.frame import Frame, Header, frame_bytes
from medseg.dicom.header import rescale_of
from medseg.dicom.quiet import PYDICOM_ERRORS
from medseg.dicom.tags import DESCRIBING, IMAGE
from medseg.dicom.values import directions_of, millimetres_of, spacing_of

MAX_FRAMES = 100_000

_SEQUENCES = [IMAGE[f"{kind}FunctionalGroupsSequence"] for kind in ("Shared", "PerFrame")]
_FRAME_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")
_ATTRIBUTES = {
    "FrameContentSequence": {
        "FrameAcquisitionNumber": "AcquisitionNumber",
        "TemporalPositionIndex": "TemporalPositionIdentifier",
        "FrameAcquisitionDateTime": "AcquisitionTime",
        "StackID": "StackID",
    },
    "MREchoSequence": {"EffectiveEchoTime": "EchoTime"},
    "MRDiffusionSequence": {"DiffusionBValue": "DiffusionBValue"},
    "CTReconstructionSequence": {"ConvolutionKernel": "ConvolutionKernel"},
    "PixelMeasuresSequence": {"SliceThickness": "SliceThickness"},
    "PixelValueTransformationSequence": {"RescaleSlope": "RescaleSlope"},
    "CardiacSynchronizationSequence": {"NominalCardiacTriggerDelayTime": "TriggerTime"},
} | {name: {"FrameType": "ImageType", "ComplexImageComponent": "ComplexImageComponent"} for name in _FRAME_TYPES}
"""Functional group -> its attributes, and what classic images call them."""


def functional_frames(header: Header) -> list[Frame]:
    """Read the frames of a multi-frame file; call it inside `quiet_pydicom`.

    A frame's own group goes before the shared one.

    Raises:
        OSError: The file cannot be read.
        ValueError: The groups are damaged, or their number is not NumberOfFrames.
    """
    try:
        with header.open() as stream:
            dataset = load_dataset(
                stream, header.transfer_syntax_uid, most_bytes=_bytes_to_read(header), tags=_SEQUENCES
            )
        shared = (dataset.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
        groups = dataset.PerFrameFunctionalGroupsSequence
        if not header.frame_count == len(groups) <= MAX_FRAMES:
            raise ValueError(f"{len(groups)} functional groups for {header.frame_count} frames")
        return [_frame(header, number, (group, shared)) for number, group in enumerate(groups)]
    except OSError:
        raise
    except PYDICOM_ERRORS as error:
        raise ValueError("damaged functional groups") from error


def _bytes_to_read(header: Header) -> int:
    """Return where the pixels begin; a deflated file has to be inflated whole."""
    if header.pixels is not None and header.pixels.offset >= 0:
        return header.pixels.offset
    return MAX_HEADER_BYTES + frame_bytes(header) * header.frame_count


def _frame(header: Header, number: int, groups: Sequence[Dataset]) -> Frame:
    measures = group_item(groups, "PixelMeasuresSequence")
    values = group_item(groups, "PixelValueTransformationSequence")
    return Frame(
        header,
        number,
        position_mm=millimetres_of(
            _text(group_item(groups, "PlanePositionSequence").get("ImagePositionPatient")), 3
        ),
        orientation=directions_of(
            _text(group_item(groups, "PlaneOrientationSequence").get("ImageOrientationPatient"))
        ),
        pixel_spacing_mm=spacing_of(_text(measures.get("PixelSpacing"))),
        rescale=rescale_of(
            _text(values.get("RescaleSlope")), _text(values.get("RescaleIntercept")), header.modality
        ),
        tags={**header.tags, **dict(_tags(groups))},
    )


def group_item(groups: Sequence[Dataset], name: str) -> Dataset:
    """Return the first item of a sequence, from the first of the functional groups that has it; empty if none."""
    for group in groups:
        items = group.get(name)
        if items:
            item: Dataset = items[0]
            return item
    return Dataset()


def _tags(groups: Sequence[Dataset]) -> Iterator[tuple[int, str]]:
    for name, attributes in _ATTRIBUTES.items():
        group = group_item(groups, name)
        for keyword, classic in attributes.items():
            text = _text(group.get(keyword))
            if text:
                yield DESCRIBING[classic], text
    gradient = group_item([group_item(groups, "MRDiffusionSequence")], "DiffusionGradientDirectionSequence")
    text = _text(gradient.get("DiffusionGradientOrientation"))
    if text:
        yield DESCRIBING["DiffusionGradientOrientation"], text


def _text(value: Any) -> str:
    if value is None:
        return ""
    parts = [value] if isinstance(value, str | int | float) else value
    return "\\".join(str(part).strip() for part in parts)
