"""A mask -> a DICOM Segmentation (PS3.3 A.51; Supplement 243 for label maps), by highdicom.

highdicom gets one small image for each slice of the source and no pixels but one that says which slices hold which
segment; it makes the segments, frames and references of these. The pixels are put in afterwards, frame by frame, so
memory holds the object and one frame more, however many labels there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from highdicom.seg import Segmentation
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
    SegmentationStorage,
)

from medseg.dicom.charset import fit_character_set
from medseg.dicom.identity import Identity
from medseg.dicom.object_parts import (
    add_file_meta,
    frame_of_reference,
    off_slices,
    sop_class_findings,
    start_object,
)
from medseg.dicom.origin import Origin
from medseg.dicom.output_options import SegOptions
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.refusal import refusal
from medseg.dicom.seg_frames import (
    MAXIMUM_FRACTION,
    BinaryFrames,
    FractionFrames,
    Frames,
    MapFrames,
    ProbabilityReader,
    stored_pixels,
    where_fractions_are,
    where_labels_are,
)
from medseg.dicom.seg_segments import describe_segments
from medseg.dicom.seg_source import frame_keys, place_frames, refer_to_source, slice_views
from medseg.dicom.terminology import add_private_scheme, label_code, uncoded
from medseg.errors import UsageError
from medseg.findings import Finding, FindingCode
from medseg.labels import Label, LabelMap

LABEL_MAP_STORAGE = UID("1.2.840.10008.5.1.4.1.1.66.7")
MOST_FRAMES = MOST_SEGMENTS = 65_535
"""SegmentNumber is a US; more frames than that no program is known to read."""

_MOST_BYTES = (1 << 32) - 2  # of a data element
_SYNTAXES = {"none": ExplicitVRLittleEndian, "rle": RLELossless, "jpeg-ls": JPEGLSLossless}
_SMALLER = "write fewer labels, or the type LABELMAP, which has one frame a slice"


@dataclass(frozen=True, eq=False)
class MadeSegmentation:
    """A SEG that was made of a mask.

    Attributes:
        dataset: The object, with its file meta information; `medseg.dicom.object_parts.save_object` writes it.
        segments: The labels that are in it: SegmentNumber 1 is the first one.
        findings: What was odd.
    """

    dataset: Dataset = field(repr=False)
    segments: tuple[Label, ...]
    findings: tuple[Finding, ...]


def make_segmentation(
    origin: Origin,
    labels: LabelMap,
    identity: Identity,
    options: SegOptions,
    probabilities: ProbabilityReader | None = None,
) -> MadeSegmentation:
    """Make a SEG of a mask. Labels of which there is nothing are left out; the others are numbered from 1.

    A FRACTIONAL one has the segments that the mask has, and of each the slices where its probability is not stored
    as 0.

    Args:
        origin: The images that the mask was drawn on.
        labels: The mask.
        identity: UIDs, dates and what drew it.
        options: Type, compression, series and institution.
        probabilities: Gives those of a label; needed for FRACTIONAL.

    Raises:
        GridError: The mask lies on another grid than the images.
        InputError: It holds a value that its labels do not name, or a label is of both sides.
        DicomError: The mask is empty, it makes too many frames or segments, or the series lacks what the object
            must refer to.
        UsageError: FRACTIONAL without probabilities.
    """
    frame_of_reference_uid, findings = frame_of_reference(origin, identity, options)
    frames, segments = _frames(origin, labels, options, probabilities)
    _check_size(origin, frames, len(segments), options)
    with quiet_pydicom():
        base = start_object(_sop_class(options), identity, options)
        views = slice_views(origin, frame_of_reference_uid)
        made = _by_highdicom(views, frames, segments, base, identity, options)
        dataset = Dataset()  # a plain one: highdicom's keeps tables of its frames
        dataset.update(made)
        dataset.update(base)
        _finish(dataset, origin, frames, identity, options)
        add_private_scheme(dataset, [label_code(label) for label in segments])
        fit_character_set(dataset)
    findings += [*sop_class_findings(origin), *uncoded(segments, origin.where), *off_slices(origin)]
    return MadeSegmentation(dataset, segments, tuple(findings))


def _frames(
    origin: Origin, labels: LabelMap, options: SegOptions, probabilities: ProbabilityReader | None
) -> tuple[Frames, tuple[Label, ...]]:
    """Return what the frames hold, and the labels that are there."""
    values = origin.on_slices(labels)
    there = where_labels_are(values, labels.labels)
    is_present = np.any(there, axis=0).tolist()
    segments = tuple(label for label, some in zip(labels.labels, is_present, strict=True) if some)
    if not segments:
        expected, found = "a mask with something in it: an object must hold a segment", "no label anywhere"
        remedy = "leave DICOM outputs out for it, or see whether the images show what the model draws"
        raise refusal(origin.where, FindingCode.ORGAN_ABSENT, expected, found, remedy)
    indices, there = tuple(label.index for label in segments), there[:, is_present]
    if options.type == "BINARY":
        return BinaryFrames(values, indices, there), segments
    if options.type == "LABELMAP":
        return MapFrames(values, indices, np.asarray(np.any(there, axis=1))), segments
    if probabilities is None:
        expected, remedy = "probabilities for a FRACTIONAL segmentation", "have the model save them, or use BINARY"
        raise UsageError("seg", expected=expected, found="none", remedy=remedy)
    slices = np.rint(origin.stack.places).astype(np.intp)
    there = where_fractions_are(probabilities, segments, slices)
    names = tuple(label.name for label in segments)
    return FractionFrames(probabilities, names, slices, there), segments


def _check_size(origin: Origin, frames: Frames, segments: int, options: SegOptions) -> None:
    count, header = int(frames.is_there.sum()), origin.frames[0].header
    size = count * header.rows * header.columns * frames.bits // 8
    limits = [(segments, MOST_SEGMENTS, "segments"), (count, MOST_FRAMES, "frames")]
    if options.compression == "none":
        limits.append((size, _MOST_BYTES, "bytes of pixels"))
    for found, most, what in limits:
        if found > most:
            expected = f"at most {most:,} {what} in one object"
            raise refusal(origin.where, FindingCode.TOO_LARGE, expected, f"{found:,}", _SMALLER)


def _sop_class(options: SegOptions) -> UID:
    return LABEL_MAP_STORAGE if options.type == "LABELMAP" else SegmentationStorage


def _by_highdicom(
    views: Sequence[Dataset],
    frames: Frames,
    segments: Sequence[Label],
    base: Dataset,
    identity: Identity,
    options: SegOptions,
) -> Segmentation:
    """Make segments, functional groups and references; pixels are one for each slice and segment."""
    there = frames.is_there.astype(np.uint8)[:, None, None]  # (n, 1, 1) or (n, 1, 1, segments)
    return Segmentation(
        views,
        there,
        options.type,
        describe_segments(segments, identity),
        series_instance_uid=base.SeriesInstanceUID,
        series_number=options.series_number,
        sop_instance_uid=base.SOPInstanceUID,
        instance_number=1,
        manufacturer=base.Manufacturer,
        manufacturer_model_name=base.ManufacturerModelName,
        software_versions=base.SoftwareVersions,
        device_serial_number=base.DeviceSerialNumber,
        max_fractional_value=MAXIMUM_FRACTION,
        content_label="SEGMENTATION",
        content_description=options.series_description,
    )


def _finish(dataset: Dataset, origin: Origin, frames: Frames, identity: Identity, options: SegOptions) -> None:
    """Put in the pixels, the references to the source, and what highdicom draws at random."""
    header = origin.frames[0].header
    dataset.Rows, dataset.Columns = header.rows, header.columns
    dataset.BitsAllocated = dataset.BitsStored = frames.bits
    dataset.HighBit = frames.bits - 1
    dataset.SegmentsOverlap = "UNDEFINED" if options.type == "FRACTIONAL" else "NO"
    keys = frame_keys(dataset)
    syntax = _SYNTAXES[options.compression]
    try:
        pixels = stored_pixels(frames, keys, syntax)
    except RuntimeError as error:  # of the encoder of JPEG-LS: what it makes is larger than the frame
        expected, found = "frames that the compression makes smaller", "one that it does not"
        raise refusal(
            origin.where, FindingCode.TOO_LARGE, expected, found, "set compression: rle, or none"
        ) from error
    dataset.add_new("PixelData", "OW" if frames.bits == 16 and syntax == ExplicitVRLittleEndian else "OB", pixels)
    add_file_meta(dataset, syntax)
    refer_to_source(dataset, origin, keys, options)
    place_frames(dataset, origin, keys)
    organization_uid = identity.other_uid("dimensions")
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization_uid
    dataset.ContentCreatorName = ""
    del dataset.ContributingEquipmentSequence  # of the images of one pixel
