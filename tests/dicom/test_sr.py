"""Measurement reports, read back by highdicom and pydicom and compared with numbers worked out from the pixels."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from highdicom.sr import (
    MeasurementsAndQualitativeEvaluations,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
    srread,
)
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from medseg.dicom.identity import Identity
from medseg.dicom.object_parts import save_object
from medseg.dicom.origin import Origin
from medseg.dicom.output_options import SegOptions, SrOptions
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.read import read_stack
from medseg.dicom.report_proof import prove_report
from medseg.dicom.seg import make_segmentation
from medseg.dicom.sr import make_measurement_report
from medseg.dicom.sr_groups import meaning_of_values, unit_of
from medseg.errors import DicomError
from medseg.findings import FindingCode
from medseg.labels import CodedConcept, Label, LabelMap, LabelSet
from medseg.maker import Maker
from medseg.measurements import LabelMeasurement, measure
from medseg.volume import Volume
from tests.dicom.builder import OBLIQUE, SeriesSpec, gantry_tilt, planted_values, write_series
from tests.dicom.enhanced_builder import write_enhanced
from tests.dicom.proving import origin_in

LABELS = LabelSet(
    (
        Label(index=2, name="kidney_left"),
        Label(index=3, name="kidney_right"),
        Label(index=4, name="spleen"),
        Label(
            index=7,
            name="nodule",
            code=CodedConcept(value="27925004", meaning="Nodule"),
            category=CodedConcept(value="49755003", meaning="Morphologically Abnormal Structure"),
            region=CodedConcept(value="39607008", meaning="Lung"),
        ),
    )
)
"""The spleen is in no mask."""

MAKER = Maker("torso", "ab12" * 16, "cd34" * 16)
SPEC = SeriesSpec("sr", shape=(20, 18, 5), bits_stored=12)


def mask(origin: Origin, labels: LabelSet = LABELS) -> LabelMap:
    array = np.random.default_rng(0).choice(np.array([0, 0, 2, 3, 7], dtype=np.uint8), origin.grid.shape)
    return LabelMap(Volume(np.asfortranarray(array), origin.grid.affine), labels)


def written(folder: Path, spec: SeriesSpec, multiframe: bool = False) -> Origin:
    if multiframe:
        write_enhanced(folder, spec, image_type=("DERIVED", "PRIMARY"))
    else:
        write_series(folder, spec)
    return origin_in(folder)


def measured(origin: Origin, labels: LabelMap) -> tuple[LabelMeasurement, ...]:
    with quiet_pydicom():
        return measure(labels, read_stack(origin.stack))


def segmentation_of(origin: Origin, labels: LabelMap) -> Dataset:
    return make_segmentation(origin, labels, Identity(origin, MAKER, "seg"), SegOptions()).dataset


def report(origin: Origin, labels: LabelMap, folder: Path, seg: Dataset | None = None, **options: Any) -> Path:
    numbers = measured(origin, labels)
    made = make_measurement_report(origin, numbers, Identity(origin, MAKER, "sr"), SrOptions(**options), seg)
    save_object(made.dataset, folder / "sr.dcm")
    return folder / "sr.dcm"


def numbers_of(
    group: VolumetricROIMeasurementsAndQualitativeEvaluations,
) -> dict[tuple[str, str], tuple[float, str]]:
    """Return value and unit by name and derivation."""
    found = {}
    for one in group.get_measurements():
        derivation = one.derivation.meaning if one.derivation is not None else ""
        found[one.name.meaning, derivation] = (one.value, one.unit.value)
    return found


SOURCES = {
    "ct": (SPEC, False),
    "tilted": (SeriesSpec("tilted", shape=(20, 18, 5), bits_stored=12, **gantry_tilt(18)), False),
    "mr": (
        SeriesSpec("mr", shape=(20, 18, 5), bits_stored=12, modality="MR", orientation=OBLIQUE, is_signed=False),
        False,
    ),
    "enhanced": (SPEC, True),
}


@pytest.mark.parametrize("name", SOURCES)
def test_each_group_holds_what_the_pixels_say_of_its_segment(tmp_path: Path, name: str) -> None:
    spec, multiframe = SOURCES[name]
    origin = written(tmp_path / "series", spec, multiframe)
    labels = mask(origin)
    seg = segmentation_of(origin, labels)
    content = srread(report(origin, labels, tmp_path, seg)).content
    values = planted_values(spec)  # the truth, in the order of the slices
    x_mm, y_mm, z_mm = spec.spacing_mm
    groups = content.get_volumetric_roi_measurement_groups()
    segments = {int(item.SegmentNumber): item for item in seg.SegmentSequence}
    assert [group.tracking_identifier for group in groups] == ["kidney_left", "kidney_right", "nodule"]
    for group in groups:
        label = next(label for label in LABELS if label.name == group.tracking_identifier)
        inside = labels.array == label.index
        (reference,) = next(
            item for item in group[0].ContentSequence if item.ValueType == "IMAGE"
        ).ReferencedSOPSequence
        segment = segments[int(reference.ReferencedSegmentNumber)]
        assert reference.ReferencedSOPInstanceUID == seg.SOPInstanceUID
        assert segment.SegmentLabel == label.name
        assert segment.TrackingUID == group.tracking_uid
        found = numbers_of(group)
        what, unit = (
            ("MR signal intensity", "1") if spec.modality == "MR" else ("Attenuation Coefficient", "[hnsf'U]")
        )
        expected = {
            ("Volume", ""): (inside.sum() * x_mm * y_mm * z_mm / 1000, "ml"),
            (what, "Mean"): (values[inside].astype(float).mean(), unit),
            (what, "Standard Deviation"): (values[inside].astype(float).std(), unit),
        }
        assert {key: found[key][1] for key in expected} == {key: value[1] for key, value in expected.items()}
        for key, (value, _) in expected.items():
            assert found[key][0] == pytest.approx(value, rel=1e-5, abs=1e-2 if key[1] == "Mean" else 0)
        length, unit = found["Long axis", "Maximum"]
        assert (unit, len(found)) == ("mm", 4)
        assert length == pytest.approx(longest_mm(inside, spec), rel=1e-6)


def longest_mm(inside: np.ndarray, spec: SeriesSpec) -> float:
    """Longest line between the points half a voxel beside the voxels of an axial plane.

    In the oblique MR it is the rows that follow one another from head to feet.
    """
    axis = 1 if spec.orientation == OBLIQUE else 2
    spacing = np.delete(spec.spacing_mm, axis)
    beside = np.array([[0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])
    longest = 0.0
    for plane in np.moveaxis(inside, axis, 0):
        points = (np.argwhere(plane)[:, None] + beside).reshape(-1, 2) * spacing
        apart = points[:, None] - points[None]
        longest = max(longest, float(np.sqrt((apart**2).sum(-1)).max(initial=0)))
    return longest


def test_organs_are_their_own_site_and_lesions_lie_in_a_region(tmp_path: Path) -> None:
    origin = written(tmp_path / "series", SPEC)
    labels = mask(origin)
    content = srread(report(origin, labels, tmp_path, segmentation_of(origin, labels))).content
    left, right, nodule = content.get_volumetric_roi_measurement_groups()
    for group, side in ((left, codes.SCT.Left), (right, codes.SCT.Right)):
        assert group.finding_category == codes.SCT.AnatomicalStructure
        assert group.finding_type == codes.SCT.Kidney
        assert group.finding_sites[0].value == codes.SCT.Kidney
        assert group.finding_sites[0].laterality == side
    assert nodule.finding_type == codes.SCT.Nodule
    assert nodule.finding_sites[0].value == codes.SCT.Lung
    assert nodule.finding_sites[0].laterality is None


def test_without_a_segmentation_groups_have_no_region(tmp_path: Path) -> None:
    origin = written(tmp_path / "series", SPEC)
    labels = mask(origin)
    content = srread(report(origin, labels, tmp_path)).content
    assert not content.get_volumetric_roi_measurement_groups()
    groups = content.get_image_measurement_groups()
    assert len(groups) == 3
    assert all(isinstance(group, MeasurementsAndQualitativeEvaluations) for group in groups)


def test_a_label_that_the_segmentation_lacks_has_a_group_without_region(tmp_path: Path) -> None:
    origin = written(tmp_path / "series", SPEC)
    labels = mask(origin)
    array = np.where(labels.array == 3, 0, labels.array)
    seg = segmentation_of(origin, LabelMap(Volume(np.asfortranarray(array), labels.affine), LABELS))
    content = srread(report(origin, labels, tmp_path, seg)).content
    assert [group.tracking_identifier for group in content.get_volumetric_roi_measurement_groups()] == [
        "kidney_left",
        "nodule",
    ]
    assert [group.tracking_identifier for group in content.get_image_measurement_groups()] == ["kidney_right"]


def test_the_report_is_complete_preliminary_and_unverified_and_names_all_its_images(tmp_path: Path) -> None:
    origin = written(tmp_path / "series", SPEC)
    labels = mask(origin)
    seg = segmentation_of(origin, labels)
    dataset = dcmread(report(origin, labels, tmp_path, seg, institution="Hospital", department="Radiology"))
    flags = (dataset.CompletionFlag, dataset.PreliminaryFlag, dataset.VerificationFlag)
    assert flags == ("COMPLETE", "PRELIMINARY", "UNVERIFIED")
    assert (dataset.Modality, dataset.SeriesNumber, dataset.SeriesDescription) == ("SR", 9303, "Measurements")
    assert (dataset.InstitutionName, dataset.InstitutionalDepartmentName) == ("Hospital", "Radiology")
    (study,) = dataset.CurrentRequestedProcedureEvidenceSequence
    named = {
        series.SeriesInstanceUID: {one.ReferencedSOPInstanceUID for one in series.ReferencedSOPSequence}
        for series in study.ReferencedSeriesSequence
    }
    sources = {str(one.SOPInstanceUID) for one in origin.datasets}
    assert named == {origin.series_uid: sources, seg.SeriesInstanceUID: {seg.SOPInstanceUID}}
    assert dataset.PatientID == origin.datasets[0].PatientID
    assert dataset.ContentTemplateSequence[0].TemplateIdentifier == "1500"


def test_a_report_made_again_has_the_same_bytes(tmp_path: Path) -> None:
    origin = written(tmp_path / "series", SPEC)
    labels = mask(origin)
    seg = segmentation_of(origin, labels)
    first = report(origin, labels, tmp_path, seg).read_bytes()
    assert report(origin_in(tmp_path / "series"), labels, tmp_path, seg).read_bytes() == first


def test_the_source_is_not_changed(tmp_path: Path) -> None:
    origin = written(tmp_path / "series", SPEC)
    before = [dataset.to_json() for dataset in origin.datasets]
    report(origin, mask(origin), tmp_path, institution="Zürich")
    assert [dataset.to_json() for dataset in origin.datasets] == before


@pytest.mark.parametrize(("rescale_type", "is_known"), [("HU", True), ("US", False), ("ED", False)])
def test_values_of_another_meaning_are_not_called_hounsfield_units(
    tmp_path: Path, rescale_type: str, is_known: bool
) -> None:
    origin = written(
        tmp_path / "series", SeriesSpec("type", shape=(9, 8, 3), attributes={"RescaleType": rescale_type})
    )
    content = srread(report(origin, mask(origin), tmp_path)).content
    names = {
        one.name.meaning for group in content.get_image_measurement_groups() for one in group.get_measurements()
    }
    assert names == {"Volume", "Long axis"} | ({"Attenuation Coefficient"} if is_known else set())


def test_stored_values_are_no_hounsfield_units(tmp_path: Path) -> None:
    """A CT without a rescale, of which the stored values were asked for."""
    spec = SeriesSpec("raw", shape=(9, 8, 3), attributes={"RescaleSlope": None, "RescaleIntercept": None})
    write_series(tmp_path / "series", spec)
    origin = origin_in(tmp_path / "series", no_rescale="stored")
    assert (meaning_of_values(origin), unit_of(origin)) == (None, "")
    content = srread(report(origin, mask(origin), tmp_path)).content
    groups = content.get_image_measurement_groups()
    assert {one.name.meaning for group in groups for one in group.get_measurements()} == {"Volume", "Long axis"}


def test_names_in_other_scripts_survive_in_an_old_character_set(tmp_path: Path) -> None:
    texts = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jörg"}
    origin = written(tmp_path / "series", SeriesSpec("texts", shape=(9, 8, 3), attributes=texts))
    labels = mask(origin, LabelSet.from_names({2: "печень", 3: "niere links", 7: "Leber"}))
    dataset = dcmread(report(origin, labels, tmp_path))
    assert dataset.SpecificCharacterSet == "ISO_IR 192"
    assert str(dataset.PatientName) == "Müller^Jörg"
    groups = srread(tmp_path / "sr.dcm").content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in groups] == ["печень", "niere links", "Leber"]


def test_labels_without_a_code_are_said_and_their_scheme_is_named(tmp_path: Path) -> None:
    origin = written(tmp_path / "series", SPEC)
    labels = mask(origin, LabelSet.from_names({2: "gizmo", 3: "liver", 7: "widget"}))
    made = make_measurement_report(origin, measured(origin, labels), Identity(origin, MAKER, "sr"), SrOptions())
    assert [finding.code for finding in made.findings] == [FindingCode.NO_CODE]
    (scheme,) = made.dataset.CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == "99MEDSEG"


def test_a_series_without_a_frame_of_reference_can_be_reported(tmp_path: Path) -> None:
    spec = SeriesSpec("no frame", shape=(9, 8, 3), attributes={"FrameOfReferenceUID": None})
    origin = written(tmp_path / "series", spec)
    assert not origin.frame_of_reference_uid
    assert len(srread(report(origin, mask(origin), tmp_path)).content.get_image_measurement_groups()) == 3


def test_nothing_measured_makes_no_report(tmp_path: Path) -> None:
    origin = written(tmp_path / "series", SPEC)
    with pytest.raises(DicomError, match="must hold a measurement"):
        make_measurement_report(origin, [], Identity(origin, MAKER, "sr"), SrOptions())


def test_the_proof_accepts_what_is_right(tmp_path: Path) -> None:
    origin = written(tmp_path / "series", SPEC)
    labels = mask(origin)
    with quiet_pydicom():
        image = read_stack(origin.stack)
    segmentation = segmentation_of(origin, labels)
    save_object(segmentation, tmp_path / "seg.dcm")
    path = report(origin, labels, tmp_path, segmentation)
    prove_report(path, origin, labels, image=image, segmentation=tmp_path / "seg.dcm")


@pytest.mark.tools
@pytest.mark.parametrize("with_segmentation", [True, False])
@pytest.mark.parametrize("name", SOURCES)
def test_the_validator_finds_no_error(tmp_path: Path, name: str, with_segmentation: bool) -> None:
    if shutil.which("dciodvfy") is None or shutil.which("dsrdump") is None:
        pytest.skip("dciodvfy (dicom3tools) or dsrdump (dcmtk) is not installed")
    origin = written(tmp_path / "series", *SOURCES[name])
    labels = mask(origin)
    path = report(origin, labels, tmp_path, segmentation_of(origin, labels) if with_segmentation else None)
    said = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)
    assert "Comprehensive3DSR" in said.stderr + said.stdout
    assert [line for line in (said.stderr + said.stdout).splitlines() if line.startswith("Error")] == []
    dump = subprocess.run(["dsrdump", path], capture_output=True, text=True, check=True).stdout
    assert dump.count("Measurement Group") == 3


def test_numbers_of_interpolated_slices_are_of_no_segment(tmp_path: Path) -> None:
    """The volume holds a slice that the SEG lacks: a reader that counts the segment's voxels finds fewer."""
    write_series(tmp_path / "source", replace(SPEC, missing={2}))
    origin = origin_in(tmp_path / "source", missing_slice="fill")
    labels = mask(origin)
    numbers = measured(origin, labels)
    seg = segmentation_of(origin, labels)
    made = make_measurement_report(origin, numbers, Identity(origin, MAKER, "sr"), SrOptions(), seg)
    assert FindingCode.NOT_ON_SLICES in {finding.code for finding in made.findings}
    assert "ReferencedSegmentNumber" not in str(made.dataset)
    assert str(seg.SOPInstanceUID) not in str(made.dataset)
    save_object(made.dataset, tmp_path / "sr.dcm")
    groups = srread(tmp_path / "sr.dcm").content.get_image_measurement_groups()
    found = [numbers_of(group)["Volume", ""][0] for group in groups]
    counts = [int((labels.array == value).sum()) * labels.grid.voxel_volume_ml for value in (2, 3, 7)]
    assert found == pytest.approx(counts, rel=1e-6)
