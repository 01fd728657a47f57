"""Annotated studies -> a data set: what is taken, what is refused and why, and nothing tells who the patient is."""

from __future__ import annotations

import csv
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from medseg.cli.dataset import app
from medseg.data.annotated import find_annotated
from medseg.data.check import check_dataset
from medseg.data.dicom_import import DicomImport, DicomImportOptions, import_dicom
from medseg.data.manifest import load_manifest
from medseg.data.structure_map import StructureMap
from medseg.dicom.plan import plan_pile
from medseg.dicom.read import read_stack
from medseg.dicom.series_rules import SeriesRules
from medseg.errors import UsageError
from medseg.files import sha256_of
from medseg.nifti import read_nifti
from tests.dicom.annotation_builder import box, code, contour, place, rtstruct, save_object, segment, segmentation
from tests.dicom.builder import CANARY_WORDS, OBLIQUE, SeriesSpec, write_series

SPEC = SeriesSpec("imported", shape=(13, 11, 5), orientation=OBLIQUE, shear_mm_per_mm=(0.1, -0.2))
LIVER_BOX, TUMOUR_BOX = (1, 2, 9, 8), (6, 5, 12, 10)  # 12 pixels of both a slice
MAP = {
    "labels": [
        {"index": 1, "name": "liver", "match": ["liver.*"], "codes": ["SCT:10200004"]},
        {"index": 5, "name": "tumour", "match": ["gtv.*"], "missing": "empty"},
    ]
}


def labels_map(**changes: Any) -> StructureMap:
    """The map, with other values for the tumour."""
    liver, tumour = MAP["labels"]
    return StructureMap.model_validate({"labels": [liver, tumour | changes]})


def drawn(spec: SeriesSpec, corners: Sequence[int], slices: Sequence[int] = (1, 2)) -> list[Any]:
    return [contour(spec, k, box(*corners)) for k in slices]


def study(folder: Path, number: int = 0, patient: str | None = None, **regions: Sequence[int]) -> SeriesSpec:
    """Write a study with a series and an RTSTRUCT."""
    names = {"name": f"study {number}", "study": f"study {number}"}
    spec = replace(SPEC, **names, attributes={"PatientID": patient} if patient else {})
    write_series(folder / str(number) / "images", spec)
    contours = {name: drawn(spec, corners) for name, corners in regions.items()}
    save_object(rtstruct(spec, contours), folder / str(number) / "labels.dcm")
    return spec


def run(folder: Path, structure_map: StructureMap | None = None, **options: Any) -> DicomImport:
    output = folder.parent / "out"
    pile = find_annotated([folder])
    return import_dicom(pile, structure_map or labels_map(), output, DicomImportOptions(**options))


def expected_labels(*boxes: tuple[int, Sequence[int]]) -> NDArray[np.int64]:
    values = np.zeros(SPEC.shape, dtype=int)
    for index, (left, top, right, bottom) in boxes:
        values[left:right, top:bottom, 1:3] = index
    return values


@pytest.fixture
def pile(tmp_path: Path) -> Path:
    return tmp_path / "pile"


def test_image_and_labels_lie_on_the_grid_that_the_series_is_read_on(pile: Path) -> None:
    study(pile, Liver=LIVER_BOX, GTV=TUMOUR_BOX)
    result = run(pile, folds=0)
    (row,), output = result.rows, pile.parent / "out"
    assert row.is_taken
    assert row.voxels == {"liver": 2 * (48 - 9), "tumour": 2 * 30}
    assert [finding.code.value for finding in row.findings if finding.code.value != "gantry-tilt"] == [
        "label-overlap"
    ]
    (stack,) = plan_pile(pile / "0" / "images").taken
    series = read_stack(stack)
    image = read_nifti(output / "images" / f"{row.series}.nii.gz")
    label = read_nifti(output / "labels" / f"{row.series}.nii.gz")
    assert np.array_equal(image.array, series.array)
    assert series.grid.difference(label.grid) is None
    assert label.array.dtype == np.uint8
    assert np.array_equal(label.array, expected_labels((1, LIVER_BOX), (5, TUMOUR_BOX)))


