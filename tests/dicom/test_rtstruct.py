"""An RTSTRUCT of a mask: the mask again by other readers, on the slices it belongs to, and all that it must say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from scipy import ndimage

from medseg.dicom.identity import Identity
from medseg.dicom.object_parts import save_object
from medseg.dicom.origin import Origin, read_origin
from medseg.dicom.output_options import RtstructOptions
from medseg.dicom.policy import Policies
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.rtstruct import MadeStructureSet, make_structure_set
from medseg.dicom.scan import scan_pile
from medseg.dicom.stack import stack_series
from medseg.errors import DicomError, GridError
from medseg.labels import CodedConcept, Label, LabelMap, LabelSet
from medseg.maker import Maker
from medseg.volume import Volume
from tests.dicom.builder import CORONAL, OBLIQUE, SeriesSpec, gantry_tilt, instance_uid, positions_mm, write_series
from tests.dicom.enhanced_builder import write_enhanced
from tests.dicom.labelled import drawn_in

SPEC = SeriesSpec("outlined", shape=(24, 20, 4))
SPECS = {
    "axial": SPEC,
    "coronal": replace(SPEC, orientation=CORONAL),
    "oblique mr": replace(SPEC, modality="MR", is_signed=False, orientation=OBLIQUE),
    "anisotropic": replace(SPEC, spacing_mm=(0.35, 1.9, 5.0)),
    "tilted": replace(SPEC, **gantry_tilt(-17.5)),
    "one slice": replace(SPEC, shape=(24, 20, 1)),
}
LABELS = LabelSet(
    (
        Label(index=2, name="kidney_left", color="#ff8000"),
        Label(index=5, name="liver"),
        Label(index=7, name="thing", category=CodedConcept(value="49755003", meaning="Lesion")),
        Label(index=9, name="spleen"),
    )
)
PRESENT = (2, 5, 7)


def origin_of(folder: Path, spec: SeriesSpec = SPEC, *, is_enhanced: bool = False, **policies: Any) -> Origin:
    (write_enhanced if is_enhanced else write_series)(folder / "series", spec)
    (series,) = scan_pile(folder / "series").series
    with quiet_pydicom():
        return read_origin(stack_series(series, Policies(**policies)))


def mask_on(origin: Origin, labels: LabelSet = LABELS, seed: int = 0) -> LabelMap:
    """Coarse noise: holes, diagonals and voxels at the border of every kind."""
    noise = np.random.default_rng(seed).standard_normal((4, *origin.grid.shape))
    values = np.array([0, *PRESENT], dtype=np.uint8)[
        ndimage.gaussian_filter(noise, (0, 0.7, 0.7, 0)).argmax(axis=0)
    ]
    return LabelMap(Volume(np.asfortranarray(values), origin.grid.affine), labels)


def made_of(origin: Origin, labels: LabelMap, **options: Any) -> MadeStructureSet:
    identity = Identity(origin, Maker("a model", "ab" * 32), "rtstruct")
    return make_structure_set(origin, labels, identity, RtstructOptions(**options))


def saved(made: MadeStructureSet, folder: Path) -> Dataset:
    save_object(made.dataset, folder / "labels.dcm")
    return dcmread(folder / "labels.dcm")


def rasterised(dataset: Dataset, spec: SeriesSpec) -> dict[int, NDArray[np.bool_]]:
    """Region -> mask [column, row, slice]: by the formula of PS3.3 C.7.6.2.1.1 and matplotlib."""
    x, y = np.array(spec.orientation, dtype=float).reshape(2, 3)
    columns, rows = np.indices(spec.shape[:2]).reshape(2, -1)
    found = {}
    for region in dataset.ROIContourSequence:
        mask = np.zeros(spec.shape, dtype=bool)
        for contour in region.ContourSequence:
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints >= 3
            offsets = points - positions_mm(spec)[:, None]  # (slices, n, 3)
            off = np.abs(offsets @ np.cross(x, y)).max(axis=1)
            k = int(off.argmin())
            assert off[k] < 0.001
            (image,) = contour.ContourImageSequence
            if "ReferencedFrameNumber" not in image:
                assert image.ReferencedSOPInstanceUID == instance_uid(spec, k)
            pixels = np.stack([offsets[k] @ x / spec.spacing_mm[0], offsets[k] @ y / spec.spacing_mm[1]], axis=1)
            inside = Polygon(pixels).contains_points(np.stack([columns, rows], axis=1))
            mask[:, :, k] ^= inside.reshape(spec.shape[:2])
        found[int(region.ReferencedROINumber)] = mask
    return found


@pytest.mark.parametrize(
    ("spec", "holes"),
    [*((SPECS[name], holes) for name in SPECS for holes in ("xor", "keyhole")), (SPEC, "xor-type")],
    ids=[*(f"{name}-{holes}" for name in SPECS for holes in ("xor", "keyhole")), "axial-xor-type"],
)
def test_the_mask_comes_back(tmp_path: Path, spec: SeriesSpec, holes: str) -> None:
    origin = origin_of(tmp_path, spec)
    labels = mask_on(origin)
    dataset = saved(made_of(origin, labels, holes=holes), tmp_path)
    by_matplotlib = rasterised(dataset, spec)
    by_reader, findings = drawn_in(tmp_path, spec)
    assert findings == []
    assert list(by_reader) == ["kidney_left", "liver", "thing"]
    for number, (value, read) in enumerate(zip(PRESENT, by_reader.values(), strict=True), 1):
        assert np.array_equal(by_matplotlib[number], labels.array == value)
        assert np.array_equal(read, labels.array == value)
    for value, region in zip(PRESENT, dataset.ROIContourSequence, strict=True):
        has_type = holes == "xor-type" and has_hole(labels.array == value)
        kinds = {contour.ContourGeometricType for contour in region.ContourSequence}
        assert kinds == {"CLOSEDPLANAR_XOR" if has_type else "CLOSED_PLANAR"}


def has_hole(mask: NDArray[np.bool_]) -> bool:
    outside = np.pad(~mask, ((1, 1), (1, 1), (0, 0)), constant_values=True)
    return any(ndimage.label(outside[:, :, k], np.ones((3, 3)))[1] > 1 for k in range(mask.shape[2]))


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_frames_of_an_enhanced_image_are_named(tmp_path: Path, modality: str) -> None:
    spec = replace(SPEC, modality=modality, orientation=OBLIQUE, is_signed=modality == "CT")
    origin = origin_of(tmp_path, spec, is_enhanced=True)
    labels = mask_on(origin)
    dataset = saved(made_of(origin, labels), tmp_path)
    found = rasterised(dataset, spec)
    assert all(np.array_equal(found[n], labels.array == value) for n, value in enumerate(PRESENT, 1))
    source = dcmread(next((tmp_path / "series").iterdir()))
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        frame = source.PerFrameFunctionalGroupsSequence[contour.ContourImageSequence[0].ReferencedFrameNumber - 1]
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        normal = np.cross(spec.orientation[:3], spec.orientation[3:])
        assert abs((np.array(contour.ContourData[:3], dtype=float) - position) @ normal) < 0.001
    frame = dataset.ReferencedFrameOfReferenceSequence[0]
    (image,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].ContourImageSequence
    assert image.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert "ReferencedFrameNumber" not in image  # all of them


def test_what_the_object_says(tmp_path: Path) -> None:
    origin = origin_of(tmp_path)
    made = made_of(origin, mask_on(origin), label="organs")
    dataset, source = saved(made, tmp_path), origin.datasets[0]
    assert [label.index for label in made.regions] == list(PRESENT)
    assert (dataset.Modality, dataset.ApprovalStatus, dataset.StructureSetLabel) == (
        "RTSTRUCT",
        "UNAPPROVED",
        "organs",
    )
    assert (dataset.PatientID, dataset.StudyInstanceUID) == (source.PatientID, source.StudyInstanceUID)
    assert dataset.StructureSetDate == "20010203"
    names = [
        (item.ROINumber, item.ROIName, item.ROIGenerationAlgorithm) for item in dataset.StructureSetROISequence
    ]
    assert names == [(1, "kidney_left", "AUTOMATIC"), (2, "liver", "AUTOMATIC"), (3, "thing", "AUTOMATIC")]
    assert list(dataset.ROIContourSequence[0].ROIDisplayColor) == [255, 128, 0]
    kidney, liver, thing = dataset.RTROIObservationsSequence
    assert [item.RTROIInterpretedType for item in (kidney, liver, thing)] == ["ORGAN", "ORGAN", ""]
    (code,) = kidney.RTROIIdentificationCodeSequence
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("64033007", "SCT")
    assert code.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == "7771000"
    assert liver.RTROIIdentificationCodeSequence[0].CodeValue == "10200004"
    assert [finding.code.value for finding in made.findings] == ["no-code"]
    (frame,) = dataset.ReferencedFrameOfReferenceSequence
    assert frame.FrameOfReferenceUID == dataset.FrameOfReferenceUID == source.FrameOfReferenceUID
    (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert series.SeriesInstanceUID == SPEC.series_uid
    named = {image.ReferencedSOPInstanceUID for image in series.ContourImageSequence}
    assert named == {instance_uid(SPEC, k) for k in range(4)}
    texts = (
        str(dataset.ROIContourSequence[0].ContourSequence[0].ContourData).strip("[]").replace("'", "").split(", ")
    )
    assert all(len(text) <= 16 for text in texts)


def test_the_same_mask_makes_the_same_bytes_and_reading_changes_none(tmp_path: Path) -> None:
    origin = origin_of(tmp_path)
    files = []
    for is_read in (False, True):
        made = made_of(origin, mask_on(origin), holes="keyhole")
        if is_read:
            assert sum(len(item.ContourSequence) for item in made.dataset.ROIContourSequence) > 0
            assert made.dataset.ROIContourSequence[0].ContourSequence[0].ContourData[0] < 1e6
        saved(made, tmp_path)
        files.append((tmp_path / "labels.dcm").read_bytes())
    assert files[0] == files[1]


def test_a_contour_of_more_than_64_kib_is_written(tmp_path: Path) -> None:
    """As a keyhole around 3600 holes; DS has 16 bits for its length in explicit VR."""
    spec = replace(SPEC, shape=(121, 121, 1))
    origin = origin_of(tmp_path, spec)
    array = np.ones((121, 121, 1), dtype=np.uint8, order="F")
    array[1::2, 1::2] = 0
    labels = LabelMap(Volume(array * np.uint8(5), origin.grid.affine), LABELS)
    dataset = saved(made_of(origin, labels, holes="keyhole"), tmp_path)
    (contour,) = dataset.ROIContourSequence[0].ContourSequence
    assert len(contour.get_item("ContourData").value) > 1 << 16
    found, _ = drawn_in(tmp_path, spec)
    assert np.array_equal(found["liver"], array == 1)


def test_large_label_values_are_outlined_too(tmp_path: Path) -> None:
    origin = origin_of(tmp_path)
    array = np.where(mask_on(origin).array == 5, 4_000_000_000, 0).astype(np.uint32, order="F")
    labels = LabelMap(Volume(array, origin.grid.affine), LabelSet.from_names({4_000_000_000: "liver"}))
    saved(made_of(origin, labels), tmp_path)
    assert np.array_equal(drawn_in(tmp_path, SPEC)[0]["liver"], array > 0)


def test_slices_that_the_series_lacks_have_no_contours(tmp_path: Path) -> None:
    origin = origin_of(tmp_path, replace(SPEC, missing=[2]), missing_slice="fill")
    labels = mask_on(origin)
    made = made_of(origin, labels)
    assert [finding.code.value for finding in made.findings] == ["not-on-slices", "no-code"][::-1]
    expected = labels.array == 2
    expected[:, :, 2] = False
    assert np.array_equal(rasterised(saved(made, tmp_path), SPEC)[1], expected)


# --- names and character sets ---


@pytest.mark.parametrize(
    ("charset", "patient", "label", "expected"),
    [
        ("ISO_IR 100", "Müller^Jörg", "Füße", "ISO_IR 100"),
        ("ISO_IR 100", "Müller^Jörg", "печень", "ISO_IR 192"),
        ("ISO_IR 144", "Люкceмбypг", "печень", "ISO_IR 144"),
        ("ISO_IR 144", "Люкceмбypг", "Füße", "ISO_IR 192"),
        ("", "Muller^Jorg", "Füße", "ISO_IR 192"),
        ("", "Muller^Jorg", "liver", ""),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", "печень É", "ISO_IR 192"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", "liver", ["", "ISO 2022 IR 87"]),
    ],
)
def test_names_of_patient_and_labels_survive(
    tmp_path: Path, charset: str | list[str], patient: str, label: str, expected: str | list[str]
) -> None:
    spec = replace(SPEC, attributes={"SpecificCharacterSet": charset, "PatientName": patient})
    origin = origin_of(tmp_path, spec)
    labels = LabelSet((Label(index=2, name=label), Label(index=5, name="b"), Label(index=7, name="c")))
    dataset = saved(made_of(origin, mask_on(origin, labels)), tmp_path)
    assert dataset.get("SpecificCharacterSet", "") == expected
    assert str(dataset.PatientName) == patient
    assert dataset.StructureSetROISequence[0].ROIName == label


# --- what is refused ---


def test_an_empty_mask_is_refused(tmp_path: Path) -> None:
    origin = origin_of(tmp_path)
    labels = LabelMap(Volume(np.zeros(SPEC.shape, np.uint8, order="F"), origin.grid.affine), LABELS)
    with pytest.raises(DicomError, match="an object must hold a region, found no label anywhere"):
        made_of(origin, labels)


def test_a_mask_on_another_grid_is_refused(tmp_path: Path) -> None:
    origin = origin_of(tmp_path)
    with pytest.raises(GridError):
        made_of(origin, LabelMap(Volume(np.ones(SPEC.shape, np.uint8, order="F"), np.eye(4)), LABELS))


def test_a_series_without_frame_of_reference_is_refused_or_gets_one(tmp_path: Path) -> None:
    origin = origin_of(tmp_path, replace(SPEC, attributes={"FrameOfReferenceUID": None}))
    with pytest.raises(DicomError, match="FrameOfReferenceUID"):
        made_of(origin, mask_on(origin))
    made = made_of(origin, mask_on(origin), without_frame_of_reference="make")
    assert made.dataset.FrameOfReferenceUID.startswith("2.25.")
    assert made.findings[0].code.value == "made-frame-of-reference"


def test_smoothing_and_decimation_are_done_in_millimetres(tmp_path: Path) -> None:
    origin = origin_of(tmp_path, SPECS["anisotropic"])
    array = np.zeros(SPEC.shape, np.uint8, order="F")
    array[3:21, 4:16] = 5
    labels = LabelMap(Volume(array, origin.grid.affine), LABELS)
    for tolerance_mm, count in (
        (0.1, 8),
        (0.2, 4),
    ):  # what cuts a corner is 0.17 mm wide
        dataset = made_of(origin, labels, decimate_mm=tolerance_mm).dataset
        assert dataset.ROIContourSequence[0].ContourSequence[0].NumberOfContourPoints == count
