"""BIDS data sets with labels below derivatives -> manifests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from medseg.cli.dataset import app
from medseg.data.bids import read_bids
from medseg.data.check import check_dataset
from medseg.data.importers import ImportOptions, import_folder
from medseg.data.manifest import load_manifest
from medseg.data.schema import Modality
from medseg.errors import ManifestError
from medseg.nifti import write_nifti
from medseg.volume import Volume

TABLE = "index\tname\tcolor\n0\tBackground\t#000000\n1\tThalamus\t#ff0000\n2\tCaudate\t#00ff00\n"
CASES = ("sub-01/ses-a", "sub-01/ses-b", "sub-02/ses-a")


def write(path: Path, seed: int, *, is_label: bool = False) -> Path:
    values = np.random.default_rng(seed).normal(size=(5, 4, 3))
    array = (values > 0).astype(np.uint8) if is_label else values.astype(np.float32)
    write_nifti(path, Volume(array, np.eye(4)))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two subjects, three sessions, two kinds of images of which one session lacks one."""
    root = tmp_path / "study"
    for number, case in enumerate(CASES):
        stem = case.replace("/", "_")
        write(root / case / "anat" / f"{stem}_T1w.nii.gz", number)
        if number != 1:
            write(root / case / "anat" / f"{stem}_ce-gad_T1w.nii.gz", 10 + number)
        write(
            root / "derivatives" / "manual" / case / "anat" / f"{stem}_desc-me_dseg.nii.gz",
            20 + number,
            is_label=True,
        )
    (root / "derivatives" / "manual" / "desc-me_dseg.tsv").write_text(TABLE)
    (root / "derivatives" / "fmriprep" / "sub-01").mkdir(parents=True)
    (root / "dataset_description.json").write_text(
        json.dumps({"Name": "Nuclei", "License": "CC0", "BIDSVersion": "1.9"})
    )
    return root


def test_a_subject_is_a_patient_and_a_kind_of_image_a_channel(root: Path) -> None:
    manifest = import_folder(root, ImportOptions(folds=2))
    assert (manifest.name, manifest.license) == ("Nuclei", "CC0")
    assert [(one.name, one.modality) for one in manifest.channels] == [
        ("T1w", Modality.MR),
        ("ce-gad_T1w", Modality.MR),
    ]
    assert [(label.index, label.name) for label in manifest.labels] == [(1, "Thalamus"), (2, "Caudate")]
    assert [(entry.id, entry.patient) for entry in manifest.entries] == [
        ("sub-01_ses-a", "sub-01"),
        ("sub-01_ses-b", "sub-01"),
        ("sub-02_ses-a", "sub-02"),
    ]
    second = manifest.entries[1]
    assert second.images == ("sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz", None)
    assert second.label == "derivatives/manual/sub-01/ses-b/anat/sub-01_ses-b_desc-me_dseg.nii.gz"
    assert manifest.splits is not None
    assert sorted(manifest.splits.folds.values()) == [("sub-01",), ("sub-02",)]


def test_the_command_writes_a_manifest_without_a_fault(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "nuclei.yaml"
    result = CliRunner().invoke(app, ["import", str(root), "-o", str(output), "--folds", "0"])
    assert result.exit_code == 0, result.output
    assert check_dataset(load_manifest(output)) == []


def test_masks_of_one_structure_need_no_table(root: Path) -> None:
    for file in root.glob("derivatives/manual/**/*_dseg.*"):
        new = file.with_name(file.name.replace("desc-me_dseg", "label-lesion_mask"))
        file.rename(new) if file.suffix == ".gz" else file.unlink()
    assert import_folder(root, ImportOptions(folds=0)).labels.root[0].name == "lesion"


def test_the_nearest_table_counts(root: Path) -> None:
    near = root / "derivatives" / "manual" / "sub-02" / "ses-a" / "anat" / "sub-02_ses-a_desc-me_dseg.tsv"
    near.write_text(TABLE)
    (root / "derivatives" / "manual" / "desc-other_dseg.tsv").write_text("nonsense")
    assert read_bids(root).labels[2] == "Caudate"
    near.write_text(TABLE.replace("Caudate", "Putamen"))
    with pytest.raises(ManifestError, match="expected the same labels in all cases"):
        read_bids(root)


def test_unlabelled_cases_and_other_files_are_left_out(root: Path) -> None:
    write(root / "sub-03" / "anat" / "sub-03_T1w.nii.gz", 30)
    write(root / "sub-03" / "anat" / "sub-03_defacemask.nii.gz", 31)
    write(root / "sub-02" / "func" / "sub-02_bold.nii.gz", 32)
    found = read_bids(root)
    assert "1 case(s) without labels left out" in found.description
    assert found.channels == ["T1w", "ce-gad_T1w"]


def test_a_derivative_can_be_chosen(root: Path) -> None:
    case = root / "derivatives" / "auto" / "sub-02" / "ses-a" / "anat"
    write(case / "sub-02_ses-a_label-lesion_mask.nii.gz", 40, is_label=True)
    with pytest.raises(ManifestError, match="found auto, manual; pass --derivative"):
        import_folder(root)
    manifest = import_folder(root, ImportOptions(folds=0, derivative="auto"))
    assert [entry.id for entry in manifest.entries] == ["sub-02_ses-a"]
    with pytest.raises(ManifestError, match="expected one derivative with labels, found none"):
        read_bids(root, "mine")


FIRST = "derivatives/manual/sub-01/ses-a/anat/sub-01_ses-a"


def rename(root: Path, ending: str) -> None:
    (root / f"{FIRST}_desc-me_dseg.nii.gz").rename(root / f"{FIRST}_{ending}.nii.gz")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda root: write(root / f"{FIRST}_desc-you_dseg.nii.gz", 5, is_label=True), "several for sub-01_ses-a"),
        (lambda root: rename(root, "space-MNI152_desc-me_dseg"), "in the space MNI152; resample it"),
        (lambda root: rename(root, "desc-else_dseg"), "found none for sub-01_ses-a_desc-else_dseg.nii.gz"),
        (lambda root: (root / "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz").rename(root / "x.nii.gz"), None),
        (
            lambda root: (root / "derivatives/manual/desc-me_dseg.tsv").write_text("a\tb\n1\t2\n"),
            "columns index and",
        ),
        (lambda root: (root / "derivatives/manual/desc-me_dseg.tsv").write_text(TABLE + "2\tx\t\n"), "one twice"),
        (
            lambda root: (root / "derivatives").rename(root / "derived"),
            "expected one derivative with labels, found none",
        ),
        (lambda root: (root / "dataset_description.json").write_text("{"), "JSONDecodeError; correct it"),
        (lambda root: (root / "sub-01").rename(root / "sub-09"), "found others: sub-01_ses-a_T1w.nii.gz"),
        (lambda root: shutil.rmtree(root / "sub-01"), "found none for sub-01_ses-a, sub-01_ses-b"),
        (
            lambda root: write(root / "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii", 3),
            "sub-01_ses-a with an image twice",
        ),
    ],
)
def test_what_does_not_fit_is_refused(root: Path, change: Callable[[Path], object], found: str | None) -> None:
    change(root)
    if found is None:  # the other channel is still there
        assert read_bids(root).cases[2].images[0] is None
        return
    with pytest.raises(ManifestError, match=found):
        import_folder(root)
