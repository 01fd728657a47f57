"""The commands as a user types them: what they print, the exit status, and every kind of bad input."""

import re
import subprocess
import sys

import numpy as np
import pydicom
import pytest

from medseg.cli import main
from medseg.dicom.write import write_series
from medseg.nifti import read_nifti, write_nifti
from medseg.volume import Volume
from tests.builders import TINY_YAML, save_tiny_model, tiny_case, tiny_dataset

IMAGE = tiny_case(0)[0]


@pytest.fixture
def model(tmp_path):
    save_tiny_model(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def scan(tmp_path):
    write_nifti(tmp_path / "scan.nii.gz", IMAGE)
    return tmp_path / "scan.nii.gz"


def train_config(tmp_path, **changes):
    text = TINY_YAML.replace("MANIFEST", str(tmp_path / "data" / "tiny.yaml"))
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    file = tmp_path / "tiny_config.yaml"
    file.write_text(text)
    return file


def test_train_segment_evaluate_overlay(medseg, tmp_path):
    tiny_dataset(tmp_path / "data")
    status, text = medseg("train", train_config(tmp_path), "-o", tmp_path / "run")
    assert status == 0
    assert "Validation Dice" in text
    image = tmp_path / "data" / "images" / "case_0.nii.gz"
    reference = tmp_path / "data" / "labels" / "case_0.nii.gz"
    mask = tmp_path / "mask.nii.gz"
    status, text = medseg("segment", image, "-m", tmp_path / "run", "-o", mask)
    assert (status, "1 of 1 segmented" in text) == (0, True)
    assert read_nifti(mask).grid.difference(read_nifti(image).grid) is None
    status, text = medseg("evaluate", mask, reference, "--labels", tmp_path / "run" / "model")
    assert (status, "ball" in text, "box" in text) == (0, True, True)
    picture = tmp_path / "x.png"
    status, _ = medseg(
        "overlay", image, reference, "--reference", reference, "--labels", tmp_path / "run" / "model", "-o", picture
    )
    assert status == 0
    assert picture.read_bytes()[:4] == b"\x89PNG"
    status, text = medseg("train", train_config(tmp_path), "-o", tmp_path / "run")
    assert (status, "pass --resume" in text) == (2, True)


def test_help_teaches(medseg):
    for words in ([], ["train"], ["segment"], ["evaluate"], ["dataset"], ["dataset", "import"], ["demo"], ["list"]):
        status, text = medseg(*words, "--help")
        assert status == 0
        assert "Usage: " in text
    assert "Example" in medseg("segment", "--help")[1]


def test_list_shows_everything_that_can_be_named(medseg):
    status, text = medseg("list")
    assert status == 0
    for name in ("torso_unet3d", "hippocampus", "unet", "ce_dice"):
        assert name in text


def test_help_imports_neither_torch_nor_monai_nor_numpy():
    code = (
        "import sys, medseg.cli\n"
        "try: medseg.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'monai', 'numpy', 'nibabel', 'pydicom', 'pydantic') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_misspelt_keys_all_at_once(medseg, tmp_path):
    file = train_config(tmp_path, **{"batch_size:": "batchsize:", "learning_rate:": "lerning_rate:"})
    status, text = medseg("train", file)
    assert status == 2
    assert "did you mean 'batch_size'?" in text
    assert "did you mean 'learning_rate'?" in text
    assert "tiny_config.yaml:" in text


def test_missing_manifest_and_missing_root(medseg, tmp_path):
    status, text = medseg("train", train_config(tmp_path), "-o", tmp_path / "run")
    assert (status, "no such file or name" in text) == (2, True)
    status, text = medseg("train", "hippocampus_unet3d", "-o", tmp_path / "run")
    assert (status, "--data-root" in text) == (2, True)
    status, text = medseg("train", "hippocampus_unet3d", "--data-root", tmp_path / "none", "-o", tmp_path / "run")
    assert (status, "no such folder" in text) == (2, True)
    assert not (tmp_path / "run").exists()


def test_label_and_image_on_different_grids(medseg, tmp_path):
    tiny_dataset(tmp_path / "data")
    label = tmp_path / "data" / "labels" / "case_1.nii.gz"
    volume = read_nifti(label)
    write_nifti(label, Volume(volume.array, np.diag([1.5, 1.5, 2.5, 1.0])))
    status, text = medseg("train", train_config(tmp_path), "-o", tmp_path / "run")
    assert status == 5
    assert "case_1.nii.gz: expected the grid of" in text
    assert "mm away" in text


@pytest.mark.parametrize("damage", ["truncated", "garbage", "missing"])
def test_nifti_that_cannot_be_read(medseg, model, scan, tmp_path, damage):
    content = scan.read_bytes()
    if damage == "missing":
        scan.unlink()
    else:
        scan.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"hello")
    status, text = medseg("segment", scan, "-m", model, "-o", tmp_path / "out")
    assert status == 5
    assert "refused [NIFTI]" in text
    assert "scan.nii.gz: expected" in text
    assert list((tmp_path / "out").iterdir()) == []


def test_one_bad_input_among_many_has_status_3(medseg, model, scan, tmp_path):
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no image")
    status, text = medseg("segment", bad, scan, "-m", model, "-o", tmp_path / "out")
    assert status == 3
    assert "1 of 2 segmented" in text
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["scan.nii.gz"]


@pytest.mark.filterwarnings("default::UserWarning")
def test_a_warning_is_one_line_without_the_place_in_the_code(capsys, tmp_path):
    network = "network: {name: deeplabv3, backbone: resnet18, width_multiplier: 0.125}"
    file = tmp_path / "x.yaml"
    text = re.sub(
        "patch_size: .*", "patch_size: [64, 64, 64]", re.sub(r"network:\n(  .*\n)+", f"{network}\n", TINY_YAML)
    )
    assert network in text
    file.write_text(text)
    with pytest.raises(SystemExit):
        main(["train", str(file), "-o", str(tmp_path / "run")])
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line[:30] for line in lines if "reach the feature map's size (4, 4, 4)" in line] == [
        "warning network.rates: (6, 6, "
    ]


