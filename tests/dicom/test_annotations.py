"""Which label objects a pile holds, and which series each of their structures belongs to."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from medseg.dicom.annotations import find_annotations, open_annotation
from medseg.dicom.links import Link, link_structures
from medseg.dicom.planes import planes_of
from medseg.dicom.policy import Policies
from medseg.dicom.quiet import quiet_pydicom
from medseg.dicom.scan import scan_pile
from medseg.dicom.stack import stack_series
from medseg.dicom.structure import Kind
from medseg.errors import DicomError
from tests.dicom.annotation_builder import box, code, contour, place, rtstruct, save_object, segment, segmentation
from tests.dicom.builder import CANARY_WORDS, SeriesSpec, positions_mm, write_series
from tests.dicom.builder_extras import truncate, write_non_images, zip_folder
from tests.dicom.enhanced_builder import write_enhanced
from tests.dicom.labelled import links_in

SPEC = SeriesSpec("annotated", shape=(13, 11, 4))
OTHER = replace(SPEC, name="annotated too")  # the same study and frame of reference


def region(spec: SeriesSpec = SPEC, **changes: Any) -> Dataset:
    return contour(spec, 1, box(2, 3, 7, 6), **changes)


def struct(spec: SeriesSpec = SPEC, **changes: Any) -> Dataset:
    return rtstruct(spec, {"Liver": [region(spec)]}, **changes)


def bare(dataset: Dataset) -> Dataset:
    """Without any reference but that of the structure to its frame of reference."""
    del dataset.ReferencedFrameOfReferenceSequence
    for one in dataset.ROIContourSequence:
        for drawn in one.ContourSequence:
            del drawn.ContourImageSequence
    return dataset


def link_of(folder: Path, dataset: Dataset, *specs: SeriesSpec) -> Link:
    for number, spec in enumerate(specs):
        write_series(folder / str(number), spec)
    save_object(dataset, folder / "labels.dcm")
    (link,) = links_in(folder)
    return link


# --- finding them ---


def test_objects_are_found_once_in_a_folder_or_a_zip(tmp_path: Path) -> None:
    pile = tmp_path / "pile"
    save_object(struct(), pile / "a" / "1.dcm")
    shutil.copy(pile / "a" / "1.dcm", pile / "copy.dcm")
    segments = [segment(1, "Spleen", SegmentedPropertyTypeCodeSequence=[code("78961009", "Spleen")])]
    ones = np.ones((11, 13), dtype=bool)
    save_object(segmentation(SPEC, [(1, place(SPEC, 0), ones)], segments), pile / "b.dcm")
    write_series(pile / "series", SPEC)
    write_non_images(pile / "others")
    for path in (pile, zip_folder(pile, tmp_path / "pile.zip")):
        found, findings = find_annotations(path)
        assert {one.kind for one in found} == {Kind.RTSTRUCT, Kind.SEG}
        assert len(found) == 3  # the others hold an empty structure set
        assert "duplicate" in {finding.code.value for finding in findings}
        assert "not-an-image" in {finding.code.value for finding in findings}
        assert not any(word in repr((found, findings)) for word in CANARY_WORDS)
        assert SPEC.series_uid not in repr(found)


def test_a_code_of_a_region_is_read(tmp_path: Path) -> None:
    dataset = struct()
    dataset.RTROIObservationsSequence[0].RTROIIdentificationCodeSequence = [code("T-62000", "Liver", "SRT")]
    save_object(dataset, tmp_path / "1.dcm")
    ((found,), _) = find_annotations(tmp_path)
    concept = found.structures[0].code
    assert concept is not None
    assert (concept.scheme, concept.value, concept.meaning) == ("SRT", "T-62000", "Liver")


def test_names_of_patients_are_not_shown(tmp_path: Path) -> None:
    save_object(rtstruct(SPEC, {"GTV CanaryName 4711": [region()]}), tmp_path / "1.dcm")
    ((found,), _) = find_annotations(tmp_path)
    assert found.structures[0].name == "GTV CanaryName 4711"
    assert found.structures[0].shown == "GTV *** 4711"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_cut_objects_are_no_objects_or_refused_when_drawn(tmp_path: Path, share: float) -> None:
    path = save_object(struct(), tmp_path / "labels.dcm")
    truncate(path, int(share * path.stat().st_size))
    found, _ = find_annotations(tmp_path)
    scan = scan_pile(tmp_path)
    assert found == []
    assert [finding.code.value for finding in scan.findings] == ["damaged-file"]


def test_two_regions_of_one_number_are_no_object(tmp_path: Path) -> None:
    dataset = rtstruct(SPEC, {"a": [], "b": []})
    dataset.StructureSetROISequence[1].ROINumber = dataset.StructureSetROISequence[0].ROINumber
    save_object(dataset, tmp_path / "1.dcm")
    found, (finding,) = find_annotations(tmp_path)
    assert (found, finding.code.value) == ([], "damaged-file")


# --- which series ---


def test_the_images_of_the_contours_decide(tmp_path: Path) -> None:
    """Though the object names another series of the same frame of reference."""
    dataset = struct()
    dataset.ROIContourSequence[0].ContourSequence = [region(OTHER)]
    link = link_of(tmp_path, dataset, SPEC, OTHER)
    series = [one for one in scan_pile(tmp_path).series if one.modality == "CT"]
    assert link.error is None
    assert link.series is not None
    assert series[link.series].header.series_uid == OTHER.series_uid


def test_then_the_images_and_the_series_of_the_object(tmp_path: Path) -> None:
    by_images = struct(OTHER)
    del by_images.ROIContourSequence[0].ContourSequence[0].ContourImageSequence
    by_series = struct(OTHER)
    del by_series.ROIContourSequence[0].ContourSequence[0].ContourImageSequence
    referenced = by_series.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    del referenced.RTReferencedSeriesSequence[0].ContourImageSequence
    for number, dataset in enumerate((by_images, by_series)):
        folder = tmp_path / str(number)
        link = link_of(folder, dataset, SPEC, OTHER)
        series = [one for one in scan_pile(folder).series if one.modality == "CT"]
        assert link.error is None
        assert series[link.series or 0].header.series_uid == OTHER.series_uid


def test_then_the_only_series_of_the_study_in_the_frame_of_reference(tmp_path: Path) -> None:
    elsewhere = replace(SPEC, name="elsewhere", study="elsewhere")
    assert link_of(tmp_path / "1", bare(struct()), SPEC, elsewhere).error is None
    error = link_of(tmp_path / "2", bare(struct()), SPEC, OTHER).error
    assert error is not None
    assert error.reason == "several-series"


@pytest.mark.parametrize(
    ("specs", "changes", "reason"),
    [
        ((OTHER,), {}, "no-reference"),
        ((), {}, "no-reference"),
        ((replace(SPEC, missing=[1]),), {}, "no-reference"),
        ((SPEC,), {"ReferencedFrameOfReferenceUID": "1.2.3.4"}, "other-frame-of-reference"),
    ],
    ids=["another series", "no series", "its slice is missing", "frame of reference"],
)
def test_structures_without_a_doubtless_series_are_refused(
    tmp_path: Path, specs: tuple[SeriesSpec, ...], changes: dict[str, Any], reason: str
) -> None:
    link = link_of(tmp_path, struct(**changes), *specs)
    assert link.error is not None
    assert link.error.reason == reason
    assert not any(word in str(link.error) for word in CANARY_WORDS)


def test_one_image_that_is_not_there_is_enough_to_refuse(tmp_path: Path) -> None:
    dataset = rtstruct(SPEC, {"Liver": [contour(SPEC, k, box(2, 3, 7, 6)) for k in (1, 3)]})
    link = link_of(tmp_path, dataset, replace(SPEC, missing=[3]))
    assert link.series == 0
    assert "found 1 of 2 that are not there" in str(link.error)


def test_a_series_that_rules_leave_out_is_named_with_the_rule(tmp_path: Path) -> None:
    write_series(tmp_path / "series", SPEC)
    save_object(struct(), tmp_path / "labels.dcm")
    series = [one for one in scan_pile(tmp_path).series if one.modality == "CT"]
    found, _ = find_annotations(tmp_path)
    (link,) = link_structures(found, series, {0: "slices >= 30 (4)"})
    assert "left by slices >= 30 (4)" in str(link.error)


def test_a_missing_frame_of_reference_is_made_up_for_by_images(tmp_path: Path) -> None:
    unnamed = replace(SPEC, attributes={"FrameOfReferenceUID": None})
    assert link_of(tmp_path / "1", struct(), unnamed).error is None
    by_series = struct()
    del by_series.ROIContourSequence[0].ContourSequence[0].ContourImageSequence
    referenced = by_series.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    del referenced.RTReferencedSeriesSequence[0].ContourImageSequence
    error = link_of(tmp_path / "2", by_series, unnamed).error
    assert error is not None
    assert error.reason == "other-frame-of-reference"


def test_frames_of_a_multi_frame_image_are_slices(tmp_path: Path) -> None:
    """A contour names the frame that it lies on; frames stand in any order."""
    image = write_enhanced(tmp_path / "image.dcm", SPEC)
    enhanced = dcmread(image)
    places = [
        group.PlanePositionSequence[0].ImagePositionPatient for group in enhanced.PerFrameFunctionalGroupsSequence
    ]
    for k in range(4):
        drawn = contour(SPEC, k, box(k, 3, 7, 6))
        (reference,) = drawn.ContourImageSequence
        reference.ReferencedSOPInstanceUID = enhanced.SOPInstanceUID
        wanted = positions_mm(SPEC)[k]
        reference.ReferencedFrameNumber = 1 + int(
            np.argmin([np.abs(np.array(p, float) - wanted).max() for p in places])
        )
        save_object(rtstruct(SPEC, {"Liver": [drawn]}), tmp_path / "labels.dcm")
        (link,) = links_in(tmp_path)
        assert link.error is None
        (series,) = scan_pile(tmp_path).series
        with quiet_pydicom():
            planes = planes_of(stack_series(series, Policies()))
        drawing = open_annotation(link.annotation)(link.structure, planes)
        assert {number: int(mask.sum()) for number, mask in drawing.slices.items()} == {k: 3 * (7 - k)}
        reference.ReferencedFrameNumber = reference.ReferencedFrameNumber % 4 + 1
        save_object(rtstruct(SPEC, {"Liver": [drawn]}), tmp_path / "labels.dcm")
        (link,) = links_in(tmp_path)
        with pytest.raises(DicomError, match="that lie on another one"):
            open_annotation(link.annotation)(link.structure, planes)
