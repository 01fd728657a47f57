"""Contours of an RTSTRUCT on the slices of a series: the pixels that were outlined, or the reason why not."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from medseg.dicom.annotations import open_annotation
from medseg.dicom.planes import planes_of
from medseg.dicom.policy import Policies
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.read import read_stack
from medseg.dicom.scan import scan_pile
from medseg.dicom.stack import stack_series
from medseg.errors import DicomError
from tests.dicom.annotation_builder import box, contour, image, rtstruct, to_mm
from tests.dicom.builder import CORONAL, OBLIQUE, SAGITTAL, SeriesSpec, gantry_tilt, positions_mm, write_series
from tests.dicom.frozen import AXIAL_CT, FOLDER, OBLIQUE_MR, masks
from tests.dicom.labelled import drawn, links_in

SPEC = SeriesSpec("labelled", shape=(24, 20, 6))
Boxes = list[tuple[int, tuple[int, int, int, int]]]


def mask_of(shape: tuple[int, int, int], boxes: Boxes) -> NDArray[np.bool_]:
    """What boxes (slice, (left, top, right, bottom)) hold, by XOR."""
    mask = np.zeros(shape, dtype=bool)
    for k, (left, top, right, bottom) in boxes:
        mask[left:right, top:bottom, k] ^= True
    return mask


def one(spec: SeriesSpec, *contours: Dataset) -> Dataset:
    return rtstruct(spec, {"Liver": contours})


@st.composite
def rectangles(chosen: Any) -> Boxes:
    def span(size: int) -> tuple[int, int]:
        low = chosen(st.integers(0, size - 1))
        return low, chosen(st.integers(low + 1, size))

    found = []
    for k in chosen(st.lists(st.integers(0, SPEC.shape[2] - 1), min_size=1, max_size=6)):
        (left, right), (top, bottom) = span(SPEC.shape[0]), span(SPEC.shape[1])
        found.append((k, (left, top, right, bottom)))
    return found


@st.composite
def geometries(chosen: Any) -> dict[str, Any]:
    """Any orientation, tilt, spacing and origin."""
    angles = np.random.default_rng(chosen(st.integers(0, 10_000)))
    directions, _ = np.linalg.qr(angles.standard_normal((3, 3)))
    lengths = [chosen(st.floats(0.3, 5.0)) for _ in range(3)]
    return {
        "orientation": tuple(directions[:, :2].T.ravel().tolist()),
        "spacing_mm": tuple(lengths),
        "shear_mm_per_mm": (chosen(st.floats(-0.5, 0.5)), chosen(st.floats(-0.5, 0.5))),
        "origin_mm": tuple(angles.uniform(-500, 500, 3).tolist()),
    }


@settings(max_examples=12, deadline=None)
@given(geometries(), rectangles())
def test_boxes_come_back_whatever_the_geometry(geometry: dict[str, Any], boxes: Boxes) -> None:
    spec = replace(SPEC, **geometry)
    dataset = one(spec, *(contour(spec, k, box(*corners)) for k, corners in boxes))
    folder = Path(tempfile.mkdtemp())
    try:
        found, _ = drawn(folder, spec, dataset)
    finally:
        shutil.rmtree(folder)
    assert np.array_equal(found["Liver"], mask_of(SPEC.shape, boxes))


@pytest.mark.parametrize(
    "changes",
    [{}, {"orientation": SAGITTAL}, {"orientation": CORONAL}, {"orientation": OBLIQUE}, gantry_tilt(-17.5)],
    ids=["axial", "sagittal", "coronal", "oblique", "tilted"],
)
def test_a_mask_lies_on_the_voxels_of_the_volume_that_is_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    """The centre of mass in millimetres, by the affine of the volume, is that of the contour."""
    changes.pop("attributes", None)
    spec = replace(SPEC, **changes)
    found, _ = drawn(tmp_path, spec, one(spec, contour(spec, 4, box(3, 2, 10, 6))))
    (series,) = scan_pile(tmp_path / "series").series
    with quiet_pydicom():
        volume = read_stack(stack_series(series, Policies()))
    centre_lps = to_mm(spec, 4, np.array([(3 + 9, 2 + 5)]) / 2)[0]
    centre = volume.grid.world(np.argwhere(found["Liver"])).mean(axis=0)
    assert centre == pytest.approx(centre_lps * (-1, -1, 1), abs=1e-3)


@pytest.mark.filterwarnings("ignore:The value length")
def test_a_hole_is_one_by_xor_whatever_its_type_is_called(tmp_path: Path) -> None:
    outer, inner = box(2, 2, 12, 12), box(5, 6, 9, 9)
    for number, kind in enumerate(("CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "CLOSED_PLANAR_XOR")):
        contours = [contour(SPEC, 2, corners, ContourGeometricType=kind) for corners in (outer, inner)]
        found, findings = drawn(tmp_path / str(number), SPEC, one(SPEC, *contours))
        assert found["Liver"].sum() == 100 - 12
        assert findings == []


@pytest.mark.parametrize("spec", [AXIAL_CT, OBLIQUE_MR], ids=["axial", "oblique"])
def test_the_masks_that_rt_utils_wrote_come_back(tmp_path: Path, spec: SeriesSpec) -> None:
    """Its contours go through the centres of the pixels, in single precision."""
    found, findings = drawn(tmp_path, spec, dcmread(FOLDER / f"{spec.name.split()[1]}_rtstruct.dcm"))
    assert findings == []
    assert found.keys() == masks().keys()
    for name, mask in masks().items():
        assert np.array_equal(found[name], mask)


# --- what is odd and tolerated ---


def test_points_and_open_contours_are_left_out_and_counted(tmp_path: Path) -> None:
    contours = [
        contour(SPEC, 1, box(1, 1, 5, 5)),
        contour(SPEC, 1, [(3, 3)], ContourGeometricType="POINT"),
        contour(SPEC, 1, box(7, 7, 9, 9), ContourGeometricType="OPEN_PLANAR"),
        contour(SPEC, 1, box(1, 7, 5, 9)[:2]),
    ]
    found, findings = drawn(tmp_path, SPEC, one(SPEC, *contours))
    assert found["Liver"].sum() == 16
    assert [finding.code.value for finding in findings] == ["open-contour"] * 3
    assert [finding.message.removeprefix("1 of 4 contour(s) of ") for finding in findings] == [
        "the type OPEN_PLANAR: left out",
        "the type POINT: left out",
        "fewer than three points: left out",
    ]


def test_slices_without_contours_between_others_are_counted(tmp_path: Path) -> None:
    contours = [contour(SPEC, k, box(1, 1, 5, 5)) for k in (0, 2, 5)]
    found, (finding,) = drawn(tmp_path, SPEC, one(SPEC, *contours))
    assert finding.code.value == "contour-gap"
    assert finding.message.startswith("3 slice(s)")
    assert np.flatnonzero(found["Liver"].any(axis=(0, 1))).tolist() == [0, 2, 5]


def test_contours_that_overlap_or_leave_the_image_are_said(tmp_path: Path) -> None:
    contours = [contour(SPEC, 1, box(*corners)) for corners in ((1, 1, 5, 5), (3, 3, 8, 8), (20, 1, 40, 3))]
    found, findings = drawn(tmp_path, SPEC, one(SPEC, *contours))
    assert [finding.code.value for finding in findings] == ["contour-overlap", "beyond-image"]
    assert found["Liver"].sum() == 16 + 25 - 2 * 4 + 4 * 2


def shifted(share: float, k: int = 2) -> NDArray[np.float64]:
    """A box on slice k, moved along the normal by a share of the slice distance."""
    normal = positions_mm(SPEC)[1] - positions_mm(SPEC)[0]
    return to_mm(SPEC, k, np.array(box(1, 1, 5, 5))) + share * normal


@pytest.mark.parametrize(("share", "codes"), [(0.001, []), (0.3, ["off-slice"]), (0.499, ["off-slice"])])
def test_contours_up_to_half_the_distance_off_lie_on_the_nearest_slice(
    tmp_path: Path, share: float, codes: list[str]
) -> None:
    off = contour(SPEC, 2, shifted(share), ContourImageSequence=None)
    found, findings = drawn(tmp_path, SPEC, one(SPEC, off))
    assert np.flatnonzero(found["Liver"].any(axis=(0, 1))).tolist() == [2]
    assert [finding.code.value for finding in findings] == codes


def test_a_named_slice_decides_between_two_that_are_as_near(tmp_path: Path) -> None:
    for number, k in enumerate((2, 3)):
        half = contour(SPEC, k, shifted(0.5))
        found, _ = drawn(tmp_path / str(number), SPEC, one(SPEC, half))
        assert np.flatnonzero(found["Liver"].any(axis=(0, 1))).tolist() == [k]


# --- what is refused ---

CORNERS = [(0.0, 0.0), (4.0, 0.0), (4.0, 4.0)]


def leaning() -> NDArray[np.float64]:
    points = to_mm(SPEC, 2, np.array(box(1, 1, 5, 5)))
    points[:2] += 0.8 * (positions_mm(SPEC)[1] - positions_mm(SPEC)[0])
    return points


@pytest.mark.parametrize(
    ("make", "reason", "found"),
    [
        (
            lambda: contour(SPEC, 5, shifted(0.7, 5), ContourImageSequence=None),
            "off-slice",
            "1 of 1 off every slice",
        ),
        (lambda: contour(SPEC, 2, leaning()), "off-slice", "1 of 1 off every slice"),
        (lambda: contour(SPEC, 4, shifted(0.0, 2)), "off-slice", "that lie on another one"),
        (lambda: contour(SPEC, 2, CORNERS, NumberOfContourPoints=4), "bad-contour", "1 of 1 without"),
        (lambda: contour(SPEC, 2, CORNERS, ContourData=["1", "2", "3", "4"]), "bad-contour", "1 of 1 without"),
        (lambda: contour(SPEC, 2, CORNERS, ContourData=None), "bad-contour", "1 of 1 without"),
        (lambda: contour(SPEC, 2, [(0, 0), (40_000, 0), (0, 5)]), "bad-contour", "16384 pixels away"),
        (
            lambda: contour(SPEC, 2, CORNERS, ContourImageSequence=[image(replace(SPEC, name="other"), 2)]),
            "no-reference",
            "1 of 1 that are not there",
        ),
    ],
)
def test_contours_that_cannot_be_placed_are_refused(
    tmp_path: Path, make: Callable[[], Dataset], reason: str, found: str
) -> None:
    with pytest.raises(DicomError, match=found) as caught:
        drawn(tmp_path, SPEC, one(SPEC, make()))
    assert caught.value.reason == reason


@pytest.mark.parametrize("text", ["nan", "inf", "1e400", "0x10", "1_0", "--1", ""])
def test_coordinates_that_are_no_finite_decimals_are_refused(tmp_path: Path, text: str) -> None:
    dataset = one(SPEC, contour(SPEC, 2, CORNERS))
    drawn(tmp_path, SPEC, dataset)
    path = tmp_path / "labels.dcm"
    content = path.read_bytes()
    old = dataset.ROIContourSequence[0].ContourSequence[0].ContourData[0].original_string.encode()
    place = content.rindex(old + b"\\")
    path.write_bytes(content[:place] + text.encode().ljust(len(old)) + content[place + len(old) :])
    (link,) = links_in(tmp_path)
    (series,) = scan_pile(tmp_path / "series").series
    with quiet_pydicom():
        planes = planes_of(stack_series(series, Policies()))
    with pytest.raises(DicomError, match="three finite numbers a point"):
        open_annotation(link.annotation)(link.structure, planes)


def test_another_frame_of_reference_is_refused(tmp_path: Path) -> None:
    dataset = rtstruct(SPEC, {"Liver": [contour(SPEC, 1, box(1, 1, 5, 5))]}, ReferencedFrameOfReferenceUID="1.2.3")
    with pytest.raises(DicomError, match="expected the FrameOfReferenceUID of the series, found another one"):
        drawn(tmp_path, SPEC, dataset)


def test_interpolated_slices_have_no_labels(tmp_path: Path) -> None:
    write_series(tmp_path, SPEC, missing=[2])
    (series,) = scan_pile(tmp_path).series
    with quiet_pydicom():
        stack = stack_series(series, Policies(missing_slice="fill"))
        with pytest.raises(DicomError, match="5 slices for 6 of the volume"):
            planes_of(stack)
