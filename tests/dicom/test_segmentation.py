"""Segments of a SEG on the slices of a series: the masks that were written, or the reason why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread, uid
from pydicom.dataset import Dataset

from medseg.dicom.annotations import find_annotations
from medseg.errors import DicomError
from medseg.labels import Laterality
from tests.dicom.annotation_builder import code, item, place, save_object, segment, segmentation, to_mm
from tests.dicom.builder import OBLIQUE, SeriesSpec, gantry_tilt
from tests.dicom.frozen import AXIAL_CT, FOLDER, OBLIQUE_MR, fractions, masks
from tests.dicom.labelled import drawn, drawn_in

SPEC = SeriesSpec("segmented", shape=(13, 11, 6))
LIVER = segment(1, "Liver", SegmentedPropertyTypeCodeSequence=[code("10200004", "Liver")])


def random_mask(spec: SeriesSpec = SPEC, seed: int = 0) -> NDArray[np.bool_]:
    """Noise [column, row, slice]: every swap and every flip shows."""
    return np.random.default_rng(seed).random(spec.shape) < 0.4


def seg_of(spec: SeriesSpec, mask: NDArray[np.bool_], **changes: Any) -> Dataset:
    frames = [(1, place(spec, k, **changes), mask[:, :, k].T) for k in (4, 1, 5, 0, 2)]
    return segmentation(spec, frames, [LIVER])


@pytest.mark.parametrize("spec", [AXIAL_CT, OBLIQUE_MR], ids=["axial", "oblique"])
@pytest.mark.parametrize("kind", ["binary", "labelmap", "fractional"])
def test_the_masks_that_highdicom_wrote_come_back(tmp_path: Path, spec: SeriesSpec, kind: str) -> None:
    dataset = dcmread(FOLDER / f"{spec.name.split()[1]}_{kind}.dcm")
    found, findings = drawn(tmp_path, spec, dataset)
    expected = {"Liver": fractions() >= 0.5} if kind == "fractional" else masks()
    assert [finding.code.value for finding in findings] == (["fractional"] if kind == "fractional" else [])
    assert found.keys() == expected.keys()
    for name, mask in expected.items():
        assert np.array_equal(found[name], mask)


@pytest.mark.parametrize(
    "changes", [{}, {"orientation": OBLIQUE}, gantry_tilt(20)], ids=["axial", "oblique", "tilted"]
)
def test_bits_run_on_across_frames_in_any_order(tmp_path: Path, changes: dict[str, Any]) -> None:
    """A frame of 13 x 11 pixels does not end on a byte."""
    spec = replace(SPEC, **{key: value for key, value in changes.items() if key != "attributes"})
    mask = random_mask()
    mask[:, :, 3] = False  # no frame
    found, findings = drawn(tmp_path, spec, seg_of(spec, mask))
    assert findings == []
    assert np.array_equal(found["Liver"], mask)


# --- frames on the same pixels in another order ---

Turn = Callable[[NDArray[np.bool_]], NDArray[np.bool_]]
TURNS: dict[str, tuple[Turn, tuple[int, int], tuple[str, str]]] = {
    "columns reversed": (lambda m: m[:, ::-1], (-1, 0), ("-x", "y")),
    "rows reversed": (lambda m: m[::-1], (0, -1), ("x", "-y")),
    "turned": (lambda m: m[::-1, ::-1], (-1, -1), ("-x", "-y")),
    "transposed": (lambda m: m.T, (0, 0), ("y", "x")),
    "a quarter turn": (lambda m: m.T[:, ::-1], (0, -1), ("-y", "x")),
    "the other quarter": (lambda m: m.T[::-1], (-1, 0), ("y", "-x")),
}


@pytest.mark.parametrize("name", TURNS)
@pytest.mark.parametrize("plane", [(1.0, 0.0, 0.0, 0.0, 1.0, 0.0), OBLIQUE], ids=["axial", "oblique"])
def test_turned_frames_come_back_by_their_geometry(tmp_path: Path, name: str, plane: tuple[float, ...]) -> None:
    spec = replace(SPEC, orientation=plane)
    turn, first, names = TURNS[name]
    x, y = np.array(plane).reshape(2, 3)
    directions = {"x": x, "y": y, "-x": -x, "-y": -y}
    orientation = np.concatenate([directions[one] for one in names])
    corner = [size - 1 if where else 0 for size, where in zip(spec.shape, first, strict=False)]
    spacing = spec.spacing_mm[:2] if names[0][-1] == "y" else spec.spacing_mm[1::-1]  # between rows, columns
    mask = random_mask(spec)
    frames = []
    for k in range(spec.shape[2]):
        position = to_mm(spec, k, np.array([corner], dtype=float))[0]
        group = place(spec, k, position=position, orientation=orientation, spacing=spacing)
        frames.append((1, group, turn(mask[:, :, k].T)))
    found, _ = drawn(tmp_path, spec, segmentation(spec, frames, [LIVER]))
    assert np.array_equal(found["Liver"], mask)


def test_a_frame_may_be_a_part_of_a_slice_or_reach_beyond_it_with_nothing(tmp_path: Path) -> None:
    small = random_mask()[:4, :5, 0].T  # (5, 4)
    wide = np.zeros((15, 20), dtype=bool)
    wide[3, 4] = True
    frames = [
        (1, place(SPEC, 2, position=to_mm(SPEC, 2, np.array([[6.0, 3.0]]))[0]), np.pad(small, ((0, 10), (0, 16)))),
        (1, place(SPEC, 3, position=to_mm(SPEC, 3, np.array([[-2.0, -1.0]]))[0]), wide),
    ]
    found, _ = drawn(tmp_path, SPEC, segmentation(SPEC, frames, [LIVER]))
    expected = np.zeros(SPEC.shape, dtype=bool)
    expected[6:10, 3:8, 2] = small.T
    expected[4 - 2, 3 - 1, 3] = True
    assert np.array_equal(found["Liver"], expected)


# --- values ---


def test_fractions_count_from_half_of_the_maximum_on(tmp_path: Path) -> None:
    values = np.arange(13 * 11, dtype=np.uint8).reshape(11, 13)
    values[-1, -1] = 255
    dataset = segmentation(SPEC, [(1, place(SPEC, 1), values)], [LIVER], "FRACTIONAL")
    found, _ = drawn(tmp_path, SPEC, dataset)
    assert np.array_equal(found["Liver"][:, :, 1].T, values >= 128)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_label_map_holds_several_segments_in_a_frame(tmp_path: Path, kind: type) -> None:
    values = np.random.default_rng(1).integers(0, 3, (11, 13)).astype(kind)
    segments = [segment(0, "Background"), LIVER, segment(2, "Spleen")]
    found, _ = drawn(tmp_path, SPEC, segmentation(SPEC, [(0, place(SPEC, 5), values)], segments, "LABELMAP"))
    assert found.keys() == {"Liver", "Spleen"}
    assert np.array_equal(found["Spleen"][:, :, 5].T, values == 2)


def test_frames_packed_by_runs_are_unpacked(tmp_path: Path) -> None:
    values = np.random.default_rng(2).integers(0, 2, (3, 11, 13)).astype(np.uint8) * 255
    dataset = segmentation(SPEC, [(1, place(SPEC, k), values[k]) for k in range(3)], [LIVER], "FRACTIONAL")
    drawn(tmp_path, SPEC, dataset)
    packed = dcmread(tmp_path / "labels.dcm")
    packed.compress(uid.RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    packed.save_as(tmp_path / "labels.dcm")
    found, _ = drawn_in(tmp_path, SPEC)
    assert np.array_equal(found["Liver"][:, :, :3].transpose(2, 1, 0), values > 0)


def test_codes_and_sides_are_read(tmp_path: Path) -> None:
    kidney = code("64033007", "Kidney")
    kidney.SegmentedPropertyTypeModifierCodeSequence = [code("7771000", "Left")]
    region = code("39607008", "Lung", "SCT")
    region.AnatomicRegionModifierSequence = [code("G-A100", "Right", "SRT")]
    segments = [
        segment(1, "K", SegmentedPropertyTypeCodeSequence=[kidney]),
        segment(
            2, "L", SegmentedPropertyTypeCodeSequence=[code("108369006", "Tumor")], AnatomicRegionSequence=[region]
        ),
        segment(3, "nothing"),
    ]
    frames = [(n, place(SPEC, n), random_mask()[:, :, n].T) for n in (1, 2)]
    save_object(segmentation(SPEC, frames, segments), tmp_path / "a.dcm")
    ((found,), _) = find_annotations(tmp_path)
    left, right, none = found.structures
    assert (left.code and left.code.value, left.laterality) == ("64033007", Laterality.LEFT)
    assert (right.code and right.code.meaning, right.laterality) == ("Tumor", Laterality.RIGHT)
    assert (none.code, none.is_empty, left.is_empty) == (None, True, False)


# --- what is refused ---

ALL = np.ones((11, 13), dtype=bool)


def frames_of(*groups: Dataset) -> Dataset:
    return segmentation(SPEC, [(1, group, ALL) for group in groups], [LIVER])


def at(column: float, row: float, above_mm: float = 0.0) -> NDArray[np.float64]:
    """Where a pixel of slice 1 lies, or a place above it."""
    return to_mm(SPEC, 1, np.array([[column, row]]))[0] + np.array((0, 0, above_mm))


def without(dataset: Dataset, keyword: str) -> Dataset:
    del dataset[keyword]
    return dataset


def tagged(dataset: Dataset, **values: Any) -> Dataset:
    dataset.update(item(**values))
    return dataset


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: frames_of(place(SPEC, 1, spacing=(1.1, 0.85))), "other-grid"),
        (lambda: frames_of(place(SPEC, 1, position=at(0.5, 0))), "other-grid"),
        (lambda: frames_of(place(SPEC, 1, position=at(0, 0, above_mm=0.6))), "other-grid"),
        (lambda: frames_of(place(SPEC, 1, orientation=OBLIQUE)), "other-grid"),
        (lambda: frames_of(place(SPEC, 1, position=at(3, 0))), "beyond-image"),
        (lambda: frames_of(place(SPEC, 1), place(SPEC, 1)), "conflict"),
        (lambda: frames_of(without(place(SPEC, 1), "PlanePositionSequence")), "no-geometry"),
        (lambda: tagged(frames_of(place(SPEC, 1)), FrameOfReferenceUID="1.2.3"), "other-frame-of-reference"),
        (lambda: tagged(frames_of(place(SPEC, 1)), PixelData=b"\xff" * 4), "damaged-file"),
        (lambda: tagged(frames_of(place(SPEC, 1)), BitsAllocated=8), "damaged-file"),
        (lambda: tagged(frames_of(place(SPEC, 1)), SegmentationType="PROBABLY"), "damaged-file"),
        (lambda: frames_of(place(replace(SPEC, name="other"), 1)), "no-reference"),
    ],
    ids=[
        "spacing", "half a pixel", "between slices", "direction", "outside", "twice", "no place",
        "frame of reference", "cut", "bits", "type", "images",
    ],
)  # fmt: skip
def test_segments_that_cannot_be_placed_are_refused(
    tmp_path: Path, make: Callable[[], Dataset], reason: str
) -> None:
    with pytest.raises(DicomError) as caught:
        drawn(tmp_path, SPEC, make())
    assert caught.value.reason == reason


def test_positions_rounded_to_a_hundredth_of_a_millimetre_will_do(tmp_path: Path) -> None:
    spec = replace(SPEC, orientation=OBLIQUE)
    mask = random_mask()
    positions = [np.round(to_mm(spec, k, np.zeros((1, 2)))[0], 2) for k in range(6)]
    frames = [(1, place(spec, k, position=positions[k]), mask[:, :, k].T) for k in range(6)]
    found, _ = drawn(tmp_path, spec, segmentation(spec, frames, [LIVER]))
    assert np.array_equal(found["Liver"], mask)


def test_objects_whose_groups_do_not_fit_are_left_out_and_counted(tmp_path: Path) -> None:
    save_object(tagged(frames_of(place(SPEC, 1)), NumberOfFrames=2), tmp_path / "a.dcm")
    found, findings = find_annotations(tmp_path)
    assert found == []
    assert [finding.code.value for finding in findings] == ["damaged-file"]
