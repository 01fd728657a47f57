"""The embedded data set: exact labels, sides, sameness, layout on disk, the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from scipy.ndimage import binary_erosion
from typer.testing import CliRunner

from medseg.errors import UsageError
from medseg.labels import Laterality
from medseg.nifti import read_nifti
from medseg.phantom import TORSO_LABELS, draw_torso, write_dataset, write_dicom_case
from medseg.phantom.anatomy import Tissue, torso_parts
from medseg.phantom.dataset import case_seed
from medseg.phantom.torso import Canvas
from medseg.volume import Volume
from tests.dicom.one import read_folder

COARSE = (12.0, 12.0, 12.0)
INDEX = {label.name: label.index for label in TORSO_LABELS}


def centre_mm(volume: Volume, name: str) -> np.ndarray:
    return volume.grid.world(np.argwhere(volume.array == INDEX[name])).mean(axis=0)


def test_default_torso_is_a_ct_of_four_mm() -> None:
    image, labels = draw_torso(0)
    assert image.array.shape == labels.array.shape == (96, 66, 80)
    assert image.spacing_mm == (4, 4, 4)
    assert image.grid.orientation == "RAS"
    assert image.array.dtype == np.int16
    assert labels.array.dtype == np.uint8
    assert image.array.flags.f_contiguous
    assert labels.array.flags.f_contiguous
    assert image.modality == "CT"
    assert image.grid.difference(labels.grid) is None
    assert labels.labels == TORSO_LABELS
    assert image.array.min() >= -1024
    assert image.array.max() <= 3071


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_same_seed_same_bytes(modality: str) -> None:
    (one, one_labels), (two, two_labels), (other, other_labels) = (
        draw_torso(seed, COARSE, modality) for seed in (4, 4, 5)
    )
    assert one.array.tobytes(order="A") == two.array.tobytes(order="A")
    assert one_labels.array.tobytes(order="A") == two_labels.array.tobytes(order="A")
    assert np.array_equal(one.affine, two.affine)
    assert not np.array_equal(one_labels.array, other_labels.array)
    assert not np.array_equal(one.affine, other.affine)


def test_a_label_depends_on_the_place_alone() -> None:
    """At the voxel centres that two grids share, labels are the same: nothing is resampled or blurred."""
    fine, coarse = draw_torso(8, (4.0, 4.0, 4.0))[1], draw_torso(8, COARSE)[1]
    shared = fine.array[1::3, 1::3, 1::3]
    i, j, k = (min(one, two) for one, two in zip(shared.shape, coarse.array.shape, strict=True))
    places = fine.grid.world(np.array([1, 1, 1])), coarse.grid.world(np.array([0, 0, 0]))
    assert np.allclose(*places)
    assert np.array_equal(shared[:i, :j, :k], coarse.array[:i, :j, :k])
    assert min(i, j, k) >= 22


def test_modalities_share_the_anatomy_and_not_the_look() -> None:
    ct, mr = draw_torso(3, COARSE, "CT"), draw_torso(3, COARSE, "MR")
    assert np.array_equal(ct[1].array, mr[1].array)
    assert mr[0].array.min() >= 0
    assert np.corrcoef(ct[0].array.ravel(), mr[0].array.ravel())[0, 1] < 0.9


@pytest.mark.parametrize("seed", range(12))
def test_every_organ_is_there_on_its_side(seed: int) -> None:
    _, labels = draw_torso(seed, (10.0, 10.0, 10.0))
    volumes_ml = {label.name: labels.volume_ml(label) for label in TORSO_LABELS}
    assert min(volumes_ml.values()) > 30
    assert 500 < volumes_ml["liver"] < 2200
    where = {name: centre_mm(labels.volume, name) for name in INDEX}
    middle = where["vertebrae"]
    right, left = middle[0] + 15, middle[0] - 15  # x grows to the patient's right
    assert where["liver"][0] > right
    assert where["lung_right"][0] > right
    assert where["kidney_right"][0] > right
    assert where["spleen"][0] < left
    assert where["lung_left"][0] < left
    assert where["kidney_left"][0] < left
    assert where["aorta"][0] < middle[0]
    assert where["aorta"][1] > middle[1] + 5
    assert where["lung_right"][2] > where["liver"][2] > where["kidney_right"][2]


def test_labels_have_codes_and_sides() -> None:
    assert [label.name for label in TORSO_LABELS] == [
        "lung_right",
        "lung_left",
        "liver",
        "spleen",
        "kidney_right",
        "kidney_left",
        "vertebrae",
        "aorta",
    ]
    from pydicom.sr.codedict import codes

    for label in TORSO_LABELS:
        assert label.code is not None
        assert label.code.value == getattr(codes.SCT, label.code.meaning).value
        side = {"_right": Laterality.RIGHT, "_left": Laterality.LEFT}.get(label.name[label.name.rfind("_") :])
        assert label.laterality is side
        assert label.color is not None


@pytest.mark.parametrize(("modality", "shading"), [("CT", 0.0), ("MR", 0.15)])
def test_intensity_alone_does_not_tell_organs_apart(modality: str, shading: float) -> None:
    """Equal tissue, equal intensity: within the noise in CT, within the coil's shading in MR."""
    image, labels = draw_torso(11, modality=modality)
    inside = {name: binary_erosion(labels.array == index) for name, index in INDEX.items()}
    level = {name: float(np.median(image.array[mask])) for name, mask in inside.items()}
    slack = shading * level["liver"]
    assert abs(level["liver"] - level["spleen"]) < 5 + slack
    assert abs(level["kidney_left"] - level["kidney_right"]) < 10 + slack
    assert abs(level["aorta"] - level["kidney_left"]) < 40 + slack
    unlabelled = image.array[labels.array == 0]
    near_liver = np.abs(unlabelled - level["liver"]) < 20 + slack
    assert near_liver.sum() > 0.1 * (labels.array == INDEX["liver"]).sum()


