"""Objects that are the mask pass; each way in which one can be wrong is caught, and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread, uid
from pydicom.dataset import Dataset

from medseg.dicom.code_proof import label_side
from medseg.dicom.identity import Identity
from medseg.dicom.output_options import RtstructOptions, SegOptions
from medseg.dicom.proof import prove_segmentation, prove_structure_set
from medseg.dicom.rtstruct import make_structure_set
from medseg.dicom.seg import make_segmentation
from medseg.errors import GridError, InputError, ProofError
from medseg.labels import Label, LabelMap, LabelSet, Laterality
from medseg.maker import Maker
from medseg.volume import Volume
from tests.dicom.annotation_builder import item, place, save_object, segmentation
from tests.dicom.builder import CORONAL, OBLIQUE, SAGITTAL, SeriesSpec, gantry_tilt, positions_mm, write_series
from tests.dicom.proving import (
    DOCTOR,
    Array,
    Drawn,
    blobs,
    coded_segment,
    draw,
    label_map,
    origin_in,
    rtstruct_of,
    seg_of,
    type_code,
)

SPEC = SeriesSpec("proved", modality="MR", shape=(29, 22, 6), orientation=OBLIQUE, is_signed=False)
GEOMETRIES: dict[str, dict[str, Any]] = {
    "axial": {"orientation": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)},
    "sagittal": {"orientation": SAGITTAL},
    "coronal": {"orientation": CORONAL},
    "oblique": {},
    "tilted": {"modality": "CT", **gantry_tilt(20)},
    "feet first": {"orientation": (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)},
}
KINDS = ("BINARY", "LABELMAP")
LABEL_MAP = SegOptions(type="LABELMAP")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw(tmp_path_factory.mktemp("proved"), SPEC)


def prove(drawn: Drawn, dataset: Dataset, folder: Path, **more: Any) -> Any:
    path = save_object(dataset, folder / "object.dcm")
    if "SegmentSequence" not in dataset:
        return prove_structure_set(path, drawn.origin, drawn.labels, **more)
    options = SegOptions(type=more.pop("kind", dataset.SegmentationType))
    return prove_segmentation(path, drawn.origin, drawn.labels, options=options, **more)


def refused(drawn: Drawn, dataset: Dataset, folder: Path, **more: Any) -> str:
    with pytest.raises(ProofError) as caught:
        prove(drawn, dataset, folder, **more)
    assert "CANARY" not in str(caught.value)
    return str(caught.value)


# --- what is right ---


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("kind", [*KINDS, "RTSTRUCT"])
def test_what_is_the_mask_passes(tmp_path: Path, geometry: str, kind: str) -> None:
    drawn = draw(tmp_path / "series", replace(SPEC, **GEOMETRIES[geometry]))
    dataset = rtstruct_of(drawn) if kind == "RTSTRUCT" else seg_of(drawn, kind=kind)
    proof = prove(drawn, dataset, tmp_path)
    assert (proof.what, proof.kind) == ("object.dcm", "RTSTRUCT" if kind == "RTSTRUCT" else "SEG")
    assert proof.seconds > 0
    for label, value in zip(proof.labels, (2, 5, 7), strict=True):
        count = int((drawn.array == value).sum())
        assert (label.expected_voxels, label.found_voxels, label.dice) == (count, count, 1.0)
        assert label.distance_mm < 1e-3
    assert [label.name for label in proof.labels] == ["liver", "kidney_left", "kidney_right"]


@pytest.mark.parametrize("compressed", ["RLELossless", "JPEGLSLossless"])
def test_compressed_label_maps_are_decoded(drawn: Drawn, tmp_path: Path, compressed: str) -> None:
    dataset = seg_of(drawn, kind="LABELMAP")
    path = save_object(dataset, tmp_path / "object.dcm")
    dataset = dcmread(path)
    dataset.compress(getattr(uid, compressed), generate_instance_uid=False)
    dataset.save_as(path)
    assert all(
        label.dice == 1 for label in prove_segmentation(path, drawn.origin, drawn.labels, options=LABEL_MAP).labels
    )


def test_frames_may_be_turned_as_long_as_their_geometry_is(drawn: Drawn, tmp_path: Path) -> None:
    """The same pixels, rows and columns reversed and exchanged, said so by position, orientation and spacing."""
    columns, rows, _ = SPEC.shape
    x, y = np.array(SPEC.orientation).reshape(2, 3)

    def at(k: int) -> Dataset:
        last = positions_mm(SPEC)[k] + x * SPEC.spacing_mm[0] * (columns - 1) + y * SPEC.spacing_mm[1] * (rows - 1)
        return place(SPEC, k, position=last, orientation=[*-y, *-x], spacing=SPEC.spacing_mm[:2])

    array = drawn.array[::-1, ::-1].transpose(1, 0, 2)
    assert all(label.dice == 1 for label in prove(drawn, seg_of(drawn, array, at=at), tmp_path).labels)


# --- pixels that are wrong ---

WRONG_PIXELS: dict[str, Callable[[Array], Array]] = {
    "mirrored left-right": lambda array: array[::-1],
    "mirrored front-back": lambda array: array[:, ::-1],
    "flipped along the slices": lambda array: array[:, :, ::-1],
    "shifted by a slice": lambda array: np.roll(array, 1, axis=2),
    "shifted by a column": lambda array: np.roll(array, 1, axis=0),
    "shifted by a row": lambda array: np.roll(array, -1, axis=1),
    "two labels swapped": lambda array: np.choose(array, [0, 0, 2, 0, 0, 7, 0, 5]).astype(np.uint8),
    "a voxel of another label": lambda array: _with(array, array == 2, 5),
    "a voxel missing": lambda array: _with(array, array == 7, 0),
    "a voxel too many": lambda array: _with(array, array == 0, 7),
}


def _with(array: Array, where: Any, value: int) -> Array:
    changed = array.copy()
    changed[tuple(np.argwhere(where)[0])] = value
    return changed


@pytest.mark.parametrize("wrong", WRONG_PIXELS)
@pytest.mark.parametrize("kind", KINDS)
def test_wrong_pixels_are_caught(drawn: Drawn, tmp_path: Path, wrong: str, kind: str) -> None:
    text = refused(drawn, seg_of(drawn, WRONG_PIXELS[wrong](drawn.array), kind), tmp_path)
    assert "label " in text
    assert "voxels" in text


@pytest.mark.parametrize("wrong", [name for name in WRONG_PIXELS if "a voxel" not in name])
def test_wrong_contours_are_caught(drawn: Drawn, tmp_path: Path, wrong: str) -> None:
    text = refused(drawn, rtstruct_of(drawn, WRONG_PIXELS[wrong](drawn.array)), tmp_path)
    assert "label " in text
    assert "voxels" in text


def test_the_error_names_the_label_its_numbers_and_what_it_was_swapped_with(drawn: Drawn, tmp_path: Path) -> None:
    text = refused(drawn, seg_of(drawn, WRONG_PIXELS["two labels swapped"](drawn.array)), tmp_path)
    five, seven = int((drawn.array == 5).sum()), int((drawn.array == 7).sum())
    assert "label kidney_left: expected a Dice of at least 1" in text
    assert f"{seven} voxels for {five}, Dice 0" in text
    assert f"{seven} of its voxels are those of kidney_right" in text


def test_a_missing_frame_is_caught(drawn: Drawn, tmp_path: Path) -> None:
    dataset = seg_of(drawn)
    groups = dataset.PerFrameFunctionalGroupsSequence
    del groups[0]
    dataset.NumberOfFrames = len(groups)
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")[22 * 29 :]
    data = np.packbits(bits, bitorder="little").tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    assert "voxels for" in refused(drawn, dataset, tmp_path)


def test_a_frame_that_stands_twice_in_the_place_of_another_is_caught(drawn: Drawn, tmp_path: Path) -> None:
    """As many voxels as there should be, in two frames of one slice."""
    same = drawn.array.copy()
    same[:, :, 3] = same[:, :, 2]
    labels = LabelMap(Volume(same, drawn.labels.affine), drawn.labels.labels)
    dataset = seg_of(drawn, same, at=lambda k: place(SPEC, 2 if k == 3 else k))
    text = refused(replace(drawn, labels=labels), dataset, tmp_path)
    assert "one frame a segment and slice" in text


@pytest.mark.parametrize("kind", [*KINDS, "RTSTRUCT"])
def test_as_many_voxels_around_the_same_centre_are_not_enough(drawn: Drawn, tmp_path: Path, kind: str) -> None:
    array = np.zeros(SPEC.shape, dtype=np.uint8)
    array[5:19, 6:16, 1:4] = 2
    turned = np.zeros(SPEC.shape, dtype=np.uint8)
    turned[7:17, 4:18, 1:4] = 2
    block = replace(drawn, labels=label_map(drawn.origin, array))
    make = rtstruct_of if kind == "RTSTRUCT" else lambda *args: seg_of(*args, kind=kind)
    (label,) = prove(block, make(block), tmp_path).labels
    assert label.found_voxels == 420
    text = refused(block, make(block, turned), tmp_path)
    assert "a Dice of at least 1, found 420 voxels for 420, Dice 0.71" in text


@pytest.mark.parametrize("kind", [*KINDS, "RTSTRUCT"])
def test_missing_labels_and_labels_too_many_are_caught(drawn: Drawn, tmp_path: Path, kind: str) -> None:
    make = rtstruct_of if kind == "RTSTRUCT" else lambda *args: seg_of(*args, kind=kind)
    without = np.where(drawn.array == 7, 0, drawn.array).astype(np.uint8)
    text = refused(drawn, make(drawn, without), tmp_path)
    assert f"label kidney_right: expected its {(drawn.array == 7).sum()} voxels, found no such label" in text
    more = drawn.array.copy()
    more[-1, 0, 0] = 9
    assert "label spleen: expected only labels that the mask has" in refused(drawn, make(drawn, more), tmp_path)


@pytest.mark.parametrize("kind", [*KINDS, "RTSTRUCT"])
def test_names_that_are_no_label_or_stand_twice_are_caught(drawn: Drawn, tmp_path: Path, kind: str) -> None:
    dataset = rtstruct_of(drawn) if kind == "RTSTRUCT" else seg_of(drawn, kind=kind)
    items = dataset.StructureSetROISequence if kind == "RTSTRUCT" else dataset.SegmentSequence
    keyword = "ROIName" if kind == "RTSTRUCT" else "SegmentLabel"
    setattr(items[1], keyword, "heart")
    assert "none of them" in refused(drawn, dataset, tmp_path)
    setattr(items[1], keyword, "liver")
    assert "several of liver" in refused(drawn, dataset, tmp_path)


# --- geometry that is wrong ---

X, Y = np.array(SPEC.orientation).reshape(2, 3)
Z = np.cross(X, Y)
MIRROR = positions_mm(SPEC) + X * SPEC.spacing_mm[0] * (SPEC.shape[0] - 1)
WRONG_PLACES: dict[str, tuple[Callable[[int], dict[str, Any]], str]] = {
    "mirrored left-right": (lambda k: {"position": MIRROR[k], "orientation": [*-X, *Y]}, "voxels for"),
    "flipped along the slices": (lambda k: {"position": positions_mm(SPEC)[5 - k]}, "a reference to slice"),
    "shifted by a slice": (lambda k: {"position": positions_mm(SPEC)[k] + 2.5 * Z}, "slice"),
    "shifted by a pixel": (lambda k: {"position": positions_mm(SPEC)[k] + 0.8 * X}, "Dice"),
    "shifted by half a pixel": (lambda k: {"position": positions_mm(SPEC)[k] + 0.55 * Y}, "0.5 pixels off"),
    "shifted by a tenth of a slice": (lambda k: {"position": positions_mm(SPEC)[k] + 0.25 * Z}, "slices, from 0"),
    "spacing swapped": (lambda k: {"spacing": (0.8, 1.1)}, "pixels off"),
    "spacing doubled": (lambda k: {"spacing": (2.2, 1.6)}, "Dice"),
    "rows for columns": (lambda k: {"orientation": [*Y, *X]}, "pixels off"),
    "another plane": (lambda k: {"orientation": [*X, *Z]}, "along the stack"),
    "no position": (lambda k: {"position": (np.nan, 0, 0)}, "not all of them"),
}


@pytest.mark.parametrize("wrong", WRONG_PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_wrong_geometry_of_frames_is_caught(drawn: Drawn, tmp_path: Path, wrong: str, kind: str) -> None:
    change, said = WRONG_PLACES[wrong]
    if wrong == "no position":
        dataset = seg_of(drawn, kind=kind)
        del dataset.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence
    else:
        dataset = seg_of(drawn, kind=kind, at=lambda k: place(SPEC, k, **change(k)))
    assert said in refused(drawn, dataset, tmp_path)


def moved(corners: Any, columns: float, rows: float) -> Any:
    return corners + np.array([columns, rows])


CENTRE = np.array(SPEC.shape[:2]) / 2
TURNS: dict[str, Callable[[Any], Any]] = {
    "scaled": lambda corners: CENTRE + 1.1 * (corners - CENTRE),
    "mirrored": lambda corners: corners * [-1, 1] + [SPEC.shape[0] - 1, 0],
    "shifted by a pixel": lambda corners: moved(corners, 1, 0),
    "half a pixel right": lambda corners: moved(corners, 0.5, 0),
    "half a pixel down": lambda corners: moved(corners, 0, 0.5),
    "a fifth of a pixel right": lambda corners: moved(corners, 0.2, 0),
    "a fifth of a pixel up": lambda corners: moved(corners, 0, -0.2),
    "spacing swapped": lambda corners: corners * [1.1 / 0.8, 0.8 / 1.1],
}


@pytest.mark.parametrize("wrong", TURNS)
def test_wrong_geometry_of_contours_is_caught(drawn: Drawn, tmp_path: Path, wrong: str) -> None:
    assert "label " in refused(drawn, rtstruct_of(drawn, turn=TURNS[wrong]), tmp_path)


def move_points(dataset: Dataset, off: Any) -> None:
    for region in dataset.ROIContourSequence:
        for one in region.ContourSequence:
            points = np.array(one.ContourData, dtype=float).reshape(-1, 3) + off
            one.ContourData = [f"{value:.3f}" for value in points.ravel()]


def test_contours_beside_their_slices_are_caught(drawn: Drawn, tmp_path: Path) -> None:
    near, far, next_one = (rtstruct_of(drawn) for _ in range(3))
    move_points(near, 0.02 * Z)  # a hundredth of the distance of slices
    assert prove(drawn, near, tmp_path).labels[0].distance_mm == pytest.approx(0.02, abs=1e-3)
    move_points(far, 0.25 * Z)
    assert "contour 1: expected a place on one of the 6 slices" in refused(drawn, far, tmp_path)
    move_points(next_one, 2.5 * Z)
    assert "slice" in refused(drawn, next_one, tmp_path)


@pytest.mark.parametrize("wrong", ["a voxel missing", "a voxel too many", "a voxel of another label"])
def test_contours_that_are_not_smoothed_are_exact(drawn: Drawn, tmp_path: Path, wrong: str) -> None:
    dataset = rtstruct_of(drawn, WRONG_PIXELS[wrong](drawn.array))
    text = refused(drawn, dataset, tmp_path)
    assert "a Dice of at least 1" in text
    prove(drawn, dataset, tmp_path, options=RtstructOptions(decimate_mm=1))


def test_a_filled_hole_is_caught(drawn: Drawn, tmp_path: Path) -> None:
    array = np.zeros(SPEC.shape, dtype=np.uint8)
    array[2:27, 2:20, 2:4] = 2
    filled = array.copy()
    array[10:12, 10:12, 2] = 0
    ring = replace(drawn, labels=label_map(drawn.origin, array))
    prove(ring, rtstruct_of(ring), tmp_path)
    assert "900 voxels for 896, Dice 0.9977" in refused(ring, rtstruct_of(ring, filled), tmp_path)


def test_small_regions_are_exact_or_half_to_double_where_they_are_decimated(drawn: Drawn, tmp_path: Path) -> None:
    """Up to 100 voxels: four fifths of them will do where contours are decimated; less than half will not."""
    array = np.zeros(SPEC.shape, dtype=np.uint8)
    array[4:14, 5:15, 2] = 5
    few, fewer, many, beside = array.copy(), array.copy(), array.copy(), array.copy()
    few[4:6, :, 2] = 0
    fewer[6:12, :, 2] = 0
    many[2:16, 2:18, 2] = 5
    beside = np.roll(array, 4, axis=0)
    small, decimated = replace(drawn, labels=label_map(drawn.origin, array)), RtstructOptions(decimate_mm=1)
    assert "80 voxels for 100" in refused(small, rtstruct_of(small, few), tmp_path)
    (label,) = prove(small, rtstruct_of(small, few), tmp_path, options=decimated).labels
    assert (label.expected_voxels, label.found_voxels) == (100, 80)
    for wrong, said in (
        (fewer, "expected 50 to 200 voxels, found 40"),
        (many, "expected 50 to 200 voxels, found 224"),
        (beside, "within 2.5 mm"),
    ):
        assert said in refused(small, rtstruct_of(small, wrong), tmp_path, options=decimated)
    array[14, 5, 2] = 5
    larger = replace(drawn, labels=label_map(drawn.origin, array))
    assert "80 voxels for 101" in refused(larger, rtstruct_of(larger, few), tmp_path, options=decimated)


# --- what its parts are ---


def segments_or_regions(dataset: Dataset) -> list[tuple[Dataset, str]]:
    """Items with their type's keyword, in the order liver, left kidney, right kidney."""
    if dataset.Modality == "SEG":
        return [(one, "SegmentedPropertyTypeCodeSequence") for one in dataset.SegmentSequence]
    return [(one, "RTROIIdentificationCodeSequence") for one in dataset.RTROIObservationsSequence]