def test_the_manifest_is_one_without_a_fault(pile: Path) -> None:
    for number, patient in enumerate(["A", "B", "A", "C"]):
        study(pile, number, patient, Liver=LIVER_BOX)
    output = pile.parent / "out"
    (pile.parent / "map.yaml").write_text("labels:\n- {index: 1, name: liver, match: [liver]}\n")
    result = invoke(pile, "-o", output, "--map", pile.parent / "map.yaml", "--folds", 3, "--name", "livers")
    assert result.exit_code == 0, result.output
    dataset = load_manifest(output / "manifest.yaml")
    assert check_dataset(dataset) == []
    assert (dataset.name, dataset.channels[0].modality.value, len(dataset.cases)) == ("livers", "CT", 4)
    assert dataset.folds == (0, 1, 2)
    assert len({case.patient for case in dataset.cases}) == 3
    for fold in dataset.folds:
        training, validation = dataset.fold(fold)
        assert not {case.patient for case in training} & {case.patient for case in validation}
    entry = dataset.manifest.entries[0]
    assert entry.label_sha256 == sha256_of(output / str(entry.label))


# --- patients ---


@pytest.mark.parametrize("key", [b"", b"secret"])
def test_a_patient_is_a_hash_of_the_id(pile: Path, key: bytes) -> None:
    study(pile, 0, "12345", Liver=LIVER_BOX)
    manifest = run(pile, key=key).manifest
    assert manifest is not None
    digest = hmac.new(key, b"12345", "sha256") if key else hashlib.sha256(b"12345")
    assert manifest.entries[0].patient == digest.hexdigest()[:12]


def test_without_an_id_the_name_counts_and_then_the_study(pile: Path) -> None:
    for number, values in enumerate([{}, {}, {"PatientName": ""}, {"PatientName": ""}]):
        spec = replace(SPEC, name=f"{number}", study=f"{number}", attributes={"PatientID": "", **values})
        write_series(pile / str(number), spec)
        save_object(rtstruct(spec, {"Liver": drawn(spec, LIVER_BOX)}), pile / f"{number}.dcm")
    result = run(pile)
    assert result.manifest is not None
    assert len({entry.patient for entry in result.manifest.entries}) == 3
    assert all("no-patient-id" in str(row.findings[-1]) for row in result.rows)


def test_there_are_no_more_folds_than_patients(pile: Path) -> None:
    for number in range(2):
        study(pile, number, f"P{number}", Liver=LIVER_BOX)
    manifest = run(pile, folds=5).manifest
    assert manifest is not None
    assert manifest.splits is not None
    assert sorted(manifest.splits.folds) == [0, 1]


# --- labels ---


def test_a_label_of_several_structures_is_their_union_where_the_map_says_so(pile: Path) -> None:
    study(pile, Liver=(0, 0, 2, 2), GTV_1=(1, 2, 5, 6), GTV_2=(3, 4, 9, 8))
    (row,) = run(pile).rows
    assert (row.is_taken, row.reason) == (False, "structure-conflict")
    assert "found GTV_1, GTV_2" in row.detail
    (row,) = run(pile, labels_map(merge=True)).rows
    assert row.voxels == {"liver": 8, "tumour": 2 * (16 + 24 - 4)}


@pytest.mark.parametrize(("priorities", "voxels"), [((0, 0), (39, 30)), ((1, 0), (48, 21)), ((0, 1), (39, 30))])
def test_the_priority_says_whose_shared_voxels_are(
    pile: Path, priorities: tuple[int, int], voxels: tuple[int, int]
) -> None:
    study(pile, Liver=LIVER_BOX, GTV=TUMOUR_BOX)
    labels = [one | {"priority": priority} for one, priority in zip(MAP["labels"], priorities, strict=True)]
    (row,) = run(pile, StructureMap.model_validate({"labels": labels})).rows
    assert tuple(row.voxels.values()) == (2 * voxels[0], 2 * voxels[1])
    overlap = next(finding for finding in row.findings if finding.code.value == "label-overlap")
    assert overlap.message.startswith("18 voxel(s)")


