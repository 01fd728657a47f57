"""Pipelines as a user types them: from a DICOM study to proved objects in their folder."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from medseg.batch import Ledger, State
from medseg.nifti import write_nifti
from tests.builders import save_tiny_model, tiny_case
from tests.dicom.builder import CANARY_WORDS, SeriesSpec, write_series

PIPELINE = """\
name: clinic
select: {modality: MR}
model: MODEL
quality: {mark: []}
outputs:
  nifti: {tables: false}
  seg: {series_description: Organs, institution: General Hospital}
  rtstruct: {}
  sr: {}
deliver:
  - {to: folder, path: "{study}/{series}"}
"""
NAMES = {"labels.nii.gz", "seg.dcm", "rtstruct.dcm", "sr.dcm"}


@pytest.fixture
def place(tmp_path):
    """A model, a pipeline beside it, a study and a NIfTI file."""
    save_tiny_model(tmp_path / "model")
    (tmp_path / "clinic.yaml").write_text(PIPELINE.replace("MODEL", "model"))
    rng = np.random.default_rng(0)
    write_series(
        tmp_path / "study", SeriesSpec(modality="MR", shape=(24, 20, 12), stored=rng.integers(0, 900, (24, 20, 12)))
    )
    write_nifti(tmp_path / "plain.nii.gz", tiny_case(0)[0])
    return tmp_path


def written(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("ledger.sqlite", "batch.html")
    }


def test_a_study_becomes_its_objects_and_a_second_run_the_same(medseg, place):
    command = ["segment", place / "study", "--pipeline", place / "clinic.yaml", "-o"]
    status, text = medseg(*command, place / "a")
    assert (status, "1 of 1 segmented" in text) == (0, True), text
    assert {Path(name).name for name in written(place / "a")} == NAMES
    assert not any(word in name for name in written(place / "a") for word in CANARY_WORDS)
    seg = next((place / "a").rglob("seg.dcm"))
    assert dcmread(seg).InstitutionName == "General Hospital"
    with Ledger(place / "a") as ledger:
        (row,) = ledger.rows()
    assert {"seg", "rtstruct", "quality"} <= set(row.result.timings_s)
    before = {path: path.stat().st_mtime_ns for path in (place / "a").rglob("*.dcm")}
    assert medseg(*command, place / "a")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before  # what is done is left
    assert medseg(*command, place / "b", "--processes")[0] == 0
    assert written(place / "a") == written(place / "b")


def test_nifti_is_refused_where_objects_are_wanted(medseg, place):
    status, text = medseg(
        "segment", place / "study", place / "plain.nii.gz", "-p", place / "clinic.yaml", "-o", place / "out"
    )
    assert (status, "1 of 2 segmented" in text) == (3, True)
    assert "as DICOM objects are wanted" in text


def test_a_study_that_is_held_back(medseg, place):
    held = PIPELINE.replace("MODEL", "model").replace("{mark: []}", "{hold: [outside-envelope]}")
    (place / "held.yaml").write_text(held)
    status, text = medseg("segment", place / "study", "-p", place / "held.yaml", "-o", place / "out")
    assert (status, "1 held back" in text) == (3, True), text
    assert all(name.startswith("held/") for name in written(place / "out"))
    with Ledger(place / "out") as ledger:
        assert [(row.state, row.result.held) for row in ledger.rows()] == [(State.HELD, ("outside-envelope",))]
    status, text = medseg("batch", "status", place / "out")
    assert "outside-envelope" in text


def test_outputs_without_a_pipeline(medseg, place):
    words = ["segment", place / "study", "-m", place / "model", "-o", place / "out"]
    status, text = medseg(*words, "--outputs", "seg,tables", "--per-organ")
    assert status == 0, text
    names = {Path(name).name for name in written(place / "out")}
    assert names >= {"seg.dcm", "measurements.csv", "labels.json", "ball.nii.gz", "box.nii.gz"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "model", "-p", "clinic.yaml"], "--model or --pipeline, found both"),
        ([], "--model or --pipeline, found neither"),
        (["-m", "model", "--outputs", "seg,rtstrct"], "did you mean 'rtstruct'?"),
        (["-m", "model", "--outputs", "sr"], "add seg: {}"),
        (["-p", "clinic.yaml", "--per-organ"], "none beside --pipeline"),
        (["-p", "clinc"], "no such file or name"),
    ],
)
def test_what_contradicts_itself_is_said(medseg, place, monkeypatch, words, said):
    monkeypatch.chdir(place)
    status, text = medseg("segment", "study", "-o", "out", *words)
    assert (status, said in text) == (2, True), text


def test_one_output_file_is_not_enough(medseg, place):
    status, text = medseg("segment", place / "study", "-p", place / "clinic.yaml", "-o", place / "a.nii.gz")
    assert (status, "expected a folder" in text) == (2, True)


def test_a_model_that_was_changed_is_refused(medseg, place):
    text = PIPELINE.replace("model: MODEL", f"model: {{path: model, sha256: {'ab' * 32}}}")
    (place / "pinned.yaml").write_text(text)
    status, text = medseg("segment", place / "study", "-p", place / "pinned.yaml", "-o", place / "out")
    assert status == 5
    assert "SHA-256" in text


def test_a_share_that_is_not_mounted_is_refused(medseg, place):
    text = PIPELINE.replace("MODEL", "model").replace("{study}/{series}", f"{place}/share/{{case}}/x")
    (place / "far.yaml").write_text(text)
    words = ["segment", place / "study", "-p", place / "far.yaml", "-o", place / "out"]
    status, said = medseg(*words)
    assert (status, "mount the share" in said, (place / "share").exists()) == (2, True, False)
    (place / "share").mkdir()
    assert medseg(*words)[0] == 0
    assert {path.name for path in (place / "share").rglob("*") if path.is_file()} == NAMES


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda dataset, number: setattr(dataset, "PatientID", f"another {number % 2}"), "patient"),
        (lambda dataset, number: delattr(dataset, "FrameOfReferenceUID"), "without_frame_of_reference: make"),
    ],
    ids=["two patients", "no frame of reference"],
)
def test_a_series_that_no_object_can_be_made_of_is_refused_before_it_is_segmented(medseg, place, change, said):
    for number, file in enumerate(sorted((place / "study").rglob("*.dcm"))):
        dataset = dcmread(file)
        change(dataset, number)
        dataset.save_as(file)
    status, text = medseg("segment", place / "study", "-p", place / "clinic.yaml", "-o", place / "out")
    assert status == 5, text
    with Ledger(place / "out") as ledger:
        (row,) = ledger.rows()
    assert (row.state, "segment" in row.result.timings_s) == (State.REFUSED, False)
    assert said in row.message
