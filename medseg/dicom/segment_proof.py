"""Frames of a SEG that was written -> its voxels in the mask, by each frame's own position (PS3.3 C.7.6.16)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import iter_pixels

from medseg.dicom.geometry import LPS_TO_RAS
from medseg.dicom.label_names import object_name
from medseg.dicom.multiframe import group_item
from medseg.dicom.segmentation import SegmentFrame, list_frames
from medseg.dicom.slice_mask import SliceMask, whole_pixels
from medseg.dicom.source_images import SourceImages
from medseg.dicom.structure import text_of_element, whole_number
from medseg.labels import LabelSet
from medseg.proof import Tally, match_labels, pixels_of, proof_error

_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_REST_OF_HEADER = 8  # of an element in explicit little endian: VR, two bytes, length (PS3.5 7.1.2)

Values = NDArray[np.unsignedinteger[Any]]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class PlacedFrame:
    """One decoded frame on the slice that it lies on.

    Attributes:
        frame: Whose segment it is, and where it says that it lies.
        number: Of the slice, from 0.
        values: (rows, columns) as they are stored.
        matrix: Whole numbers (2, 3): from (column, row, 1) of the frame to column and row of the slice.
    """

    frame: SegmentFrame
    number: int
    values: Values
    matrix: NDArray[np.intp]


def segment_classes(dataset: Dataset, labels: LabelSet, where: str) -> dict[int, int]:
    """Return SegmentNumber -> class index of the label; segment 0, a label map's background, is left out.

    Raises:
        ProofError: A segment is no label, or two are the same one.
    """
    items = [
        (whole_number(item, "SegmentNumber"), text_of_element(item, "SegmentLabel"))
        for item in dataset.SegmentSequence
    ]
    return match_labels([item for item in items if item[0]], [object_name(label) for label in labels], where)


def placed_frames(
    path: Path, dataset: Dataset, mask: SliceMask, images: SourceImages, where: str
) -> Iterator[PlacedFrame]:
    """Decode a SEG frame by frame, segment by segment, and say where each frame lies; memory holds one.

    Raises:
        ProofError: A frame lies on no slice, names another image than that slice, or is there twice.
        Exception: What else pydicom raises; see `medseg.dicom.quiet.PYDICOM_ERRORS`.
    """
    shape = whole_number(dataset, "Rows"), whole_number(dataset, "Columns")
    frames = sorted(list_frames(dataset), key=lambda frame: frame.segment)
    seen: set[tuple[int, int]] = set()
    decoded = _decoded(path, dataset, [frame.number for frame in frames])
    for frame, values in zip(frames, decoded, strict=True):
        at = f"{where}, frame {frame.number + 1}"
        number, matrix = _place(frame, mask, shape, at)
        images.check_image(_sources(dataset, frame.number), number, at)
        if (frame.segment, number) in seen:
            raise proof_error(at, "one frame a segment and slice", f"another one of slice {number + 1}")
        seen.add((frame.segment, number))
        yield PlacedFrame(frame, number, values, matrix)


def tally_frame(placed: PlacedFrame, classes: Mapping[int, int], mask: SliceMask, tally: Tally) -> None:
    """Count the voxels of a frame of bits or of a label map.

    Args:
        placed: The frame.
        classes: Of `segment_classes`.
        mask: What it is compared with.
        tally: Is added to.

    Raises:
        KeyError: It holds a segment that the object does not list.
    """
    rows, columns = pixels_of(placed.values)
    if not rows.size:
        return
    here = mask.classes_at(placed.number, *on_slice(placed.matrix, columns, rows))
    if placed.frame.segment:
        add_pixels(tally, classes[placed.frame.segment], (columns, rows), placed.frame, here)
        return
    values = placed.values[rows, columns]
    for value in np.unique(values).tolist():
        one = values == value
        add_pixels(tally, classes[value], (columns[one], rows[one]), placed.frame, here[one])


def on_slice(matrix: Indices, columns: Indices, rows: Indices) -> tuple[Indices, Indices]:
    """Return column and row on the slice of pixels (n,) of a frame."""
    along, down = (part[0] * columns + part[1] * rows + part[2] for part in matrix)
    return along, down


def add_pixels(tally: Tally, own: int, pixels: tuple[Indices, Indices], frame: SegmentFrame, here: Indices) -> None:
    """Add pixels of a frame to a tally, where the frame's own attributes say that they lie.

    Args:
        tally: Is added to.
        own: Class index of their segment.
        pixels: Columns (n,) and rows (n,).
        frame: Whose pixels.
        here: (n,) class index that the mask has there.
    """
    columns, rows = pixels
    summed = frame.affine @ np.array([columns.sum(), rows.sum(), 0.0, len(columns)])  # LPS+
    tally.add(own, len(columns), (LPS_TO_RAS @ summed)[:3])
    tally.over[own] += np.bincount(here, minlength=len(tally.over))


def _decoded(path: Path, dataset: Dataset, order: list[int]) -> Iterator[Values]:
    """Yield frames (rows, columns), each from the file when it is asked for."""
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        is_plain = order == list(range(len(order)))
        yield from iter_pixels(path, indices=None if is_plain else order, raw=True)
        return
    shape, bits = (whole_number(dataset, "Rows"), whole_number(dataset, "Columns")), dataset.BitsAllocated
    size = shape[0] * shape[1] * bits
    with path.open("rb") as stream:
        dcmread(stream, stop_before_pixels=True)
        if stream.read(len(_PIXEL_DATA)) != _PIXEL_DATA:
            raise EOFError
        begin = stream.tell() + _REST_OF_HEADER
        for number in order:  # frames of bits follow one another without a gap (PS3.3 C.8.20.2): pydicom cuts some
            start, stop = number * size, (number + 1) * size
            stream.seek(begin + start // 8)
            content = np.frombuffer(stream.read(-(-stop // 8) - start // 8), np.uint8)
            if bits == 1:
                content = np.unpackbits(content, bitorder="little")[start % 8 :][:size]
            yield content.view(f"<u{max(bits // 8, 1)}").reshape(shape)


def _place(
    frame: SegmentFrame, mask: SliceMask, shape: tuple[int, int], where: str
) -> tuple[int, NDArray[np.intp]]:
    if frame.affine is None:
        raise proof_error(where, "a position, an orientation and a pixel spacing", "not all of them")
    return whole_pixels(mask, mask.affine_of(frame.affine), shape, where)


def _sources(dataset: Dataset, number: int) -> list[Dataset]:
    """Return the items that name the images that a frame was derived from."""
    groups = (dataset.PerFrameFunctionalGroupsSequence[number], dataset.SharedFunctionalGroupsSequence[0])
    derivation = group_item(groups, "DerivationImageSequence")
    return list(derivation.get("SourceImageSequence") or ())