def test_networks_are_listed_with_what_their_fields_can_be(medseg):
    _, text = medseg("list", "networks")
    for shown in (
        "fcn8s",
        "deeplabv3plus",
        "arXiv:1802.02611",
        "shortcut: B (A)",
        "slices: 1",
        "output_stride: 16 (8)",
    ):
        assert shown in text


def test_a_refusal_is_one_line_that_names_the_input(capsys, model, tmp_path):
    folder = tmp_path / ("a_folder_with_a_long_name_" * 4)
    volume = Volume(np.round(IMAGE.array) + 100, np.diag([-1, -1, 2, 1.0]), modality="CT")
    write_series(volume, folder, identity="a")
    with pytest.raises(SystemExit):
        main(["segment", str(folder), "-m", str(model), "-o", str(tmp_path / "out")])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"refused [DICOM] {folder}: expected an image series that can be read")
    assert line.endswith("(CT: modality in MR, CT); see medseg dicom plan")


def test_a_folder_without_any_image(medseg, model, tmp_path):
    (tmp_path / "empty").mkdir()
    status, text = medseg("segment", tmp_path / "empty", "-m", model, "-o", tmp_path / "out")
    assert (status, "give a folder with DICOM slices, or NIfTI files" in text) == (5, True)


def test_changed_weights(medseg, model, scan, tmp_path):
    (weights,) = (model / "weights").iterdir()
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    status, text = medseg("segment", scan, "-m", model, "-o", tmp_path / "out")
    assert (status, "the weights were changed or damaged" in text) == (5, True)


def test_dicom_folder_with_two_series_or_a_missing_slice(medseg, model, tmp_path):
    volume = Volume(np.round(IMAGE.array) + 100, np.diag([-1, -1, 2, 1.0]), modality="MR")
    write_series(volume, tmp_path / "two" / "a", identity="a")
    write_series(volume, tmp_path / "two" / "b", identity="b")
    status, text = medseg("segment", tmp_path / "two", "-m", model, "-o", tmp_path / "out")
    assert (status, "2 of 2 segmented" in text) == (0, True)  # of two studies
    for file in (tmp_path / "two").rglob("*.dcm"):
        dataset = pydicom.dcmread(file)
        dataset.StudyInstanceUID = "1.2.3"
        dataset.save_as(file)
    status, text = medseg("segment", tmp_path / "two", "-m", model, "-o", tmp_path / "out")
    assert (status, "one image series a study" in text, "found 2: " in text) == (5, True, True)
    slices = sorted((tmp_path / "two" / "a").iterdir())
    slices[5].unlink()
    status, text = medseg("segment", tmp_path / "two" / "a", "-m", model, "-o", tmp_path / "out")
    assert status == 5
    assert "[DICOM]" in text
    assert "mm" in text


def test_cuda_asked_for_and_absent(medseg, model, scan, tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("CUDA is present")
    status, text = medseg("segment", scan, "-m", model, "-o", tmp_path / "out", "--device", "cuda")
    assert (status, "use --device cpu" in text) == (2, True)


def test_output_that_cannot_be_written(medseg, model, scan, tmp_path):
    (tmp_path / "file").write_text("in the way")
    status, text = medseg("segment", scan, "-m", model, "-o", tmp_path / "file" / "out")
    assert (status, "a file is in the place of the folder" in text) == (4, True)
    status, text = medseg("segment", scan, "-m", model, "-o", "/proc/nothing")
    assert status == 4
    assert "choose" in text


def test_full_disk_leaves_nothing_half_written(medseg, model, scan, tmp_path, monkeypatch):
    import errno

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("medseg.files.os.fsync", full)
    status, text = medseg("segment", scan, "-m", model, "-o", tmp_path / "out")
    assert (status, "the disk is full" in text) == (4, True)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("budget", ["20", "min", "0s", "-3min", "1d"])
def test_budget_that_is_no_time(medseg, budget, tmp_path):
    status, text = medseg("train", "torso_unet3d", f"--budget={budget}", "-o", tmp_path)
    assert (status, "a time such as 90s, 20min or 1.5h" in text) == (2, True)


def test_demo_wants_a_new_folder(medseg, tmp_path):
    (tmp_path / "x").write_text("something")
    status, text = medseg("demo", tmp_path)
    assert (status, "a new or empty folder" in text) == (2, True)


def test_a_bug_is_told_as_a_bug(medseg, monkeypatch, scan, model, tmp_path):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("surprise")

    monkeypatch.setattr("medseg.loading.load_segmenter", broken)
    status, text = medseg("segment", scan, "-m", model, "-o", tmp_path / "out")
    assert status == 70
    assert "surprise" in text
    assert "--debug" in text