@pytest.mark.parametrize("missing", ["refuse", "empty", "ignore"])
def test_a_missing_label(pile: Path, missing: str) -> None:
    study(pile, Liver=LIVER_BOX, Couch=(0, 0, 2, 2))
    result = run(pile, labels_map(missing=missing))
    (row,) = result.rows
    assert row.ignored == ("Couch",)
    if missing == "refuse":
        assert (row.is_taken, row.reason, result.manifest) == (False, "structure-missing", None)
        return
    assert result.manifest is not None
    assert row.findings[-1].code.value == "structure-missing"
    label = read_nifti(pile.parent / "out" / "labels" / f"{row.series}.nii.gz").array
    ignored = 6 if missing == "ignore" else 0
    assert result.manifest.ignore_value == (6 if missing == "ignore" else None)
    assert np.array_equal(label, np.where(expected_labels((1, LIVER_BOX)) == 1, 1, ignored))


def test_a_study_that_has_none_of_the_labels_is_refused_whatever_may_be_missing(pile: Path) -> None:
    study(pile, Couch=LIVER_BOX)
    loose = StructureMap.model_validate({"missing": "empty", "labels": MAP["labels"]})
    (row,) = run(pile, loose).rows
    assert (row.reason, row.ignored) == ("structure-missing", ("Couch",))


def test_a_structure_without_contours_is_not_there(pile: Path) -> None:
    spec = study(pile, Liver=LIVER_BOX)
    regions = {"Liver": drawn(spec, LIVER_BOX), "GTV": []}
    save_object(rtstruct(spec, regions), pile / "0" / "labels.dcm")
    (row,) = run(pile).rows
    assert row.voxels["tumour"] == 0
    assert "no tumour: taken as not there" in str(row.findings[-1])


def test_a_structure_that_matches_two_labels_is_refused(pile: Path) -> None:
    study(pile, liver_gtv=LIVER_BOX)
    (row,) = run(pile, labels_map(match=[".*gtv"])).rows
    assert (row.reason, row.is_taken) == ("structure-conflict", False)
    assert "liver_gtv for liver and tumour" in row.detail


def test_several_objects_of_one_series_go_together(pile: Path) -> None:
    spec = study(pile, Liver=LIVER_BOX)
    tumour = np.zeros((11, 13), dtype=bool)
    tumour[5:10, 6:12] = True
    gtv = segment(1, "GTV", SegmentedPropertyTypeCodeSequence=[code("4147007", "Mass")])
    save_object(segmentation(spec, [(1, place(spec, k), tumour) for k in (1, 2)], [gtv]), pile / "seg.dcm")
    (row,) = run(pile).rows
    assert row.voxels == {"liver": 78, "tumour": 60}


# --- what is refused does not stop the others, and nothing is dropped in silence ---


