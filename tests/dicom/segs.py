"""SEGs made of masks on written series, and what they say in patient millimetres, worked out pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from medseg.dicom.identity import Identity
from medseg.dicom.object_parts import save_object
from medseg.dicom.origin import Origin
from medseg.dicom.output_options import SegOptions
from medseg.dicom.seg import MadeSegmentation, make_segmentation
from medseg.labels import Label, LabelMap, LabelSet
from medseg.maker import Maker
from medseg.volume import Volume

LABELS = LabelSet(
    (
        Label(index=2, name="kidney_left", color="#ff0000"),
        Label(index=3, name="kidney_right"),
        Label(index=4, name="spleen"),
        Label(index=700, name="liver_tumor"),
    )
)
"""The spleen is in no mask."""

KINDS = [
    ("BINARY", "none"),
    ("LABELMAP", "none"),
    ("FRACTIONAL", "none"),
    ("FRACTIONAL", "rle"),
    ("LABELMAP", "jpeg-ls"),
]
"""Types and compressions; a frame of noise is no smaller in JPEG-LS."""

PRESENT = ("kidney_left", "kidney_right", "liver_tumor")
MAKER = Maker("torso", "ab12" * 16, "cd34" * 16)


@dataclass(frozen=True)
class Made:
    """A SEG as it was read from disk, and what it was made of."""

    path: Path
    dataset: Dataset
    made: MadeSegmentation
    labels: LabelMap


def noise(origin: Origin, seed: int = 0, labels: LabelSet = LABELS) -> LabelMap:
    """Each voxel one of three labels or none; the second of several slices is empty, the third one nearly."""
    array = np.random.default_rng(seed).choice(np.array([0, 0, 2, 3, 700], np.uint16), size=origin.grid.shape)
    array[:, :, 1:3] = 0
    array[4:5, 2:3, 2:3] = 3
    return LabelMap(Volume(np.asfortranarray(array), origin.grid.affine), labels)


def probabilities(labels: LabelMap) -> dict[str, NDArray[np.float16]]:
    """Above a half in the mask, below it beside, 0 on slices that are empty."""
    rng = np.random.default_rng(1)
    found = {}
    for label in labels.labels:
        inside = labels.array == label.index
        values = np.where(inside, rng.uniform(0.5, 1, inside.shape), rng.uniform(0, 0.49, inside.shape))
        values *= inside.any(axis=(0, 1))
        found[label.name] = values.astype(np.float16)
    return found


def make(origin: Origin, labels: LabelMap, folder: Path, **options: Any) -> Made:
    """Make a SEG, write it, and read it with pydicom."""
    settings = SegOptions(**options)
    read = probabilities(labels).__getitem__ if settings.type == "FRACTIONAL" else None
    made = make_segmentation(origin, labels, Identity(origin, MAKER, "seg"), settings, read)
    path = folder / "seg.dcm"
    save_object(made.dataset, path)
    return Made(path, dcmread(path), made, labels)


def frames_of(dataset: Dataset) -> list[tuple[int, Dataset, Dataset, NDArray[Any]]]:
    """Return SegmentNumber, own and shared functional groups, and pixels (rows, columns) of each frame."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    pixels = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns)
    found = []
    for group, plane in zip(dataset.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        own = group if "SegmentIdentificationSequence" in group else shared
        named = own.get("SegmentIdentificationSequence")
        found.append((named[0].ReferencedSegmentNumber if named else 0, group, shared, plane))
    return found


def pixels_mm(
    position: Sequence[float], orientation: Sequence[float], spacing: Sequence[float], where: NDArray[Any]
) -> NDArray[Any]:
    """Where pixels (n, 2: row, column) lie, in LPS mm (n, 3), one by one (PS3.3 C.7.6.2.1.1)."""
    found = []
    for row, column in where.tolist():
        point = []
        for axis in range(3):
            along_row = float(orientation[axis]) * float(spacing[1]) * column
            along_column = float(orientation[3 + axis]) * float(spacing[0]) * row
            point.append(float(position[axis]) + along_row + along_column)
        found.append(point)
    return np.array(found).reshape(-1, 3)


def points_of(dataset: Dataset, number: int, least: float = 0.5) -> NDArray[Any]:
    """Return where the pixels of a segment lie, in LPS mm (n, 3); those of at least a share of the maximum."""
    points = []
    for segment, group, shared, plane in frames_of(dataset):
        if segment not in (0, number):
            continue
        orientation = (group if "PlaneOrientationSequence" in group else shared).PlaneOrientationSequence[0]
        measures = (group if "PixelMeasuresSequence" in group else shared).PixelMeasuresSequence[0]
        most = dataset.get("MaximumFractionalValue", 1)
        inside = plane == number if segment == 0 else plane >= least * most
        points.append(
            pixels_mm(
                group.PlanePositionSequence[0].ImagePositionPatient,
                orientation.ImageOrientationPatient,
                measures.PixelSpacing,
                np.argwhere(inside),
            )
        )
    return np.concatenate(points)


def source_frames(path: Path) -> dict[tuple[str, int], tuple[list[float], list[float], list[float]]]:
    """Return position, orientation and pixel spacing of each frame of the files below a folder, as they say.

    A frame's key is its file's SOPInstanceUID and its number from 1, or 0 where the file is one image.
    """
    found = {}
    for file in sorted(path.rglob("*.dcm")):
        dataset = dcmread(file, stop_before_pixels=True)
        if "PerFrameFunctionalGroupsSequence" not in dataset:
            values = dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.PixelSpacing
            found[dataset.SOPInstanceUID, 0] = tuple([float(v) for v in value] for value in values)
            continue
        shared = dataset.SharedFunctionalGroupsSequence[0]
        for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence, 1):
            items = [
                (group if name in group else shared)[name][0]
                for name in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
            ]
            values = items[0].ImagePositionPatient, items[1].ImageOrientationPatient, items[2].PixelSpacing
            found[dataset.SOPInstanceUID, number] = tuple([float(v) for v in value] for value in values)
    return found


def same_points(found: NDArray[Any], expected: NDArray[Any], tolerance_mm: float = 1e-4) -> bool:
    """Whether two sets of points are the same, by the distance of each one to each other one."""
    if len(found) != len(expected):
        return False
    for point in found:
        if np.abs(expected - point).max(axis=1).min() > tolerance_mm:
            return False
    return all(np.abs(found - point).max(axis=1).min() <= tolerance_mm for point in expected)