def exchange(dataset: Dataset, first: int, second: int) -> None:
    (one, keyword), (other, _) = (segments_or_regions(dataset)[number] for number in (first, second))
    mine, theirs = one[keyword].value, other[keyword].value
    setattr(one, keyword, theirs)
    setattr(other, keyword, mine)


def without_type(dataset: Dataset) -> None:
    item, keyword = segments_or_regions(dataset)[0]
    delattr(item, keyword)


def without_side(dataset: Dataset) -> None:
    item, keyword = segments_or_regions(dataset)[1]
    del item[keyword].value[0].SegmentedPropertyTypeModifierCodeSequence


def with_side(dataset: Dataset) -> None:
    item, keyword = segments_or_regions(dataset)[0]
    left = type_code("kidney_left").SegmentedPropertyTypeModifierCodeSequence
    item[keyword].value[0].SegmentedPropertyTypeModifierCodeSequence = left


def as_lesion(dataset: Dataset) -> None:
    item, _ = segments_or_regions(dataset)[0]
    item.SegmentedPropertyCategoryCodeSequence[0].CodeValue = "49755003"


WRONG_CODES: dict[str, tuple[Callable[[Dataset], None], str]] = {
    "sides swapped": (lambda dataset: exchange(dataset, 1, 2), "kidney_left: expected the side left, found right"),
    "organs swapped": (lambda dataset: exchange(dataset, 0, 1), "label liver: expected the type 10200004"),
    "no type": (without_type, "label liver: expected the type 10200004 (Liver), found no code"),
    "no side": (without_side, "label kidney_left: expected the side left, found none"),
    "a side too many": (with_side, "label liver: expected no side, found left"),
    "a lesion": (as_lesion, "label liver: expected the category 91723000"),
}


