"""Importing: Decathlon and nnU-Net folders, what they say, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from medseg.data.importers import ImportOptions, import_decathlon, import_folder, import_nnunet_raw
from medseg.data.layouts import Layout, detect_layout
from medseg.data.manifest import Modality, read_manifest, save_manifest
from medseg.errors import ManifestError, UsageError

NO_FOLDS = ImportOptions(folds=0)


def write(folder: Path, facts: dict[str, Any], *files: str) -> Path:
    """Write a folder whose files hold their own names: importing never looks into an image."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(facts))
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    return folder


def decathlon(folder: Path, **changes: Any) -> Path:
    cases = ("p1_a", "p1_b", "p2_a")
    facts = {
        "name": "Liver",
        "description": "three cases",
        "licence": "CC0-1.0",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "2": "tumour", "1": "liver"},
        "training": [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in cases],
        "test": ["./imagesTs/x.nii.gz"],
    }
    files = [f"{part}/{case}.nii.gz" for part in ("imagesTr", "labelsTr") for case in cases]
    return write(folder, facts | changes, *files)


def nnunet(folder: Path, **changes: Any) -> Path:
    facts = {
        "channel_names": {"0": "T1w", "1": "noNorm"},
        "labels": {"background": 0, "cyst": 2, "kidney": 1},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    images = [f"imagesTr/{case}_{channel:04d}.nii.gz" for case in ("k_1", "k_2") for channel in range(2)]
    return write(
        folder, facts | changes, *images, "labelsTr/k_1.nii.gz", "labelsTr/k_2.nii.gz", "labelsTr/._k_1.nii.gz"
    )


def test_decathlon(tmp_path: Path) -> None:
    folder = decathlon(tmp_path / "Task03")
    assert detect_layout(folder) is Layout.DECATHLON
    done: list[tuple[int, int]] = []
    manifest = import_folder(folder, NO_FOLDS, lambda *step: done.append(step))
    assert (manifest.name, manifest.description, manifest.license) == ("Liver", "three cases", "CC0-1.0")
    assert [(channel.name, channel.modality) for channel in manifest.channels] == [("CT", Modality.CT)]
    assert [(label.index, label.name) for label in manifest.labels] == [(1, "liver"), (2, "tumour")]
    assert manifest.splits is None
    assert manifest.root is None
    first = manifest.entries[0]
    assert (first.id, first.patient, first.owner) == ("p1_a", None, "p1_a")
    assert (first.images, first.label) == (("imagesTr/p1_a.nii.gz",), "labelsTr/p1_a.nii.gz")
    assert first.image_sha256 == (hashlib.sha256(b"imagesTr/p1_a.nii.gz").hexdigest(),)
    assert first.label_sha256 == hashlib.sha256(b"labelsTr/p1_a.nii.gz").hexdigest()
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_nnunet(tmp_path: Path) -> None:
    folder = nnunet(tmp_path / "Dataset007_Kidney")
    assert detect_layout(folder) is Layout.NNUNET_RAW
    manifest = import_folder(folder, NO_FOLDS)
    assert manifest.name == "Dataset007_Kidney"
    assert [channel.modality for channel in manifest.channels] == [Modality.MR, Modality.OTHER]
    assert [(label.index, label.name) for label in manifest.labels] == [(1, "kidney"), (2, "cyst")]
    assert [entry.id for entry in manifest.entries] == ["k_1", "k_2"]
    assert manifest.entries[1].images == ("imagesTr/k_2_0000.nii.gz", "imagesTr/k_2_0001.nii.gz")
    assert manifest.entries[1].label == "labelsTr/k_2.nii.gz"


def test_nnunet_that_lists_its_files(tmp_path: Path) -> None:
    listed = {
        "z": {"images": ["imagesTr/k_1_0000.nii.gz", "imagesTr/k_2_0001.nii.gz"], "label": "labelsTr/k_1.nii.gz"}
    }
    manifest = import_nnunet_raw(nnunet(tmp_path, dataset=listed), NO_FOLDS)
    assert [(entry.id, entry.images) for entry in manifest.entries] == [("z", tuple(listed["z"]["images"]))]


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("CT", "CT"), ("ct", "CT"), ("CTA", "CT"), ("CBCT", "CT"), ("MRI", "MR"), ("MR", "MR"), ("T1gd", "MR"),
        ("t2w", "MR"), ("FLAIR", "MR"), ("ADC", "MR"), ("PET", "PT"), ("SUV", "PT"), ("US", "US"), ("zscore", "OT"),
        ("contrast", "OT"), ("CT_portal", "CT"), ("low dose CT", "CT"), ("T1-weighted", "MR"), ("T2_SPACE", "MR"),
        ("subtraction", "OT"),
    ],
)  # fmt: skip
def test_modalities(tmp_path: Path, name: str, modality: str) -> None:
    manifest = import_decathlon(decathlon(tmp_path, modality={"0": name}), NO_FOLDS)
    assert manifest.channels[0].modality.value == modality


