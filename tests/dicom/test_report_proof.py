"""Numbers of a report and pixels of a capture: what is right passes, every change is caught."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from medseg.dicom.capture import make_captures
from medseg.dicom.capture_proof import prove_captures
from medseg.dicom.identity import Identity
from medseg.dicom.object_parts import save_object
from medseg.dicom.output_options import CaptureOptions, SrOptions
from medseg.dicom.read import read_stack
from medseg.dicom.report_proof import prove_report
from medseg.dicom.sr import make_measurement_report
from medseg.errors import ProofError
from medseg.labels import LabelMap
from medseg.maker import Maker
from medseg.measurements import measure
from medseg.volume import Volume
from tests.dicom.builder import SeriesSpec
from tests.dicom.proving import Drawn, draw

MAKER = Maker("model", "ab" * 32)
VOXEL_ML = 0.8 * 1.1 * 2.5 / 1000


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return draw(tmp_path_factory.mktemp("reported"), SeriesSpec("reported", shape=(20, 16, 5)))


@pytest.fixture(scope="module")
def image(drawn: Drawn) -> Volume:
    return read_stack(drawn.origin.stack)


@pytest.fixture(scope="module")
def report(drawn: Drawn, image: Volume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    measured = measure(drawn.labels, image)
    made = make_measurement_report(drawn.origin, measured, Identity(drawn.origin, MAKER, "sr"), SrOptions())
    path = tmp_path_factory.mktemp("report") / "sr.dcm"
    save_object(made.dataset, path)
    return path


def test_the_numbers_of_the_mask_pass(drawn: Drawn, image: Volume, report: Path) -> None:
    proof = prove_report(report, drawn.origin, drawn.labels, image)
    assert (proof.kind, proof.labels) == ("SR", ())
    assert prove_report(report, drawn.origin, drawn.labels).seconds > 0


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


WRONG: dict[str, tuple[Callable[[Dataset], None], str]] = {
    "volume": (scaled(0, 1.001), "label liver: expected a volume in ml of"),
    "mean": (scaled(1, 1.001), "label liver: expected a mean of"),
    "deviation": (scaled(2, 0.999), "label liver: expected a deviation of"),
    "diameter": (scaled(3, -1), "label liver: expected a long axis above 0 mm"),
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
def test_wrong_numbers_are_caught(drawn: Drawn, image: Volume, report: Path, tmp_path: Path, wrong: str) -> None:
    change, said = WRONG[wrong]
    dataset = dcmread(report)
    change(dataset)
    save_object(dataset, tmp_path / "sr.dcm")
    with pytest.raises(ProofError, match=said.replace("(", r"\(")):
        prove_report(tmp_path / "sr.dcm", drawn.origin, drawn.labels, image)


def test_the_numbers_are_those_of_counting(drawn: Drawn, image: Volume, report: Path) -> None:
    """A mask of one voxel less is another one; what stands in the report is the count of a plain sum."""
    found = float(numbers(dcmread(report))[0].NumericValue)
    assert found == pytest.approx((drawn.array == 2).sum() * VOXEL_ML, rel=1e-6)
    array = drawn.array.copy(order="F")
    array[tuple(np.argwhere(array == 2)[0])] = 0
    less = LabelMap(Volume(array, drawn.labels.affine), drawn.labels.labels)
    with pytest.raises(ProofError, match="label liver"):
        prove_report(report, drawn.origin, less)


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