def test_ct_values_are_hounsfield_units() -> None:
    image, labels = draw_torso(2)
    assert abs(image.array[:3, -3:, :].mean() + 1000) < 5
    assert -900 < image.array[labels.array == INDEX["lung_left"]].mean() < -700
    assert 80 < np.median(image.array[labels.array == INDEX["liver"]]) < 150
    assert np.median(image.array[labels.array == INDEX["vertebrae"]]) > 200


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((-1,), "seed"),
        ((0, (0.1, 4.0, 4.0)), "spacing_mm"),
        ((0, (4.0, 4.0, float("nan"))), "spacing_mm"),
        ((0, (4.0, 4.0, 4.0), "PT"), "CT or MR"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple[object, ...], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        draw_torso(*arguments)  # type: ignore[arg-type]


def test_painting_in_boxes_is_painting_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    boxed = draw_torso(6, COARSE)
    monkeypatch.setattr(Canvas, "box", lambda *_: (slice(None), slice(None), slice(None)))
    whole = draw_torso(6, COARSE)
    assert np.array_equal(boxed[1].array, whole[1].array)
    assert np.abs(boxed[0].array.astype(int) - whole[0].array).mean() < 0.1


def test_every_label_is_painted_by_some_part() -> None:
    parts = torso_parts(np.random.default_rng(0))
    assert {part.label for part in parts} - {None, 0} == set(TORSO_LABELS.indices)
    assert {part.tissue for part in parts if part.label in (INDEX["liver"], INDEX["spleen"])} == {Tissue.PARENCHYMA}


@pytest.mark.parametrize(("modality", "named"), [("CT", "CT"), ("MR", "MRI")])
def test_dataset_on_disk(tmp_path: Path, modality: str, named: str) -> None:
    steps: list[tuple[int, int]] = []
    path = write_dataset(
        tmp_path / "d", 3, 5, spacing_mm=COARSE, modality=modality, progress=lambda *step: steps.append(step)
    )
    assert steps == [(1, 3), (2, 3), (3, 3)]
    description = json.loads(path.read_text())
    assert description["modality"] == {"0": named}
    assert description["labels"] == {"0": "background", **{str(i): n for n, i in INDEX.items()}}
    assert description["numTraining"] == len(description["training"]) == 3
    for case, entry in enumerate(description["training"]):
        image, labels = (read_nifti(path.parent / entry[key]) for key in ("image", "label"))
        drawn, drawn_labels = draw_torso(case_seed(5, case), COARSE, modality)
        assert np.array_equal(image.array, drawn.array)
        assert np.array_equal(labels.array, drawn_labels.array)
        assert image.grid.difference(labels.grid) is None
        assert image.grid.difference(drawn.grid) is None


def test_a_case_is_the_same_in_a_larger_set(tmp_path: Path) -> None:
    for cases in (1, 2):
        write_dataset(tmp_path / str(cases), cases, 0, spacing_mm=(20.0, 20.0, 20.0))
    name = "imagesTr/torso_000.nii.gz"
    assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_an_interrupted_run_leaves_no_dataset(tmp_path: Path) -> None:
    def stop(done: int, _: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    write_dataset(tmp_path, 1, 0, spacing_mm=(20.0, 20.0, 20.0))
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path, 2, 1, spacing_mm=(20.0, 20.0, 20.0), progress=stop)
    assert not (tmp_path / "dataset.json").exists()


def test_no_cases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="1 or more"):
        write_dataset(tmp_path, 0, 0)


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_dicom_case_and_its_labels_share_a_grid(tmp_path: Path, modality: str) -> None:
    folder = write_dicom_case(tmp_path, 7, 5, spacing_mm=(12.0, 12.0, 16.0), modality=modality)
    volume, labels = read_folder(folder), read_nifti(tmp_path / "torso_007_labels.nii.gz")
    assert folder == tmp_path / "torso_007"
    assert volume.grid.orientation == "LPS"
    assert volume.grid.difference(labels.grid) is None
    drawn, drawn_labels = draw_torso(case_seed(5, 7), (12.0, 12.0, 16.0), modality)
    assert np.array_equal(volume.array[::-1, ::-1], drawn.array)
    assert np.array_equal(labels.array[::-1, ::-1], drawn_labels.array)
    world = volume.grid.world(np.array([0, 0, 0]))
    last = np.array((*drawn.array.shape[:2], 1)) - 1
    assert np.allclose(world, drawn.grid.world(last), atol=1e-3)


@pytest.fixture
def command() -> typer.Typer:
    from medseg.cli.phantom import phantom

    app = typer.Typer()
    app.command()(phantom)
    return app


def test_the_command_writes_dataset_and_series(tmp_path: Path, command: typer.Typer) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(
        command, [str(out), "--cases", "2", "--spacing", "16", "--modality", "mr", "--dicom"]
    )
    assert result.exit_code == 0, result.output
    assert json.loads((out / "dataset.json").read_text())["numTraining"] == 2
    volume = read_folder(out / "dicom" / "torso_002")
    assert volume.modality == "MR"
    assert volume.grid.difference(read_nifti(out / "dicom" / "torso_002_labels.nii.gz").grid) is None
    assert str(out) in result.output.replace("\n", "")


def test_the_command_leaves_other_files_alone(tmp_path: Path, command: typer.Typer) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    result = CliRunner().invoke(command, [str(tmp_path)])
    assert isinstance(result.exception, UsageError)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