@pytest.mark.parametrize("wrong", WRONG_CODES)
@pytest.mark.parametrize("kind", [*KINDS, "RTSTRUCT"])
def test_wrong_codes_are_caught(drawn: Drawn, tmp_path: Path, kind: str, wrong: str) -> None:
    dataset = rtstruct_of(drawn) if kind == "RTSTRUCT" else seg_of(drawn, kind=kind)
    change, said = WRONG_CODES[wrong]
    change(dataset)
    assert said in refused(drawn, dataset, tmp_path)


@pytest.mark.parametrize(
    ("name", "side", "given"),
    [
        ("kidney_left", Laterality.LEFT, {}),
        ("Right Kidney", Laterality.RIGHT, {}),
        ("KidneyLeft", Laterality.LEFT, {}),
        ("adrenal_r", Laterality.RIGHT, {}),
        ("left_or_right", None, {}),
        ("l", None, {}),
        ("bright_spot", None, {}),
        ("kidney", Laterality.LEFT, {"laterality": Laterality.LEFT}),
    ],
)
def test_the_side_of_a_label(name: str, side: Laterality | None, given: dict[str, Any]) -> None:
    assert label_side(Label(index=1, name=name, **given)) is side


@pytest.mark.parametrize("kind", ["FRACTIONAL", *KINDS])
def test_another_type_than_was_asked_for_is_caught(drawn: Drawn, tmp_path: Path, kind: str) -> None:
    for made in KINDS:
        if made != kind:
            text = refused(drawn, seg_of(drawn, kind=made), tmp_path, kind=kind)
            assert "SOPClassUID" in text or f"the SegmentationType {kind}, found {made}" in text


