"""Every object that was written, read back from disk and compared with its mask before it is released.

What is read takes another way than what was written: pydicom's frames, contours and numbers become patient
millimetres by each frame's and each point's own attributes, and millimetres become voxels by the inverse of the
mask's own affine. No code of the writers takes part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import RTStructureSetStorage, SegmentationStorage

from medseg.dicom.code_proof import check_regions, check_segments
from medseg.dicom.contour_proof import region_classes, tally_contours
from medseg.dicom.fraction_proof import ProbabilityReader, require_on_mask, tally_fractions
from medseg.dicom.origin import Origin
from medseg.dicom.output_options import RtstructOptions, SegOptions
from medseg.dicom.quiet import PYDICOM_ERRORS, quiet_pydicom
from medseg.dicom.rtstruct_read import referenced_series as series_of_contours
from medseg.dicom.segment_proof import placed_frames, segment_classes, tally_frame
from medseg.dicom.segmentation import referenced_series as series_of_segments
from medseg.dicom.slice_mask import SliceMask
from medseg.dicom.source_images import SourceImages
from medseg.dicom.structure import text_of_element, whole_number
from medseg.labels import LabelMap
from medseg.proof import LabelProof, Limits, Proof, Tally, judge, proof_error

__all__ = ["LabelProof", "ProbabilityReader", "Proof", "prove_segmentation", "prove_structure_set"]

_SMALL_VOXELS = 100
_FRACTIONS = Limits(least_dice=0.999, most_voxels=0.001)
_AS_USUAL, _CONTOURS_AS_USUAL = SegOptions(), RtstructOptions()
_SEG, _RTSTRUCT = "SEG", "RTSTRUCT"
_LABEL_MAP_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"  # of Supplement 243; pydicom's dictionary lacks it


def prove_segmentation(
    path: Path,
    origin: Origin,
    labels: LabelMap,
    *,
    options: SegOptions = _AS_USUAL,
    probabilities: ProbabilityReader | None = None,
) -> Proof:
    """Prove that a DICOM SEG is the mask, or the probabilities, that it was made from.

    BINARY and LABELMAP: every label has the voxels of the mask and no others (Dice 1), its centre within 0.1 mm.
    FRACTIONAL: every pixel is its probability to one step of the largest value, and what is at least half has the
    same voxels and centre; these lie on their own label of the mask, see
    `medseg.dicom.fraction_proof.require_on_mask`: a mask that was cleaned up is not quite what probabilities say.
    All: each segment has the type, category and side of its label; each frame lies on a slice of the series and
    names its image, and study, patient, series and frame of reference are those of the source. Frames are decoded
    one by one.

    Args:
        path: What was written.
        origin: The images that the mask was drawn on.
        labels: The mask.
        options: How it was to be made: of which type it has to be.
        probabilities: What a FRACTIONAL object was made from.

    Raises:
        ProofError: The object is not the mask; it names the label and the numbers.
        GridError: The mask lies on another grid than the series.
        InputError: The mask holds a value that its labels do not name.
    """
    began, where = perf_counter(), path.name
    mask, images = SliceMask(origin, labels), SourceImages(origin)
    with reading(where):
        dataset = dcmread(path, stop_before_pixels=True)
        _check_type(dataset, options, images, where)
        images.check_frame_of_reference([text_of_element(dataset, "FrameOfReferenceUID")], where)
        images.check_series(*series_of_segments(dataset), where)
        classes, expected = segment_classes(dataset, labels.labels, where), mask.tally()
        _check_listed(expected, classes, where)
        check_segments(dataset, classes, labels.labels, where)
        frames = placed_frames(path, dataset, mask, images, where)
        if options.type == "FRACTIONAL":
            if probabilities is None:
                raise proof_error(where, "probabilities to compare a FRACTIONAL object with", "none")
            read = probabilities, whole_number(dataset, "MaximumFractionalValue")
            tallies = tally_fractions(frames, classes, mask, read, where)
            require_on_mask(expected, tallies[0], where)
            return _judged(path, _SEG, tallies, _FRACTIONS, began)
        found = Tally(labels.labels)
        for placed in frames:
            tally_frame(placed, classes, mask, found)
    return _judged(path, _SEG, (expected, found), Limits(), began)


def prove_structure_set(
    path: Path, origin: Origin, labels: LabelMap, options: RtstructOptions = _CONTOURS_AS_USUAL
) -> Proof:
    """Prove that an RTSTRUCT is the mask that it was made from.

    The voxels whose centre lies inside the contours of a label are compared. Contours that are neither decimated
    nor smoothed hold those of the mask and no others (Dice 1), the centre within 0.1 mm. Others: Dice 0.98 at
    least, as many voxels to 2 %, the centre within 0.1 mm; of a label of up to 100 voxels, which may change by more
    than that, half to double the voxels, Dice 0.5 at least, the centre within a voxel. Each region has the type,
    category and side of its label; each contour lies on a slice of the series and names its image, and study,
    patient, series and frame of reference are those of the source.

    Args:
        path: What was written.
        origin: The images that the mask was drawn on.
        labels: The mask.
        options: How it was to be made: whether its contours are exact.

    Raises:
        ProofError: The object is not the mask; it names the label and the numbers.
        GridError: The mask lies on another grid than the series.
        InputError: The mask holds a value that its labels do not name.
    """
    began, where = perf_counter(), path.name
    mask, images = SliceMask(origin, labels), SourceImages(origin)
    with reading(where):
        dataset = dcmread(path)
        images.check_object(dataset, (str(RTStructureSetStorage), _RTSTRUCT), where)
        images.check_frame_of_reference(_frames_of_reference(dataset), where)
        images.check_series(*series_of_contours(dataset), where)
        classes, expected = region_classes(dataset, labels.labels, where), mask.tally()
        _check_listed(expected, classes, where)
        check_regions(dataset, classes, labels.labels, where)
        found = tally_contours(dataset, classes, mask, images, where)
    limits = Limits()
    if options.decimate_mm or options.smooth_mm:
        limits = Limits(0.98, 0.1, 0.02, small_voxels=_SMALL_VOXELS, small_distance_mm=mask.voxel_mm)
    return _judged(path, _RTSTRUCT, (expected, found), limits, began)


def _check_type(dataset: Dataset, options: SegOptions, images: SourceImages, where: str) -> None:
    """Check that a SEG is of the type that was asked for, and whose it is."""
    is_map = options.type == "LABELMAP"
    images.check_object(dataset, (_LABEL_MAP_STORAGE if is_map else str(SegmentationStorage), _SEG), where)
    found = text_of_element(dataset, "SegmentationType")
    if found != options.type:
        raise proof_error(where, f"the SegmentationType {options.type}", found or "none")


def _check_listed(expected: Tally, classes: Mapping[int, int], where: str) -> None:
    """Check that an object lists the labels that the mask has, and no others."""
    present = set(np.flatnonzero(expected.voxels).tolist())
    for number, label in enumerate(expected.labels, start=1):
        at, voxels = f"{where}, label {label.name}", int(expected.voxels[number])
        if number in present and number not in classes.values():
            raise proof_error(at, f"its {voxels} voxels", "no such label in the object")
        if number in classes.values() and number not in present:
            raise proof_error(at, "only labels that the mask has", "one that it has no voxel of")


def _judged(path: Path, kind: str, tallies: tuple[Tally, Tally], limits: Limits, began: float) -> Proof:
    return Proof(path.name, kind, judge(path.name, *tallies, limits), perf_counter() - began)


def _frames_of_reference(dataset: Dataset) -> Iterator[str]:
    for item in dataset.ReferencedFrameOfReferenceSequence:
        yield text_of_element(item, "FrameOfReferenceUID")
    for item in dataset.StructureSetROISequence:
        yield text_of_element(item, "ReferencedFrameOfReferenceUID")


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Turn what pydicom raises on a damaged object, inside, into a `ProofError` about `where`."""
    try:
        with quiet_pydicom():
            yield
    except PYDICOM_ERRORS as error:
        found = f"one that cannot be read ({type(error).__name__})"
        raise proof_error(where, "a whole object", found) from error