def test_every_series_and_every_object_has_its_row(pile: Path) -> None:
    study(pile, 0, Liver=LIVER_BOX)
    study(pile, 1, GTV=LIVER_BOX)
    write_series(pile / "bare", replace(SPEC, name="bare"))
    write_series(pile / "pet", replace(SPEC, name="pet", modality="PT"))
    lost = replace(SPEC, name="lost")
    save_object(rtstruct(lost, {"Liver": drawn(lost, LIVER_BOX)}), pile / "lost.dcm")
    irregular = replace(SPEC, name="gap", missing=[3])
    write_series(pile / "gap", irregular)
    save_object(rtstruct(irregular, {"Liver": drawn(irregular, LIVER_BOX)}, seed="gap"), pile / "gap.dcm")
    result = run(pile)
    assert sorted((row.reason, row.modality) for row in result.rows) == [
        ("", "CT"), ("missing-slice", "CT"), ("no-labels", "CT"), ("no-labels", "PT"), ("no-reference", "RTSTRUCT"),
        ("structure-missing", "CT"),
    ]  # fmt: skip
    with (pile.parent / "out" / "import.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["taken"] for row in rows].count("yes") == 1
    assert {row["reason"] for row in rows} == {row.reason for row in result.rows}
    assert result.manifest is not None
    assert len(result.manifest.entries) == 1


def test_two_modalities_are_no_data_set(pile: Path) -> None:
    study(pile, 0, Liver=LIVER_BOX)
    other = replace(SPEC, name="mr", study="mr", modality="MR")
    write_series(pile / "mr", other)
    save_object(rtstruct(other, {"Liver": drawn(other, LIVER_BOX)}), pile / "mr.dcm")
    with pytest.raises(UsageError, match="found CT and MR; pass --modality"):
        run(pile)
    found = find_annotated([pile], SeriesRules(modality=("MR",)))
    result = import_dicom(found, labels_map(), pile.parent / "out")
    assert [(row.modality, row.is_taken) for row in result.rows] == [("CT", False), ("MR", True)]
    assert "left by modality" in result.rows[0].detail


# --- the command ---


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["import-dicom", *map(str, arguments)], env={"COLUMNS": "250"})


def test_the_command_lists_then_imports(pile: Path) -> None:
    study(pile, 0, Liver=LIVER_BOX)
    study(pile, 1, LIVER=LIVER_BOX, GTV=TUMOUR_BOX)
    result = invoke(pile, "--list")
    assert result.exit_code == 0, result.output
    assert [line.split() for line in result.output.splitlines() if "Liver" in line] == [
        ["│", "Liver", "│", "2", "│", "│"]
    ]
    assert "2 of 2 series have structures" in result.output
    output, path = pile.parent / "set", pile.parent / "map.yaml"
    path.write_text("labels:\n- {index: 1, name: tumour, match: [gtv]}\n")
    result = invoke(pile, "-o", output, "--map", path)
    assert result.exit_code == 3, result.output
    assert "1 of 2 taken" in result.output
    assert "Folds: none, not 5" in result.output
    path.write_text("labels:\n- {index: 1, name: heart, match: [heart]}\n")
    assert invoke(pile, "-o", pile.parent / "none", "--map", path).exit_code == 5


def test_automatic_labels(pile: Path) -> None:
    study(pile, 0, "A", Liver=LIVER_BOX)
    study(pile, 1, "B", liver=LIVER_BOX)
    output = pile.parent / "set"
    assert invoke(pile, "-o", output, "--map", "auto").exit_code == 0
    assert [label.name for label in load_manifest(output / "manifest.yaml").labels] == ["Liver"]


@pytest.mark.parametrize("arguments", [[], ["-o", "out"], ["--map", "auto"]])
def test_what_the_command_needs(pile: Path, arguments: list[str]) -> None:
    assert isinstance(invoke(pile, *arguments).exception, UsageError)


def test_nothing_tells_who_the_patient_is(pile: Path) -> None:
    """Neither what is printed nor a byte of what is written, though a structure bears the patient's name."""
    spec = study(pile, Liver=LIVER_BOX, **{"GTV CanaryName": TUMOUR_BOX, "CANARYID4711": (0, 0, 1, 1)})
    output = pile.parent / "out"
    (pile.parent / "map.yaml").write_text("labels:\n- {index: 1, name: liver, match: [liver]}\n")
    result = invoke(pile, "-o", output, "--map", pile.parent / "map.yaml")
    listed = invoke(pile, "--list")
    assert "***" in result.output
    texts = [result.output, listed.output, *(str(path) for path in output.rglob("*"))]
    texts += [path.read_text("utf-8") for path in output.iterdir() if path.is_file()]
    for text in texts:
        assert not any(word.casefold() in text.casefold() for word in (*CANARY_WORDS, spec.series_uid))