# --- whose object it is ---


def set_nested(dataset: Dataset, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        dataset = getattr(dataset, parent)[0]
    setattr(dataset, last, value)


OF_SOURCE = (
    "StudyInstanceUID",
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
)
OTHER_VALUES = {"PatientBirthDate": "20200101", "StudyDate": "20200101", "PatientSex": "M", "Modality": "OT"}
ELSEWHERE = {keyword: keyword for keyword in (*OF_SOURCE, "AccessionNumber", "SOPClassUID", "Modality")}
OF_FRAME = "PerFrameFunctionalGroupsSequence"
FRAME = "ReferencedFrameOfReferenceSequence"
SERIES = f"{FRAME}.RTReferencedStudySequence.RTReferencedSeriesSequence"
OF_SEG = {
    "FrameOfReferenceUID": "FrameOfReferenceUID",
    "ReferencedSeriesSequence.SeriesInstanceUID": "a reference to the series",
    "ReferencedSeriesSequence.ReferencedInstanceSequence.ReferencedSOPInstanceUID": "images of its source",
    f"{OF_FRAME}.DerivationImageSequence.SourceImageSequence.ReferencedSOPInstanceUID": "slice",
}
OF_RTSTRUCT = {
    f"{FRAME}.FrameOfReferenceUID": "FrameOfReferenceUID",
    "StructureSetROISequence.ReferencedFrameOfReferenceUID": "FrameOfReferenceUID",
    f"{SERIES}.SeriesInstanceUID": "a reference to the series",
    f"{SERIES}.ContourImageSequence.ReferencedSOPInstanceUID": "images of its source",
    "ROIContourSequence.ContourSequence.ContourImageSequence.ReferencedSOPInstanceUID": "slice",
}


@pytest.mark.parametrize("keyword", ELSEWHERE | OF_SEG)
def test_a_seg_of_other_images_is_caught(drawn: Drawn, tmp_path: Path, keyword: str) -> None:
    dataset = seg_of(drawn)
    set_nested(dataset, keyword, OTHER_VALUES.get(keyword, "1.2.3"))
    assert (ELSEWHERE | OF_SEG)[keyword] in refused(drawn, dataset, tmp_path)
    if keyword == "FrameOfReferenceUID":
        dataset.FrameOfReferenceUID = ""
        assert "one FrameOfReferenceUID, found 0" in refused(drawn, dataset, tmp_path)


@pytest.mark.parametrize("keyword", ELSEWHERE | OF_RTSTRUCT)
def test_an_rtstruct_of_other_images_is_caught(drawn: Drawn, tmp_path: Path, keyword: str) -> None:
    dataset = rtstruct_of(drawn)
    set_nested(dataset, keyword, OTHER_VALUES.get(keyword, "1.2.3"))
    assert (ELSEWHERE | OF_RTSTRUCT)[keyword] in refused(drawn, dataset, tmp_path)


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SeriesInstanceUID"])
def test_an_object_with_the_uid_of_its_source_is_caught(drawn: Drawn, tmp_path: Path, keyword: str) -> None:
    for dataset in (seg_of(drawn), rtstruct_of(drawn)):
        setattr(dataset, keyword, drawn.origin.datasets[0][keyword].value)
        assert f"a {keyword} of its own" in refused(drawn, dataset, tmp_path)


def test_a_name_that_lost_its_characters_is_caught(tmp_path: Path) -> None:
    drawn = draw(tmp_path / "series", replace(SPEC, attributes={"PatientName": "Müller^CANARY"}))
    for name in ("Muller^CANARY", "M\N{REPLACEMENT CHARACTER}ller^CANARY"):
        dataset = seg_of(drawn)
        dataset.PatientName = name
        assert "the PatientName of its source" in refused(drawn, dataset, tmp_path)


@pytest.mark.parametrize("kind", [*KINDS, "RTSTRUCT"])
def test_labels_are_found_by_what_they_are_called_in_objects(drawn: Drawn, tmp_path: Path, kind: str) -> None:
    long = "a very long name of a structure that has two parts, of which this one is "
    names = {2: long + "the first", 5: long + "the second", 7: "back\\slash"}
    labels = LabelSet.from_names(names)
    options = {} if kind == "RTSTRUCT" else {"options": SegOptions(type=kind)}
    function = prove_structure_set if kind == "RTSTRUCT" else prove_segmentation
    make = make_structure_set if kind == "RTSTRUCT" else make_segmentation
    made = RtstructOptions() if kind == "RTSTRUCT" else options["options"]
    map_of = label_map(drawn.origin, drawn.array, labels)
    dataset = make(drawn.origin, map_of, Identity(drawn.origin, Maker("m", "0" * 64), "a"), made).dataset
    path = save_object(dataset, tmp_path / "object.dcm")
    assert [label.name for label in function(path, drawn.origin, map_of, **options).labels] == list(names.values())
    swapped = label_map(drawn.origin, drawn.array, LabelSet.from_names({**names, 2: names[5], 5: names[2]}))
    with pytest.raises(ProofError, match="Dice"):
        function(path, drawn.origin, swapped, **options)


def test_references_to_the_wrong_slice_are_caught(drawn: Drawn, tmp_path: Path) -> None:
    dataset = seg_of(drawn)
    first = dataset.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence  # of the last slice
    first[0].SourceImageSequence = place(SPEC, 2).DerivationImageSequence[0].SourceImageSequence
    text = refused(drawn, dataset, tmp_path)
    assert "frame 1: expected a reference to slice 6, on which it lies, found one to slice 3" in text
    first[0].SourceImageSequence = []
    assert "slice 6" in refused(drawn, dataset, tmp_path)


# --- contours that are none ---

MALFORMED: dict[str, Callable[[Dataset], Any]] = {
    "a closed one": lambda one: setattr(one, "ContourGeometricType", "OPEN_PLANAR"),
    "three numbers a point": lambda one: setattr(one, "NumberOfContourPoints", 5),
    "points at least": lambda one: (
        setattr(one, "ContourData", one.ContourData[:6]),
        setattr(one, "NumberOfContourPoints", 2),
    ),
    "a reference to slice": lambda one: delattr(one, "ContourImageSequence"),
    "a whole object": lambda one: delattr(one, "NumberOfContourPoints"),
}


@pytest.mark.parametrize("said", MALFORMED)
def test_malformed_contours_are_caught(drawn: Drawn, tmp_path: Path, said: str) -> None:
    dataset = rtstruct_of(drawn)
    MALFORMED[said](dataset.ROIContourSequence[1].ContourSequence[4])
    assert said in refused(drawn, dataset, tmp_path)


# --- fractions ---


def fractions(drawn: Drawn) -> dict[str, Any]:
    """Probabilities (i, j, k) around those of the mask; the left kidney has some on its own."""
    rng = np.random.default_rng(3)
    noise = rng.random(SPEC.shape) * 0.49
    return {
        label.name: np.where(drawn.array == label.index, 1 - noise, 0).astype(np.float16)
        for label in drawn.labels.labels
    }


def fractional_of(drawn: Drawn, values: dict[str, Any], largest: int = 255) -> Dataset:
    names = ["liver", "kidney_left", "kidney_right"]
    stored = {name: np.rint(values[name].astype(float) * largest).astype(np.uint8) for name in names}
    frames = [
        (n, place(SPEC, k), stored[name][:, :, k].T)
        for n, name in enumerate(names, 1)
        for k in range(6)
        if stored[name][:, :, k].any()
    ]
    dataset = segmentation(SPEC, frames, [coded_segment(n, name) for n, name in enumerate(names, 1)], "FRACTIONAL")
    dataset.ReferringPhysicianName = DOCTOR
    dataset.MaximumFractionalValue = largest
    dataset.ReferencedSeriesSequence = [item(SeriesInstanceUID=SPEC.series_uid)]
    return dataset


@pytest.mark.parametrize("largest", [255, 100])
def test_fractions_are_compared_with_the_probabilities(drawn: Drawn, tmp_path: Path, largest: int) -> None:
    values = fractions(drawn)
    proof = prove(drawn, fractional_of(drawn, values, largest), tmp_path, probabilities=values.__getitem__)
    assert [label.dice for label in proof.labels] == [1, 1, 1]
    assert [label.found_voxels for label in proof.labels] == [(drawn.array == v).sum() for v in (2, 5, 7)]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda v: v[::-1], "off on slice"),
        (lambda v: np.roll(v, 1, axis=2), "slice"),
        (lambda v: np.where(v > 0.5, 1, 0), "off on slice"),
        (lambda v: np.concatenate([v[:, :, :3], 0 * v[:, :, 3:]], axis=2), "a frame on slice 4, found none"),
    ],
    ids=["mirrored", "shifted", "rounded", "cut"],
)
def test_other_fractions_are_caught(drawn: Drawn, tmp_path: Path, wrong: Any, said: str) -> None:
    values = fractions(drawn)
    dataset = fractional_of(drawn, values | {"kidney_left": wrong(values["kidney_left"])})
    text = refused(drawn, dataset, tmp_path, probabilities=values.__getitem__)
    assert "label kidney_left" in text
    assert said in text


