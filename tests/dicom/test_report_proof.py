"""Numbers of a report and pixels of a capture: what is right passes, every change is caught."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from medseg.dicom.capture import make_captures
from medseg.dicom.capture_proof import prove_captures
from medseg.dicom.diameter_proof import longest_diameters
from medseg.dicom.identity import Identity
from medseg.dicom.object_parts import save_object
from medseg.dicom.output_options import CaptureOptions, SegOptions, SrOptions
from medseg.dicom.read import read_stack
from medseg.dicom.report_proof import prove_report
from medseg.dicom.seg import make_segmentation
from medseg.dicom.sr import make_measurement_report
from medseg.errors import ProofError
from medseg.labels import LabelMap
from medseg.maker import Maker
from medseg.measurements import measure
from medseg.volume import Volume
from tests.dicom.annotation_builder import code
from tests.dicom.builder import SeriesSpec, write_series
from tests.dicom.proving import LABELS, Drawn, blobs, draw, label_map, origin_in

MAKER = Maker("model", "ab" * 32)
VOXEL_ML = 0.8 * 1.1 * 2.5 / 1000


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw(tmp_path_factory.mktemp("reported"), SeriesSpec("reported", shape=(20, 16, 5)))


@pytest.fixture(scope="module")
def image(drawn: Drawn) -> Volume:
    return read_stack(drawn.origin.stack)


@pytest.fixture(scope="module")
def segments(drawn: Drawn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_segmentation(drawn.origin, drawn.labels, Identity(drawn.origin, MAKER, "seg"), SegOptions())
    path = tmp_path_factory.mktemp("segments") / "seg.dcm"
    save_object(made.dataset, path)
    return path


def reported(drawn: Drawn, image: Volume, path: Path, segmentation: Dataset | None = None) -> Path:
    measured = measure(drawn.labels, image)
    identity = Identity(drawn.origin, MAKER, "sr")
    made = make_measurement_report(drawn.origin, measured, identity, SrOptions(), segmentation)
    save_object(made.dataset, path)
    return path


@pytest.fixture(scope="module")
def report(drawn: Drawn, image: Volume, segments: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reported(drawn, image, tmp_path_factory.mktemp("report") / "sr.dcm", dcmread(segments))


def test_the_numbers_of_the_mask_pass(
    drawn: Drawn, image: Volume, report: Path, segments: Path, tmp_path: Path
) -> None:
    proof = prove_report(report, drawn.origin, drawn.labels, image=image, segmentation=segments)
    assert (proof.kind, proof.labels) == ("SR", ())
    assert prove_report(report, drawn.origin, drawn.labels, segmentation=segments).seconds > 0
    alone = reported(drawn, image, tmp_path / "alone.dcm")
    prove_report(alone, drawn.origin, drawn.labels, image=image)
    with pytest.raises(ProofError, match="the segmentation as evidence"):
        prove_report(alone, drawn.origin, drawn.labels, image=image, segmentation=segments)
    with pytest.raises(ProofError, match="expected no reference to a segment, found 1"):
        prove_report(report, drawn.origin, drawn.labels, image=image)


def items(dataset: Dataset) -> Iterator[Dataset]:
    for item in dataset.get("ContentSequence") or ():
        yield item
        yield from items(item)


def numbers(dataset: Dataset) -> list[Dataset]:
    return [item.MeasuredValueSequence[0] for item in items(dataset) if item.ValueType == "NUM"]


def scaled(number: int, factor: float) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        value = numbers(dataset)[number]
        value.NumericValue = f"{float(value.NumericValue) * factor:.7g}"

    return change


def renamed(old: str, new: str) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        for item in items(dataset):
            if item.get("TextValue") == old:
                item.TextValue = new

    return change


def swapped(dataset: Dataset) -> None:
    renamed("kidney_left", "?")(dataset)
    renamed("kidney_right", "kidney_left")(dataset)
    renamed("?", "kidney_right")(dataset)


def without_a_group(dataset: Dataset) -> None:
    container = next(item for item in items(dataset) if "Group" in str(item.get("ContentSequence", ""))[:1500])
    groups = [item for item in items(dataset) if item.ConceptNameCodeSequence[0].CodeValue == "125007"]
    for item in (container, *items(dataset)):
        if groups[0] in (item.get("ContentSequence") or ()):
            item.ContentSequence = [one for one in item.ContentSequence if one is not groups[0]]
            return


def other_unit(dataset: Dataset) -> None:
    numbers(dataset)[0].MeasurementUnitsCodeSequence[0].CodeValue = "mm3"


def without_an_image(dataset: Dataset) -> None:
    series = dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    series.ReferencedSOPSequence = series.ReferencedSOPSequence[1:]


def of_code(dataset: Dataset, value: str) -> list[Dataset]:
    return [item for item in items(dataset) if item.ConceptNameCodeSequence[0].CodeValue == value]


def references(dataset: Dataset) -> list[Dataset]:
    return [item.ReferencedSOPSequence[0] for item in of_code(dataset, "121191")]


def other_segment(dataset: Dataset) -> None:
    references(dataset)[0].ReferencedSegmentNumber = 2


def other_object(dataset: Dataset) -> None:
    references(dataset)[1].ReferencedSOPInstanceUID = "1.2.3"


def no_segment(dataset: Dataset) -> None:
    del of_code(dataset, "121191")[0].ReferencedSOPSequence[:]


def other_tracking(dataset: Dataset) -> None:
    of_code(dataset, "112040")[2].UID = "1.2.3"


def other_series(dataset: Dataset) -> None:
    of_code(dataset, "121232")[0].UID = "1.2.3"


def other_type(dataset: Dataset) -> None:
    of_code(dataset, "121071")[0].ConceptCodeSequence[0].CodeValue = "78961009"


def other_side(dataset: Dataset) -> None:
    of_code(dataset, "272741003")[0].ConceptCodeSequence[0].CodeValue = "24028007"


def without_number(number: int) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        value = numbers(dataset)[number]
        for item in items(dataset):
            content = item.get("ContentSequence") or ()
            kept = [one for one in content if value not in (one.get("MeasuredValueSequence") or ())]
            if len(kept) < len(content):
                item.ContentSequence = kept
                return

    return change


def renamed_number(dataset: Dataset) -> None:
    (first, *_) = of_code(dataset, "112031")
    first.ConceptNameCodeSequence[0].CodeValue = "110852"


def other_unit_of_values(dataset: Dataset) -> None:
    numbers(dataset)[1].MeasurementUnitsCodeSequence[0].CodeValue = "1"


WRONG: dict[str, tuple[Callable[[Dataset], None], str]] = {
    "volume": (scaled(0, 1.001), "label liver: expected a volume in ml of"),
    "mean": (scaled(1, 1.001), "label liver: expected a mean of"),
    "deviation": (scaled(2, 0.999), "label liver: expected a deviation of"),
    "diameter below 0": (scaled(3, -1), "label liver: expected a long axis in mm of"),
    "longer": (scaled(3, 1.001), "label liver: expected a long axis in mm of"),
    "shorter": (scaled(11, 0.999), "label kidney_right: expected a long axis in mm of"),
    "no mean": (without_number(1), "label liver: expected a mean, found 3 other"),
    "no deviation": (without_number(6), "label kidney_left: expected a deviation"),
    "no diameter": (without_number(3), "label liver: expected a long axis in mm"),
    "name of the mean": (renamed_number, "label liver: expected a mean"),
    "unit of the mean": (other_unit_of_values, "label liver: expected the unit [hnsf'U], found 1"),
    "segment": (other_segment, "label liver: expected a reference to segment 1 of its SEG, found segment 2"),
    "segmentation": (other_object, "label kidney_left: expected a reference to segment 2 of its SEG, found"),
    "no segment": (no_segment, "label liver: expected a reference to segment 1 of its SEG, found none"),
    "tracking": (other_tracking, "label kidney_right: expected the tracking UID of its segment"),
    "series": (other_series, "label liver: expected the series of its source"),
    "type": (other_type, "label liver: expected the type 10200004"),
    "side": (other_side, "label kidney_left: expected the side left, found right"),
    "last volume": (scaled(8, 1.001), "label kidney_right: expected a volume"),
    "swapped": (swapped, "expected a volume"),
    "renamed": (renamed("liver", "heart"), "none of them"),
    "twice": (renamed("liver", "kidney_left"), "several of kidney_left"),
    "absent one": (renamed("liver", "spleen"), "label liver: expected its group"),
    "group missing": (without_a_group, "label liver: expected its group, found none"),
    "unit": (other_unit, "expected the unit ml, found mm3"),
    "patient": (lambda dataset: setattr(dataset, "PatientID", "4"), "PatientID"),
    "evidence": (without_an_image, "every image of its source as evidence, found 1 missing"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_numbers_are_caught(
    drawn: Drawn, image: Volume, report: Path, segments: Path, tmp_path: Path, wrong: str
) -> None:
    change, said = WRONG[wrong]
    dataset = dcmread(report)
    change(dataset)
    save_object(dataset, tmp_path / "sr.dcm")
    with pytest.raises(ProofError, match=re.escape(said)):
        prove_report(tmp_path / "sr.dcm", drawn.origin, drawn.labels, image=image, segmentation=segments)


def test_the_numbers_are_those_of_counting(drawn: Drawn, image: Volume, report: Path) -> None:
    """A mask of one voxel less is another one; what stands in the report is the count of a plain sum."""
    found = float(numbers(dcmread(report))[0].NumericValue)
    assert found == pytest.approx((drawn.array == 2).sum() * VOXEL_ML, rel=1e-6)
    array = drawn.array.copy(order="F")
    array[tuple(np.argwhere(array == 2)[0])] = 0
    less = LabelMap(Volume(array, drawn.labels.affine), drawn.labels.labels)
    with pytest.raises(ProofError, match="label liver"):
        prove_report(report, drawn.origin, less)


@pytest.mark.parametrize("geometry", ["axial", "sagittal", "tilted"])
def test_the_longest_diameter_is_that_of_all_pairs(geometry: str) -> None:
    """Against every pair of points halfway between a voxel inside and a neighbour outside."""
    directions = {"axial": np.eye(3), "sagittal": np.roll(np.eye(3), 1, axis=0), "tilted": np.eye(3)}[geometry]
    affine = np.eye(4)
    affine[:3, :3] = directions @ np.diag([0.7, 1.3, 2.0])
    if geometry == "tilted":
        affine[1, 2] = 0.8
    array = blobs((13, 11, 4), 1)
    labels = LabelMap(Volume(np.asfortranarray(array), affine), LABELS)
    axis = int(np.abs(affine[2, :3]).argmax())
    first, second = (other for other in range(3) if other != axis)
    found = longest_diameters(labels)
    assert set(found) == {1, 2, 3}
    for own, value in ((1, 2), (2, 5), (3, 7)):
        longest = 0.0
        for k in range(array.shape[axis]):
            points = []
            for at in np.argwhere(np.take(array, k, axis) == value):
                for step in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                    beside = at + step
                    inside = all(0 <= b < array.shape[a] for b, a in zip(beside, (first, second), strict=True))
                    if not inside or np.take(array, k, axis)[tuple(beside)] != value:
                        points.append(at + np.array(step) / 2)
            mm = np.array(points).reshape(-1, 2) @ affine[:3, [first, second]].T
            longest = max([longest, *np.linalg.norm(mm[:, None] - mm[None], axis=-1).ravel()])
        assert found[own] == pytest.approx(longest, rel=1e-12)


def test_a_report_of_interpolated_slices_refers_to_no_segment(tmp_path: Path) -> None:
    """All of the mask is measured, which no segment holds."""
    write_series(tmp_path / "series", SeriesSpec("uneven", shape=(20, 16, 6), missing=(3,)))
    origin = origin_in(tmp_path / "series", missing_slice="fill")
    labels, identity = label_map(origin, blobs(origin.grid.shape)), Identity(origin, MAKER, "seg")
    segmentation = make_segmentation(origin, labels, identity, SegOptions()).dataset
    save_object(segmentation, tmp_path / "seg.dcm")
    measured = measure(labels, None)
    made = make_measurement_report(origin, measured, Identity(origin, MAKER, "sr"), SrOptions(), segmentation)
    save_object(made.dataset, tmp_path / "sr.dcm")
    prove_report(tmp_path / "sr.dcm", origin, labels, segmentation=tmp_path / "seg.dcm")
    dataset = dcmread(tmp_path / "sr.dcm")
    first = of_code(dataset, "125007")[0]
    segment = Dataset()
    segment.ValueType, segment.RelationshipType = "IMAGE", "CONTAINS"
    segment.ConceptNameCodeSequence = [code("121191", "Referenced Segment", "DCM")]
    segment.ReferencedSOPSequence = [Dataset()]
    first.ContentSequence = [*first.ContentSequence, segment]
    save_object(dataset, tmp_path / "sr.dcm")
    with pytest.raises(ProofError, match="expected no reference to a segment, found 1"):
        prove_report(tmp_path / "sr.dcm", origin, labels, segmentation=tmp_path / "seg.dcm")


# --- captures ---

PICTURE = np.random.default_rng(0).integers(0, 256, (31, 43, 3), dtype=np.uint8)


@pytest.fixture
def capture(drawn: Drawn, tmp_path: Path) -> Path:
    identity = Identity(drawn.origin, MAKER, "capture")
    save_object(make_captures(drawn.origin, [PICTURE], identity, CaptureOptions())[0], tmp_path / "sc.dcm")
    return tmp_path / "sc.dcm"


def test_a_capture_is_its_picture(drawn: Drawn, capture: Path) -> None:
    assert prove_captures(capture, drawn.origin, PICTURE).kind == "SC"
    one_off = PICTURE.copy()
    one_off[3, 4, 1] ^= 1
    for other, said in (
        (one_off, "found 1 others"),
        (PICTURE[:, ::-1], "others"),
        (PICTURE[:-1], r"expected a picture of \(30, 43, 3\), found \(31, 43, 3\)"),
        (PICTURE.transpose(1, 0, 2), "a picture of"),
    ):
        with pytest.raises(ProofError, match=said):
            prove_captures(capture, drawn.origin, other)


@pytest.mark.parametrize(
    ("keyword", "value", "said"),
    [
        ("StudyInstanceUID", "1.2", "StudyInstanceUID"),
        ("PatientName", "Other^Name", "PatientName"),
        ("Modality", "CT", "Modality OT"),
        ("PhotometricInterpretation", "YBR_FULL", "other colours"),
        ("Rows", 30, "a picture|a whole object"),
        ("PixelData", b"12", "a whole object"),
    ],
)
def test_other_captures_are_caught(drawn: Drawn, capture: Path, keyword: str, value: Any, said: str) -> None:
    dataset = dcmread(capture)
    setattr(dataset, keyword, value)
    dataset.save_as(capture)
    with pytest.raises(ProofError, match=said) as caught:
        prove_captures(capture, drawn.origin, PICTURE)
    assert "Other" not in str(caught.value)
