"""Any geometry and any mask -> SEG and RTSTRUCT on disk -> patient millimetres, by loops that share no code.

Each voxel's millimetres are those of the pixel in the source files by PS3.3 C.7.6.2.1.1, read by pydicom; what an
object holds becomes millimetres by its own attributes, pixel by pixel. Points are inside contours by an even-odd
loop over the sides.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from medseg.dicom.identity import Identity
from medseg.dicom.object_parts import save_object
from medseg.dicom.origin import Origin
from medseg.dicom.output_options import RtstructOptions, SegOptions
from medseg.dicom.proof import prove_segmentation, prove_structure_set
from medseg.dicom.rtstruct import make_structure_set
from medseg.dicom.seg import make_segmentation
from medseg.errors import ProofError
from medseg.labels import LabelMap
from medseg.maker import Maker
from tests.dicom.builder import SeriesSpec, write_series
from tests.dicom.enhanced_builder import write_enhanced
from tests.dicom.law import frames_of
from tests.dicom.proving import label_map, origin_in

MAKER = Maker("model", "ab" * 32)
MICROMETRE = 1e-3
Points = NDArray[np.float64]

fast = partial(settings, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@dataclass(frozen=True)
class Geometry:
    """A series, as one of the builder's specifications, and whether it is one multi-frame object."""

    spec: SeriesSpec
    is_enhanced: bool


@st.composite
def geometries(chosen: Any) -> Geometry:
    """Any orientation, handedness, anisotropy, tilt and place."""
    rng = np.random.default_rng(chosen(st.integers(0, 10_000)))
    directions, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    if chosen(st.booleans()):  # along the axes of the patient, in any order and direction
        directions = np.eye(3)[:, rng.permutation(3)] * rng.choice([-1.0, 1.0], 3)
    is_tilted = chosen(st.booleans())
    spec = SeriesSpec(
        "tripped",
        modality=chosen(st.sampled_from(["CT", "MR"])),
        shape=tuple(chosen(st.integers(low, high)) for low, high in ((3, 13), (3, 13), (2, 6))),
        spacing_mm=tuple(chosen(st.floats(0.3, 5.0)) for _ in range(3)),
        orientation=tuple(directions[:, :2].T.ravel().tolist()),
        shear_mm_per_mm=tuple(rng.uniform(-0.5, 0.5, 2).tolist()) if is_tilted else (0.0, 0.0),
        origin_mm=tuple(rng.uniform(-500, 500, 3).tolist()),
    )
    return Geometry(spec, chosen(st.booleans()))