SWAPPED = {"kidney_left": "kidney_right", "kidney_right": "kidney_left", "liver": "liver"}
WRONG_READERS: dict[str, tuple[Callable[[dict[str, Any], str], Any], str]] = {
    "swapped": (
        lambda values, name: values[SWAPPED[name]],
        "kidney_left: expected what is probable on its own label",
    ),
    "mirrored": (lambda values, name: values[name][::-1], "expected what is probable"),
    "upside down": (lambda values, name: values[name][:, ::-1], "expected what is probable"),
    "other slices": (lambda values, name: values[name][:, :, ::-1], "expected what is probable"),
}


@pytest.mark.parametrize("wrong", WRONG_READERS)
def test_a_reader_of_other_probabilities_is_caught(drawn: Drawn, tmp_path: Path, wrong: str) -> None:
    """The object is what the reader says, and neither is the mask."""
    right = fractions(drawn)
    read, said = WRONG_READERS[wrong]
    values = {name: read(right, name) for name in SWAPPED}
    assert said in refused(drawn, fractional_of(drawn, values), tmp_path, probabilities=values.__getitem__)


def test_a_mask_that_was_cleaned_up_fits_its_probabilities(drawn: Drawn, tmp_path: Path) -> None:
    """A part is gone from the mask, and a hole of it filled; what is probable knows neither."""
    values = fractions(drawn)
    array = drawn.array.copy()
    array[:4, :, :][array[:4, :, :] == 2] = 0
    array[6:8, 4:6, 2:4] = 2
    prove(
        replace(drawn, labels=label_map(drawn.origin, array)),
        fractional_of(drawn, values),
        tmp_path,
        probabilities=values.__getitem__,
    )


