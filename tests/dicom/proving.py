"""Series with masks, and objects of these that are built attribute by attribute, right or wrong on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medseg.dicom.origin import Origin, read_origin
from medseg.dicom.policy import Policies
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.scan import scan_pile
from medseg.dicom.stack import stack_series
from medseg.labels import LabelMap, LabelSet
from medseg.volume import Volume
from tests.dicom.annotation_builder import box, code, contour, image, item, place, rtstruct, segment, segmentation
from tests.dicom.builder import SeriesSpec, write_series

LABELS = LabelSet.from_names({2: "liver", 5: "kidney_left", 7: "kidney_right", 9: "spleen"})
"""The spleen is in no mask."""

ORGANS = {
    "liver": ("10200004", "Liver"),
    "kidney": ("64033007", "Kidney"),
    "spleen": ("78961009", "Spleen"),
}
SIDES = {"left": ("7771000", "Left"), "right": ("24028007", "Right")}
DOCTOR = "CANARYDOCTOR^ANNA"

Array = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Drawn:
    """A series and a mask on its slices."""

    spec: SeriesSpec
    origin: Origin
    labels: LabelMap

    @property
    def array(self) -> Array:
        return self.labels.array


def origin_in(folder: Path, **policies: Any) -> Origin:
    """Read the headers of the one series of a folder."""
    (series,) = scan_pile(folder).series
    with quiet_pydicom():
        return read_origin(stack_series(series, Policies(**policies)))


def draw(folder: Path, spec: SeriesSpec, seed: int = 0) -> Drawn:
    """Write a series and draw a mask on it; slices of the specification are those of the volume."""
    write_series(folder, spec)
    origin = origin_in(folder)
    return Drawn(spec, origin, label_map(origin, blobs(spec.shape, seed)))


def label_map(origin: Origin, array: Array, labels: LabelSet = LABELS) -> LabelMap:
    return LabelMap(Volume(np.asfortranarray(array), origin.grid.affine), labels)


def blobs(shape: tuple[int, ...], seed: int = 0) -> Array:
    """A mask without any symmetry: two blocks with random voxels missing, a small one beside, none on slice 1."""
    rng = np.random.default_rng(seed)
    columns, rows, slices = shape
    array = np.zeros(shape, dtype=np.uint8)
    array[: columns // 2, 1 : rows // 2, :] = 2
    array[columns // 2 + 1 : -2, 3:-1, : slices - 1] = 5
    array[1:4, -3:, 2:] = 7
    array[rng.random(shape) < 0.02] = 0
    array[:, :, 1] = 0
    return array


def anatomy() -> Dataset:
    return code("91723000", "Anatomical Structure")


def type_code(name: str) -> Dataset:
    """What a label of `LABELS` is, by the tables of PS3.16: CID 7199 and CID 244."""
    organ, _, side = name.partition("_")
    kind = code(*ORGANS[organ])
    if side:
        kind.SegmentedPropertyTypeModifierCodeSequence = [code(*SIDES[side])]
    return kind


def coded_segment(number: int, name: str) -> Dataset:
    made = segment(number, name, SegmentedPropertyTypeCodeSequence=[type_code(name)])
    made.SegmentedPropertyCategoryCodeSequence = [anatomy()]
    return made


def seg_of(
    drawn: Drawn,
    array: Array | None = None,
    kind: str = "BINARY",
    at: Callable[[int], Dataset] | None = None,
) -> Dataset:
    """A SEG of label values [column, row, slice], those of the mask if none are given; `at` places a slice."""
    array = drawn.array if array is None else array
    values = [int(value) for value in np.unique(array) if value]
    names = {label.index: label.name for label in drawn.labels.labels}
    where = at or (lambda k: place(drawn.spec, k))
    frames = []
    for k in range(array.shape[2]):
        plane = array[:, :, k].T
        if kind == "LABELMAP" and plane.any():
            frames.append((0, where(k), np.searchsorted([0, *values], plane).astype(np.uint8)))
        if kind == "BINARY":
            frames += [(n, where(k), plane == v) for n, v in enumerate(values, 1) if (plane == v).any()]
    segments = [coded_segment(n, names[v]) for n, v in enumerate(values, 1)]
    dataset = segmentation(drawn.spec, frames[::-1], segments, kind)
    series = item(
        SeriesInstanceUID=drawn.spec.series_uid,
        ReferencedInstanceSequence=[image(drawn.spec, k) for k in drawn.spec.slices],
    )
    dataset.ReferencedSeriesSequence = [series]
    dataset.ReferringPhysicianName = DOCTOR
    return dataset


def rtstruct_of(
    drawn: Drawn, array: Array | None = None, turn: Callable[[NDArray[Any]], NDArray[Any]] | None = None
) -> Dataset:
    """An RTSTRUCT of label values; boxes of pixels are contours, and `turn` moves its corners."""
    array = drawn.array if array is None else array
    turned = turn or (lambda corners: corners)
    regions = {}
    for label in drawn.labels.labels:
        mask = array == label.index
        if mask.any():
            boxes = [(k, np.array(box(*edges))) for k, edges in runs(mask)]
            regions[label.name] = [contour(drawn.spec, k, turned(corners)) for k, corners in boxes]
    dataset = rtstruct(drawn.spec, regions)
    for observation, name in zip(dataset.RTROIObservationsSequence, regions, strict=True):
        observation.SegmentedPropertyCategoryCodeSequence = [anatomy()]
        observation.RTROIIdentificationCodeSequence = [type_code(name)]
    dataset.ReferringPhysicianName = DOCTOR
    study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    study.RTReferencedSeriesSequence[0].ContourImageSequence = [image(drawn.spec, k) for k in drawn.spec.slices]
    return dataset


def runs(mask: NDArray[np.bool_]) -> Iterator[tuple[int, tuple[int, int, int, int]]]:
    """Yield slice and (left, top, right, bottom) of boxes that hold a mask; right and bottom lie outside.

    A box is a run of pixels in a row, and as many rows below as have the same run.
    """
    for k in range(mask.shape[2]):
        open_boxes: dict[tuple[int, int], int] = {}  # run -> its first row
        for row in range(mask.shape[1] + 1):
            line = mask[:, row, k] if row < mask.shape[1] else np.zeros(mask.shape[0], dtype=bool)
            steps = np.flatnonzero(np.diff(np.pad(line.astype(int), 1))).reshape(-1, 2).tolist()
            now = {(left, right): open_boxes.get((left, right), row) for left, right in steps}
            for (left, right), top in open_boxes.items():
                if (left, right) not in now:
                    yield k, (left, top, right, row)
            open_boxes = now