# --- patients and folds ---


def test_cases_of_a_patient_share_a_fold(tmp_path: Path) -> None:
    options = ImportOptions(name="mine", folds=2, seed=4, patient_regex="^(p[0-9]+)_")
    manifest = import_folder(decathlon(tmp_path), options)
    assert manifest.name == "mine"
    assert [entry.patient for entry in manifest.entries] == ["p1", "p1", "p2"]
    assert manifest.splits is not None
    assert manifest.splits.seed == 4
    assert sorted(manifest.splits.folds.values()) == [("p1",), ("p2",)]


def test_a_pattern_without_a_group_is_the_patient_itself(tmp_path: Path) -> None:
    manifest = import_folder(decathlon(tmp_path), ImportOptions(folds=2, patient_regex="p[0-9]"))
    assert {entry.patient for entry in manifest.entries} == {"p1", "p2"}


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("^(q)", r"no match in 3: p1_a, p1_b, p2_a"), ("(p1)|x*", "no match in 1: p2_a"), ("(", "unterminated")],
)
def test_patterns_that_do_not_fit(tmp_path: Path, pattern: str, found: str) -> None:
    with pytest.raises(UsageError, match=found):
        import_folder(decathlon(tmp_path), ImportOptions(patient_regex=pattern))


def test_more_folds_than_patients(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give at most 2 folds"):
        import_folder(decathlon(tmp_path), ImportOptions(folds=3, patient_regex="p[0-9]"))


# --- several channels in a Decathlon folder ---

BRATS = {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}


def test_four_dimensional_images_are_refused_with_the_names_to_split_them_into(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"one 4-D file, imagesTr/p1_a.nii.gz; split it .* p1_a_0000.nii.gz"):
        import_folder(decathlon(tmp_path, modality=BRATS))


def test_split_channels_are_taken(tmp_path: Path) -> None:
    folder = decathlon(tmp_path, modality=BRATS)
    for image in list((folder / "imagesTr").iterdir()):
        for channel in range(4):
            shutil.copy(image, str(image).replace(".nii.gz", f"_{channel:04d}.nii.gz"))
        image.unlink()
    manifest = import_folder(folder, NO_FOLDS)
    assert [channel.name for channel in manifest.channels] == list(BRATS.values())
    assert manifest.entries[0].images == tuple(f"imagesTr/p1_a_{channel:04d}.nii.gz" for channel in range(4))


# --- regions, and voxels to ignore ---


def test_regions_and_an_ignored_value_are_those_of_nnunet(tmp_path: Path) -> None:
    """The example of nnU-Net's own documentation of regions, with the next value to be ignored."""
    labels = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": 3, "ignore": 4}
    folder = nnunet(tmp_path / "brats", labels=labels, regions_class_order=[1, 2, 3])
    manifest = import_nnunet_raw(folder, NO_FOLDS)
    assert [(r.name, r.labels, r.paint) for r in manifest.regions] == [
        ("whole tumor", (1, 2, 3), 1),
        ("tumor core", (2, 3), 2),
        ("enhancing tumor", (3,), 3),
    ]
    assert manifest.ignore_value == 4
    assert [(label.index, label.name) for label in manifest.labels] == [
        (1, "rest of whole tumor"),
        (2, "rest of tumor core"),
        (3, "enhancing tumor"),
    ]
    save_manifest(tmp_path / "brats.yaml", manifest)
    assert read_manifest(tmp_path / "brats.yaml") == manifest


def test_an_ignored_value_beside_plain_labels(tmp_path: Path) -> None:
    labels = {"background": 0, "a": [1], "b": 2, "ignore": 3}  # a list of one value is no region
    manifest = import_nnunet_raw(nnunet(tmp_path, labels=labels), NO_FOLDS)
    assert (manifest.ignore_value, manifest.regions, manifest.labels.indices) == (3, (), (1, 2))


# --- what is refused ---


def test_missing_files_are_all_counted(tmp_path: Path) -> None:
    folder = decathlon(tmp_path)
    (folder / "imagesTr" / "p1_b.nii.gz").unlink()
    (folder / "labelsTr" / "p2_a.nii.gz").unlink()
    with pytest.raises(
        ManifestError, match=r"expected 6 .* 2 missing: imagesTr/p1_b.nii.gz, ./labelsTr/p2_a.nii.gz"
    ):
        import_folder(folder)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"labels": {"0": "background"}}, "at least one label is needed"),
        ({"labels": {"1": "a", "2": "a"}}, "each label needs its own name"),
        ({"labels": {"one": "a"}}, "labels.one"),
        ({"training": []}, "training: List should have at least 1 item"),
        ({"training": [{"image": "a.nii"}]}, r"training.0.label: Field required"),
        ({"modality": None}, "modality: Input should be a valid dictionary"),
        ({"training": [{"image": "dataset.json", "label": "../{name}/dataset.json"}]}, "without '..'"),
    ],
)
def test_decathlon_facts_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], found: str) -> None:
    text = json.dumps(changes).replace("{name}", tmp_path.name)
    with pytest.raises(ManifestError, match=found):
        import_decathlon(decathlon(tmp_path, **json.loads(text)), NO_FOLDS)