def test_fractions_need_probabilities(drawn: Drawn, tmp_path: Path) -> None:
    assert "expected probabilities" in refused(drawn, fractional_of(drawn, fractions(drawn)), tmp_path)


# --- what is no proof at all ---


def test_damaged_objects_are_no_proof(drawn: Drawn, tmp_path: Path) -> None:
    for dataset in (seg_of(drawn), rtstruct_of(drawn)):
        path = save_object(dataset, tmp_path / "object.dcm")
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        function = prove_segmentation if dataset.Modality == "SEG" else prove_structure_set
        with pytest.raises(ProofError):
            function(path, drawn.origin, drawn.labels)
        path.unlink()
        with pytest.raises(ProofError, match="a whole object"):
            function(path, drawn.origin, drawn.labels)


def test_a_mask_on_another_grid_or_with_unknown_values_is_refused(drawn: Drawn, tmp_path: Path) -> None:
    path = save_object(seg_of(drawn), tmp_path / "object.dcm")
    moved = drawn.labels.affine.copy()
    moved[0, 3] += 1
    other = LabelMap(Volume(drawn.array, moved), drawn.labels.labels)
    fewer = LabelMap(drawn.labels.volume, LabelSet.from_names({2: "liver", 5: "kidney_left"}))
    for function in (prove_segmentation, prove_structure_set):
        with pytest.raises(GridError):
            function(path, drawn.origin, other)
        with pytest.raises(InputError, match=r"value\(s\) 7"):
            function(path, drawn.origin, fewer)


