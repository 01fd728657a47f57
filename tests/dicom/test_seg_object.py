"""What a SEG says besides its pixels: segments, maker, patient, probabilities; and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from pydicom import config, dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement

from medseg.dicom import seg as seg_module
from medseg.dicom.identity import Identity
from medseg.dicom.origin import Origin
from medseg.dicom.output_options import SegOptions
from medseg.dicom.seg import make_segmentation
from medseg.errors import DicomError, UsageError
from medseg.labels import Label, LabelMap, LabelSet
from medseg.volume import Volume
from tests.dicom.builder import SeriesSpec, write_series
from tests.dicom.builder_extras import edit
from tests.dicom.proving import origin_in
from tests.dicom.segs import KINDS, LABELS, MAKER, PRESENT, frames_of, make, noise, probabilities

SPEC = SeriesSpec("segmented", shape=(13, 11, 6))


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    write_series(tmp_path / "source", SPEC)
    return origin_in(tmp_path / "source")


def test_segments_say_what_they_are(tmp_path: Path, origin: Origin) -> None:
    dataset = make(origin, noise(origin), tmp_path).dataset
    left, right, tumor = dataset.SegmentSequence
    assert [item.SegmentNumber for item in dataset.SegmentSequence] == [1, 2, 3]
    assert [item.SegmentLabel for item in dataset.SegmentSequence] == list(PRESENT)
    for item, side in ((left, "7771000"), (right, "24028007")):
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("64033007", "SCT")
        assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == side
        assert item.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "91723000"
    assert tumor.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
    assert tumor.AnatomicRegionSequence[0].CodeMeaning == "Liver"
    assert dataset.SegmentsOverlap == "NO"
    assert "CodingSchemeIdentificationSequence" not in dataset


def test_segments_say_what_drew_them(tmp_path: Path, origin: Origin) -> None:
    dataset = make(origin, noise(origin), tmp_path).dataset
    identity = Identity(origin, MAKER, "another output")  # tracking UIDs are those of the mask
    for item in dataset.SegmentSequence:
        algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("torso", MAKER.model_version)
        assert MAKER.model_sha256 in algorithm.AlgorithmParameters
        assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"  # DCM: Artificial Intelligence
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        assert (item.TrackingID, item.TrackingUID) == (item.SegmentLabel, identity.tracking_uid(item.SegmentLabel))


def test_red_is_red_in_cielab(tmp_path: Path, origin: Origin) -> None:
    """PS3.3 C.10.7.1.1: L* of 0 to 100, a* and b* of -128 to 127, in 16 bits. Red of sRGB is 53.2, 80.1, 67.2."""
    dataset = make(origin, noise(origin), tmp_path).dataset
    light, a, b = dataset.SegmentSequence[0].RecommendedDisplayCIELabValue
    assert (light / 65535 * 100, a / 65535 * 255 - 128, b / 65535 * 255 - 128) == pytest.approx(
        (53.2, 80.1, 67.2), abs=0.5
    )


def test_series_and_institution_are_those_of_the_options(tmp_path: Path, origin: Origin) -> None:
    made = make(
        origin, noise(origin), tmp_path, series_number=77, series_description="Organs", institution="Clinic"
    )
    dataset = made.dataset
    assert (dataset.SeriesNumber, dataset.SeriesDescription, dataset.InstitutionName) == (77, "Organs", "Clinic")
    assert (dataset.Modality, dataset.Manufacturer, dataset.ManufacturerModelName) == ("SEG", "medseg", "torso")
    assert dataset.StudyInstanceUID == origin.study_uid
    assert dataset.FrameOfReferenceUID == origin.frame_of_reference_uid
    assert dataset.SeriesInstanceUID != origin.series_uid


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_the_same_mask_makes_the_same_bytes(tmp_path: Path, kind: tuple[str, str]) -> None:
    write_series(tmp_path / "source", SPEC)
    contents = []
    for _ in range(2):
        origin = origin_in(tmp_path / "source")
        made = make(origin, noise(origin), tmp_path, type=kind[0], compression=kind[1])
        contents.append(made.path.read_bytes())
    assert contents[0] == contents[1]


def test_making_one_leaves_the_source_as_it_was(tmp_path: Path) -> None:
    write_series(tmp_path / "source", replace(SPEC, attributes={"SpecificCharacterSet": "ISO_IR 100"}))
    origin = origin_in(tmp_path / "source")
    before = [dataset.to_json() for dataset in origin.datasets]
    labels = LabelSet(tuple(label.model_copy(update={"name": f"肝{label.name}"}) for label in LABELS))
    make(origin, noise(origin, labels=labels), tmp_path)
    assert [dataset.to_json() for dataset in origin.datasets] == before


NAMES = {"ISO_IR 100": "Müller^Jörg", "ISO_IR 144": "Люкceмбypг", "ISO_IR 192": "王^小東"}


@pytest.mark.parametrize("label", ["kidney_left", "Größe", "肝臓"])
@pytest.mark.parametrize("charset", NAMES)
def test_names_in_other_letters_survive(tmp_path: Path, charset: str, label: str) -> None:
    attributes = {
        "SpecificCharacterSet": charset,
        "PatientName": NAMES[charset],
        "StudyDescription": NAMES[charset],
    }
    write_series(tmp_path / "source", replace(SPEC, attributes=attributes))
    origin = origin_in(tmp_path / "source")
    labels = LabelSet((Label(index=2, name=label), *tuple(LABELS)[1:]))
    dataset = make(origin, noise(origin, labels=labels), tmp_path).dataset
    assert (str(dataset.PatientName), dataset.StudyDescription) == (NAMES[charset], NAMES[charset])
    assert dataset.SegmentSequence[0].SegmentLabel == label
    if label.isascii():
        assert dataset.SpecificCharacterSet == charset


def test_what_is_missing_stays_empty(tmp_path: Path) -> None:
    gone = dict.fromkeys(("PatientName", "PatientID", "PatientBirthDate", "StudyID", "AccessionNumber"))
    write_series(tmp_path / "source", replace(SPEC, attributes=gone))
    origin = origin_in(tmp_path / "source")
    dataset = make(origin, noise(origin), tmp_path).dataset
    for keyword in gone:
        assert not dataset[keyword].value


def test_values_that_are_not_valid_stay_as_they_are(tmp_path: Path) -> None:
    strange = {"PatientBirthDate": "1947-13-45", "PatientAge": "old", "StudyTime": "noon", "PatientID": "x" * 70}
    for path in write_series(tmp_path / "source", SPEC):
        content = dcmread(path)
        for keyword, value in strange.items():
            vr = dictionary_VR(keyword)
            content[keyword] = DataElement(keyword, vr, value, validation_mode=config.IGNORE)
        content.save_as(path)
    origin = origin_in(tmp_path / "source")
    dataset = make(origin, noise(origin), tmp_path).dataset
    assert {keyword: str(dataset[keyword].value) for keyword in strange} == strange


# --- probabilities ---


def test_probabilities_come_back_to_a_255th(tmp_path: Path, origin: Origin) -> None:
    labels = noise(origin)
    made = make(origin, labels, tmp_path, type="FRACTIONAL")
    values, seen = probabilities(labels), 0
    by_uid = {frame.header.sop_instance_uid: k for k, frame in enumerate(origin.frames)}
    for number, group, _, plane in frames_of(made.dataset):
        k = by_uid[group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID]
        expected = values[PRESENT[number - 1]][:, :, k].T.astype(float)
        assert np.abs(plane / 255 - expected).max() <= 0.5 / 255 + 1e-6
        seen += 1
    assert seen == made.dataset.NumberOfFrames == sum(int(values[name].any(axis=(0, 1)).sum()) for name in PRESENT)
    assert (made.dataset.SegmentationFractionalType, made.dataset.MaximumFractionalValue) == ("PROBABILITY", 255)


def test_fractional_needs_probabilities(origin: Origin) -> None:
    identity = Identity(origin, MAKER, "seg")
    with pytest.raises(UsageError, match="probabilities"):
        make_segmentation(origin, noise(origin), identity, SegOptions(type="FRACTIONAL"))


# --- what is refused ---


def test_an_empty_mask_is_refused(tmp_path: Path, origin: Origin) -> None:
    empty = LabelMap(Volume(np.zeros(origin.grid.shape, np.uint8, order="F"), origin.grid.affine), LABELS)
    with pytest.raises(DicomError, match="something in it") as caught:
        make(origin, empty, tmp_path)
    assert caught.value.reason == "organ-absent"


@pytest.mark.parametrize(("limit", "value"), [("MOST_FRAMES", 12), ("MOST_SEGMENTS", 2), ("_MOST_BYTES", 10)])
def test_what_is_too_large_is_refused(
    tmp_path: Path, origin: Origin, monkeypatch: Any, limit: str, value: int
) -> None:
    labels = noise(origin)
    frames = make(origin, labels, tmp_path).dataset.NumberOfFrames
    assert frames == 13
    monkeypatch.setattr(seg_module, limit, value)
    with pytest.raises(DicomError, match="at most") as caught:
        make(origin, labels, tmp_path)
    assert caught.value.reason == "too-large"


def test_a_frame_of_reference_is_not_made_up_silently(tmp_path: Path) -> None:
    write_series(tmp_path / "source", replace(SPEC, attributes={"FrameOfReferenceUID": None}))
    origin = origin_in(tmp_path / "source")
    with pytest.raises(DicomError, match="FrameOfReferenceUID"):
        make(origin, noise(origin), tmp_path)
    made = make(origin, noise(origin), tmp_path, without_frame_of_reference="make")
    assert [finding.code.value for finding in made.made.findings] == ["made-frame-of-reference"]
    assert made.dataset.FrameOfReferenceUID.startswith("2.25.")


def test_noise_that_jpeg_ls_makes_larger_is_refused(tmp_path: Path, origin: Origin) -> None:
    with pytest.raises(DicomError, match="makes smaller.*compression: rle") as caught:
        make(origin, noise(origin), tmp_path, type="FRACTIONAL", compression="jpeg-ls")
    assert caught.value.reason == "too-large"


def test_sop_classes_are_not_inferred_silently(tmp_path: Path) -> None:
    for path in write_series(tmp_path / "source", SPEC):
        edit(path, SOPClassUID=None)
    origin = origin_in(tmp_path / "source")
    with pytest.raises(DicomError, match="SOPClassUID"):
        make(origin, noise(origin), tmp_path)
    made = make(origin, noise(origin), tmp_path, without_sop_class="infer")
    assert [finding.code.value for finding in made.made.findings] == ["inferred-sop-class"]
    assert made.dataset.SourceImageSequence[0].ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"


@pytest.mark.parametrize("compression", ["rle", "jpeg-ls"])
def test_bits_are_not_compressed(compression: str) -> None:
    with pytest.raises(ValidationError, match="LABELMAP, not BINARY"):
        SegOptions(compression=compression)


def test_labels_without_a_code_are_said(tmp_path: Path, origin: Origin) -> None:
    labels = LabelSet((Label(index=2, name="something"), *tuple(LABELS)[1:]))
    made = make(origin, noise(origin, labels=labels), tmp_path)
    assert [finding.code.value for finding in made.made.findings] == ["no-code"]
    assert made.dataset.CodingSchemeIdentificationSequence[0].CodingSchemeDesignator == "99MEDSEG"