def test_the_same_case_twice(tmp_path: Path) -> None:
    pair = {"image": "imagesTr/p1_a.nii.gz", "label": "labelsTr/p1_a.nii.gz"}
    with pytest.raises(ManifestError, match="another case is named p1_a"):
        import_folder(decathlon(tmp_path, training=[pair, pair]), NO_FOLDS)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (
            {"labels": {"background": 0, "whole": [1, 2], "core": 2}},
            "a value for each of 2 regions: whole, core, found none",
        ),
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1]}, "found 1 values"),
        (
            {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 3]},
            r"paint 3 is none of its labels \[2\]",
        ),
        ({"labels": {"background": 0, "a": 1, "ignore": [2, 3]}}, "one value to ignore"),
        ({"labels": {"background": 0, "a": 1, "ignore": 1}}, "ignore_value: 1 is the value of a label"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "one used twice"),
        ({"file_ending": ".mha"}, "found .mha; convert to NIfTI"),
        ({"channel_names": {"0": "CT"}}, r"2 without a place: k_1_0001, k_2_0001"),
        ({"channel_names": {"0": "a", "1": "b", "2": "c"}}, r"2 missing: imagesTr/k_1_0002.nii.gz"),
        (
            {"dataset": {"z": {"images": ["/etc/passwd", "/etc/group"], "label": "labelsTr/k_1.nii.gz"}}},
            "relative to",
        ),
    ],
)
def test_nnunet_facts_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], found: str) -> None:
    with pytest.raises(ManifestError, match=found):
        import_nnunet_raw(nnunet(tmp_path, **changes), NO_FOLDS)


def test_nnunet_images_without_a_label(tmp_path: Path) -> None:
    folder = nnunet(tmp_path)
    (folder / "labelsTr" / "k_2.nii.gz").unlink()
    with pytest.raises(ManifestError, match=r"2 without a place: k_2_0000, k_2_0001; add the labels"):
        import_folder(folder)


def test_folders_of_neither_layout(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"pass the folder that holds dataset\.json"):
        import_folder(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(ManifestError, match="in line 1"):
        import_folder(tmp_path)
    (tmp_path / "dataset.json").write_text("[]")
    with pytest.raises(ManifestError, match="found list"):
        import_folder(tmp_path)
    (tmp_path / "dataset.json").write_text('{"name": "x"}')
    with pytest.raises(ManifestError, match="found keys name"):
        import_folder(tmp_path)


def test_an_empty_nnunet_folder(tmp_path: Path) -> None:
    folder = nnunet(tmp_path)
    shutil.rmtree(folder / "imagesTr")
    shutil.rmtree(folder / "labelsTr")
    with pytest.raises(ManifestError, match="expected cases in imagesTr and labelsTr, found none"):
        import_folder(folder)