@st.composite
def masks(chosen: Any, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Blocks, single voxels, noise, and slices with nothing on them; never empty."""
    rng = np.random.default_rng(chosen(st.integers(0, 10_000)))
    array = np.zeros(shape, dtype=np.uint8)
    for _ in range(chosen(st.integers(1, 4))):
        low = [int(rng.integers(0, size)) for size in shape]
        high = [int(rng.integers(a + 1, size + 1)) for a, size in zip(low, shape, strict=True)]
        array[tuple(map(slice, low, high))] = rng.choice([0, 2, 5, 7])
    if chosen(st.booleans()):
        noise = rng.random(shape) < 0.3
        array[noise] = rng.choice([0, 2, 5, 7], int(noise.sum()))
    array[:, :, int(rng.integers(shape[2]))] = 0
    voxel = tuple(int(rng.integers(size)) for size in shape)
    array[voxel] = 7
    return array


@st.composite
def cases(chosen: Any) -> tuple[Geometry, NDArray[np.uint8]]:
    geometry = chosen(geometries())
    return geometry, chosen(masks(geometry.spec.shape))


def written(folder: Path, geometry: Geometry) -> tuple[Origin, list[Path]]:
    if geometry.is_enhanced:
        paths = [write_enhanced(folder / "series", geometry.spec)]
    else:
        paths = write_series(folder / "series", geometry.spec)
    return origin_in(folder / "series"), paths


# --- by brute force ---


def expected_mm(paths: Iterable[Path], labels: LabelMap) -> dict[str, list[Points]]:
    """Where each label's voxels lie, LPS: the pixels of the source whose slice is that of the mask."""
    frames = [frame for path in paths for frame in frames_of(path)]
    normal = np.cross(*frames[0].directions)
    frames.sort(key=lambda frame: float(frame.position_mm @ normal))
    found: dict[str, list[Points]] = {}
    names = {label.index: label.name for label in labels.labels}
    for k, frame in enumerate(frames):
        for i in range(labels.array.shape[0]):
            for j in range(labels.array.shape[1]):
                if value := int(labels.array[i, j, k]):
                    found.setdefault(names[value], []).append(pixel_mm(frame, i, j))
    return found


def pixel_mm(frame: Any, column: float, row: float) -> Points:
    x, y = frame.directions
    return np.asarray(frame.position_mm + x * frame.spacing_mm[0] * column + y * frame.spacing_mm[1] * row)


def segments_mm(path: Path) -> dict[str, list[Points]]:
    """Where the pixels of each segment lie, LPS, by each frame's own functional groups."""
    dataset = dcmread(path)
    names = {item.SegmentNumber: item.SegmentLabel for item in dataset.SegmentSequence}
    count = dataset.Rows * dataset.Columns
    if dataset.BitsAllocated == 1:
        bits = [int(one >> bit) & 1 for one in dataset.PixelData for bit in range(8)]
    else:
        bits = list(np.frombuffer(dataset.PixelData, f"<u{dataset.BitsAllocated // 8}"))
    found: dict[str, list[Points]] = {}
    for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        position = np.array(item_of(dataset, group, "PlanePositionSequence").ImagePositionPatient, dtype=float)
        directions = np.array(item_of(dataset, group, "PlaneOrientationSequence").ImageOrientationPatient, float)
        down, across = map(float, item_of(dataset, group, "PixelMeasuresSequence").PixelSpacing)
        for pixel in range(count):
            value = int(bits[number * count + pixel])
            if value and dataset.SegmentationType != "LABELMAP":
                value = int(item_of(dataset, group, "SegmentIdentificationSequence").ReferencedSegmentNumber)
            if value:
                row, column = divmod(pixel, dataset.Columns)
                point = position + directions[:3] * across * column + directions[3:] * down * row
                found.setdefault(names[value], []).append(point)
    return found


def item_of(dataset: Dataset, group: Dataset, keyword: str) -> Dataset:
    return next(
        part[keyword].value[0] for part in (group, dataset.SharedFunctionalGroupsSequence[0]) if keyword in part
    )


def regions_mm(path: Path, sources: Iterable[Path]) -> dict[str, list[Points]]:
    """Which pixels of the source lie inside the contours of each region, LPS, by an even-odd loop."""
    dataset = dcmread(path)
    frames = [frame for source in sources for frame in frames_of(source)]
    names = {item.ROINumber: item.ROIName for item in dataset.StructureSetROISequence}
    found: dict[str, list[Points]] = {}
    for region in dataset.ROIContourSequence:
        polygons = [np.array(one.ContourData, dtype=float).reshape(-1, 3) for one in region.ContourSequence]
        for frame in frames:
            own = [flat for polygon in polygons if (flat := on_plane(frame, polygon)) is not None]
            rows, columns = frame.stored.shape
            for row in range(rows if own else 0):
                for column in range(columns):
                    if sum(is_inside(polygon, column, row) for polygon in own) % 2:
                        found.setdefault(names[region.ReferencedROINumber], []).append(pixel_mm(frame, column, row))
    return found


def on_plane(frame: Any, polygon: Points) -> Points | None:
    """Return the corners of a polygon in columns and rows of a frame, or None where it lies on another plane."""
    x, y = frame.directions
    off = polygon - frame.position_mm
    if np.abs(off @ np.cross(x, y)).max() > 10 * MICROMETRE:
        return None
    return np.stack([off @ x / frame.spacing_mm[0], off @ y / frame.spacing_mm[1]], axis=1)


def is_inside(polygon: Points, column: float, row: float) -> bool:
    inside = False
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if (y0 > row) != (y1 > row) and column < x0 + (row - y0) * (x1 - x0) / (y1 - y0):
            inside = not inside
    return inside


def assert_same(found: dict[str, list[Points]], expected: dict[str, list[Points]]) -> None:
    assert found.keys() == expected.keys()
    for name, points in expected.items():
        one, other = (np.array(sorted(map(tuple, np.round(part, 2).tolist()))) for part in (found[name], points))
        assert one.shape == other.shape, name
        distances = np.linalg.norm(np.array(found[name])[:, None] - np.array(points)[None], axis=2)
        assert distances.min(axis=0).max() < 2 * MICROMETRE
        assert distances.min(axis=1).max() < 2 * MICROMETRE


# --- the properties ---


@fast(max_examples=15)
@given(cases(), st.sampled_from(["BINARY", "LABELMAP"]))
def test_a_seg_holds_the_millimetres_of_the_mask(case: tuple[Geometry, NDArray[np.uint8]], kind: str) -> None:
    geometry, array = case
    with tempfile.TemporaryDirectory() as folder:
        origin, paths = written(Path(folder), geometry)
        labels, path = label_map(origin, array), Path(folder) / "seg.dcm"
        options = SegOptions(type=kind)
        made = make_segmentation(origin, labels, Identity(origin, MAKER, "seg"), options)
        save_object(made.dataset, path)
        assert_same(segments_mm(path), expected_mm(paths, labels))
        proof = prove_segmentation(path, origin, labels, options=options)
        assert all(label.dice == 1 for label in proof.labels)


@fast(max_examples=15)
@given(cases(), st.sampled_from(["xor", "keyhole"]))
def test_an_rtstruct_holds_the_millimetres_of_the_mask(
    case: tuple[Geometry, NDArray[np.uint8]], holes: str
) -> None:
    geometry, array = case
    with tempfile.TemporaryDirectory() as folder:
        origin, paths = written(Path(folder), geometry)
        labels, path = label_map(origin, array), Path(folder) / "rtstruct.dcm"
        made = make_structure_set(origin, labels, Identity(origin, MAKER, "rtstruct"), RtstructOptions(holes=holes))
        save_object(made.dataset, path)
        assert_same(regions_mm(path, paths), expected_mm(paths, labels))
        proof = prove_structure_set(path, origin, labels)
        assert all(label.dice == 1 for label in proof.labels)
        assert all(label.distance_mm < 0.002 for label in proof.labels)


@fast(max_examples=8)
@given(cases(), st.integers(0, 2))
def test_a_mirrored_mask_is_never_proved(case: tuple[Geometry, NDArray[np.uint8]], axis: int) -> None:
    """Whatever the geometry, objects of the mask flipped along an axis are refused, unless it is symmetric."""
    geometry, array = case
    flipped = np.flip(array, axis)
    with tempfile.TemporaryDirectory() as folder:
        origin, _ = written(Path(folder), geometry)
        labels, wrong, path = label_map(origin, array), label_map(origin, flipped), Path(folder) / "object.dcm"
        made = make_segmentation(origin, wrong, Identity(origin, MAKER, "seg"), SegOptions())
        save_object(made.dataset, path)
        if np.array_equal(array, flipped):
            prove_segmentation(path, origin, labels)
        else:
            with pytest.raises(ProofError):
                prove_segmentation(path, origin, labels)


def test_the_loops_can_tell(tmp_path: Path) -> None:
    """A mask with one voxel moved has other millimetres."""
    geometry = Geometry(SeriesSpec("tripped", shape=(5, 4, 3)), is_enhanced=False)
    origin, paths = written(tmp_path, geometry)
    array = np.zeros((5, 4, 3), dtype=np.uint8)
    array[1, 2, 1] = 2
    one, other = (expected_mm(paths, label_map(origin, part)) for part in (array, np.roll(array, 1, axis=0)))
    assert_same(one, one)
    with pytest.raises(AssertionError):
        assert_same(one, other)