def test_blobs_have_no_symmetry() -> None:
    array = blobs(SPEC.shape)
    for wrong in WRONG_PIXELS.values():
        assert not np.array_equal(wrong(array), array)


# --- slices that the volume has and the series lacks ---


@pytest.mark.parametrize("kind", [*KINDS, "RTSTRUCT"])
@pytest.mark.parametrize(
    ("changes", "policies"),
    [
        ({"missing": (3,)}, {"missing_slice": "fill"}),
        ({"distances_mm": (0.0, 2.5, 5.5, 9.0, 11.5, 14.0)}, {"irregular": "resample"}),
    ],
    ids=["missing", "uneven"],
)
def test_interpolated_slices_are_left_out(
    tmp_path: Path, kind: str, changes: dict[str, Any], policies: dict[str, Any]
) -> None:
    """Slice by slice, what the mask has nearest to each slice of the series is what the object must have."""
    spec = replace(SPEC, **changes)
    write_series(tmp_path / "series", spec)
    origin = origin_in(tmp_path / "series", **policies)
    labels = label_map(origin, blobs(origin.grid.shape))
    drawn = Drawn(spec, origin, labels)
    array = np.zeros(spec.shape, dtype=np.uint8)
    for at, k in zip(origin.stack.places, spec.slices, strict=True):
        array[:, :, k] = labels.array[:, :, round(float(at))]
    make = rtstruct_of if kind == "RTSTRUCT" else lambda *args: seg_of(*args, kind=kind)
    proof = prove(drawn, make(drawn, array), tmp_path)
    assert [label.found_voxels for label in proof.labels] == [(array == value).sum() for value in (2, 5, 7)]
    assert all(label.dice == 1 for label in proof.labels)
    k = spec.slices[3]
    refused(drawn, make(drawn, np.where(np.arange(6) == k, np.roll(array, 3, axis=0), array)), tmp_path)
