"""``medseg dataset``: import, check and show from the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from medseg.cli.dataset import app
from medseg.data.manifest import load_manifest, read_manifest
from medseg.errors import ConfigError, ManifestError, UsageError
from medseg.nifti import write_nifti
from medseg.volume import Volume


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Decathlon folder of six cases of three patients."""
    root = tmp_path / "Task99_Cubes"
    generator = np.random.default_rng(0)
    cases = [f"p{patient}_{visit}" for patient in range(3) for visit in range(2)]
    for case in cases:
        image = generator.normal(size=(5, 4, 3)).astype(np.float32)
        write_nifti(root / "imagesTr" / f"{case}.nii.gz", Volume(image, np.eye(4)))
        write_nifti(root / "labelsTr" / f"{case}.nii.gz", Volume((image > 0).astype(np.uint8), np.eye(4)))
    facts = {
        "name": "Cubes",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "cube"},
        "training": [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in cases],
    }
    (root / "dataset.json").write_text(json.dumps(facts))
    return root


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def test_import_then_check_then_show(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "manifests" / "cubes.yaml"
    result = run("import", folder, "-o", output, "--folds", 3, "--seed", 1, "--patient-regex", "^(p[0-9])_")
    assert result.exit_code == 0, result.output
    assert f"Next: medseg dataset check {output}\n" in result.output
    assert "6 of 3 patient(s)" in result.output
    manifest = read_manifest(output)
    assert (manifest.name, manifest.root) == ("Cubes", "../Task99_Cubes")
    assert manifest.splits is not None
    assert (manifest.splits.seed, len(manifest.splits.folds)) == (1, 3)
    assert str(tmp_path) not in output.read_text()

    result = run("check", output)
    assert result.exit_code == 0, result.output
    assert "No fault in 6 case(s)" in result.output

    result = run("show", output)
    assert result.exit_code == 0, result.output
    assert "cube" in result.output
    assert "0: 1, 1: 1, 2: 1 for validation, seed 1" in result.output


def test_import_without_root(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "cubes.yaml"
    result = run("import", folder, "-o", output, "--no-root", "--folds", 0, "--name", "mine")
    assert result.exit_code == 0, result.output
    assert f"check {output} --data-root {folder}" in result.output
    assert read_manifest(output).root is None
    assert isinstance(run("check", output).exception, ManifestError)
    assert run("check", output, "--data-root", folder).exit_code == 0
    assert load_manifest(output, folder).name == "mine"


def test_check_names_every_fault_and_exits_with_3(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "cubes.yaml"
    assert run("import", folder, "-o", output).exit_code == 0
    (folder / "imagesTr" / "p0_1.nii.gz").unlink()
    write_nifti(folder / "labelsTr" / "p1_0.nii.gz", Volume(np.full((5, 4, 3), 2, np.uint8), np.eye(4)))
    result = run("check", output)
    assert result.exit_code == 3
    for text in ("missing-file", "checksum-differs", "unknown-label", "p0_1", "p1_0", "3 fault(s) in 2 case(s)"):
        assert text in result.output


def test_import_replaces_nothing(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "cubes.yaml"
    output.write_text("name: mine\n")
    result = run("import", folder, "-o", output)
    assert isinstance(result.exception, UsageError)
    assert output.read_text() == "name: mine\n"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("import", "{folder}", "-o", "{tmp}/cubes.json"), UsageError),
        (("import", "{tmp}", "-o", "{tmp}/cubes.yaml"), ManifestError),
        (("import", "{folder}", "-o", "{tmp}/cubes.yaml", "--folds", "9"), UsageError),
        (("import", "{folder}", "-o", "{tmp}/cubes.yaml", "--patient-regex", "("), UsageError),
        (("check", "{tmp}/none.yaml"), UsageError),
        (("check", "hippocampus"), ManifestError),
        (("check", "hippocampus", "--data-root", "{tmp}/none"), ManifestError),
        (("show", "{folder}/dataset.json"), ConfigError),
    ],
)
def test_wrong_usage_is_an_error_of_status_2(
    folder: Path, tmp_path: Path, arguments: tuple[str, ...], error: type[UsageError]
) -> None:
    result = run(*(argument.format(folder=folder, tmp=tmp_path) for argument in arguments))
    assert isinstance(result.exception, error), result.output
    assert result.exception.exit_status == 2


def test_a_shipped_manifest_is_shown_without_its_data() -> None:
    result = run("show", "hippocampus")
    assert result.exit_code == 0
    assert "208 of 208 patient(s)" in result.output
    assert "Posterior" in result.output


@pytest.mark.parametrize("command", ["import", "check", "show"])
def test_help_has_an_example(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"medseg dataset {command}" in result.output


@pytest.mark.data
def test_check_the_shipped_manifest_on_the_real_data(data_root: Path) -> None:
    result = run("check", "hippocampus", "--data-root", data_root / "hippocampus")
    assert result.exit_code == 0, result.output
    assert os.linesep not in result.output.strip()
    assert "No fault in 208 case(s)" in result.output
